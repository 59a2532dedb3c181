"""Input purification: what it does to an image, and that it gets no credit for stopping a gradient."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import median_filter
from torch import Tensor, nn

from robustbench_lite import Target, evaluate
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.interface import Artifact, StepRecord
from robustbench_lite.model.wrapping import passed_over

STEPS: list[tuple[str, dict[str, Any]]] = [("jpeg", {"quality": 30}), ("bit_depth", {"bits": 2}), ("median", {})]


def step(name: str, **params: Any) -> Any:
    return registry.build("defenses", name, params)


def image(channels: int, high: int = 20, wide: int = 27) -> Tensor:
    """A smooth picture with a little noise, (1, C, H, W), in grey levels of 8 bits."""
    draw = torch.Generator().manual_seed(channels)
    coarse = torch.rand(1, channels, 4, 5, generator=draw)
    smooth = nn.functional.interpolate(coarse, (high, wide), mode="bilinear")
    return ((smooth + 0.05 * torch.rand(smooth.shape, generator=draw)).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_an_image_library_makes_of_the_picture(channels: int, quality: int) -> None:
    x = image(channels)
    levels = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    picture = Image.fromarray(levels[:, :, 0] if channels == 1 else levels)
    picture.save(file, "JPEG", quality=quality, subsampling=0)
    theirs = np.atleast_3d(np.asarray(Image.open(file), np.float32))
    ours = (step("jpeg", quality=quality).purify(x)[0] * 255).permute(1, 2, 0).numpy()
    # Theirs computes cosines in integers: a coefficient at the edge of two steps may fall on the other side.
    assert np.abs(ours - theirs).mean() < 0.5
    assert np.abs(ours - levels).mean() > 2 * np.abs(ours - theirs).mean()


def test_bit_depth_leaves_so_many_levels() -> None:
    x = torch.linspace(0, 1, 101).reshape(1, 1, 1, 101)
    for bits in (1, 3, 8):
        done = step("bit_depth", bits=bits).purify(x)
        assert len(done.unique()) == min(2**bits, 101)
        assert (done - x).abs().max() <= 0.5 / (2**bits - 1) + 1e-6


@pytest.mark.parametrize("width", [3, 5])
def test_the_median_is_the_filters(width: int) -> None:
    x = image(1)
    done = step("median", width=width).purify(x)
    assert np.allclose(done[0, 0].numpy(), median_filter(x[0, 0].numpy(), width, mode="mirror"))


@pytest.mark.parametrize(("name", "params"), STEPS)
def test_each_has_a_gradient_and_keeps_shape_and_box(name: str, params: dict[str, Any]) -> None:
    x = image(3).double().requires_grad_()
    done = step(name, **params).purify(x)
    assert done.shape == x.shape
    assert done.detach().min() >= 0
    assert done.detach().max() <= 1
    (grad,) = torch.autograd.grad(done.square().sum(), x)
    assert grad.isfinite().all()
    assert float(grad.abs().sum()) > 0


def network() -> tuple[Target, tuple[Tensor, Tensor]]:
    """A small network that tells stripes from columns, of images of 8 x 8."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    bars = (torch.arange(8) % 2).float().expand(8, 8)
    patterns = torch.where(labels[:, None, None] == 0, bars, bars.T)
    x = (0.5 + 0.3 * (patterns - 0.5) + 0.2 * (torch.rand(60, 8, 8, generator=draw) - 0.5))[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), labels).backward()
            optimizer.step()
    return Target(module.eval()), (x, labels)


class Hidden(nn.Module):
    """The same change without a way back: what a defense looks like that isn't evaluated adaptively."""

    def __init__(self, how: Any, inner: nn.Module) -> None:
        super().__init__()
        self.how, self.inner = how, inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(self.how.purify(x).detach())
        return out


@pytest.mark.parametrize(("name", "params"), STEPS[:2])
def test_it_gets_no_credit_for_a_gradient_that_it_stops(name: str, params: dict[str, Any]) -> None:
    target, (x, labels) = network()
    how, data, eps = step(name, **params), (x[:16], labels[:16]), "Linf 0.15"
    blind = evaluate(Hidden(how, target.module), data, ["pgd"], eps)
    adaptive = evaluate(Hidden(how, target.module), data, ["pgd"], eps, adapt=True)
    wrapped = evaluate(how.wrap(target, name), data, "linf_quick", eps)
    assert blind.verdict == "INVALID"  # without a gradient the number isn't believed
    assert blind.robust_accuracy.count > wrapped.robust_accuracy.count
    assert adaptive.adaptation is not None
    [bpda] = [one.robust_accuracy.count for one in adaptive.attacks if one.name == "pgd"]
    assert wrapped.robust_accuracy.count <= bpda
    assert wrapped.clean_accuracy.count == blind.clean_accuracy.count
    assert wrapped.verdict == "MEASURED"
    assert any(one.code == "RB108" and "adaptive" in one.message for one in wrapped.validity)


def test_the_number_is_the_lowest_along_any_way_back_and_without_one() -> None:
    target, (x, labels) = network()
    how, data, eps = step("jpeg", quality=30), (x[:16], labels[:16]), "Linf 0.1"
    card = evaluate(how.wrap(target, "jpeg"), data, "linf_quick", eps)
    assert card.adaptation is not None
    assert [one.name for one in card.adaptation.measures] == ["bpda", "surrogate", "search"]
    # Past the roundings alone nothing falls here: what does is found without the gradient, or past all of it.
    assert card.robust_accuracy.count < card.adaptation.robust_accuracy.count
    other = evaluate(Hidden(how, target.module), data, "linf_quick", eps, adapt=True)
    assert card.robust_accuracy.count <= other.robust_accuracy.count
    assert card.verdict == "MEASURED"
    assert card.target == evaluate(how.wrap(target, "jpeg"), data, ["fgsm"], eps).target
    assert card.witnesses is None  # they weren't asked for


def test_other_ways_back_are_of_the_same_answers() -> None:
    target, (x, _) = network()
    purified = step("jpeg").wrap(step("bit_depth").wrap(target, "bit_depth"), "jpeg")
    straight = passed_over(purified)
    assert straight is not None
    assert torch.equal(straight(x), purified(x))
    assert straight.weights_sha256() != purified.weights_sha256()
    given = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(straight(given)[:, 0].sum(), given)
    pure = step("bit_depth").purify(step("jpeg").purify(x)).detach().requires_grad_()
    (at_the_network,) = torch.autograd.grad(target(pure)[:, 0].sum(), pure)
    torch.testing.assert_close(slope, at_the_network)
    smoothed = registry.build("defenses", "smoothing", {}).wrap(purified, "smoothing")
    assert passed_over(smoothed) is not None
    assert passed_over(target) is None
    assert passed_over(registry.build("defenses", "smoothing", {}).wrap(target, "smoothing")) is None


def test_it_comes_before_smoothing_and_after_it_is_refused() -> None:
    target, _ = network()
    threat = ThreatModel.parse("L2 0.5")
    planned = Artifact(target=target, threat=threat, records=(StepRecord(name="smoothing"),))
    done = Artifact(target=registry.build("defenses", "smoothing", {}).wrap(target, "smoothing"), threat=threat)
    for artifact in (planned, done):
        assert "put it before" in (step("jpeg").unfit(artifact) or "")
    assert step("jpeg").unfit(Artifact(target=target, threat=threat)) is None


@pytest.mark.parametrize(
    ("name", "params"), [("jpeg", {"quality": 0}), ("bit_depth", {"bits": 9}), ("median", {"width": 1})]
)
def test_parameters_that_mean_nothing_are_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(params))):
        step(name, **params)
