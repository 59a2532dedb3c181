from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import load_data
from robustbench_lite.defenses.training.trades import divergence
from robustbench_lite.hardening.interface import Artifact, Batch, Defense
from robustbench_lite.hardening.recipe import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.target import Target

from .conftest import EPS, linear, on_digits, stage


def defense(**params: Any) -> Defense:
    built: Defense = registry.build("defenses", "trades", params)
    return built


def batch() -> Batch:
    """Inputs in that corner of the box from where the margin can only be raised, or only lowered."""
    low, high = [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]
    return Batch(torch.tensor([low, high, low]), torch.tensor([0, 1, 1]), torch.tensor([11, 12, 13]))


def farthest_of_linear(given: Batch) -> Tensor:
    """The inner corner of the ball: the divergence of two classes grows with the change of their margin."""
    return given.x + EPS * (1 - 2 * given.x)


def formula(clean: Tensor, moved: Tensor, y: Tensor, beta: float) -> Tensor:
    p, q = clean.softmax(1), moved.softmax(1)
    return F.cross_entropy(clean, y) + beta * (p * (p / q).log()).sum(1).mean()


def test_the_divergence_is_that_of_the_clean_predictions_from_the_moved_ones() -> None:
    clean = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [7.0, 7.0]])  # (3/4, 1/4), and twice (1/2, 1/2)
    moved = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [1.0, 1.0]])
    expected = [
        0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        0.5 * math.log(2 / 3) + 0.5 * math.log(2),  # not the reverse: it isn't symmetric
        0.0,
    ]
    assert divergence(clean, moved).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_divergence_of_certain_predictions_is_finite() -> None:
    clean, moved = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]])
    assert divergence(clean, moved).item() == pytest.approx(500)


@pytest.mark.parametrize("beta", [0.5, 6])
def test_on_a_linear_model_it_is_the_formula_at_the_farthest_corner_of_the_ball(beta: float) -> None:
    module, given = linear(), batch()
    loss = defense(beta=beta).loss(given, stage(module))
    expected = formula(module(given.x), module(farthest_of_linear(given)), given.y, beta)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_on_a_linear_model_in_l2_it_moves_along_the_weights() -> None:
    module, given = linear(), batch()
    given = given._replace(x=torch.full_like(given.x, 0.5))
    loss = defense(steps=20).loss(given, stage(module, "L2 0.1"))
    along = 0.1 * F.normalize(module.weight[0] - module.weight[1], dim=0)
    clean = module(given.x)
    up, down = (divergence(clean, module(given.x + way * along)) for way in (1, -1))
    # Which of the two ways a sample takes is up to its start.
    sums = [6 * sum(ways).item() / 3 for ways in torch.cartesian_prod(*torch.stack([up, down], 1))]
    taken = loss.item() - F.cross_entropy(clean, given.y).item()
    assert min(abs(taken - one) for one in sums) < 1e-4


def test_the_gradient_runs_through_both_predictions() -> None:
    module, given = linear(), batch()
    defense(beta=2).loss(given, stage(module)).backward()
    assert module.weight.grad is not None
    loss = formula(module(given.x), module(farthest_of_linear(given)), given.y, 2)
    (expected,) = torch.autograd.grad(loss, module.weight)
    torch.testing.assert_close(module.weight.grad, expected)


def test_the_labels_have_no_part_in_where_it_looks() -> None:
    torch.manual_seed(0)
    module, given = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)), batch()
    divergences = [
        defense().loss(given._replace(y=y), stage(module)).item() - F.cross_entropy(module(given.x), y).item()
        for y in (given.y, 1 - given.y)
    ]
    assert divergences[0] == pytest.approx(divergences[1], rel=1e-4)


def test_the_ascent_leaves_modes_batch_statistics_and_gradients_alone() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    norm = module[2]
    assert isinstance(norm, nn.BatchNorm1d)
    loss = defense(steps=5).loss(batch(), stage(module))
    assert norm.num_batches_tracked == 2  # the clean samples and the moved ones, and none of the ascent's
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_moved_samples_are_in_ball_and_box() -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = linear(), list[Tensor]()

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.detach())
            logits: Tensor = self.net(x)
            return logits

    module, given = Watched(), batch()
    defense(step_size=1.0, steps=3).loss(given, stage(module))
    assert len(module.seen) == 1 + 3 + 2  # the clean predictions, the steps, and the two of the loss
    for x in module.seen:
        assert ((x - given.x).abs() <= EPS + 1e-6).all()
        assert ((x >= 0) & (x <= 1)).all()


def test_the_draws_depend_on_the_samples_keys_alone() -> None:
    torch.manual_seed(0)
    module, given = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)), batch()
    one = defense(steps=1, step_size=1e-6).loss(given, stage(module))
    torch.manual_seed(1)
    turned = Batch(*(part.flip(0) for part in given[:3]))
    two = defense(steps=1, step_size=1e-6).loss(turned, stage(module))
    assert two.item() == pytest.approx(one.item(), rel=1e-6)


@pytest.mark.parametrize(
    "params", [{"beta": 0}, {"beta": -1}, {"beta": float("inf")}, {"steps": 0}, {"step_size": -1}, {"step_size": "far"}]
)
def test_a_bad_parameter_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(params))):
        defense(**params)


@pytest.mark.parametrize("threat", ["L1 2", "L0 1", "Spatial 30"])
def test_a_threat_model_that_it_is_not_made_for_is_refused(threat: str) -> None:
    artifact = Artifact(target=Target(linear()), threat=ThreatModel.parse(threat))
    assert defense().unfit(artifact) == f"can't be run under {threat}: it does Linf, L2"
    data = load_data("digits", split="train")
    with pytest.raises(UserError, match=f"under {threat}: it does Linf, L2"):
        train(artifact.target, defense(), Schedule(), artifact.threat, data, data)


def test_it_raises_the_robust_accuracy_on_digits() -> None:
    plain, hardened = on_digits("standard", epochs=6), on_digits("trades", epochs=6, steps=5)
    assert hardened.clean > 0.85
    assert hardened.robust > plain.robust + 0.2
