"""Carlini-Wagner: the closed-form distance on linear models, whatever the scale of the logits; the Linf form's ball."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.carlini_wagner import CarliniWagner, CarliniWagnerLinf
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target

from .conftest import SHAPES_AND_BATCHES

SHAPES = [(1, 6, 6), (3, 16, 16), (50,), (2, 3, 4, 5)]
ROUNDING = 1e-6  # of a float32 margin, as a distance: it matters to samples that lie on the boundary


@pytest.fixture(scope="module")
def attacked(linear):
    """A problem, and what the attack finds in it to its end: what several tests begin with."""

    @cache
    def make(shape=(1, 6, 6)):
        problem = linear(shape, classes=2)
        return problem, problem.attack(CarliniWagner(), "L2 5", early_stop=False)

    return make


@pytest.mark.parametrize("shape", SHAPES)
def test_finds_the_exact_distance_of_every_sample_of_a_binary_linear_model(attacked, shape):
    problem, found = attacked(shape)
    exact = problem.distances("L2").numpy()
    assert found.broken.all()
    assert (found.distance >= exact * (1 - 1e-4) - ROUNDING).all(), "nearer than the boundary"
    ratio = found.distance / exact
    assert np.median(ratio) <= 1.02
    assert ratio.max() <= 1.02


@pytest.mark.parametrize("batch_size", [1, 7])
def test_finds_the_same_distances_whatever_the_batch_size(linear, batch_size):
    problem, attack = linear((1, 6, 6), classes=2, samples=4 * batch_size), CarliniWagner(search_steps=3, iterations=60)
    whole, parts = (problem.attack(attack, "L2 5", early_stop=False, batch_size=size) for size in (64, batch_size))
    np.testing.assert_allclose(parts.distance, whole.distance, rtol=1e-3, atol=ROUNDING)
    assert (parts.distance <= 1.02 * problem.distances("L2").numpy()).all()


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_logits_does_not_matter(linear, attacked, scale):
    scaled = linear((1, 6, 6), classes=2, scale=scale)
    other = scaled.attack(CarliniWagner(), "L2 5", early_stop=False).distance
    np.testing.assert_allclose(other, attacked()[1].distance, rtol=5e-3, atol=1e-6)  # float32 tells nothing finer


def test_in_many_classes_is_never_nearer_than_the_nearest_boundary_and_mostly_at_it(linear):
    problem = linear((3, 16, 16), classes=6)
    exact = problem.distances("L2").numpy()
    found = problem.attack(CarliniWagner(), "L2 5", early_stop=False).distance
    assert (found >= exact * (1 - 1e-4) - ROUNDING).all()
    assert np.median(found / exact) <= 1.02


@pytest.mark.parametrize("shape", SHAPES)
def test_finds_the_exact_distance_also_where_values_are_0_or_1(walled, shape):
    problem = walled(shape)
    ratio = problem.attack(CarliniWagner(), "L2 50", early_stop=False).distance / problem.box_distances("L2").numpy()
    assert ratio.min() >= 1 - 1e-4, "nearer than the boundary"
    assert np.quantile(ratio, 0.9) <= 1.02, f"{(ratio > 1.02).sum()} of {len(ratio)} samples: {np.sort(ratio).round(3)}"
    assert ratio.max() <= 1.15


def test_breaks_what_is_in_the_ball_and_nothing_else(linear):
    problem = linear((1, 6, 6), classes=2)
    exact = problem.distances("L2").numpy()
    eps = float(np.median(exact))
    found = problem.attack(CarliniWagner(), ThreatModel(norm="L2", eps=eps))
    sure = (exact > eps * 1.001) | (exact < eps / 1.02)
    np.testing.assert_array_equal(found.broken[sure], (exact < eps)[sure])
    assert (found.distance[found.broken] <= eps + 1e-6).all()


def test_a_sample_leaves_as_soon_as_it_is_broken(attacked):
    problem, late = attacked()
    early = problem.attack(CarliniWagner(), "L2 5", early_stop=True)
    assert early.passes.total < late.passes.total / 10
    assert (early.distance >= late.distance * (1 - 1e-6)).all()


def test_reaches_the_class_that_is_wanted_at_the_exact_distance(linear):
    problem = linear((1, 6, 6), classes=2)
    found = problem.attack(CarliniWagner(), "L2 5 targeted", early_stop=False)
    np.testing.assert_array_equal(found.prediction, 1 - problem.y)
    assert (found.distance <= 1.02 * problem.distances("L2", target_class=1 - problem.y).numpy()).all()


def test_the_wanted_one_of_many_classes_is_reached(linear):
    problem, attack = linear((1, 6, 6), classes=4, samples=20), CarliniWagner(search_steps=3, iterations=50)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(attack, "L2 5 targeted", target_classes=target_classes, early_stop=False)
    assert found.broken.all()
    np.testing.assert_array_equal(found.prediction, target_classes)
    any_other = problem.attack(attack, "L2 5", early_stop=False)
    assert np.median(found.distance) >= np.median(any_other.distance)


def test_confidence_moves_the_example_beyond_the_boundary(linear):
    problem = linear((1, 6, 6), classes=2)
    exact = problem.distances("L2").numpy()
    weight = problem.model[1].weight.detach()
    further = 2.0 / float((weight[0] - weight[1]).norm())
    attack = CarliniWagner(confidence=2.0, search_steps=1, iterations=200)
    found = problem.attack(attack, "L2 5", early_stop=False, keep=range(40))
    assert found.broken.all()
    assert (found.distance >= exact * (1 - 1e-4)).all()
    assert (found.distance <= (exact + further) * 1.1).all()


def test_crosses_a_plateau_that_the_gradient_at_the_input_knows_nothing_of():
    # As after hardening: hardly any slope up to 0.3 away, and a steep one beyond. A bisection from the input spreads
    # the change over all values, 3.2 times as far as the steepest one alone.
    class Plateau(nn.Module):
        def forward(self, x):
            high = x.flatten(1)
            rise = 1e-3 * high.sum(1) + 10 * (high[:, 0] - 0.7).relu() + 5 * (high[:, 1:] - 0.7).relu().sum(1)
            return torch.stack([torch.ones_like(rise), rise], 1)

    x = torch.full((8, 1, 4, 4), 0.4) + torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 100
    data = as_data((x, torch.zeros(8, dtype=torch.int64)))
    samples = Samples(data, torch.arange(8), data.labels)
    found = run_attack(
        CarliniWagner(),
        Target(Plateau()),
        samples,
        np.arange(8),
        ThreatModel.parse("L2 4"),
        RunOptions(early_stop=False),
    )
    nearest = 0.8 - x[:, 0, 0, 0].numpy()  # by the steepest value alone
    assert np.median(found.distance / nearest) <= 1.3, found.distance / nearest


def test_a_flat_model_costs_nothing_but_time():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)

    data = as_data((torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64)))
    samples = Samples(data, torch.arange(5), data.labels)
    for attack, threat in ((CarliniWagner(iterations=10), "L2 1"), (CarliniWagnerLinf(iterations=10), "Linf 0.1")):
        found = run_attack(attack, Target(Flat()), samples, np.arange(5), ThreatModel.parse(threat))
        assert not found.broken.any()
        assert np.isinf(found.distance).all()
        assert found.trace.zero_gradient[0] == 5


# The Linf form


@pytest.mark.parametrize(("shape", "batch_size"), SHAPES_AND_BATCHES)
def test_linf_breaks_what_is_in_the_ball_and_nothing_else(linear, shape, batch_size):
    problem = linear(shape, classes=2, samples=10 if batch_size == 1 else 40)
    exact = problem.distances("Linf").numpy()
    eps = float(np.median(exact))
    found = problem.attack(CarliniWagnerLinf(), ThreatModel(norm="Linf", eps=eps), batch_size=batch_size)
    sure = (exact > eps * 1.001) | (exact < eps / 1.02)
    np.testing.assert_array_equal(found.broken[sure], (exact < eps)[sure])
    assert (found.distance[found.broken] <= eps + 1e-6).all()


def test_linf_reaches_the_nearest_point_within_two_percent_where_the_box_is_in_the_way(walled):
    problem = walled((3, 16, 16), samples=40)
    exact = problem.box_distances("Linf").numpy()
    eps = float(np.median(exact))
    found = problem.attack(CarliniWagnerLinf(), ThreatModel(norm="Linf", eps=eps))
    sure = (exact > eps * 1.001) | (exact < eps / 1.02)
    np.testing.assert_array_equal(found.broken[sure], (exact < eps)[sure])


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_linf_does_not_mind_the_scale_of_the_logits(linear, scale):
    plain, scaled = (linear((3, 16, 16), classes=4, scale=by) for by in (1.0, scale))
    eps = float(plain.distances("Linf").median())
    one, other = (
        problem.attack(CarliniWagnerLinf(), ThreatModel(norm="Linf", eps=eps)).broken for problem in (plain, scaled)
    )
    assert (one != other).sum() <= 1


def test_linf_every_candidate_stays_in_ball_and_box(walled):
    problem = walled((3, 16, 16), samples=10)
    seen = []

    class Recording(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return problem.model(x)

    problem.attack(CarliniWagnerLinf(iterations=30), "Linf 1e-3", model=Recording())
    assert len(seen) == 31
    for candidates in seen:
        assert candidates.amin() >= 0
        assert candidates.amax() <= 1
        assert (candidates.double() - problem.x.double()).abs().amax() <= 1e-3 + 1e-6


def test_linf_reaches_the_class_that_is_wanted(linear):
    problem = linear(classes=4, samples=60)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(CarliniWagnerLinf(), "Linf 0.2 targeted", target_classes=target_classes)
    assert found.broken.all()
    np.testing.assert_array_equal(found.prediction, target_classes)


@pytest.mark.parametrize(
    ("name", "threat"), [("carlini_wagner", "Linf 0.1"), ("carlini_wagner_linf", "L2 0.5")], ids=["L2", "Linf"]
)
def test_a_norm_that_it_does_not_do_is_refused(linear, name, threat):
    with pytest.raises(ValueError, match="can't be run under"):
        linear().attack(registry.build("attacks", name, {}), threat)


@pytest.mark.parametrize("name", ["carlini_wagner", "carlini_wagner_linf"])
@pytest.mark.parametrize(
    "params", [{"iterations": 0}, {"lr": 0}, {"lr": -1}, {"lr": "x"}, {"search_stepz": 1}], ids=str
)
def test_parameters_out_of_range_are_refused_by_name(name, params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", name, params)


@pytest.mark.parametrize("params", [{"search_steps": 0}, {"confidence": -1}], ids=str)
def test_parameters_of_the_search_out_of_range_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", "carlini_wagner", params)
