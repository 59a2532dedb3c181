"""EAD: near the closed-form L1 distance on linear models, and nearer than foolbox's on a network with fewer passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_lite.attacks.ead import EAD
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel

SHAPES = [(1, 6, 6), (3, 16, 16), (50,), (2, 3, 4, 5)]


def exact(problem, target_class=None):
    """Smallest L1 length that crosses to the other class: the steepest values first, each to its wall."""
    other = 1 - problem.y if target_class is None else target_class
    weight, logits = problem.model[1].weight.detach().double(), problem.model(problem.x).detach().double()
    gap = logits.gather(1, problem.y[:, None]) - logits.gather(1, other[:, None])
    slope = weight[other] - weight[problem.y]
    origin = problem.x.double().flatten(1)
    order = slope.abs().argsort(1, descending=True)
    room = torch.where(slope > 0, 1 - origin, origin).gather(1, order)
    slope = slope.abs().gather(1, order)
    nothing = torch.zeros_like(gap)
    gained = torch.cat([nothing, (slope * room).cumsum(1)], 1)
    whole = (gained[:, 1:] <= gap).sum(1, keepdim=True)
    used = torch.cat([nothing, room.cumsum(1)], 1).gather(1, whole)
    return (used + (gap - gained.gather(1, whole)) / slope.gather(1, whole))[:, 0].numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_comes_near_the_exact_distance_of_every_sample_of_a_binary_linear_model(linear, shape):
    problem = linear(shape, classes=2)
    found = problem.attack(EAD(), "L1 50", early_stop=False)
    assert found.broken.all()
    ratio = found.distance / exact(problem)
    assert ratio.min() >= 1 - 1e-3, "nearer than the boundary"
    assert np.median(ratio) <= 1.1
    assert ratio.max() <= 1.21  # the squared part of the objective spreads it over more values than one


@pytest.mark.parametrize("shape", SHAPES)
def test_comes_near_the_exact_distance_also_where_values_are_0_or_1(walled, shape):
    problem = walled(shape)
    ratio = problem.attack(EAD(), "L1 500", early_stop=False).distance / exact(problem)
    assert ratio.min() >= 1 - 1e-4, "nearer than the boundary"
    assert np.median(ratio) <= 1.1
    assert ratio.max() <= 1.3


def test_the_scale_of_the_logits_does_not_matter(linear):
    problems = (linear((1, 6, 6), classes=2, scale=by) for by in (1.0, 1e-4, 1e4))
    one, *others = (problem.attack(EAD(), "L1 5", early_stop=False).distance for problem in problems)
    for other in others:
        # Where rounding decides whether the search for the weight had an example, it ends at another one.
        np.testing.assert_allclose(other, one, rtol=5e-2, atol=1e-5)


@pytest.mark.parametrize("early_stop", [True, False])
def test_finds_the_same_whatever_the_batch_size_and_the_order(walled, early_stop):
    # With an early stop samples at different steps, and values of c, share a batch.
    problem, attack = walled(samples=40), EAD(search_steps=3, iterations=30)
    threat = ThreatModel(norm="L1", eps=float(np.median(exact(problem))))
    whole = problem.attack(attack, threat, batch_size=512, early_stop=early_stop)
    assert 0.1 < whole.broken.mean() < 0.7
    turned = type(problem)(problem.x.flip(0), problem.y.flip(0), problem.model)
    for size in (7, 64):
        parts = turned.attack(attack, threat, batch_size=size, early_stop=early_stop)
        np.testing.assert_array_equal(parts.broken[::-1], whole.broken)
        np.testing.assert_allclose(parts.distance[::-1], whole.distance, rtol=1e-3)


def test_breaks_what_is_in_the_ball_and_nothing_else(linear):
    problem = linear((1, 6, 6), classes=2)
    distance = exact(problem)
    eps = float(np.median(distance))
    found = problem.attack(EAD(), ThreatModel(norm="L1", eps=eps), keep=range(40))
    assert not found.broken[distance > eps * 1.001].any()
    assert found.broken[distance < eps / 1.1].all()
    for row, witness in found.witnesses.items():
        assert np.abs(witness - problem.x[row].numpy()).sum() <= eps * (1 + 1e-5)
        assert 0 <= witness.min() <= witness.max() <= 1


def test_reaches_the_class_that_is_wanted(linear):
    problem = linear(classes=4, samples=20)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(EAD(), "L1 36 targeted", target_classes=target_classes, early_stop=False)
    np.testing.assert_array_equal(found.prediction, target_classes)
    ratio = found.distance / exact(problem, target_classes)  # a third class may lie between
    assert ratio.min() >= 1 - 1e-3
    assert np.median(ratio) <= 2


def test_confidence_moves_the_example_beyond_the_boundary(linear):
    problem = linear((1, 6, 6), classes=2)
    weight = problem.model[1].weight.detach()
    further = 2.0 / float((weight[0] - weight[1]).abs().amax())
    found = problem.attack(EAD(confidence=2.0, search_steps=1), "L1 5", early_stop=False, keep=range(40))
    assert found.broken.all()
    assert (found.distance <= (exact(problem) + further) * 1.3).all()


def test_a_larger_beta_changes_fewer_values(walled):
    problem = walled((3, 16, 16))
    changed = []
    for beta in (0.005, 0.05):
        found = problem.attack(EAD(beta=beta), "L1 500", early_stop=False, keep=range(20))
        changed.append(np.mean([(found.witnesses[row] != problem.x[row].numpy()).sum() for row in range(20)]))
    assert changed[1] < changed[0]


def test_finds_nearer_examples_than_foolbox_with_fewer_passes(network):
    ours = network.attack(EAD(), "L1 64", early_stop=False)
    params = {"decision_rule": "L1", "steps": 100, "binary_search_steps": 6, "abort_early": False}
    theirs = network.attack(registry.build("attacks", "foolbox:EADAttack", params), "L1 64", early_stop=False)
    assert np.isfinite(ours.distance).all()
    assert np.median(ours.distance) <= np.median(theirs.distance)
    assert ours.passes.total < theirs.passes.total
