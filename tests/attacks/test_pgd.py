"""PGD: closed form on linear models, its random start, its restarts, its momentum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.attacking.engine import run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.pgd import PGD
from robustbench_lite.core import registry
from robustbench_lite.core.losses import margin
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target

from .conftest import SHAPES_AND_BATCHES, Recording


@pytest.mark.parametrize(("shape", "batch_size"), SHAPES_AND_BATCHES)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_breaks_a_binary_linear_model_exactly_where_the_boundary_is_in_the_ball(linear, norm, shape, batch_size):
    problem = linear(shape, classes=2, samples=20 if batch_size == 1 else 40)
    exact = problem.distances(norm)
    eps = float(exact.median())
    broken = problem.attack(PGD(), ThreatModel(norm=norm, eps=eps), batch_size=batch_size).broken
    # In Linf to a guard band of 0.1 %, in L2 to the 2 % by which a finite number of steps may fall short.
    sure = ((exact > eps * 1.001) | (exact < eps / (1.001 if norm == "Linf" else 1.02))).numpy()
    assert sure.mean() >= 0.85
    np.testing.assert_array_equal(broken[sure], (exact < eps).numpy()[sure])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_with_the_margin_loss_and_restarts_is_exact_in_many_classes(linear, norm):
    problem = linear((3, 16, 16), classes=6, samples=80)
    exact = problem.distances(norm)
    eps = float(exact.median())
    attack = PGD(loss="margin", restarts=10)
    broken = torch.from_numpy(problem.attack(attack, ThreatModel(norm=norm, eps=eps)).broken)
    assert not (broken & (exact > eps * 1.001)).any(), "broken where no point of the ball is of another class"
    reachable = exact < eps / 1.02
    # The margin is the larger of several linear functions: a climb may end on one that isn't the nearest.
    assert broken[reachable].double().mean() >= 0.97


@pytest.mark.parametrize(
    ("norm", "random_start", "short"),
    # In L2 a random start's part that points nowhere fades slowly, as the box cuts the step that follows the ball's.
    [("Linf", True, 1.001), ("Linf", False, 1.001), ("L2", True, 1.06), ("L2", False, 1.02)],
)
def test_reaches_the_nearest_point_where_the_box_is_in_the_way(walled, norm, random_start, short):
    """Each sample under an eps a little above its own exact distance, and under one 0.1 % below."""
    attack = PGD(random_start=random_start)
    problem = walled((3, 16, 16), samples=5)
    exact = problem.box_distances(norm)
    reached, beyond = [], []
    for row, distance in enumerate(exact.tolist()):
        one = type(problem)(problem.x[row : row + 1], problem.y[row : row + 1], problem.model)
        reached.append(one.attack(attack, ThreatModel(norm=norm, eps=distance * short)).broken.item())
        beyond.append(one.attack(attack, ThreatModel(norm=norm, eps=distance * 0.999)).broken.item())
    assert not any(beyond)
    assert all(reached), f"only {sum(reached)} of {len(reached)}"


def test_reaches_the_class_that_is_wanted(linear):
    problem = linear(classes=4, samples=60)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(PGD(loss="margin"), "Linf 0.2 targeted", target_classes=target_classes)
    assert found.broken.all()
    np.testing.assert_array_equal(found.prediction, target_classes)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_targeted_goal_is_exact_on_a_binary_linear_model(linear, norm):
    problem = linear(classes=2)
    exact = problem.distances(norm, target_class=1 - problem.y)
    eps = float(exact.median())
    broken = problem.attack(PGD(), ThreatModel(norm=norm, eps=eps, goal="targeted")).broken
    sure = ((exact > eps * 1.001) | (exact < eps / 1.02)).numpy()
    np.testing.assert_array_equal(broken[sure], (exact < eps).numpy()[sure])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_starts_at_a_point_of_the_ball_that_differs_by_sample_seed_and_restart(linear, norm):
    problem = linear((3, 16, 16), classes=2)
    far = problem.distances(norm) > 2e-4  # which an eps of half of it doesn't break, so that every restart is made
    problem = type(problem)(problem.x[far], problem.y[far], problem.model)
    tiny = ThreatModel(norm=norm, eps=1e-4)
    starts = {}
    for seed in (0, 1):
        model = Recording(problem.model)
        problem.attack(PGD(steps=1, restarts=2), tiny, seed=seed, model=model)
        starts[seed, 0], starts[seed, 1] = model.batches[0], model.batches[2]
    changes = {key: (start - problem.x).flatten(1).double() for key, start in starts.items()}
    for change in changes.values():
        length = change.abs().amax(1) if norm == "Linf" else change.norm(dim=1)
        assert (length <= 1e-4 + 1e-6).all()
        assert (length > 0).all()
        assert length.max() > 0.9e-4, "draws fill the ball"
    alike = [torch.equal(changes[one], changes[other]) for one in changes for other in changes if one < other]
    assert not any(alike)
    assert not torch.allclose(changes[0, 0][0], changes[0, 0][1], atol=1e-6)


def test_without_a_random_start_it_starts_at_the_input(linear):
    problem = linear()
    model = Recording(problem.model)
    problem.attack(PGD(steps=1, random_start=False), "Linf 0.1", model=model)
    assert torch.equal(model.batches[0], problem.x)


def test_is_restarted_on_survivors_alone(linear):
    problem = linear(classes=2)
    exact = problem.distances("Linf").numpy()
    eps = float(np.median(exact))
    found = problem.attack(PGD(steps=5, restarts=3), ThreatModel(norm="Linf", eps=eps))
    far, near = exact > eps * 1.001, exact < eps * 0.999
    # Three times six candidates; the last one of each start needs no gradient.
    assert set(found.forward[far]) == {18}
    assert set(found.backward[far]) == {15}
    # A broken sample had one start at most, and its confirmation.
    assert found.broken[near].all()
    assert found.forward[near].max() <= 7
    assert found.backward[near].max() <= 5


def test_a_restart_breaks_what_the_first_start_did_not():
    """A narrow gap in a flat loss, which only a draw can hit."""

    class Gap(nn.Module):
        def forward(self, x):
            inside = ((x - 0.52).abs() < 0.01).all(1)
            score = torch.where(inside, 1.0, -1.0) + 0 * x.sum(1)
            return torch.stack([torch.zeros_like(score), score], 1)

    data = as_data((torch.full((200, 1), 0.5), torch.zeros(200, dtype=torch.int64)))
    samples = Samples(data, torch.arange(200), data.labels)
    threat = ThreatModel.parse("Linf 0.1")
    broken = [
        run_attack(
            PGD(steps=1, step_size=1e-6, restarts=restarts), Target(Gap()), samples, np.arange(200), threat
        ).broken
        for restarts in (1, 8)
    ]
    assert 5 <= broken[0].sum() <= 45  # a tenth of the ball
    assert broken[1].sum() > 80  # 1 - 0.9^8 = 57 %
    assert (broken[1] | ~broken[0]).all(), "more restarts never lose what fewer found"


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_is_the_plain_loop_on_a_network_with_and_without_momentum(momentum):
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x, y = torch.rand(9, 3, 2, 2, generator=generator), torch.arange(9) % 3
    eps, step = 0.2, 0.07
    at, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(6):
        leaf = at.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        velocity = momentum * velocity + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        at = (x + (at + step * velocity.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    attack = PGD(steps=6, step_size=step, random_start=False, momentum=momentum)
    ours = perturb(attack, Target(model), x, y, ThreatModel.parse("Linf 0.2"), torch.arange(9))
    torch.testing.assert_close(ours, at)


def test_momentum_stays_finite_on_vanishing_gradients(linear):
    problem = linear(classes=2, scale=1e-30)
    found = problem.attack(PGD(momentum=0.9, loss="margin"), "Linf 0.3", keep=range(40))
    assert found.broken.all()
    assert all(np.isfinite(witness).all() for witness in found.witnesses.values())


@pytest.mark.parametrize(
    "params",
    [
        {"steps": 0},
        {"step_size": 0},
        {"step_size": -0.1},
        {"restarts": 0},
        {"momentum": 1.5},
        {"momentum": -0.1},
        {"momentum": float("nan")},
        {"loss": "dlr2"},
        {"random_start": "perhaps"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", "pgd", params)


def test_restarts_without_a_random_start_are_refused():
    with pytest.raises(ValueError, match="each would repeat the first"):
        registry.build("attacks", "pgd", {"restarts": 2, "random_start": False})


def test_an_objective_of_ones_own_is_climbed_as_the_named_one_is(linear):
    def doubled(logits, target_class, targeted, rival):
        return 2 * margin(logits, target_class, targeted, rival)

    problem = linear(classes=4)
    threat = ThreatModel(norm="Linf", eps=float(problem.distances("Linf").median()))
    named, own = (problem.attack(PGD(loss=loss), threat, keep=range(40)) for loss in ("margin", doubled))
    assert 0 < own.broken.sum() < 40
    np.testing.assert_array_equal(own.broken, named.broken)
    assert all(np.array_equal(own.witnesses[row], x) for row, x in named.witnesses.items())
    np.testing.assert_allclose(own.trace.loss, 2 * np.array(named.trace.loss), rtol=1e-5)
    told = PGD(loss=doubled).params()["loss"]
    assert told == f"{__name__}:{doubled.__qualname__}"
