"""Linear bounds backwards: they hold whatever the network and the box, and are exact where nothing bends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model import bounds, linear_bounds
from robustbench_lite.model.target import Target

from .conftest import drawn

SHAPE = (2, 7, 6)


def networks() -> dict[str, nn.Module]:
    return {
        "mlp": nn.Sequential(
            nn.Flatten(),
            nn.Linear(84, 8),
            nn.ReLU(),
            nn.Linear(8, 6, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(6, 4),
        ),
        "conv": nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
            nn.Conv2d(4, 6, 2, stride=(2, 1), groups=2, bias=False),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(24, 5),
            nn.BatchNorm1d(5),
            nn.ReLU(),
            nn.Linear(5, 4, bias=False),
        ),
    }


def target(name: str, seed: int) -> Target:
    return drawn(lambda: networks()[name], seed)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(networks())), seed=st.integers(0, 10**6), radius=st.floats(0, 0.5))
def test_no_lead_is_below_its_bound(name: str, seed: int, radius: float) -> None:
    asked, draw = target(name, seed), torch.Generator().manual_seed(seed)
    x = torch.rand(2, *SHAPE, generator=draw, dtype=torch.float64)
    low, high, labels = x - radius, x + radius, torch.tensor([seed % 4, 3])
    with asked.attacking(), torch.no_grad():
        least = linear_bounds.margin_bounds(asked, low, high, labels)
        shares = torch.rand(30, 2, *SHAPE, generator=draw, dtype=torch.float64)
        shares[:10] = shares[:10].round()  # corners of the box
        logits = torch.stack([asked(low + share * (high - low)) for share in shares])
    leads = logits.gather(2, labels.expand(30, 2)[..., None]) - logits
    assert (leads >= least - 1e-9).all()
    assert (least.gather(1, labels[:, None]) == 0).all()


@pytest.mark.parametrize("name", sorted(networks()))
def test_in_a_ball_in_which_nothing_bends_they_are_exact(name: str) -> None:
    asked = target(name, 1)
    x, labels = torch.rand(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(3)
    radius = 1e-7
    with asked.attacking():
        x.requires_grad_()
        logits = asked(x)
        for other in range(4):
            lead = logits.gather(1, labels[:, None])[:, 0] - logits[:, other]
            (slope,) = torch.autograd.grad(lead.sum(), x, retain_graph=True)
            exact = lead - radius * slope.abs().flatten(1).sum(1)
            found = linear_bounds.margin_bounds(asked, x - radius, x + radius, labels)[:, other]
            torch.testing.assert_close(found.detach(), exact.detach(), rtol=0, atol=1e-12)


def test_they_are_tighter_than_intervals_where_values_hang_together() -> None:
    # x - x through two layers: intervals see two values, a line sees that they cancel out.
    module = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        for part in module:
            part.bias.zero_()
        module[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        module[1].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        module[2].weight.copy_(torch.eye(2))
    asked, low, high, labels = Target(module), torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0])
    assert bounds.margin_bounds(asked, low, high, labels).tolist() == [[0, -1]]
    assert linear_bounds.margin_bounds(asked, low, high, labels).tolist() == [[0, 0]]


def test_a_relu_is_enclosed_by_the_lines_of_its_paper() -> None:
    # y = relu(x), lead = +-y, x in [-1, 3]: below by x (as 3 > 1), above by the chord 3/4 (x + 1).
    module = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        module[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
    asked = Target(module, mean=[0.25], std=[0.25])  # [0, 1] to [-1, 3]
    low, high = torch.zeros(2, 1), torch.ones(2, 1)
    found = linear_bounds.margin_bounds(asked, low, high, torch.tensor([0, 1]))
    assert found.tolist() == [[0, -1], [-3, 0]]


def test_they_have_a_gradient_to_learn_from() -> None:
    asked = target("conv", 2)
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    linear_bounds.margin_bounds(asked, x - 0.05, x + 0.05, torch.tensor([0, 1])).sum().backward()
    grads = [parameter.grad for parameter in asked.module.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert all(float(grad.abs().sum()) > 0 for grad in grads if grad is not None)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.two(self.one(x) + x)
        return out


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (Branch(), "isn't a chain of layers"),
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), "Tanh"),
        (nn.Sequential(nn.Linear(4, 2), nn.ReLU()), "last layer isn't linear"),
        (nn.Sequential(nn.GELU(), nn.Linear(4, 2)), "GELU"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding="same"), nn.Flatten(), nn.Linear(4, 2)), "Conv2d"),
    ],
)
def test_other_networks_are_told(module: nn.Module, told: str) -> None:
    assert told in (linear_bounds.unsupported(Target(module)) or "")
    with pytest.raises(UserError, match=r"bounded|chain|linear"):
        linear_bounds.margin_bounds(Target(module), torch.zeros(1, 4), torch.ones(1, 4), torch.tensor([0]))
