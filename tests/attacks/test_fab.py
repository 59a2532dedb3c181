"""FAB: its projection against solvers, closed-form distances on linear models in every norm, its rivals and starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.fab import FAB, to_hyperplane
from robustbench_lite.core import registry
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target

NORMS = ["Linf", "L2", "L1"]
ORDERS = {"Linf": np.inf, "L2": 2, "L1": 1}
ROUNDING = 1e-6
"""What float32 may add to a distance."""
SHAPES = [(1, 6, 6), (3, 16, 16), (50,), (2, 3, 4, 5)]

# In steps that the solvers' tolerances don't blur.
value = st.integers(0, 64).map(lambda step: step / 64)
weight = st.integers(-30, 30).map(lambda step: step / 10)
lane = st.tuples(st.lists(st.tuples(value, weight), min_size=5, max_size=5), weight)


def solved(x, w, gap, norm):
    """The length of the smallest change by a solver: a linear programme, or a quadratic one."""
    size, low, high = len(x), -x, 1 - x
    if norm == "Linf":
        ones = np.ones((size, 1))
        ball = np.block([[np.eye(size), -ones], [-np.eye(size), -ones]])
        bounds = [*zip(low, high, strict=True), (0, None)]
        found = linprog([0] * size + [1], ball, [0] * 2 * size, [[*w, 0]], [gap], bounds)
    elif norm == "L1":
        found = linprog(
            [1] * 2 * size, None, None, [[*w, *-w]], [gap], [*((0, h) for h in high), *((0, -v) for v in low)]
        )
    else:
        plane = {"type": "eq", "fun": lambda d: w @ d - gap, "jac": lambda d: w}
        start = np.where(w * gap > 0, high, low) / 2
        bounds = list(zip(low, high, strict=True))
        found = minimize(lambda d: d @ d, start, jac=lambda d: 2 * d, bounds=bounds, constraints=plane, method="SLSQP")
        return found.fun**0.5 if found.success else np.inf
    assert found.status == 0
    return found.fun


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=60, deadline=None)
@given(lanes=st.lists(lane, min_size=1, max_size=4))
def test_the_projection_is_the_smallest_change_onto_the_hyperplane_in_the_box(norm, lanes):
    x, w = torch.tensor([values for values, _ in lanes]).unbind(2)
    gap = torch.tensor([gap for _, gap in lanes])
    changes = to_hyperplane(x, w, gap, norm)
    assert ((x + changes) >= -1e-6).all()
    assert ((x + changes) <= 1 + 1e-6).all()
    for place, change in enumerate(changes.double().numpy()):
        alone = to_hyperplane(x[place, None], w[place, None], gap[place, None], norm)[0]
        torch.testing.assert_close(alone, changes[place], rtol=0, atol=1e-7)
        at, along, wanted = x[place].double().numpy(), w[place].double().numpy(), float(gap[place])
        reach = (np.where(along * wanted > 0, 1 - at, at) * np.abs(along)).sum()
        assert along @ change == pytest.approx(np.sign(wanted) * min(abs(wanted), reach), abs=1e-5)
        if abs(wanted) < reach * (1 - 1e-3):
            assert np.linalg.norm(change, ORDERS[norm]) <= solved(at, along, wanted, norm) + 1e-4


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_does_not_mind_the_scale_of_the_weights(norm, scale):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.rand(8, 30, generator=generator), torch.randn(8, 30, generator=generator)
    gap = torch.randn(8, generator=generator)
    torch.testing.assert_close(to_hyperplane(x, w * scale, gap * scale, norm), to_hyperplane(x, w, gap, norm))


def box_distances(problem, norm):
    """The exact distances of two classes where the box is in the way; in L1 by a linear programme."""
    if norm != "L1":
        return problem.box_distances(norm).numpy()
    difference = (problem.model[1].weight[1] - problem.model[1].weight[0]).detach().double().numpy()
    logits = problem.model(problem.x).detach().double()
    gaps = (logits[:, 0] - logits[:, 1]).numpy()
    return np.array(
        [solved(x.flatten().double().numpy(), difference, gap, "L1") for x, gap in zip(problem.x, gaps, strict=True)]
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_exact_distance_where_the_box_is_in_the_way(walled, norm, shape):
    problem = walled(shape)
    exact = box_distances(problem, norm)
    found = problem.attack(
        FAB(iterations=30), ThreatModel(norm=norm, eps=1 if norm == "Linf" else 500), early_stop=False
    )
    assert found.broken.all()
    ratio = found.distance / exact
    assert ratio.min() >= 1 - 1e-3, "nearer than the boundary"
    assert ratio.max() <= 1.02


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_finds_the_nearest_of_many_boundaries_where_it_tries_all_the_rivals(linear, norm):
    problem = linear((1, 6, 6), classes=6, samples=200)
    exact = problem.distances(norm).numpy()
    threat = ThreatModel(norm=norm, eps=1 if norm == "Linf" else 50)
    found = problem.attack(FAB(iterations=10), threat, early_stop=False).distance
    assert (found >= exact * (1 - 1e-3) - ROUNDING).all()
    assert (found <= exact * 1.01 + ROUNDING).all()
    first = problem.attack(FAB(iterations=10, targets=1), threat, early_stop=False).distance / (exact + ROUNDING)
    nearest = problem.rivals(norm).argmin(1) == problem.model(problem.x).detach().topk(2).indices[:, 1]
    assert 0.5 < nearest.double().mean() < 0.95
    assert first[nearest.numpy()].max() <= 1.01, "the rival with the best logit comes first"
    assert first[~nearest.numpy()].max() > 1.01


@pytest.mark.parametrize("norm", NORMS)
def test_outcomes_depend_neither_on_the_batch_size_nor_on_the_others(walled, norm):
    problem, attack = walled((1, 6, 6), samples=40), FAB(iterations=20, starts=2)
    threat = ThreatModel(norm=norm, eps=float(np.median(box_distances(problem, norm))))
    whole, parts = (problem.attack(attack, threat, batch_size=size) for size in (512, 7))
    assert 0.2 < whole.broken.mean() < 0.8
    np.testing.assert_array_equal(parts.broken, whole.broken)
    np.testing.assert_allclose(parts.distance, whole.distance, rtol=1e-4)
    data = as_data((problem.x, problem.y))
    samples = Samples(data, torch.arange(40) * 7919, problem.y)
    rows = np.array([31, 4, 17])
    shard = run_attack(attack, Target(problem.model), samples, rows, threat, RunOptions(batch_size=2))
    np.testing.assert_array_equal(shard.broken[rows], whole.broken[rows])
    np.testing.assert_allclose(shard.distance[rows], whole.distance[rows], rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_breaks_what_is_in_the_ball_and_nothing_else(walled, norm):
    problem = walled((1, 6, 6), samples=60)
    exact = box_distances(problem, norm)
    eps = float(np.median(exact))
    found = problem.attack(FAB(iterations=30), ThreatModel(norm=norm, eps=eps), keep=range(60))
    sure = (exact > eps * 1.001) | (exact < eps / 1.02)
    np.testing.assert_array_equal(found.broken[sure], (exact < eps)[sure])
    for row, witness in found.witnesses.items():
        assert witness.min() >= 0
        assert witness.max() <= 1
        change = (witness.astype(np.float64) - problem.x[row].double().numpy()).ravel()
        assert np.linalg.norm(change, ORDERS[norm]) <= eps + 1e-6 * max(1, eps)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_logits_does_not_matter(linear, scale):
    plain, scaled = (linear((1, 6, 6), classes=4, scale=by) for by in (1.0, scale))
    one, other = (problem.attack(FAB(iterations=10), "L2 5", early_stop=False).distance for problem in (plain, scaled))
    np.testing.assert_allclose(other, one, rtol=5e-3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_reaches_the_class_that_is_wanted_at_the_exact_distance(linear, norm):
    problem = linear(classes=2)
    threat = ThreatModel(norm=norm, eps=1 if norm == "Linf" else 10, goal="targeted")
    found = problem.attack(FAB(iterations=10), threat, early_stop=False)
    np.testing.assert_array_equal(found.prediction, 1 - problem.y)
    assert (found.distance <= 1.01 * problem.distances(norm, target_class=1 - problem.y).numpy() + ROUNDING).all()
    # Its other rivals' steps are not taken: ten, one more for the last candidate, one to confirm.
    assert set(found.forward) == {12}


def test_the_wanted_one_of_many_classes_is_reached_and_no_nearer_than_the_rival_that_is_in_between(linear):
    problem = linear(classes=4)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(FAB(iterations=30), "L2 20 targeted", target_classes=target_classes, early_stop=False)
    np.testing.assert_array_equal(found.prediction, target_classes)
    pairwise = problem.rivals("L2").gather(1, target_classes[:, None])[:, 0].numpy()
    assert (found.distance >= pairwise * (1 - 1e-3)).all()
    assert np.median(found.distance / pairwise) <= 1.02, "mostly the boundary of the two is the nearest one"


def test_gives_up_when_no_rivals_are_left(linear):
    problem = linear(classes=4)
    found = problem.attack(FAB(iterations=10), "L2 1e-6")
    assert not found.broken.any()
    assert set(found.forward) == {31}  # three others, of the nine that it would try
    assert set(found.backward) == {30}
    assert FAB(iterations=10).passes == Passes(forward=91, backward=90)


def test_further_starts_are_random_points_within_half_of_the_ball_or_of_the_nearest_example(linear):
    problem = linear(classes=2)
    starts = []

    class Recording(nn.Module):
        def forward(self, x):
            starts.append(x.detach().clone())
            return problem.model(x)

    far = problem.distances("L2") > 2e-3
    problem = type(problem)(problem.x[far], problem.y[far], problem.model)
    tiny = 1e-3
    problem.attack(FAB(iterations=10, starts=3, targets=1), ThreatModel(norm="L2", eps=tiny), model=Recording())
    assert torch.equal(starts[0], problem.x)
    further = [(starts[at] - problem.x).flatten(1).norm(dim=1) for at in (10, 20)]
    assert all((length > 0).all() and (length <= tiny / 2 * 1.001).all() for length in further)
    assert not torch.equal(*further)
    starts.clear()
    attack = FAB(iterations=10, starts=2, targets=1)
    problem.attack(attack, "L2 50", model=Recording(), early_stop=False)
    nearest = 1.05 * problem.distances("L2") / 2
    assert ((starts[10] - problem.x).flatten(1).norm(dim=1) <= nearest).all()


def test_a_flat_model_costs_nothing_but_time():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)

    data = as_data((torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64)))
    samples = Samples(data, torch.arange(5), data.labels)
    for norm in NORMS:
        found = run_attack(FAB(iterations=5), Target(Flat()), samples, np.arange(5), ThreatModel.parse(f"{norm} 0.5"))
        assert not found.broken.any()
        assert found.non_finite == 0
        assert found.trace.zero_gradient[0] == 5


def test_a_norm_that_it_does_not_do_is_refused(linear):
    with pytest.raises(ValueError, match="can't be run under"):
        linear().attack(FAB(), "L0 5")


@pytest.mark.parametrize(
    "params",
    [
        {"targets": 0},
        {"iterations": 1},
        {"starts": 0},
        {"alpha_max": 1.5},
        {"eta": 0.9},
        {"eta": float("nan")},
        {"beta": 1},
        {"beta": 0},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", "fab", params)
