"""Kernel SHAP, by its own package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.threat import Access
from robustbench_lite.explaining.extra import library
from robustbench_lite.explaining.interface import Asked, Explainer
from robustbench_lite.explaining.methods._cells import Cells, no_grid
from robustbench_lite.model.target import Target


@dataclass(frozen=True, kw_only=True)
class KernelSHAP(Explainer):
    """Shapley values of the image's cells: what one adds to the class's probability, over all orders of showing them.

    Lundberg and Lee 2017, *A unified approach to interpreting model predictions*. https://arxiv.org/abs/1705.07874
    """

    library: ClassVar[str] = "shap"
    access: ClassVar[Access] = "labels"

    draws: int = Field(default=500, ge=10, le=100_000)
    """Images that the model is asked about, for each sample."""
    grid: int = Field(default=8, ge=2, le=32)
    """Cells a side."""
    hidden: float = Field(default=0.0, ge=0, le=1)
    """Value that hidden cells have."""

    @property
    def passes(self) -> Passes:
        """One a draw, and the image shown and hidden as a whole."""
        return Passes(forward=self.draws + 2)

    def unfit(self, target: Target, shape: tuple[int, ...]) -> str | None:
        """It needs images."""
        return no_grid(shape)

    def attribute(self, asked: Asked, x: Tensor, classes: Tensor, seed: int) -> Tensor:
        """Draw sets of cells and solve for their values; the same sets for every image."""
        return torch.stack([self._of_one(asked, one, int(of), seed) for one, of in zip(x, classes, strict=True)])

    def _of_one(self, asked: Asked, x: Tensor, label: int, seed: int) -> Tensor:
        cells = Cells(asked, x, label, self.grid, self.hidden)
        with _seeded(seed):
            method = library("shap").KernelExplainer(cells.scores, np.zeros((1, cells.count)))
            found = method.shap_values(np.ones((1, cells.count)), nsamples=self.draws, l1_reg=False, silent=True)
        return cells.map(np.asarray(found).reshape(-1))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global draws, which shap takes, and leave them as they were."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)
