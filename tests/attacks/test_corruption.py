"""Natural corruptions: in the box, stronger with severity, the same for a sample wherever it is, known images."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks._corruptions import CORRUPTIONS
from robustbench_lite.attacks.corruption import Corruption, corrupt
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 40, 60), (1, 96, 64)]
KINDS = sorted(CORRUPTIONS)


def images(shape: tuple[int, ...], samples: int = 5) -> torch.Tensor:
    """Smooth random images with an edge in each."""
    generator = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand(samples, shape[0], 6, 6, generator=generator), shape[1:], mode="bicubic").clamp(0, 1)
    x[:, :, shape[1] // 3 : shape[1] // 2] *= 0.3
    return x


def noise(samples: int = 5) -> Noise:
    return Noise(torch.arange(samples) * 7919)


class Recording(nn.Module):
    """Keeps what it is asked, and says 0 to everything."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    @torch.no_grad()
    def forward(self, x):
        self.seen.append(x.clone())
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


class Mean(nn.Module):
    """Class 1 where the image is brighter than it was in the mean by a threshold."""

    def __init__(self, x: torch.Tensor, by: float) -> None:
        super().__init__()
        self.limit = float(x.mean()) + by

    @torch.no_grad()
    def forward(self, x):
        above = x.mean((1, 2, 3)) - self.limit
        return torch.stack([-above, above], 1)


def attack(corruption: Corruption, model: nn.Module, x: torch.Tensor, threat: str, batch_size: int = 64):
    data = as_data((x, torch.zeros(len(x), dtype=torch.int64)))
    samples, rows = Samples(data, torch.arange(len(x)) * 7919, data.labels), np.arange(len(x))
    return run_attack(
        corruption,
        Target(model),
        samples,
        rows,
        ThreatModel.parse(threat),
        RunOptions(batch_size=batch_size, keep=rows),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_stays_in_the_box_and_changes_more_with_severity(kind, shape):
    x = images(shape)
    before = x.clone()
    changes = []
    for severity in (1, 2, 3, 4, 5):
        found = corrupt(x, kind, severity, noise())
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        assert found.min() >= 0
        assert found.max() <= 1
        changes.append((found - x).flatten(1).norm(dim=1))
    assert torch.equal(x, before), "the original is left alone"
    assert (changes[0] > 0).all()
    assert (changes[4] > 1.1 * changes[0]).all()
    if kind != "pixelate":  # whose blocks may happen to fit an edge
        assert (torch.stack(changes).diff(dim=0) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_gets_the_same_alone_and_in_any_batch(kind):
    x, order = images((3, 32, 32)), torch.tensor([3, 0, 4, 1, 2])
    together = corrupt(x, kind, 4, noise())
    assert torch.equal(together, corrupt(x, kind, 4, noise()))
    shuffled = corrupt(x[order], kind, 4, Noise(noise().keys[order]))
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-6)
    for row in range(5):
        alone = corrupt(x[row : row + 1], kind, 4, Noise(noise().keys[row : row + 1]))
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "snow", "frost", "fog", "elastic"]
)
def test_what_is_drawn_differs_by_sample(kind):
    x = images((3, 32, 32), 1).repeat(2, 1, 1, 1)
    one, other = corrupt(x, kind, 5, noise(2))
    assert (one - other).abs().max() > 0.02


@pytest.mark.parametrize("kind", KINDS)
@given(
    side=st.tuples(st.integers(2, 12), st.integers(2, 12)), channels=st.sampled_from([1, 3]), level=st.integers(1, 5)
)
@settings(max_examples=8, deadline=None)
def test_it_takes_images_of_any_size(kind, side, channels, level):
    x = torch.rand(2, channels, *side)
    found = corrupt(x, kind, level, noise(2))
    assert found.shape == x.shape
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("kind", ["defocus_blur", "motion_blur", "zoom_blur", "gaussian_blur", "pixelate", "elastic"])
def test_a_flat_image_has_nothing_to_blur(kind):
    x = torch.full((2, 3, 32, 32), 0.4)
    torch.testing.assert_close(corrupt(x, kind, 5, noise(2)), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["defocus_blur", "motion_blur", "gaussian_blur"])
def test_a_spot_is_spread_about_itself(kind):
    x = torch.zeros(1, 1, 33, 33)
    x[0, 0, 16, 16] = 1
    found = corrupt(x, kind, 5, noise(1))[0, 0]
    place = torch.arange(33) - 16.0
    assert found.sum() == pytest.approx(1, abs=1e-4)
    assert (found.sum(0) * place).sum() == pytest.approx(0, abs=0.05)
    assert (found.sum(1) * place).sum() == pytest.approx(0, abs=0.05)
    spread = (found * (place[:, None] ** 2 + place**2)).sum()
    # Mean square from the middle: of a disk r^2 / 2, of a line l^2 / 12, each with 1/3 as it is bilinear.
    expected = {"defocus_blur": 1.65**2 / 2 + 1 / 3, "motion_blur": 5.16**2 / 12 + 1 / 3, "gaussian_blur": 2 * 1.03**2}
    assert spread == pytest.approx(expected[kind], rel=0.1)


@pytest.mark.parametrize(("side", "deviation"), [(32, 0.08), (128, 0.16)])
def test_noise_is_as_strong_as_the_table_says(side, deviation):
    x = torch.full((2, 3, side, side), 0.5)
    gaussian = corrupt(x, "gaussian_noise", 3, noise(2)) - x
    assert gaussian.std() == pytest.approx(deviation, rel=0.05)
    shot = corrupt(x, "shot_noise", 3, noise(2)) - x
    assert shot.std() == pytest.approx(1.25 * deviation * 0.5**0.5, rel=0.05)
    impulse = corrupt(x, "impulse_noise", 3, noise(2))
    for value in (0.0, 1.0):
        assert (impulse == value).float().mean() == pytest.approx(deviation / 4, rel=0.2)
    assert torch.equal(corrupt(torch.zeros_like(x), "shot_noise", 5, noise(2)), torch.zeros_like(x))


def test_blocks_of_whole_pixels_are_their_means():
    x = torch.rand(1, 3, 8, 12)
    means = F.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    table = CORRUPTIONS["pixelate"]
    torch.testing.assert_close(table.apply(x, 2 * (8 / 32) ** -0.25, noise(1)), means)


def test_jpeg_is_pillows():
    x = images((3, 32, 32), 1)
    file = BytesIO()
    Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=15)
    theirs = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(corrupt(x, "jpeg", 5, noise(1))[0], theirs)


def test_brightness_and_contrast_in_closed_form():
    x = images((1, 28, 28))
    torch.testing.assert_close(corrupt(x, "brightness", 5, noise()), (x + 0.3).clamp(0, 1))
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(corrupt(x, "contrast", 5, noise()), mean + 0.2 * (x - mean), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_a_sample_falls_to_the_severity_that_reaches_it(batch_size):
    x = torch.full((6, 1, 8, 8), 0.5)
    for eps, broken in ((3, False), (4, True), (5, True)):  # brightness grows by 0.15, 0.2 and 0.3
        found = attack(Corruption(kinds=("contrast", "brightness")), Mean(x, 0.18), x, f"Corruption {eps}", batch_size)
        assert (found.broken == broken).all()
        assert (found.forward == (3 if broken else 2)).all()
        assert (found.backward == 0).all()


def test_every_kind_is_tried_once_and_with_all_severities_the_largest_first():
    x = images((1, 16, 16), 3)
    model = Recording()
    found = attack(Corruption(), model, x, "Corruption 2")
    assert (found.forward == 15).all()
    model = Recording()
    kinds = ("brightness", "contrast")
    found = attack(Corruption(kinds=kinds, severities="all"), model, x, "Corruption 3")
    assert (found.forward == 6).all(), "no severity above eps, and none twice"
    tried = [(kind, severity) for severity in (3, 2, 1) for kind in kinds]
    for seen, (kind, severity) in zip(model.seen, tried, strict=True):
        torch.testing.assert_close(seen, corrupt(x, kind, severity, noise(3)))


def test_samples_of_a_batch_are_at_kinds_of_their_own():
    x = images((1, 16, 16), 30)
    x[::2] *= 0.2  # dark ones, of which no kind makes bright ones
    results = [attack(Corruption(), Mean(torch.tensor(0.5), 0.1), x, "Corruption 4", size) for size in (4, 11, 64)]
    assert 0 < results[0].broken.sum() < 30
    for result in results[1:]:
        np.testing.assert_array_equal(result.broken, results[0].broken)
        np.testing.assert_array_equal(result.forward, results[0].forward)
        for row, witness in result.witnesses.items():
            np.testing.assert_allclose(witness, results[0].witnesses[row], atol=1e-5)


@pytest.mark.parametrize("shape", [(10,), (2, 8, 8), (4, 8, 8)])
def test_what_is_no_image_is_refused(linear, shape):
    with pytest.raises(UserError, match="of 1 or 3 channels"):
        linear(shape=shape).attack(Corruption(), "Corruption 5")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kinds": ()}, "at least 1"),
        ({"kinds": ("fog", "fog")}, "more than once"),
        ({"kinds": ("glass_blur",)}, "gaussian_blur"),
        ({"severities": "some"}, "largest"),
    ],
)
def test_wrong_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Corruption(**params)


def test_another_threat_model_is_refused(linear):
    with pytest.raises(UserError, match="it does Corruption"):
        linear().attack(Corruption(), "Linf 0.1")
