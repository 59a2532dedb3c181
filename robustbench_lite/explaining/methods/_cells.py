"""Images in cells that are shown or hidden: what LIME and SHAP ask a model about."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.threat import Access
from robustbench_lite.explaining.interface import Asked, Explainer
from robustbench_lite.model.target import Target


class Cells:
    """One image, cut into a grid, and what the model says of it with some cells hidden.

    Parameters
    ----------
    asked
        The target.
    x
        An image in [0, 1], (C, H, W).
    label
        The class that is explained.
    grid
        Most cells a side.
    hidden
        Value that hidden cells have.
    """

    def __init__(self, asked: Asked, x: Tensor, label: int, grid: int, hidden: float) -> None:
        self._asked, self._x, self._label, self._hidden = asked, x, label, hidden
        rows, columns = (torch.arange(size, device=x.device) * min(grid, size) // size for size in x.shape[-2:])
        self._cell = rows[:, None] * min(grid, x.shape[-1]) + columns
        self.count = int(self._cell.max()) + 1

    def scores(self, shown: NDArray[np.generic]) -> NDArray[np.float64]:
        """Probability of the class, (n,), with the cells shown that are not 0 in (n, count)."""
        masks = torch.as_tensor(np.asarray(shown) != 0, device=self._x.device)
        parts = [self._scores(part) for part in torch.split(masks, self._asked.batch_size)]
        return torch.cat(parts).double().cpu().numpy()

    def _scores(self, masks: Tensor) -> Tensor:
        seen = masks[:, self._cell][:, None]
        return self._asked.scores(torch.where(seen, self._x[None], self._hidden))[:, self._label]

    def map(self, values: NDArray[np.float64]) -> Tensor:
        """A value a cell, (count,), as one a pixel, (1, H, W)."""
        return torch.as_tensor(values, dtype=torch.float32, device=self._x.device)[self._cell][None]


@dataclass(frozen=True, kw_only=True)
class CellExplainer(Explainer):
    """A method that hides cells of an image and asks what the model says then."""

    access: ClassVar[Access] = "labels"

    draws: int = Field(default=500, ge=10, le=100_000)
    """Images that the model is asked about, for each sample."""
    grid: int = Field(default=8, ge=2, le=32)
    """Cells a side."""
    hidden: float = Field(default=0.0, ge=0, le=1)
    """Value that hidden cells have."""

    def unfit(self, target: Target, shape: tuple[int, ...]) -> str | None:
        """It needs images."""
        return None if len(shape) == 3 else f"needs images, (C, H, W); the samples are {shape}"

    def attribute(self, asked: Asked, x: Tensor, classes: Tensor, seed: int) -> Tensor:
        """Explain one image after the other, each with the same draws."""
        pairs = zip(x, classes, strict=True)
        return torch.stack([self.of_one(Cells(asked, one, int(of), self.grid, self.hidden), seed) for one, of in pairs])

    @abstractmethod
    def of_one(self, cells: Cells, seed: int) -> Tensor:
        """What an image's pixels tell of its class, (1, H, W)."""
