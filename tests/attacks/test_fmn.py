"""FMN: the closed-form distance on linear models under every norm, and no farther than foolbox's on a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_lite.attacks.fmn import FMN
from robustbench_lite.core import registry
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import ThreatModel

SHAPES = [(1, 6, 6), (3, 16, 16), (50,), (2, 3, 4, 5)]
NORMS = ["Linf", "L2", "L1", "L0"]
PAIRS = [(shape, norm) for at, shape in enumerate(SHAPES) for norm in (NORMS[at], NORMS[(at + 1) % 4])]
"""Every shape under two norms, and every norm in two shapes."""
WIDE = {"Linf": 1, "L2": 50, "L1": 1000, "L0": 1000}
"""Balls that hold the box."""


def exact(problem, norm, target_class=None):
    """Smallest perturbation within the box that crosses the boundary with the other, or the target class."""
    if norm in ("Linf", "L2"):
        if target_class is not None:
            return problem.rivals(norm).gather(1, target_class[:, None])[:, 0].numpy()
        return problem.box_distances(norm).numpy()
    other = 1 - problem.y if target_class is None else target_class
    weight, logits = problem.model[1].weight.detach().double(), problem.model(problem.x).detach().double()
    gap = logits.gather(1, problem.y[:, None]) - logits.gather(1, other[:, None])
    slope = weight[other] - weight[problem.y]
    origin = problem.x.double().flatten(1)
    room = torch.where(slope > 0, 1 - origin, origin)
    # L1: the steepest values first, each to its wall; L0: those first that gain most on their way to the wall.
    order = (slope.abs() if norm == "L1" else slope.abs() * room).argsort(1, descending=True)
    slope, room = slope.abs().gather(1, order), room.gather(1, order)
    reached = (slope * room).cumsum(1)
    whole = (reached <= gap).sum(1, keepdim=True)
    if norm == "L0":
        return (whole[:, 0] + 1).numpy()
    before = torch.cat([torch.zeros_like(gap), reached], 1).gather(1, whole)
    rest = (gap - before) / slope.gather(1, whole)
    return (torch.cat([torch.zeros_like(gap), room.cumsum(1)], 1).gather(1, whole) + rest)[:, 0].numpy()


@pytest.mark.parametrize(("shape", "norm"), PAIRS)
def test_finds_the_exact_distance_of_every_sample_of_a_binary_linear_model(linear, shape, norm):
    problem = linear(shape, classes=2)
    distance = exact(problem, norm)
    if norm in ("Linf", "L2"):  # away from the walls, the dual norm's
        np.testing.assert_allclose(distance, problem.distances(norm), rtol=1e-2, atol=1e-5)
    found = problem.attack(FMN(), f"{norm} {WIDE[norm]}", early_stop=False)
    assert found.broken.all()
    assert (found.distance >= distance * (1 - 1e-3)).all(), "nearer than the boundary"
    assert (found.distance <= distance * 1.01 + 1e-5).all()


@pytest.mark.parametrize(("shape", "norm"), PAIRS)
def test_finds_the_exact_distance_also_where_values_are_0_or_1(walled, shape, norm):
    problem = walled(shape)
    ratio = problem.attack(FMN(), f"{norm} {WIDE[norm]}", early_stop=False).distance / exact(problem, norm)
    assert ratio.min() >= 1 - 1e-4, "nearer than the boundary"
    assert np.median(ratio) <= 1.01
    assert ratio.max() <= (1.5 if norm == "L0" else 1.01)  # in L0 two values where one would do


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_in_many_classes_is_never_nearer_than_the_nearest_boundary_and_mostly_at_it(linear, norm):
    problem = linear((3, 16, 16), classes=6)
    ratio = problem.attack(FMN(), f"{norm} 1", early_stop=False).distance / problem.distances(norm).numpy()
    assert ratio.min() >= 1 - 1e-3
    assert np.median(ratio) <= 1.005


@pytest.mark.parametrize(("norm", "scale"), [("Linf", 1e-3), ("L2", 1e3), ("L1", 1e-3), ("L0", 1e3)])
def test_the_scale_of_the_logits_does_not_matter(linear, norm, scale):
    plain, scaled = (linear((1, 6, 6), classes=2, scale=by) for by in (1.0, scale))
    one, other = (
        problem.attack(FMN(), f"{norm} {WIDE[norm]}", early_stop=False).distance for problem in (plain, scaled)
    )
    np.testing.assert_allclose(other, one, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(("norm", "early_stop"), [("Linf", True), ("L2", False), ("L1", True), ("L0", False)])
def test_finds_the_same_whatever_the_batch_size_and_the_order(walled, norm, early_stop):
    # With an early stop samples at different steps share a batch.
    problem, attack = walled((3, 8, 8), samples=40), FMN(steps=50)
    eps = float(np.median(exact(problem, norm)))
    threat = ThreatModel(norm=norm, eps=int(eps) if norm == "L0" else eps)
    whole = problem.attack(attack, threat, batch_size=512, early_stop=early_stop)
    assert 0.2 < whole.broken.mean() < 0.8
    turned = type(problem)(problem.x.flip(0), problem.y.flip(0), problem.model)
    for size in (7, 64):
        parts = turned.attack(attack, threat, batch_size=size, early_stop=early_stop)
        np.testing.assert_array_equal(parts.broken[::-1], whole.broken)
        np.testing.assert_allclose(parts.distance[::-1], whole.distance, rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_breaks_what_is_in_the_ball_and_nothing_else(walled, norm):
    problem = walled(samples=40)
    distance = exact(problem, norm)
    eps = float(np.median(distance))
    eps = int(eps) if norm == "L0" else eps
    found = problem.attack(FMN(), ThreatModel(norm=norm, eps=eps), keep=range(40))
    assert not found.broken[distance > eps * 1.001].any()
    assert found.broken[distance < eps / 1.01].all()
    for row, witness in found.witnesses.items():
        change = torch.from_numpy(witness) - problem.x[row]
        assert float(GEOMETRIES[norm].distance(change[None])) <= eps * (1 + 1e-6)
        assert 0 <= witness.min() <= witness.max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_class_that_is_wanted(linear, norm):
    problem = linear(classes=4, samples=20)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(FMN(), f"{norm} {WIDE[norm]} targeted", target_classes=target_classes, early_stop=False)
    np.testing.assert_array_equal(found.prediction, target_classes)
    # The boundary with that class bounds it from below; where a third class lies between it is farther.
    ratio = found.distance / exact(problem, norm, target_classes)
    assert ratio.min() >= 1 - 1e-3
    assert np.median(ratio) <= 1.3


@pytest.mark.parametrize("norm", NORMS)
def test_finds_examples_no_farther_than_foolbox_with_as_many_steps(network, norm):
    threat = f"{norm} {WIDE[norm]}"
    name = f"foolbox:{'LInf' if norm == 'Linf' else norm}FMNAttack"
    ours = network.attack(FMN(steps=100), threat, early_stop=False)
    theirs = network.attack(registry.build("attacks", name, {"steps": 100}), threat, early_stop=False)
    assert np.isfinite(ours.distance).all()
    assert np.median(ours.distance) <= 1.005 * np.median(theirs.distance)
