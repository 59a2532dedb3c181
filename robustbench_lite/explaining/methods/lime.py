"""LIME, by its own package."""

from __future__ import annotations

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

_WIDTH = 0.25  # of the kernel, as the package has it for images


@dataclass(frozen=True, kw_only=True)
class LIME(Explainer):
    """Weights of a linear model that was fitted to the answers for the image with some of its cells blackened.

    Ribeiro, Singh and Guestrin 2016, *"Why should I trust you?": explaining the predictions of any classifier*.
    https://arxiv.org/abs/1602.04938. Cells are those of a grid, the same in every image, in the place of superpixels.
    """

    library: ClassVar[str] = "lime"
    access: ClassVar[Access] = "labels"

    draws: int = Field(default=500, ge=10, le=100_000)
    """Images that the model is asked about, for each sample."""
    grid: int = Field(default=8, ge=2, le=32)
    """Cells a side."""
    hidden: float = Field(default=0.0, ge=0, le=1)
    """Value that hidden cells have."""

    @property
    def passes(self) -> Passes:
        """One a draw."""
        return Passes(forward=self.draws)

    def unfit(self, target: Target, shape: tuple[int, ...]) -> str | None:
        """It needs images."""
        return no_grid(shape)

    def attribute(self, asked: Asked, x: Tensor, classes: Tensor, seed: int) -> Tensor:
        """Hide cells, each with a chance of a half, and fit; the same cells are hidden in every image."""
        return torch.stack([self._of_one(asked, one, int(of), seed) for one, of in zip(x, classes, strict=True)])

    def _of_one(self, asked: Asked, x: Tensor, label: int, seed: int) -> Tensor:
        cells = Cells(asked, x, label, self.grid, self.hidden)
        shown = np.random.default_rng(seed).integers(0, 2, (self.draws, cells.count)).astype(float)
        shown[0] = 1
        scores = cells.scores(shown)
        # Cosine distance from the whole image, as the package has it for images.
        near = np.sqrt(shown.sum(1) / cells.count)
        base = library("lime.lime_base").LimeBase(lambda far: np.sqrt(np.exp(-(far**2) / _WIDTH**2)), random_state=seed)
        _, found, _, _ = base.explain_instance_with_data(
            shown, scores[:, None], 1 - near, 0, cells.count, feature_selection="none"
        )
        weights = np.zeros(cells.count)
        for cell, weight in found:
            weights[cell] = weight
        return cells.map(weights)
