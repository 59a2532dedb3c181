"""The steps that cost few passes, FGSM-RS, N-FGSM and free training, and MART: known answers on linear models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.interface import Artifact, Batch, Defense, Stage
from robustbench_lite.model.target import Target

from .conftest import on_digits

EPS = 0.1
NAMES = ("fgsm_rs", "n_fgsm", "free", "mart")


def defense(name: str, **params: Any) -> Defense:
    built: Defense = registry.build("defenses", name, params)
    return built


class Watched(nn.Module):
    """Two classes, linear; keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.asked = nn.Linear(3, 2, bias=False), list[Tensor]()
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [-1.0, 1.0, 0.5]]))

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        logits: Tensor = self.linear(x)
        return logits


def stage(module: nn.Module, threat: str = f"Linf {EPS}") -> Stage:
    return Stage(name="model", target=Target(module.train()), trained={}, threat=ThreatModel.parse(threat))


def batch() -> Batch:
    x = torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.95, 0.4], [0.02, 0.6, 0.3]])
    return Batch(x, torch.tensor([0, 1, 0]), torch.tensor([11, 12, 13]))


def uphill(module: Watched, given: Batch) -> Tensor:
    """Signs of the cross-entropy's slope, which on a linear model of two classes is the same everywhere."""
    weight = module.linear.weight.detach()
    return (weight[1 - given.y] - weight[given.y]).sign()


def start(given: Batch, eps: float = EPS) -> Tensor:
    return GEOMETRIES["Linf"].random(Noise(given.draw_keys), (3,), eps)


def test_fgsm_rs_is_the_loss_one_long_step_from_a_random_start() -> None:
    module, given = Watched(), batch()
    loss = defense("fgsm_rs", step=0.5).loss(given, stage(module))
    begun = (given.x + start(given)).clamp(0, 1)
    expected = (begun + 0.5 * EPS * uphill(module, given)).clamp(given.x - EPS, given.x + EPS).clamp(0, 1)
    torch.testing.assert_close(module.asked[-1], expected)
    assert loss.item() == pytest.approx(F.cross_entropy(module(expected), given.y).item(), rel=1e-5)
    assert len(module.asked) == 3  # one pass for the step, one for the loss, and the one of this test


def test_a_step_across_the_ball_ends_in_its_worst_corner() -> None:
    module, given = Watched(), batch()
    defense("fgsm_rs", step=2.5).loss(given, stage(module))
    torch.testing.assert_close(module.asked[-1], (given.x + EPS * uphill(module, given)).clamp(0, 1))


def test_n_fgsm_steps_from_noise_and_is_not_brought_back_into_the_ball() -> None:
    module, given = Watched(), batch()._replace(x=torch.full((3, 3), 0.5))
    loss = defense("n_fgsm", noise=2, step=1).loss(given, stage(module))
    moved = given.x + start(given, 2 * EPS) + EPS * uphill(module, given)
    torch.testing.assert_close(module.asked[-1], moved)
    assert (moved - given.x).abs().max() > EPS
    assert loss.item() == pytest.approx(F.cross_entropy(module(moved), given.y).item(), rel=1e-5)


def test_n_fgsm_stays_in_the_box() -> None:
    module, given = Watched(), batch()
    defense("n_fgsm", noise="10", step=3).loss(given, stage(module))
    assert 0 <= float(module.asked[-1].min()) <= float(module.asked[-1].max()) <= 1


def test_free_training_moves_weights_and_samples_by_one_pass_each() -> None:
    module, given = Watched(), batch()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss = defense("free", replays=3).update(given, stage(module), optimizer)
    # The same by hand.
    twin, losses = Watched(), []
    x = (given.x + start(given)).clamp(0, 1)
    for _ in range(3):
        x = x.detach().requires_grad_()
        one = F.cross_entropy(twin.linear(x), given.y)
        to_weights, to_x = torch.autograd.grad(one, [twin.linear.weight, x])
        with torch.no_grad():
            twin.linear.weight -= 0.1 * to_weights
        losses.append(one.item())
        x = (x.detach() + EPS * to_x.sign()).clamp(given.x - EPS, given.x + EPS).clamp(0, 1)
    torch.testing.assert_close(module.linear.weight, twin.linear.weight)
    assert loss.item() == pytest.approx(sum(losses) / 3)
    assert len(module.asked) == 3


def test_mart_is_its_formula_at_the_worst_corner() -> None:
    module, given = Watched(), batch()
    loss = defense("mart", beta=2).loss(given, stage(module))
    p = module(given.x).softmax(1)
    q = module((given.x + EPS * uphill(module, given)).clamp(0, 1)).softmax(1)
    rows = torch.arange(3)
    right, wrong = q[rows, given.y], q[rows, 1 - given.y]
    boosted = -right.log() - (1 - wrong).log()
    divergence = (p * (p / q).log()).sum(1) * (1 - p[rows, given.y])
    assert loss.item() == pytest.approx((boosted + 2 * divergence).mean().item(), rel=1e-3)
    loss.backward()
    assert module.linear.weight.grad is not None


def test_mart_is_finite_where_the_model_is_certain() -> None:
    module = Watched()
    with torch.no_grad():
        module.linear.weight.mul_(1e4)
    loss = defense("mart").loss(batch(), stage(module))
    loss.backward()
    assert loss.isfinite()
    assert module.linear.weight.grad is not None
    assert module.linear.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_batch_statistics_are_those_of_the_passes_that_train(name: str) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    defense(name).update(batch(), stage(module), optimizer)
    assert int(module[1].num_batches_tracked) == {"free": 4, "mart": 2}.get(name, 1)
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize("name", NAMES)
def test_the_draws_depend_on_the_samples_keys_alone(name: str) -> None:
    torch.manual_seed(0)
    module, given = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)), batch()
    one = defense(name).loss(given, stage(module))
    torch.manual_seed(1)
    turned = Batch(*(part.flip(0) for part in given[:3]))
    assert defense(name).loss(turned, stage(module)).item() == pytest.approx(one.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "params"),
    [("fgsm_rs", {"step": 0}), ("n_fgsm", {"noise": -1}), ("free", {"replays": 0}), ("mart", {"beta": "inf"})],
)
def test_a_bad_parameter_is_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(params))):
        defense(name, **params)


@pytest.mark.parametrize("name", NAMES)
def test_a_ball_that_it_is_not_made_for_is_refused(name: str) -> None:
    artifact = Artifact(target=Target(Watched()), threat=ThreatModel.parse("L0 2"))
    assert "can't be run under L0 2: it does Linf" in str(defense(name).unfit(artifact))


@pytest.mark.parametrize("name", NAMES)
def test_it_raises_the_robust_accuracy_on_digits(name: str) -> None:
    epochs = 4 if name == "free" else 6
    plain, hardened = on_digits("standard", epochs=epochs), on_digits(name, epochs=epochs)
    assert hardened.clean > 0.8
    assert hardened.robust > plain.robust + 0.2
