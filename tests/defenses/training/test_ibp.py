"""Training on interval bounds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustbench_lite import Target, evaluate
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import load_data
from robustbench_lite.hardening.interface import Artifact, Batch, Defense, Stage
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import train

THREAT = ThreatModel.parse("Linf 0.1")


def defense(**params: float) -> Defense:
    built: Defense = registry.build("defenses", "ibp", params)
    return built


def linear() -> Target:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        layer.bias.zero_()
    return Target(layer)


def test_the_loss_is_the_clean_one_at_first_and_half_the_worst_ones_in_the_end() -> None:
    batch = Batch(torch.tensor([[0.5, 0.4], [0.3, 0.95]]), torch.tensor([0, 1]), torch.tensor([1, 2]))
    # Least margins of (x0 - 2 x1): -0.3 - 0.3; of (2 x1 - x0), where x1 + 0.1 would leave the box but x1 - 0.1 not.
    clean = F.cross_entropy(torch.tensor([[0.5, 0.8], [0.3, 1.9]]), batch.y).item()
    worst = F.cross_entropy(-torch.tensor([[0.0, -0.6], [1.7 - 0.4, 0.0]]), batch.y).item()
    for grown, kappa in ((1e-9, 1.0), (0.5, 0.75), (1.0, 0.5)):
        stage = Stage(name="model", target=linear(), trained={}, threat=THREAT, grown=grown)
        expected = kappa * clean + (1 - kappa) * worst
        assert defense().loss(batch, stage).item() == pytest.approx(expected, rel=1e-5)
    stage = Stage(name="model", target=linear(), trained={}, threat=THREAT)
    assert defense(clean=0).loss(batch, stage).item() == pytest.approx(worst, rel=1e-5)


def test_it_says_of_what_networks_and_norms_it_is_not_made_for() -> None:
    step = defense()
    assert step.unfit(Artifact(target=linear(), threat=THREAT)) is None
    assert "GELU" in (step.unfit(Artifact(target=Target(nn.Sequential(nn.GELU())), threat=THREAT)) or "")
    assert "does Linf" in (step.unfit(Artifact(target=linear(), threat=ThreatModel.parse("L2 1"))) or "")
    wrapped = registry.build("defenses", "jpeg", {}).wrap(linear(), "jpeg")
    assert step.unfit(Artifact(target=wrapped, threat=THREAT)) is not None


def test_it_proves_what_plain_training_leaves_unproven() -> None:
    data = load_data("digits", split="train").stratified(400, 0)
    known, held_out = data.split(0.2, 0)
    threat = ThreatModel.parse("Linf 0.05")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        target = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    schedule = Schedule(
        epochs=16, batch_size=32, lr=0.01, optimizer="adam", decay="one_cycle", eps_ramp=0.5, keep="last"
    )
    cards = []
    for name in ("standard", "ibp"):
        trained = train(target, registry.build("defenses", name, {}), schedule, threat, known, held_out)
        cards.append(evaluate(trained.target, held_out, ["pgd"], threat, measures=["certified_accuracy"]))
    plain, proven = (card.certified_accuracy for card in cards)
    assert plain is not None
    assert proven is not None
    assert proven.value > plain.value + 0.3
    for card, certified in zip(cards, (plain, proven), strict=True):
        assert certified.count <= card.robust_accuracy.count <= card.clean_accuracy.count
        assert not [one for one in card.validity if one.code in ("RB242", "RB303")]
