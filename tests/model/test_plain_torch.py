"""The line that loads a saved model with torch alone: what it gives is the model, in a fresh process too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite.model.loading import load_target, save_model
from robustbench_lite.model.plain_torch import plain_torch
from robustbench_lite.model.target import Target

MODELS = """
from parts import layer
from torch import nn
from robustbench_lite import Target
def net(num_classes=2): return nn.Sequential(nn.Flatten(), layer(num_classes))
ready = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
def target(): return Target(net())
"""


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "nets.py").write_text(MODELS)
    (tmp_path / "code" / "parts.py").write_text("from torch import nn\ndef layer(k): return nn.Linear(4, k)\n")
    monkeypatch.chdir(tmp_path)

    def save(spec: str, **given: Any) -> Target:
        target = load_target(spec, seed=3, **given)
        save_model(target, Path("out"))
        return target

    return save


@pytest.mark.parametrize(
    ("spec", "given"),
    [
        ("code/nets.py:net", {"classes": 5}),
        ("code/nets.py:ready", {}),
        ("torchvision:squeezenet1_1", {"classes": 3}),
    ],
)
def test_the_line_gives_the_model(saved: Any, spec: str, given: dict[str, Any]) -> None:
    target = saved(spec, **given)
    line = plain_torch(Path("out"))
    assert line is not None
    assert "robustbench_lite" not in line
    names: dict[str, Any] = {}
    path = list(sys.path)
    exec(line, names)
    sys.path[:] = path
    state = target.module.state_dict()
    assert names["model"].state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in names["model"].state_dict().items())
    assert not names["model"].training


def test_in_a_fresh_process_it_needs_nothing_but_the_folder_and_torch(saved: Any) -> None:
    target = saved("code/nets.py:net", classes=5, normalize="0.5/0.25")
    line = plain_torch(Path("out"))
    assert line is not None
    assert line.endswith("# takes (x - mean) / std: mean 0.5, std 0.25")
    for file in Path("code").glob("*.py"):
        file.unlink()
    asked = f"{line}\nimport sys, torch\nprint(model((torch.ones(1, 1, 2, 2) - 0.5) / 0.25).tolist())"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    with torch.no_grad():
        assert torch.allclose(torch.tensor(eval(found.stdout)), target.module((torch.ones(1, 1, 2, 2) - 0.5) / 0.25))


def test_of_what_no_plain_line_makes_there_is_none(saved: Any) -> None:
    saved("code/nets.py:target")
    assert plain_torch(Path("out")) is None
    save_model(Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))), Path("live"))
    assert plain_torch(Path("live")) is None
