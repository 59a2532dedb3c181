"""Column search: a linear model's optimum is found by the scores alone, and images are left to square."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite.attacking.engine import run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.column_search import ColumnSearch
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.model.target import Target


@pytest.mark.parametrize(("threat", "share"), [("Linf 0.1", 1.0), ("L2 0.2", 0.6), ("L1 0.4", 0.6), ("L0 2", 1.0)])
def test_most_of_what_is_possible_on_a_linear_model_is_found(threat: str, share: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 2)
    with torch.no_grad():
        layer.bias.copy_(-layer.weight @ torch.full((8,), 0.5))  # the boundary goes through the middle
    x = 0.3 + 0.4 * torch.rand(60, 8)
    labels = layer(x).argmax(1)
    data = from_arrays(x.numpy(), labels.numpy(), "linear")
    samples = Samples(data, sample_keys=data.index, target_classes=data.labels)
    asked = ThreatModel.parse(threat)
    broken = run_attack(ColumnSearch(steps=200), Target(layer.eval()), samples, np.arange(60), asked).broken
    weights = (layer.weight[0] - layer.weight[1]).detach()
    margin = (layer(x)[:, 0] - layer(x)[:, 1]).detach().abs()
    toward = torch.where((labels == 0)[:, None] == (weights > 0), x, 1 - x) * weights.abs()  # to the walls of the box
    most = {
        "Linf": asked.eps * weights.abs().sum(),
        "L2": asked.eps * weights.norm(),
        "L1": asked.eps * weights.abs().max(),
        "L0": toward.topk(2, dim=1).values.sum(1),
    }[asked.norm]
    possible = (margin < most * 0.999).numpy()
    assert possible.sum() >= 5
    assert not (broken & ~(margin < most * 1.001).numpy()).any()
    assert (broken & possible).sum() >= share * 0.95 * possible.sum()


def test_images_are_left_to_square() -> None:
    assert "take square" in str(ColumnSearch().unfit((1, 8, 8), ThreatModel.parse("Linf 0.1")))
    assert ColumnSearch().unfit((3, 20), ThreatModel.parse("Linf 0.1")) is None
