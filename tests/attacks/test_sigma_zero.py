"""Sigma-zero: the fewest values that cross a linear model's boundary, counted in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_lite.attacks.sigma_zero import SigmaZero
from robustbench_lite.core.threat import ThreatModel

SHAPES = [(1, 6, 6), (3, 16, 16), (50,), (2, 3, 4, 5)]


def fewest(problem, target_class=None):
    """How many values must change to cross the boundary with the other of two classes (or with ``target_class``)."""
    other = 1 - problem.y if target_class is None else target_class
    weight, logits = problem.model[1].weight.detach().double(), problem.model(problem.x).detach().double()
    gap = logits.gather(1, problem.y[:, None]) - logits.gather(1, other[:, None])
    slope = weight[other] - weight[problem.y]
    origin = problem.x.double().flatten(1)
    gains = (slope.abs() * torch.where(slope > 0, 1 - origin, origin)).sort(1, descending=True).values
    return ((gains.cumsum(1) <= gap).sum(1) + 1).numpy()


def cornered(problem, share=0.9):
    """The same samples with a boundary so far off that several values are needed: ``share`` of what a few can do."""
    with torch.no_grad():
        weight = problem.model[1].weight
        logits = problem.model(problem.x)
        gap = logits.gather(1, problem.y[:, None]) - logits.gather(1, 1 - problem.y[:, None])
        one = problem.y == problem.y[0]
        problem = type(problem)(problem.x[one], problem.y[one], problem.model)
        lift = share * float(weight.abs().amax()) * 5 - float(gap[one].median())
        problem.model[1].bias[problem.y[0]] += max(lift, 0.0)
    return problem


@pytest.mark.parametrize("shape", SHAPES)
def test_changes_a_single_value_where_one_is_enough(linear, shape):
    problem = linear(shape, classes=2)
    assert (fewest(problem) == 1).all()
    np.testing.assert_array_equal(problem.attack(SigmaZero(), "L0 50", early_stop=False).distance, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_changes_hardly_more_values_than_must_change(walled, shape):
    problem = cornered(walled(shape, samples=60))
    least = fewest(problem)
    found = problem.attack(SigmaZero(), "L0 1000", early_stop=False)
    assert np.median(least) >= 3, "the case is too easy to say anything"
    assert found.broken.all()
    assert (found.distance >= least).all(), "fewer values than the boundary takes"
    assert np.median(found.distance - least) == 0
    assert (found.distance <= least + 1 + 0.2 * least).all()


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_logits_does_not_matter(walled, scale):
    problem = cornered(walled(samples=60))
    one = problem.attack(SigmaZero(steps=50), "L0 36", early_stop=False).distance
    with torch.no_grad():
        for parameter in problem.model.parameters():
            parameter *= scale
    other = problem.attack(SigmaZero(steps=50), "L0 36", early_stop=False).distance
    assert (np.abs(one - other) <= 1).all()
    assert (one == other).mean() >= 0.8  # where rounding decides


@pytest.mark.parametrize("early_stop", [True, False])
def test_finds_the_same_whatever_the_batch_size_and_the_order(walled, early_stop):
    # With an early stop samples at different steps share a batch.
    problem, attack = cornered(walled(samples=60)), SigmaZero(steps=50)
    threat = ThreatModel(norm="L0", eps=float(np.median(fewest(problem))))
    whole = problem.attack(attack, threat, batch_size=512, early_stop=early_stop)
    assert 0.2 < whole.broken.mean() < 0.9
    turned = type(problem)(problem.x.flip(0), problem.y.flip(0), problem.model)
    for size in (7, 64):
        parts = turned.attack(attack, threat, batch_size=size, early_stop=early_stop)
        np.testing.assert_array_equal(parts.broken[::-1], whole.broken)
        np.testing.assert_array_equal(parts.distance[::-1], whole.distance)


def test_a_witness_differs_in_no_more_values_than_its_distance_says(walled):
    problem = cornered(walled((3, 8, 8), samples=40))
    found = problem.attack(SigmaZero(), "L0 192", early_stop=False, keep=range(40))
    assert found.witnesses
    for row, witness in found.witnesses.items():
        assert (torch.from_numpy(witness) != problem.x[row]).sum() == found.distance[row]
        assert 0 <= witness.min() <= witness.max() <= 1


def test_reaches_the_class_that_is_wanted(linear):
    problem = linear(classes=4, samples=20)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(SigmaZero(), "L0 36 targeted", target_classes=target_classes, early_stop=False)
    np.testing.assert_array_equal(found.prediction, target_classes)
    assert (found.distance >= fewest(problem, target_classes)).all()
    assert np.median(found.distance) <= 3
