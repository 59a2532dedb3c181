"""Natural corruptions of images, each at any strength.

Each takes images in [0, 1], shape (B, C, H, W), C 1 or 3, a strength, and the noise of each image, and returns images
of the same shape, which may leave [0, 1]. With the same noise a larger strength changes an image in the same way, more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.core.noise import Noise

Kind = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "gaussian_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg",
    "elastic",
]


class Corruption(NamedTuple):
    """What a kind does, and how strongly."""

    apply: Callable[[Tensor, float, Noise], Tensor]
    strengths: tuple[float, float, float, float, float]
    """By severity, 1 to 5."""


def _scale(x: Tensor) -> float:
    """Shorter side over 32 pixels."""
    height, width = x.shape[2:]
    return min(height, width) / 32


def _gaussian_noise(x: Tensor, deviation: float, noise: Noise) -> Tensor:
    return x + deviation * math.sqrt(_scale(x)) * noise.normal(_shape(x)).to(x)


def _shot_noise(x: Tensor, deviation: float, noise: Noise) -> Tensor:
    # Of photons: the variance is the brightness's. Normal draws instead of Poisson's, which come to the same for many.
    return x + deviation * (_scale(x) * x).sqrt() * noise.normal(_shape(x)).to(x)


def _impulse_noise(x: Tensor, share: float, noise: Noise) -> Tensor:
    draw, half = noise.uniform(_shape(x)).to(x), share * _scale(x) ** 0.5 / 2
    return torch.where(draw < half, 0.0, torch.where(draw >= 1 - half, 1.0, x))


def _defocus_blur(x: Tensor, radius: float, noise: Noise) -> Tensor:
    # Points that fill a disk evenly, in the pattern of a sunflower's seeds.
    count = torch.arange(64, device=x.device)
    turn, far = count * (math.pi * (3 - 5**0.5)), ((count + 0.5) / 64).sqrt()
    disk = torch.stack([far * turn.cos(), far * turn.sin()], 1)
    radius *= _scale(x)
    return _spread(x, radius * disk.expand(len(x), -1, -1), math.ceil(radius))


def _motion_blur(x: Tensor, length: float, noise: Noise) -> Tensor:
    half = length * _scale(x) / 2
    angle = noise.uniform((1,)) * math.pi
    along = torch.linspace(-half, half, 32, device=x.device)
    return _spread(x, torch.stack([angle.cos() * along, angle.sin() * along], 2), math.ceil(half))


def _zoom_blur(x: Tensor, zoom: float, noise: Noise) -> Tensor:
    total = torch.zeros_like(x)
    for part in range(1, 9):
        shrink = torch.eye(2, 3, device=x.device, dtype=x.dtype) / (1 + zoom * part / 8)
        places = F.affine_grid(shrink.expand(len(x), -1, -1), list(x.shape), align_corners=False)
        total += F.grid_sample(x, places, padding_mode="border", align_corners=False)
    return (x + total) / 9


def _gaussian_blur(x: Tensor, deviation: float, noise: Noise) -> Tensor:
    from torchvision.transforms.v2 import functional as vision

    deviation *= _scale(x)
    size = 2 * min(math.ceil(3 * deviation), min(x.shape[2:]) - 1) + 1
    blurred: Tensor = vision.gaussian_blur(x, [size, size], [deviation, deviation])
    return blurred


def _snow(x: Tensor, share: float, noise: Noise) -> Tensor:
    height, width = x.shape[2:]
    size = max(1.0, _scale(x) ** 0.5)  # of a flake, in pixels
    draw = noise.at(0).uniform((1, math.ceil(height / size), math.ceil(width / size))).to(x)
    flakes = F.interpolate(((draw - 1 + share) / share).clamp_min(0.0), (height, width), mode="bilinear")
    pale = x.maximum((1.5 * x.mean(1, keepdim=True) + 0.5).clamp_max(1.0))
    return x.lerp(pale, share) + 1.5 * _motion_blur(flakes, 2.0, noise.at(1))


def _frost(x: Tensor, amount: float, noise: Noise) -> Tensor:
    crystals = (1 - (2 * _clouds(x, noise) - 1).abs()) ** 2  # ridges where the clouds' height is a half
    return (1 - amount / 2) * x + amount * crystals


def _fog(x: Tensor, amount: float, noise: Noise) -> Tensor:
    return (x + amount * _clouds(x, noise)) / (1 + amount)


def _brightness(x: Tensor, amount: float, noise: Noise) -> Tensor:
    return x + amount


def _contrast(x: Tensor, amount: float, noise: Noise) -> Tensor:
    from torchvision.transforms.v2 import functional as vision

    flat: Tensor = vision.adjust_contrast(x, 1 - amount)
    return flat


def _pixelate(x: Tensor, block: float, noise: Noise) -> Tensor:
    block *= _scale(x) ** 0.25  # by this power it is near the paper's for 32 pixels and for 224
    down, across = (_blocks(side, block).to(x) for side in x.shape[2:])
    return down @ x @ across


def _jpeg(x: Tensor, loss: float, noise: Noise) -> Tensor:
    import numpy as np
    from PIL import Image

    found = []
    for image in (x.clamp(0.0, 1.0) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        file = BytesIO()
        Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(file, "JPEG", quality=round(100 - loss))
        found.append(np.asarray(Image.open(file)).reshape(image.shape))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x) / 255


def _elastic(x: Tensor, amount: float, noise: Noise) -> Tensor:
    # As shares of half the side, from normal draws on a coarse grid.
    moves = F.interpolate(noise.normal((2, 6, 6)).to(x), x.shape[2:], mode="bicubic", align_corners=True)
    still = torch.eye(2, 3, device=x.device, dtype=x.dtype).expand(len(x), -1, -1)
    places = F.affine_grid(still, list(x.shape), align_corners=False) + 2 * amount * moves.permute(0, 2, 3, 1)
    return F.grid_sample(x, places, padding_mode="reflection", align_corners=False)


CORRUPTIONS: dict[Kind, Corruption] = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.10, 0.13)),
    "shot_noise": Corruption(_shot_noise, (0.05, 0.07, 0.10, 0.13, 0.17)),
    "impulse_noise": Corruption(_impulse_noise, (0.01, 0.02, 0.04, 0.06, 0.09)),
    "defocus_blur": Corruption(_defocus_blur, (0.5, 0.7, 0.9, 1.2, 1.6)),
    "motion_blur": Corruption(_motion_blur, (1.5, 2.2, 3.0, 4.0, 5.0)),
    "zoom_blur": Corruption(_zoom_blur, (0.06, 0.11, 0.16, 0.21, 0.26)),
    "gaussian_blur": Corruption(_gaussian_blur, (0.4, 0.5, 0.6, 0.8, 1.0)),
    "snow": Corruption(_snow, (0.05, 0.08, 0.12, 0.16, 0.20)),
    "frost": Corruption(_frost, (0.2, 0.3, 0.4, 0.5, 0.6)),
    "fog": Corruption(_fog, (0.3, 0.5, 0.8, 1.1, 1.5)),
    "brightness": Corruption(_brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),
    "contrast": Corruption(_contrast, (0.3, 0.45, 0.6, 0.7, 0.8)),
    "pixelate": Corruption(_pixelate, (1.2, 1.4, 1.7, 2.1, 2.6)),
    "jpeg": Corruption(_jpeg, (35, 50, 65, 75, 85)),
    "elastic": Corruption(_elastic, (0.01, 0.015, 0.02, 0.03, 0.04)),
}
"""By kind. Lengths are in pixels of an image whose shorter side is 32, and grow with it; the noises' amounts with its
square root, as the eye averages over more of them; zooms and elastic moves are shares of the side."""


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[1:])


def _spread(x: Tensor, points: Tensor, reach: int) -> Tensor:
    """The mean of the images moved by points, in pixels and at most ``reach``, shape (B, P, 2)."""
    taps = torch.arange(-reach, reach + 1, device=x.device)
    across, down = ((1 - (points[:, :, axis, None] - taps).abs()).clamp_min(0.0) for axis in (0, 1))
    kernels = torch.einsum("bpv,bph->bvh", down, across).to(x) / points.shape[1]
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate").flatten(0, 1)[None]
    return F.conv2d(padded, kernels.repeat_interleave(x.shape[1], 0)[:, None], groups=padded.shape[1]).reshape(x.shape)


def _blocks(side: int, block: float) -> Tensor:
    """What the mean over each block, shown on the pixels that it covers, takes from each pixel, shape (side, side)."""
    number = max(1, round(side / max(1.0, block)))
    ends, pixels = torch.arange(number + 1) * (side / number), torch.arange(side)
    covered = (ends[1:, None].minimum(pixels + 1) - ends[:-1, None].maximum(pixels)).clamp_min(0.0)
    return covered.T @ covered * (number / side)


def _clouds(x: Tensor, noise: Noise) -> Tensor:
    """Fractal noise from 0 to 1 in each image, shape (B, 1, H, W): octaves, each finer by 2 and flatter by 1.7."""
    total = torch.zeros_like(x[:, :1])
    for octave in range(1, 2 + math.ceil(math.log2(min(x.shape[2:])))):
        draw = noise.at(octave).uniform((1, 2**octave, 2**octave)).to(x)
        total += 1.7**-octave * F.interpolate(draw, x.shape[2:], mode="bilinear", align_corners=True)
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-12)
