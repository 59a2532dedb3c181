"""Labels that a model numbers otherwise: by number, by name, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.label_map import parsed, relabelled

DATA = from_arrays(torch.zeros(5, 1, 1, 1), torch.tensor([0, 1, 2, 2, 0]), "mine", ["ant", "bee", "cat"])
MODEL = ["x", "bee", "y", "ant", "cat"]


@pytest.mark.parametrize(
    ("given", "names", "labels"),
    [
        ("0=3,1=5,2=8", (), [3, 5, 8, 8, 3]),
        (" ant = 3, bee=5 ,2=8,", (), [3, 5, 8, 8, 3]),
        ({0: 3, 1: 5, 2: 8}, (), [3, 5, 8, 8, 3]),
        ({"ant": "ant", "bee": "bee", "cat": "cat"}, MODEL, [3, 1, 4, 4, 3]),
        ("0=1,1=1,2=0", (), [1, 1, 0, 0, 1]),
        ('{"ant": 3, "bee": "5", "cat": 8}', (), [3, 5, 8, 8, 3]),
    ],
)
def test_labels_become_the_models(given: Any, names: list[str], labels: list[int], tmp_path: Path) -> None:
    if isinstance(given, str) and given.startswith("{"):
        (tmp_path / "map.json").write_text(given, "utf-8")
        given = str(tmp_path / "map.json")
    data = relabelled(DATA, given, names)
    assert data.labels.tolist() == labels
    assert data.notes[0].startswith("labels are the model's classes by the map 0=")
    assert torch.equal(data.fetch([1]), DATA.fetch([1]))


def test_names_go_with_the_numbers() -> None:
    assert relabelled(DATA, "0=3,1=1,2=1").classes == ("0", "bee or cat", "2", "ant")
    assert relabelled(DATA, "ant=3,bee=1,cat=4", MODEL).classes == tuple(MODEL)
    assert relabelled(DATA, None) is DATA


def test_a_file_has_a_pair_a_line(tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text("# the model's own numbers\nant=3\n\nbee = 5\ncat=8\n", "utf-8")
    assert parsed(str(path)) == {"ant": "3", "bee": "5", "cat": "8"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("0=3,1=5", r"says nothing of 1 labels of mine \(cat\)"),
        ("0=3,1=5,2=8,9=1", "has no label '9'; it has ant, bee, cat"),
        ("dog=3", "has no label 'dog'"),
        ("0=cow,1=5,2=8", "'cow' is no class of the model; .*doesn't name its own"),
        ("0=-1,1=5,2=8", "'-1' is no class"),
        ("0=1,0=2", "names 0 twice"),
        ("0=1,2", "'2' is no pair"),
        ("no-such-file", "can't be read.*expected pairs LABEL=CLASS"),
        ("=", "says|names|no label"),
    ],
)
def test_a_map_that_does_not_fit_is_told(given: str, told: str) -> None:
    with pytest.raises(UserError, match=f"^label map.*{told}"):
        relabelled(DATA, given)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    for content in ('{"0": ', '{"0": [1]}', '{"0": true}', "", "{}"):
        path.write_text(content, "utf-8")
        with pytest.raises(UserError, match=r"^label map"):
            parsed(str(path))
