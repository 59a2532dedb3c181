"""Input purification: the input is changed so that perturbations get lost. By itself it hides the gradient, no more.

Each of these steps brings the gradient along that an adaptive attack uses (BPDA: Athalye, Carlini and Wagner 2018,
https://arxiv.org/abs/1802.00420): rounding is applied as it is on the way forward, and passed over on the way back. So
every attack of a suite is an adaptive one, and the defense gets no credit for what merely stops a gradient. As one way
back may miss what another finds, the evaluation attacks along a second one, too (`Wrapper.passed_over`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.hardening.interface import Artifact, WrappingStep
from robustbench_lite.model.target import Target
from robustbench_lite.model.wrapping import Wrapper, wrapped

_STRAIGHT = "its roundings are applied, and passed over by the gradient (BPDA), so every attack is adaptive"

# Annex K of the JPEG standard (ITU-T T.81): the tables of luminance and chrominance at quality 50.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)


@dataclass(frozen=True, kw_only=True)
class Purification(WrappingStep):
    """A step that changes the inputs, and leaves the network as it is."""

    def unfit(self, artifact: Artifact) -> str | None:
        smoothed = any(one.wrapper.abstains for one in wrapped(artifact.target))
        if smoothed or any(record.name == "smoothing" for record in artifact.records):
            return "can't come after smoothing, whose certificate is about the inputs as they are: put it before"
        return super().unfit(artifact)

    def wrapper(self, inner: Target) -> Wrapper:
        return Purified(inner, self)

    @abstractmethod
    def purify(self, x: Tensor) -> Tensor:
        """Change inputs in [0, 1], shape (B, C, H, W); what comes out has the same shape, and a gradient."""

    @abstractmethod
    def told(self) -> str:
        """What is done, for the scorecard."""


class Purified(Wrapper):
    """A target that is given purified inputs.

    Parameters
    ----------
    inner, how
        The target, and what is done to its inputs.
    straight
        Whether the gradient is that of the identity, past all of the purification and not past its roundings alone.
    """

    def __init__(self, inner: Target, how: Purification, straight: bool = False) -> None:
        super().__init__(inner)
        self.how, self.straight = how, straight

    def passed_over(self, inner: Target) -> Wrapper:
        return Purified(inner, self.how, straight=True)

    def note(self) -> str:
        return self.how.told()

    def forward(self, x: Tensor) -> Tensor:
        pure = self.how.purify(x)
        return self.inner(pure.detach() + (x - x.detach()) if self.straight else pure)


@dataclass(frozen=True, kw_only=True)
class BitDepth(Purification):
    """Round every value to one of 2^bits.

    References
    ----------
    Xu, Evans and Qi, *Feature squeezing: detecting adversarial examples in deep neural networks*, NDSS 2018.
    https://arxiv.org/abs/1704.01155
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1704.01155"

    bits: Annotated[int, Field(ge=1, le=8)] = 3
    """Of each value; 8 is what image files have."""

    def purify(self, x: Tensor) -> Tensor:
        levels = float(2**self.bits - 1)
        return rounded(x * levels) / levels

    def told(self) -> str:
        return f"inputs are rounded to {self.bits} bits; {_STRAIGHT}"


@dataclass(frozen=True, kw_only=True)
class Median(Purification):
    """Take the median of a square around every pixel; beyond the edge the image is mirrored.

    References
    ----------
    Xu, Evans and Qi, *Feature squeezing: detecting adversarial examples in deep neural networks*, NDSS 2018.
    https://arxiv.org/abs/1704.01155
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1704.01155"

    width: Annotated[int, Field(ge=2, le=9)] = 3
    """Side of the square, in pixels; an even one reaches farther to the right and down."""

    def purify(self, x: Tensor) -> Tensor:
        before = (self.width - 1) // 2
        after = self.width - 1 - before
        wide = F.pad(x, (before, after, before, after), mode="reflect")
        squares = wide.unfold(2, self.width, 1).unfold(3, self.width, 1)
        return squares.flatten(4).median(4).values

    def told(self) -> str:
        return (
            f"every pixel becomes the median of {self.width} x {self.width}; attacks follow its own gradient, that of "
            "the pixel which is the median, so every attack is adaptive"
        )


@dataclass(frozen=True, kw_only=True)
class JPEG(Purification):
    """Compress to JPEG and back: the lossy half of the standard, with its own tables and no chroma subsampling.

    Images of three channels are taken for RGB; of others each channel is compressed as luminance. Computed with
    tensors, so it runs where the model is, and its gradient passes over the roundings alone.

    References
    ----------
    Guo, Rana, Cisse and van der Maaten, *Countering adversarial images using input transformations*, ICLR 2018.
    https://arxiv.org/abs/1711.00117
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1711.00117"

    quality: Annotated[int, Field(ge=1, le=100)] = 75
    """As image programs count it (the scale of the Independent JPEG Group)."""

    def purify(self, x: Tensor) -> Tensor:
        high, wide = x.shape[2:]
        coloured = x.shape[1] == 3
        grey_levels = rounded(_clipped(255 * x))
        planes = rounded(_to_ycbcr(grey_levels)) if coloured else grey_levels
        tables = [_LUMA, _CHROMA, _CHROMA] if coloured else [_LUMA] * x.shape[1]
        steps = torch.stack([self._steps(table) for table in tables]).to(x)
        # Filled to whole blocks with the last row and column, as encoders do.
        planes = F.pad(planes, (0, -wide % 8, 0, -high % 8), mode="replicate")
        blocks = planes.unfold(2, 8, 8).unfold(3, 8, 8) - 128  # (B, C, H / 8, W / 8, 8, 8)
        cosines = _cosines().to(x)
        steps = steps[:, None, None]
        kept = rounded(cosines @ blocks @ cosines.T / steps) * steps
        back = cosines.T @ kept @ cosines + 128
        planes = back.transpose(3, 4).flatten(4).flatten(2, 3)[:, :, :high, :wide]
        if coloured:
            planes = _to_rgb(_clipped(rounded(planes)))
        return _clipped(rounded(planes)) / 255

    def _steps(self, table: tuple[tuple[int, ...], ...]) -> Tensor:
        """Steps of quantisation, (8, 8)."""
        scale = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        return ((torch.tensor(table) * scale + 50) // 100).clamp(1, 255).double()

    def told(self) -> str:
        return f"inputs are compressed to JPEG of quality {self.quality} and back; {_STRAIGHT}"


_TO_YCBCR = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=torch.float64
)


def _to_ycbcr(rgb: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", _TO_YCBCR.to(rgb), rgb) + _middle(rgb)


def _to_rgb(ycbcr: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(_TO_YCBCR).to(ycbcr), ycbcr - _middle(ycbcr))


def _middle(planes: Tensor) -> Tensor:
    """Zero of each plane: differences of colour are kept around 128."""
    return torch.tensor([0.0, 128.0, 128.0]).to(planes)[:, None, None]


def _cosines() -> Tensor:
    """Orthonormal DCT-II of 8 values, (8, 8)."""
    place = torch.arange(8, dtype=torch.float64)
    rows = torch.cos((2 * place[None] + 1) * place[:, None] * torch.pi / 16) / 2
    rows[0] /= 2**0.5
    return rows


def _clipped(levels: Tensor) -> Tensor:
    """Grey levels within their range, with the slope of the identity: it would be none where they are saturated."""
    return levels + (levels.clamp(0, 255) - levels).detach()


def rounded(x: Tensor) -> Tensor:
    """The nearest whole number, with the slope of the identity."""
    return x + (x.round() - x).detach()
