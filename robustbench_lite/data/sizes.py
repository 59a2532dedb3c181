"""Pictures brought to one size: resized, then cut to their centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data

Size = int | str | Sequence[int]
"""``N``, or height and width: ``(H, W)`` or ``"HxW"``."""


@dataclass(frozen=True)
class View:
    """What is done to each picture, in this order, as `torchvision.transforms.v2` does it."""

    resize: tuple[int, ...] = ()
    """The shorter side, (N,), or height and width; bilinear, with antialiasing."""
    crop: tuple[int, ...] = ()
    """Height and width of the centre that is kept."""

    def __bool__(self) -> bool:
        return bool(self.resize or self.crop)

    def __str__(self) -> str:
        parts = []
        if self.resize:
            whole = len(self.resize) == 2
            size = "x".join(map(str, self.resize))
            parts.append(f"resized to {size}" if whole else f"resized to {size} along the shorter side")
        if self.crop:
            parts.append(f"cut to the central {'x'.join(map(str, self.crop))}")
        return " and ".join(parts)

    def __call__(self, x: Tensor, what: str) -> Tensor:
        """Apply it to pictures of one size, (..., C, H, W), float in [0, 1].

        Raises
        ------
        UserError
            For what is no picture, and for a picture that is smaller than its crop.
        """
        if not self:
            return x
        from torchvision.transforms.v2 import functional as F

        if x.ndim < 3:
            raise UserError(f"{what} has shape {tuple(x.shape)}: expected a picture, (C, H, W), to resize or crop")
        if self.resize:
            x = F.resize(x, list(self.resize), antialias=True)
        if self.crop:
            height, width = x.shape[-2:]
            if height < self.crop[0] or width < self.crop[1]:
                raise UserError(
                    f"{what} is of {height}x{width} pixels, smaller than its crop of {self.crop[0]}x{self.crop[1]}: "
                    "resize first (resize=, --resize), or crop less"
                )
            x = F.center_crop(x, list(self.crop))
        return x


def view_of(resize: Size | None, crop: Size | None) -> View:
    """Make the view that was asked for.

    Raises
    ------
    UserError
        For what is no size in pixels.
    """
    cut = _pixels(crop, "crop")
    return View(_pixels(resize, "resize"), cut * 2 if len(cut) == 1 else cut)


def viewed(data: Data, view: View) -> Data:
    """The data through a view."""
    if not view:
        return data
    shape = tuple(view(data.fetch([0]), f"{data.name}: sample 0").shape[1:])
    return replace(data, shape=shape, source=lambda index: view(data.source(index), f"{data.name}: a sample"))


def _pixels(given: Size | None, name: str) -> tuple[int, ...]:
    if given is None:
        return ()
    try:
        parts = str(given).lower().split("x") if isinstance(given, int | str) else list(given)
        pixels = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        pixels = ()
    if len(pixels) not in (1, 2) or min(pixels) < 1:
        raise UserError(f"{name} is {given!r}: expected pixels, N or HxW, such as 224 or 224x320")
    return pixels
