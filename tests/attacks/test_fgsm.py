"""FGSM: exact on linear models, one step of length eps elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.attacks.fgsm import FGSM
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.model.target import Target

from .conftest import SHAPES_AND_BATCHES, expect_exact


@pytest.mark.parametrize(("shape", "batch_size"), SHAPES_AND_BATCHES)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_breaks_a_binary_linear_model_exactly_where_the_boundary_is_in_the_ball(linear, norm, shape, batch_size):
    expect_exact(linear(shape, classes=2), FGSM(), norm, batch_size)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_is_exact_with_either_loss_in_two_classes(linear, loss):
    problem = linear((1, 6, 6), classes=2)
    exact = problem.distances("Linf")
    eps = float(exact.median())
    broken = problem.attack(FGSM(loss=loss), ThreatModel(norm="Linf", eps=eps)).broken
    sure = (exact / eps - 1).abs() > 1e-3
    np.testing.assert_array_equal(broken[sure], (exact < eps)[sure])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_with_the_margin_loss_is_exact_in_many_classes_where_the_next_best_class_is_the_nearest(linear, norm):
    problem = linear((3, 16, 16), classes=6, samples=80)
    rivals, logits = problem.rivals(norm), problem.model(problem.x).detach()
    exact = rivals.amin(1)
    eps = float(exact.median())
    broken = torch.from_numpy(problem.attack(FGSM(loss="margin"), ThreatModel(norm=norm, eps=eps)).broken)
    assert not (broken & (exact > eps * 1.001)).any()
    runner_up = logits.scatter(1, problem.y[:, None], -torch.inf).argmax(1)
    plain = (runner_up == rivals.argmin(1)) & ((exact / eps - 1).abs() > 1e-3)
    assert plain.sum() >= 40
    np.testing.assert_array_equal(broken[plain], (exact < eps)[plain])


def test_is_exact_in_linf_also_where_the_box_is_in_the_way(walled):
    problem = walled((3, 16, 16), samples=40)
    exact = problem.box_distances("Linf")
    eps = float(exact.median())
    broken = problem.attack(FGSM(), ThreatModel(norm="Linf", eps=eps)).broken
    sure = (exact / eps - 1).abs() > 1e-3
    np.testing.assert_array_equal(broken[sure], (exact < eps)[sure])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_witnesses_lie_at_the_edge_of_the_ball(linear, norm):
    problem = linear(classes=2)
    eps = 2 * float(problem.distances(norm).max())
    found = problem.attack(FGSM(), ThreatModel(norm=norm, eps=eps), keep=range(40))
    assert found.broken.all()
    np.testing.assert_allclose(found.distance, eps, rtol=1e-4)
    assert len(found.witnesses) == 40
    for row, witness in found.witnesses.items():
        change = (torch.from_numpy(witness) - problem.x[row]).flatten()
        assert change.norm(p=float("inf") if norm == "Linf" else 2) == pytest.approx(eps, rel=1e-4)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_reaches_the_class_that_is_wanted(linear, norm):
    problem = linear(classes=2)
    exact = problem.distances(norm, target_class=1 - problem.y)
    eps = float(exact.median())
    found = problem.attack(FGSM(), ThreatModel(norm=norm, eps=eps, goal="targeted"))
    sure = ((exact / eps - 1).abs() > 1e-3).numpy()
    np.testing.assert_array_equal(found.broken[sure], (exact < eps).numpy()[sure])
    np.testing.assert_array_equal(found.prediction[found.broken], (1 - problem.y).numpy()[found.broken])


def test_leaving_for_another_class_than_the_wanted_one_is_no_success(linear):
    problem = linear(classes=6, samples=80)
    target_classes = (problem.y + 1) % 6
    eps = 1.5 * float(problem.distances("Linf").median())
    found = problem.attack(FGSM(), ThreatModel(norm="Linf", eps=eps, goal="targeted"), target_classes=target_classes)
    untargeted = problem.attack(FGSM(), ThreatModel(norm="Linf", eps=eps))
    assert 0 < found.broken.sum() < untargeted.broken.sum()
    np.testing.assert_array_equal(found.prediction[found.broken], target_classes.numpy()[found.broken])


def test_is_one_signed_step_on_a_network():
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x, y = torch.rand(9, 3, 2, 2, generator=generator), torch.arange(9) % 3
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    plain = (x + 0.1 * grad.sign()).clamp(0, 1)
    ours = perturb(FGSM(), Target(model), x, y, ThreatModel.parse("Linf 0.1"), torch.arange(9))
    torch.testing.assert_close(ours, plain)


def test_costs_three_forward_passes_and_one_backward_where_it_breaks(linear):
    problem = linear(classes=2)
    found = problem.attack(FGSM(), "Linf 0.3")
    assert set(found.forward) == {3}  # the input, the candidate, and its confirmation
    assert set(found.backward) == {1}


@pytest.mark.parametrize(
    ("params", "told"),
    [({"loss": "hinge"}, "loss"), ({"eps": 0.1}, "unknown parameter 'eps'"), ({"steps": 3}, "steps")],
)
def test_parameters_that_it_does_not_take_are_refused(params, told):
    with pytest.raises(ValueError, match=told):
        registry.build("attacks", "fgsm", params)


def test_its_parameters_cannot_be_changed_later():
    with pytest.raises(AttributeError):
        FGSM().loss = "margin"
    with pytest.raises(ValidationError):
        FGSM(loss="hinge")
