"""The target in float64: the same function, and refused where it is another one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_lite import Target
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.evaluating.preflight.check import CountedModel, float64_model
from robustbench_lite.model.float64 import alike, in_float64


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten())
        return nn.Sequential(layers, nn.Linear(144, 10)).eval()


@pytest.fixture
def x():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_it_is_the_model_whose_weights_are_float64(net, x):
    given = x.clone()
    target = Target(net, mean=[0.2], std=[0.4], preprocessing=lambda x: (8 * x).floor() / 8)
    precise = in_float64(target)(x)
    assert torch.equal(x, given), "an inplace layer doesn't reach the caller's inputs"
    assert target.dtype == torch.float32, "the target stays as it is"
    expected = net.double()(((8 * x.double()).floor() / 8 - 0.2) / 0.4)
    torch.testing.assert_close(precise, expected)


def test_a_module_that_casts_is_refused(x):
    with pytest.raises(TypeError, match=r"answers in torch\.float32"):
        in_float64(Target(Narrow()))(x)


class Narrow(nn.Module):
    """Casts what comes out."""

    def forward(self, x):
        return x.flatten(1)[:, :2].float()


def test_alike_is_up_to_rounding(net, x):
    target = Target(net)
    said, precise = target(x), in_float64(target)(x)
    assert alike(said, precise).all()
    precise[2, 3] += 1e-2 * precise[2].abs().max()
    assert alike(said, precise).tolist() == [True, True, False, True, True, True]


class Noisy(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] + 0.01 * torch.rand(len(x), 10, dtype=x.dtype)


@pytest.mark.parametrize(("module", "same"), [(None, True), (Noisy(), False), (Narrow(), False)])
def test_what_is_another_model_in_float64_is_not_asked_there(net, x, module, same):
    data = from_arrays(x.numpy(), [0] * 6, "noise")
    look = CountedModel(Target(module or net), data, 0, BudgetTracker(), gradients=True, thorough=False)
    with torch.random.fork_rng(devices=[]):
        assert (float64_model(look, torch.arange(4)) is not None) == same
    assert look.passes.forward == look.budget.passes.forward == (4 if isinstance(module, Narrow) else 8)
