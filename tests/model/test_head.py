"""The head of a network: found by its outputs, replaced, and remembered with the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.changes import NewHead
from robustbench_lite.model.head import find_head, new_head
from robustbench_lite.model.loading import load_target, save_model
from robustbench_lite.model.torchvision_models import make_torchvision


@pytest.mark.parametrize(
    ("name", "head"),
    [("resnet18", "fc"), ("squeezenet1_1", "classifier.1"), ("mobilenet_v3_small", "classifier.3")],
)
def test_the_head_of_known_architectures_is_found_and_replaced(name: str, head: str) -> None:
    module = make_torchvision(name, 7).eval()
    assert find_head(module, 7) == head
    new_head(module, head, 3)
    with torch.no_grad():
        assert module(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    assert not module.get_submodule(head).training


def test_a_fresh_head_depends_on_its_seed_alone() -> None:
    made = []
    for noise in (1, 2):
        module = nn.Sequential(nn.Flatten(), nn.Linear(4, 5, bias=False)).double()
        torch.manual_seed(noise)
        new_head(module, "1", 2, seed=3)
        made.append(module.get_submodule("1").weight)
    assert torch.equal(made[0], made[1])
    assert made[0].dtype == torch.float64
    assert module.get_submodule("1").bias is None


def test_what_is_no_head_is_told() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    with pytest.raises(UserError, match="with 9 outputs"):
        find_head(module, 9)
    for name, told in (("3", "no layer '3'"), ("1", "is a ReLU")):
        with pytest.raises(UserError, match=told):
            new_head(module, name, 2)


def test_a_saved_model_comes_back_with_its_new_head(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(4, 5))\n"
    )
    target = load_target(f"{tmp_path / 'm.py'}:net")
    save_model(target, tmp_path / "plain")
    assert load_target(str(tmp_path / "plain")).changes == ()
    new_head(target.module, "1", 3)
    target.classes, target.changes = 3, (NewHead(layer="1", classes=3),)
    save_model(target, tmp_path / "out")
    again = load_target(str(tmp_path / "out"))
    assert again.weights_sha256() == target.weights_sha256()
    assert (again.classes, again.changes) == (3, target.changes)
