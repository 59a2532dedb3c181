"""Images in cells that are shown or hidden: what LIME and SHAP ask a model about."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.explaining.interface import Asked


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


def no_grid(shape: tuple[int, ...]) -> str | None:
    """Why inputs can't be cut into cells; None where they can."""
    return None if len(shape) == 3 else f"needs images, (C, H, W); the samples are {shape}"
