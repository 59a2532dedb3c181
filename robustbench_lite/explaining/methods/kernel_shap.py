"""Kernel SHAP, by its own package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.cost import Passes
from robustbench_lite.explaining.extra import library
from robustbench_lite.explaining.methods._cells import CellExplainer, Cells


@dataclass(frozen=True, kw_only=True)
class KernelSHAP(CellExplainer):
    """Shapley values of the image's cells: what one adds to the class's probability, over all orders of showing them.

    Lundberg and Lee 2017, *A unified approach to interpreting model predictions*. https://arxiv.org/abs/1705.07874
    """

    library: ClassVar[str] = "shap"

    @property
    def passes(self) -> Passes:
        """One a draw, and the image shown and hidden as a whole."""
        return Passes(forward=self.draws + 2)

    def of_one(self, cells: Cells, seed: int) -> Tensor:
        """Draw sets of cells and solve for their values; the same sets for every image."""
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
