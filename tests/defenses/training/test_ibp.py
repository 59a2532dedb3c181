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
from robustbench_lite.model import linear_bounds
from robustbench_lite.model.bounds import margin_bounds

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


def test_with_crown_linear_bounds_pass_over_to_intervals_as_the_ball_grows() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        target = Target(
            nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
        )
        batch = Batch(torch.rand(5, 1, 3, 3), torch.arange(5) % 3, torch.arange(5))
    low, high = (batch.x - THREAT.eps).clamp(0, 1), (batch.x + THREAT.eps).clamp(0, 1)
    lines, intervals = (find(target, low, high, batch.y) for find in (linear_bounds.margin_bounds, margin_bounds))
    assert not torch.equal(lines, intervals)
    for grown in (0.25, 1.0):
        stage = Stage(name="model", target=target, trained={}, threat=THREAT, grown=grown)
        worst = F.cross_entropy(-(grown * intervals + (1 - grown) * lines), batch.y)
        assert defense(clean=0, crown=True).loss(batch, stage).item() == pytest.approx(
            (grown * worst + (1 - grown) * batch.cross_entropy(target(batch.x))).item(), rel=1e-5
        )


def test_the_passes_of_its_bounds_are_counted() -> None:
    data = load_data("digits", split="train").stratified(60, 0)
    known, held_out = data.split(0.5, 0)
    target = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    schedule = Schedule(epochs=2, batch_size=30, lr=0.01, eps_ramp=1.0)
    for crown, more in ((False, 0), (True, 10)):  # clean, both ends, and a line for each of ten classes
        log = train(target, defense(crown=crown), schedule, THREAT, known, held_out).log
        assert [line.passes for line in log] == [2 * (3 + more) * len(known)] * 2


def test_it_says_of_what_networks_and_norms_it_is_not_made_for() -> None:
    step = defense()
    assert step.unfit(Artifact(target=linear(), threat=THREAT)) is None
    assert "GELU" in (step.unfit(Artifact(target=Target(nn.Sequential(nn.GELU())), threat=THREAT)) or "")
    tanh = Target(nn.Sequential(nn.Tanh(), nn.Linear(2, 2)))
    assert step.unfit(Artifact(target=tanh, threat=THREAT)) is None
    assert "Tanh" in (defense(crown=True).unfit(Artifact(target=tanh, threat=THREAT)) or "")
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
    x, labels = held_out.fetch(range(len(held_out))), held_out.labels
    low, high = (x - threat.eps).clamp(0, 1), (x + threat.eps).clamp(0, 1)
    by_intervals, certified = [], []
    for name, params in (("standard", {}), ("ibp", {}), ("ibp", {"crown": True})):
        trained = train(target, registry.build("defenses", name, params), schedule, threat, known, held_out)
        leads = margin_bounds(trained.target, low, high, labels).scatter(1, labels[:, None], 1.0)
        by_intervals.append(int((leads > 0).all(1).sum()))
        card = evaluate(trained.target, held_out, ["pgd"], threat, measures=["certified_accuracy"])
        assert card.certified_accuracy is not None
        certified.append(card.certified_accuracy.count)
        assert by_intervals[-1] <= certified[-1] <= card.robust_accuracy.count <= card.clean_accuracy.count
        assert not [one for one in card.validity if one.code in ("RB242", "RB303")]
    plain, proven, with_crown = by_intervals
    assert proven > plain + 0.3 * len(x)
    assert with_crown > plain + 0.25 * len(x)
    assert certified[0] > plain + 0.3 * len(x)  # of the plain network linear bounds prove much, intervals hardly any
