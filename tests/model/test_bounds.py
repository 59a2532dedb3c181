"""Interval bounds: they hold whatever the network and the box, and are exact where one layer is all there is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.bounds import margin_bounds, output_bounds, unsupported
from robustbench_lite.model.target import Target

from .conftest import drawn

SHAPE = (2, 6, 6)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.last = nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x))) + x
        out: Tensor = self.last(x.view(x.size(0), -1))
        return out


def networks() -> dict[str, nn.Module]:
    return {
        "mlp": nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)),
        "conv": nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AvgPool2d(2, 1),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(16, 4),
        ),
        "pooled": nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "residual": Residual(),
    }


def target(name: str, seed: int) -> Target:
    return drawn(lambda: networks()[name], seed)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(networks())), seed=st.integers(0, 10**6), radius=st.floats(0, 0.5))
def test_no_output_is_out_of_its_bounds(name: str, seed: int, radius: float) -> None:
    asked, draw = target(name, seed), torch.Generator().manual_seed(seed)
    x = torch.rand(2, *SHAPE, generator=draw, dtype=torch.float64)
    low, high = x - radius, x + radius
    labels = torch.tensor([seed % 4, 3])
    with asked.attacking(), torch.no_grad():
        bounds, margins = output_bounds(asked, low, high), margin_bounds(asked, low, high, labels)
        shares = torch.rand(30, 2, *SHAPE, generator=draw, dtype=torch.float64)
        shares[:10] = shares[:10].round()  # corners of the box
        logits = torch.stack([asked(low + share * (high - low)) for share in shares])
    assert (logits >= bounds.low - 1e-9).all()
    assert (logits <= bounds.high + 1e-9).all()
    mine = logits.gather(2, labels.expand(30, 2)[..., None])
    assert (mine - logits >= margins - 1e-9).all()
    assert (margins.gather(1, labels[:, None]) == 0).all()


def test_of_one_layer_they_are_exact() -> None:
    layer = nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]]))
        layer.bias.copy_(torch.tensor([0.1, -0.2]))
    x = torch.tensor([[0.5, 0.25, 0.75]], dtype=torch.float64)
    # The rise of logit 0 over logit 1: weights (1, -3, -0.5), so a box of radius 0.1 takes 0.45 from it.
    least = margin_bounds(Target(layer), x - 0.1, x + 0.1, torch.tensor([0]))
    at = (x @ (layer.weight[0] - layer.weight[1]) + 0.3).item()
    assert least[0].tolist() == pytest.approx([0.0, at - 0.45])
    bounds = output_bounds(Target(layer), x - 0.1, x + 0.1)
    assert bounds.high[0, 0].item() == pytest.approx((x @ layer.weight[0]).item() + 0.1 + 0.35)
    assert bounds.low[0, 1].item() == pytest.approx((x @ layer.weight[1]).item() - 0.2 - 0.2)


def test_without_a_radius_they_are_the_logits() -> None:
    for name in networks():
        asked = target(name, 1)
        x = torch.rand(3, *SHAPE, dtype=torch.float64)
        with asked.attacking(), torch.no_grad():
            bounds = output_bounds(asked, x, x)
            assert torch.allclose(bounds.low, asked(x))
            assert torch.allclose(bounds.high, asked(x))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), "1 (Softmax)"),
        (nn.Sequential(Scaled(4, 2)), "weight"),
        (nn.Sequential(nn.GELU()), "GELU"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), "Conv2d"),
        (nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), "BatchNorm1d"),
        (Branching(), "traced"),
    ],
)
def test_what_cannot_be_bounded_is_named(module: nn.Module, told: str) -> None:
    asked = Target(nn.Sequential(module))
    assert told in (unsupported(asked) or "")
    with pytest.raises(UserError, match="can't be"):
        output_bounds(asked, torch.zeros(1, 4), torch.ones(1, 4))


def test_a_preprocessing_cannot_be_bounded() -> None:
    assert "preprocessing" in (unsupported(Target(nn.Linear(4, 2), preprocessing=torch.round)) or "")
