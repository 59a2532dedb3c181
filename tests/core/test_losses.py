"""What attacks climb: signs, values and gradients, against torch and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from robustbench_lite.core.losses import LOSSES, cross_entropy, dlr, loss_of, margin, probability_margin, success

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
both_goals = pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])


@pytest.fixture
def logits():
    return 3 * torch.randn(200, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target_class():
    return torch.arange(200) % 7


def test_margin_is_above_zero_exactly_where_the_class_is_left(logits, target_class):
    left = logits.argmax(1) != target_class
    assert 0 < left.sum() < len(left)
    assert torch.equal(margin(logits, target_class, False) > 0, left)


def test_margin_is_above_zero_exactly_where_the_class_is_reached(logits, target_class):
    reached = logits.argmax(1) == target_class
    assert 0 < reached.sum() < len(reached)
    assert torch.equal(margin(logits, target_class, True) > 0, reached)


def test_margin_by_hand():
    logits = torch.tensor([[1.0, 4.0, 2.5], [-1.0, -4.0, -2.5], [3.0, 3.0, 0.0]])
    target_class = torch.tensor([1, 2, 0])
    assert margin(logits, target_class, False).tolist() == [-1.5, 1.5, 0.0]
    assert margin(logits, target_class, True).tolist() == [1.5, -1.5, 0.0]


def test_margin_pulls_the_class_and_its_best_rival_alone():
    logits = torch.tensor([[1.0, 4.0, 2.5, 0.0]], requires_grad=True)
    margin(logits, torch.tensor([1]), False).sum().backward()
    assert logits.grad.tolist() == [[0.0, -1.0, 1.0, 0.0]]


def test_dlr_by_hand():
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0]])
    of = {"own": torch.tensor([0]), "other": torch.tensor([1]), "best": torch.tensor([2])}
    assert dlr(logits, of["own"], False).tolist() == pytest.approx([-2 / 3])
    assert dlr(logits, of["best"], False).tolist() == pytest.approx([2 / 3])
    assert dlr(logits, of["other"], True).tolist() == pytest.approx([-4 / 3.5])
    assert dlr(logits, of["own"], False, of["other"]).tolist() == pytest.approx([-4 / 3.5])


def test_dlr_of_three_classes_has_no_fourth_logit():
    logits = torch.tensor([[5.0, 1.0, 3.0]])
    assert dlr(logits, torch.tensor([0]), False).tolist() == pytest.approx([-2 / 4])
    assert dlr(logits, torch.tensor([1]), True).tolist() == pytest.approx([-4 / 4])


@both_goals
@pytest.mark.parametrize("towards", [False, True], ids=["any class", "a rival"])
def test_dlr_knows_neither_scale_nor_offset_of_the_logits(targeted, towards, logits, target_class):
    rival = (target_class + 1) % 7 if towards else None
    told = dlr(logits, target_class, targeted, rival)
    torch.testing.assert_close(dlr(1e4 * logits + 500, target_class, targeted, rival), told, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dlr(1e-4 * logits, target_class, targeted, rival), told)


@both_goals
def test_dlr_of_two_classes_would_be_constant_and_is_the_margin(targeted, logits, target_class):
    assert torch.equal(
        dlr(logits[:, :2], target_class % 2, targeted), margin(logits[:, :2], target_class % 2, targeted)
    )


def test_dlr_of_equal_logits_is_finite():
    logits = torch.full((1, 5), 2.0, requires_grad=True)
    loss = dlr(logits, torch.tensor([3]), False)
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert logits.grad.isfinite().all()


def test_probability_margin_is_the_margin_of_the_softmax(logits, target_class):
    assert probability_margin(torch.tensor([[0.0, 2.0, 1.0]]).log(), torch.tensor([1]), False).tolist() == (
        pytest.approx([-1 / 3])
    )
    for targeted in (False, True):
        told = probability_margin(logits, target_class, targeted)
        torch.testing.assert_close(told, margin(logits.softmax(1), target_class, targeted))
        assert torch.equal(told > 0, margin(logits, target_class, targeted) > 0)
    assert probability_margin(1e4 * logits, target_class, False).abs().amax() <= 1


# Towards one class of the attack's own choice


def test_a_rival_is_climbed_to_by_hand():
    logits, own, rival = torch.tensor([[1.0, 4.0, 2.5]]), torch.tensor([1]), torch.tensor([0])
    assert margin(logits, own, False, rival).tolist() == [-3.0]
    torch.testing.assert_close(cross_entropy(logits, own, False, rival), logits.log_softmax(1)[:, 0])
    torch.testing.assert_close(
        probability_margin(logits, own, False, rival), logits.softmax(1)[:, 0] - logits.softmax(1)[:, 1]
    )


def test_the_best_other_class_as_the_rival_is_the_margin(logits, target_class):
    best = logits.scatter(1, target_class[:, None], float("-inf")).argmax(1)
    assert torch.equal(margin(logits, target_class, False, best), margin(logits, target_class, False))


@every_loss
def test_climbing_to_a_rival_leads_to_that_class(loss, logits, target_class):
    climbed, target_class = logits[:40].clone(), target_class[:40]
    rival = (target_class + 3) % 7
    for _ in range(80):
        climbed.requires_grad_()
        (grad,) = torch.autograd.grad(loss(climbed, target_class, False, rival).sum(), climbed)
        climbed = (climbed + 0.5 * grad.sign()).detach()
    assert torch.equal(
        climbed.gather(1, rival[:, None]) > climbed.gather(1, target_class[:, None]), torch.ones(40, 1) > 0
    )


def test_cross_entropy_is_the_negative_log_likelihood(logits, target_class):
    expected = -logits.double().softmax(1).log().gather(1, target_class[:, None])[:, 0].float()
    torch.testing.assert_close(cross_entropy(logits, target_class, False), expected)
    torch.testing.assert_close(
        cross_entropy(logits, target_class, False), F.cross_entropy(logits, target_class, reduction="none")
    )
    torch.testing.assert_close(cross_entropy(logits, target_class, True), -expected)


def test_gradient_of_cross_entropy_is_softmax_less_one_hot(logits, target_class):
    logits.requires_grad_()
    cross_entropy(logits, target_class, False).sum().backward()
    expected = logits.detach().softmax(1) - F.one_hot(target_class, 7)
    torch.testing.assert_close(logits.grad, expected)


def test_where_cross_entropy_saturates_margin_still_has_a_gradient():
    for loss, vanishes in ((cross_entropy, True), (margin, False)):
        logits = torch.tensor([[300.0, 0.0, -50.0]], requires_grad=True)
        loss(logits, torch.tensor([0]), False).sum().backward()
        assert bool((logits.grad == 0).all()) is vanishes


@every_loss
@both_goals
def test_climbing_leads_to_the_goal(loss, targeted, logits, target_class):
    climbed, target_class = logits[:40].clone(), target_class[:40]
    for _ in range(60):
        climbed.requires_grad_()
        (grad,) = torch.autograd.grad(loss(climbed, target_class, targeted).sum(), climbed)
        climbed = (climbed + 0.5 * grad.sign()).detach()
    assert torch.equal(climbed.argmax(1) == target_class, torch.full((40,), targeted))


@every_loss
@both_goals
def test_one_value_a_sample_that_no_other_sample_changes(loss, targeted, logits, target_class):
    whole = loss(logits, target_class, targeted)
    assert whole.shape == (200,)
    torch.testing.assert_close(whole[7:8], loss(logits[7:8], target_class[7:8], targeted))


@every_loss
@both_goals
def test_gradients_agree_with_finite_differences(loss, targeted, logits, target_class):
    few = logits[:5].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: loss(given, target_class[:5], targeted), few)


@every_loss
def test_large_logits_have_a_finite_loss(loss):
    logits = torch.tensor([[1e30, -1e30, 0.0], [-1e4, 1e4, 0.0]])
    assert loss(logits, torch.tensor([1, 0]), False).isfinite().all()


def test_margin_knows_no_smallest_logit():
    assert margin(torch.tensor([[-3e20, -1e20]]), torch.tensor([1]), False).tolist() == pytest.approx([-2e20])


@both_goals
def test_success_is_where_the_margin_is_above_zero(logits, target_class, targeted):
    found = success(logits, target_class, targeted)
    assert 0 < found.sum() < len(found)
    assert torch.equal(found, margin(logits, target_class, targeted) > 0)


@both_goals
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_never_a_success(strange, targeted):
    logits = torch.tensor([[strange, 1.0, 2.0], [0.0, 1.0, 2.0]])
    target_class = torch.tensor([2, 2]) if targeted else torch.tensor([1, 1])
    assert success(logits, target_class, targeted).tolist() == [False, True]


def test_an_objective_is_a_name_or_a_function_itself():
    assert loss_of("margin") is margin
    assert loss_of(dlr) is dlr
