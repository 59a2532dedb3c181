"""DDN: the closed-form distance on linear models, and no farther than foolbox's on a network."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from robustbench_lite.attacks.ddn import DDN
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel

SHAPES = [(1, 6, 6), (3, 16, 16), (50,), (2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_finds_the_exact_distance_of_every_sample_of_a_binary_linear_model(linear, shape):
    problem = linear(shape, classes=2)
    found = problem.attack(DDN(), "L2 5", early_stop=False)
    assert found.broken.all()
    ratio = found.distance / problem.distances("L2").numpy()
    assert ratio.min() >= 1 - 1e-3, "nearer than the boundary"
    assert ratio.max() <= 1.005


@pytest.mark.parametrize("shape", SHAPES)
def test_finds_the_exact_distance_also_where_values_are_0_or_1(walled, shape):
    problem = walled(shape)
    ratio = problem.attack(DDN(), "L2 50", early_stop=False).distance / problem.box_distances("L2").numpy()
    assert ratio.min() >= 1 - 1e-4, "nearer than the boundary"
    assert ratio.max() <= 1.005


def test_in_many_classes_is_never_nearer_than_the_nearest_boundary_and_mostly_at_it(linear):
    problem = linear((3, 16, 16), classes=6)
    ratio = problem.attack(DDN(), "L2 5", early_stop=False).distance / problem.distances("L2").numpy()
    assert ratio.min() >= 1 - 1e-3
    assert np.median(ratio) <= 1.005


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_logits_does_not_matter(linear, scale):
    plain, scaled = (linear((1, 6, 6), classes=2, scale=by) for by in (1.0, scale))
    one, other = (problem.attack(DDN(), "L2 5", early_stop=False).distance for problem in (plain, scaled))
    np.testing.assert_allclose(other, one, rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("early_stop", [True, False])
def test_finds_the_same_whatever_the_batch_size_and_the_order(walled, early_stop):
    # With an early stop samples at different steps share a batch.
    problem, attack = walled(samples=40), DDN(steps=50)
    threat = ThreatModel(norm="L2", eps=float(problem.box_distances("L2").median()))
    whole = problem.attack(attack, threat, batch_size=512, early_stop=early_stop)
    assert 0.3 < whole.broken.mean() < 0.7
    turned = type(problem)(problem.x.flip(0), problem.y.flip(0), problem.model)
    for size in (7, 64):
        parts = turned.attack(attack, threat, batch_size=size, early_stop=early_stop)
        np.testing.assert_array_equal(parts.broken[::-1], whole.broken)
        np.testing.assert_allclose(parts.distance[::-1], whole.distance, rtol=1e-3)


def test_breaks_what_is_in_the_ball_and_nothing_else(walled):
    problem = walled(samples=40)
    exact = problem.box_distances("L2").numpy()
    eps = float(np.median(exact))
    found = problem.attack(DDN(), ThreatModel(norm="L2", eps=eps))
    sure = (exact > eps * 1.001) | (exact < eps / 1.005)
    np.testing.assert_array_equal(found.broken[sure], (exact < eps)[sure])
    assert (found.distance[found.broken] <= eps + 1e-6).all()


def test_reaches_the_class_that_is_wanted(linear):
    problem = linear(classes=4, samples=20)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(DDN(), "L2 5 targeted", target_classes=target_classes, early_stop=False)
    np.testing.assert_array_equal(found.prediction, target_classes)
    # Not nearer than the boundary with that class, and mostly there: another class may lie between.
    ratio = found.distance / problem.rivals("L2").gather(1, target_classes[:, None])[:, 0].numpy()
    assert ratio.min() >= 1 - 1e-3
    assert np.median(ratio) <= 1.3


def test_shrinks_by_gamma_from_an_example_and_grows_without(linear):
    """The first perturbations of a model whose answer is known, from the rule itself."""
    problem = linear((50,), classes=2, samples=1)
    seen = []

    class Recording(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return problem.model(x)

    problem.attack(DDN(steps=2, first_length=0.5, gamma=0.1), "L2 5", early_stop=False, model=Recording())
    lengths = [float((x - problem.x).norm()) for x in seen]
    assert lengths[0] == 0
    assert lengths[1] == pytest.approx(0.55, rel=1e-4)  # the input is no example: a tenth more
    assert lengths[2] == pytest.approx(0.55 * (1 - (0.1 + 0.001) / 2), rel=1e-4)  # 0.55 is one; gamma is halfway


def test_finds_examples_no_farther_than_foolbox_with_as_many_steps(network):
    ours = network.attack(DDN(steps=100), "L2 5", early_stop=False)
    theirs = network.attack(registry.build("attacks", "foolbox:DDNAttack", {"steps": 100}), "L2 5", early_stop=False)
    assert np.isfinite(ours.distance).all()
    assert np.median(ours.distance) <= 1.005 * np.median(theirs.distance)
    assert np.mean(ours.distance / theirs.distance) <= 1.005
