"""LIME, by its own package."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.cost import Passes
from robustbench_lite.explaining.extra import library
from robustbench_lite.explaining.methods._cells import CellExplainer, Cells

_WIDTH = 0.25  # of the kernel, as the package has it for images


@dataclass(frozen=True, kw_only=True)
class LIME(CellExplainer):
    """Weights of a linear model that was fitted to the answers for the image with some of its cells blackened.

    Ribeiro, Singh and Guestrin 2016, *"Why should I trust you?": explaining the predictions of any classifier*.
    https://arxiv.org/abs/1602.04938. Cells are those of a grid, the same in every image, in the place of superpixels.
    """

    library: ClassVar[str] = "lime"

    @property
    def passes(self) -> Passes:
        """One a draw."""
        return Passes(forward=self.draws)

    def of_one(self, cells: Cells, seed: int) -> Tensor:
        """Hide cells, each with a chance of a half, and fit; the same cells are hidden in every image."""
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
