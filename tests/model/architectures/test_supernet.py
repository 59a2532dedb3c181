"""The supernet is the weighted sum of its operations, and its gradients are those of that sum."""

from __future__ import annotations

import copy

import pytest
import torch

from robustbench_lite.model.architectures.cells import OPERATIONS, Cells, operation
from robustbench_lite.model.architectures.supernet import Choices, Mixed, Supernet

SIZES = Cells(shape=(1, 4, 4), classes=2, channels=2, stages=1)


def mixed() -> tuple[Choices, Mixed]:
    torch.manual_seed(0)
    choices = Choices({"edge_0_1": OPERATIONS})
    choices.logits("edge_0_1").copy_(torch.randn(len(OPERATIONS)))
    edge = Mixed(choices, "edge_0_1", [operation(name, 2, affine=False) for name in OPERATIONS])
    return choices, edge.eval()


def test_a_mixed_edge_is_the_weighted_sum_and_so_are_its_gradients() -> None:
    choices, edge = mixed()
    x = torch.rand(3, 2, 4, 4, requires_grad=True)
    with choices.followed() as [logits]:
        weights = logits.softmax(0)
        each = [one(x) for one in edge.operations]
        assert torch.allclose(edge(x), sum(w * y for w, y in zip(weights, each, strict=True)))

        loss = edge(x).pow(2).sum()
        by_logits, by_x = torch.autograd.grad(loss, [logits, x])
    # By hand: dL/dw_k = <2 y, op_k(x)>, and the softmax's Jacobian; dL/dx is the weighted sum of the operations' own.
    y = edge(x).detach()
    by_weight = torch.stack([(2 * y * one.detach()).sum() for one in each])
    shares = choices.logits("edge_0_1").softmax(0)
    assert torch.allclose(by_logits, shares * (by_weight - (shares * by_weight).sum()), rtol=1e-4, atol=1e-5)
    own = [torch.autograd.grad(one(x), x, grad_outputs=2 * y)[0] for one in edge.operations]
    assert torch.allclose(by_x, sum(w * g for w, g in zip(shares, own, strict=True)), rtol=1e-4, atol=1e-5)


def test_where_one_operation_is_drawn_the_gradient_goes_through_its_probability() -> None:
    choices, edge = mixed()
    x, key = torch.rand(3, 2, 4, 4), "edge_0_1"
    seen = set()
    for seed in range(40):
        with choices.drawn(seed), choices.followed() as [logits]:
            weights = choices.weights(key)
            place = int(weights.argmax())
            assert torch.allclose(weights, torch.eye(len(OPERATIONS))[place], atol=1e-6)
            assert torch.allclose(edge(x), edge.operations[place](x), atol=1e-6)
            (by_logits,) = torch.autograd.grad(edge(x).sum(), logits)
            assert torch.equal(choices.weights(key), weights)  # it is drawn once, for all passes
        # By hand: the operation's own sum, and how its softened weight moves with the logits.
        noise = torch.rand(len(OPERATIONS), generator=torch.Generator().manual_seed(seed)).log().neg().log().neg()
        soft = (choices.logits(key).log_softmax(0) + noise).softmax(0)
        slope = soft[place] * (torch.eye(len(OPERATIONS))[place] - soft)
        assert torch.allclose(by_logits, edge.operations[place](x).sum() * slope, rtol=1e-3, atol=1e-5)
        seen.add(place)
    assert len(seen) > 1
    assert not choices.is_drawn
    assert torch.allclose(choices.weights(key), choices.logits(key).softmax(0))


def test_operations_are_drawn_by_their_probabilities() -> None:
    choices = Choices({"edge_0_1": ("none", "skip_connect", "nor_conv_1x1")})
    choices.logits("edge_0_1").copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    counts = torch.zeros(3)
    for seed in range(2000):
        with choices.drawn(seed):
            counts += choices.weights("edge_0_1").round()
    assert torch.allclose(counts / 2000, torch.tensor([0.7, 0.2, 0.1]), atol=0.03)


def test_choices_follow_gradients_only_where_they_are_asked_to() -> None:
    choices, _ = mixed()
    with choices.followed() as [logits]:
        assert logits.requires_grad
    assert not logits.requires_grad
    assert not list(choices.parameters())  # no optimizer of the weights sees them


def test_a_step_goes_down_the_gradient_by_the_rate_at_most() -> None:
    choices = Choices({"edge_0_1": ("none", "skip_connect")})
    choices.descend([torch.tensor([0.3, -5.0])], 0.1)
    assert torch.allclose(choices.logits("edge_0_1"), torch.tensor([-0.1, 0.1]), atol=1e-4)  # Adam's first step
    assert choices.probabilities()["edge_0_1"][1] > 0.5


@pytest.mark.parametrize("edges", [("edge_0_1",), tuple(SIZES.options())])
def test_a_copy_has_choices_of_its_own(edges: tuple[str, ...]) -> None:
    net = Supernet(SIZES, dict.fromkeys(edges, OPERATIONS))
    other = copy.deepcopy(net)
    x = torch.rand(2, 1, 4, 4)
    net.eval(), other.eval()
    assert torch.equal(net(x), other(x))
    for key in edges:
        other.choices.logits(key).copy_(torch.arange(5.0))
        assert net.choices.logits(key).sum() == 0
    assert not torch.equal(net(x), other(x))
    net.load_state_dict(other.state_dict())  # a checkpoint keeps them
    assert torch.equal(net(x), other(x))
