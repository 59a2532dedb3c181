"""The code of a saved model: whole, copied once, and never over another file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.loading import load_target, save_model
from robustbench_lite.model.own_code import keep_code

MODEL = """
import os, torch
from rblite_layers import Flat
import rblite_parts.head
def make(): return torch.nn.Sequential(Flat(), rblite_parts.head.Head())
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A model in a file that imports its neighbours, and files that it doesn't."""
    home = tmp_path / "repo"
    (home / "rblite_parts").mkdir(parents=True)
    (home / "model.py").write_text(MODEL)
    (home / "rblite_layers.py").write_text("import rblite_sizes, torch\nclass Flat(torch.nn.Flatten): pass\n")
    (home / "rblite_sizes.py").write_text("import rblite_layers\nSIZE = 4\n")  # in a circle
    (home / "rblite_parts/__init__.py").write_text("")
    (home / "rblite_parts/head.py").write_text(
        "import torch\nclass Head(torch.nn.Linear):\n    def __init__(self): super().__init__(4, 2)\n"
    )
    (home / "secret.py").write_text("")
    (home / "rblite_parts/notes.txt").write_text("")
    return home


def test_what_a_model_imports_of_its_neighbours_is_kept_with_it(repo: Path, tmp_path: Path) -> None:
    target = load_target(f"{repo / 'model.py'}:make")
    x = torch.rand(3, 1, 2, 2)
    save_model(target, tmp_path / "out")
    save_model(target, tmp_path / "out")
    kept = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.py"))
    assert kept == [
        "model.py",
        "rblite_layers.py",
        "rblite_parts/__init__.py",
        "rblite_parts/head.py",
        "rblite_sizes.py",
    ]
    repo.rename(tmp_path / "gone")
    for name in [name for name in sys.modules if name.startswith(("rblite_", "model"))]:
        del sys.modules[name]
    assert torch.equal(load_target(str(tmp_path / "out"))(x), target(x))


def test_nothing_is_written_over(repo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.py").write_text("# mine")
    with pytest.raises(UserError, match=r"model\.py: is there already and is another file"):
        keep_code(f"{repo / 'model.py'}:make", out)
    assert (out / "model.py").read_text() == "# mine"


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "package.module:make"])
def test_what_is_no_file_stays_as_it_is(spec: str, tmp_path: Path) -> None:
    assert keep_code(spec, tmp_path) == spec
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folder_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/model.py").write_text("import other")
    assert keep_code(f"{tmp_path / 'code/model.py'}:make", tmp_path) == "code/model.py:make"
    assert [path.name for path in tmp_path.iterdir()] == ["code"]
