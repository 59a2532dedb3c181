"""Training a supernet: choices are made on samples that the weights don't learn, and the right operation is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.hardening.interface import Batch, Stage
from robustbench_lite.hardening.mixture import Mixture
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.architectures.cells import Cells
from robustbench_lite.model.architectures.supernet import Supernet
from robustbench_lite.model.target import Target
from robustbench_lite.searching.supernet import SupernetTraining, halves

NOWHERE = {f"edge_{start}_{end}": "none" for start, end in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3))}
SIZES = Cells.model_validate({"shape": (1, 4, 4), "classes": 2, "channels": 4, "stages": 1, **NOWHERE})


def bright(count: int, seed: int) -> Any:
    """Dark and bright images: whoever sees the input tells them apart."""
    noise = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.3
    labels = torch.arange(count) % 2
    return as_data((noise + 0.6 * labels.view(-1, 1, 1, 1), labels))


def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SIZES, {"edge_0_3": ("none", "nor_conv_3x3")})


@pytest.mark.parametrize("drawn", [False, True])
def test_the_only_operation_that_lets_anything_through_is_found(drawn: bool) -> None:
    inner = registry.build("defenses", "pgd_training", {"steps": 1})
    mixture = Mixture(own=bright(64, 0), extra=bright(64, 1), share=0.5)
    found = train(
        Target(supernet()),
        SupernetTraining(inner=inner, rate=0.15, drawn=drawn),
        Schedule(epochs=4, batch_size=32, lr=0.02, optimizer="adam", keep="last"),
        ThreatModel.model_validate({"norm": "Linf", "eps": "0.05"}),
        mixture,
        bright(20, 2),
    )
    none, conv = found.target.module.choices.probabilities()["edge_0_3"]
    assert conv > (0.7 if drawn else 0.85) > none  # where it isn't drawn, nothing is learnt of it
    # Each batch of 16 and 16 is attacked in halves: 1 step and the loss, forward and backward, of every sample.
    assert sum(line.passes for line in found.log) == 4 * 2 * 2 * 128


def test_weights_and_choices_learn_from_other_samples() -> None:
    seen: list[Tensor] = []

    class Noting(type(registry.build("defenses", "standard", {}))):  # type: ignore[misc]
        def loss(self, batch: Batch, stage: Stage) -> Tensor:
            seen.append(batch.x)
            loss: Tensor = super().loss(batch, stage)
            return loss

    target = Target(supernet())
    stage = Stage(name="model", target=target, trained={}, threat=ThreatModel.model_validate("Linf 0.1"))
    x, y = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    batch = Batch(x, y, torch.arange(6), torch.eye(2)[y])
    choices = target.module.choices
    before, weights = choices.logits("edge_0_3").clone(), target.module.network.linear.weight.detach().clone()
    optimizer = torch.optim.SGD(target.module.parameters(), lr=0.1)
    SupernetTraining(inner=Noting(), rate=0.1).update(batch, stage, optimizer)
    chosen_on, learnt_from = seen
    assert torch.equal(chosen_on, x[3:])
    assert torch.equal(learnt_from, x[:3])
    assert not torch.equal(choices.logits("edge_0_3"), before)
    assert not torch.equal(target.module.network.linear.weight, weights)
    own, other = halves(batch)
    assert torch.equal(torch.cat([own.y, other.y]), y)
    assert own.targets is not None
