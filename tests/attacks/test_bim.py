"""BIM: steepest steps from the input itself, in the ball after each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.attacks.bim import BIM
from robustbench_lite.attacks.pgd import PGD
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.model.target import Target

from .conftest import SHAPES_AND_BATCHES, expect_exact


def network(classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model, torch.rand(9, 3, 2, 2, generator=generator), torch.arange(9) % classes


@pytest.mark.parametrize(("shape", "batch_size"), SHAPES_AND_BATCHES)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_breaks_a_binary_linear_model_exactly_where_the_boundary_is_in_the_ball(linear, norm, shape, batch_size):
    expect_exact(linear(shape, classes=2), BIM(), norm, batch_size)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_is_the_plain_loop_on_a_network(norm):
    model, x, y = network()
    eps, step = 0.2, 0.07
    at = x.clone()
    for _ in range(5):
        leaf = at.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        if norm == "Linf":
            at = (x + (at + step * grad.sign() - x).clamp(-eps, eps)).clamp(0, 1)
        else:
            change = at + step * grad / grad.flatten(1).norm(dim=1)[:, None, None, None] - x
            length = change.flatten(1).norm(dim=1)[:, None, None, None]
            at = (x + change * (eps / length).clamp_max(1)).clamp(0, 1)
    threat = ThreatModel(norm=norm, eps=eps)
    ours = perturb(BIM(steps=5, step_size=step), Target(model), x, y, threat, torch.arange(9))
    torch.testing.assert_close(ours, at)


def test_is_pgd_without_a_random_start(linear):
    problem = linear((3, 16, 16), classes=5)
    threat = ThreatModel(norm="Linf", eps=float(problem.distances("Linf").median()))
    ours = problem.attack(BIM(steps=7), threat, keep=range(40))
    pgd = problem.attack(PGD(steps=7, random_start=False), threat, keep=range(40))
    np.testing.assert_array_equal(ours.broken, pgd.broken)
    np.testing.assert_array_equal(ours.distance, pgd.distance)
    np.testing.assert_array_equal(ours.forward, pgd.forward)


def test_starts_from_the_input_and_draws_nothing(linear):
    problem = linear()
    one, other = (problem.attack(BIM(), "Linf 0.01", seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.distance, other.distance)


def test_reaches_the_class_that_is_wanted(linear):
    problem = linear(classes=4, samples=60)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(BIM(loss="margin"), "Linf 0.2 targeted", target_classes=target_classes)
    assert found.broken.all()
    np.testing.assert_array_equal(found.prediction, target_classes)


def test_costs_a_forward_pass_for_each_candidate_and_a_backward_pass_for_each_step(linear):
    problem = linear(classes=2)
    found = problem.attack(BIM(steps=6), "Linf 1e-6")
    assert not found.broken.any()
    assert set(found.forward) == {7}
    assert set(found.backward) == {6}


@pytest.mark.parametrize(
    "params",
    [{"steps": 0}, {"steps": -1}, {"steps": 2.5}, {"step_size": 0}, {"step_size": "x"}, {"step_size": float("nan")}],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", "bim", params)


def test_a_step_size_may_be_a_fraction():
    assert registry.build("attacks", "bim", {"step_size": "2/255"}).step_size == pytest.approx(2 / 255)
