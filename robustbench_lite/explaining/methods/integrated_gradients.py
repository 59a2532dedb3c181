"""Integrated Gradients, by Captum."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.threat import Access
from robustbench_lite.explaining.extra import library
from robustbench_lite.explaining.interface import Asked, Explainer


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(Explainer):
    """Gradient of the class's logit, summed on the way from a black image to the input.

    Sundararajan, Taly and Yan 2017, *Axiomatic attribution for deep networks*. https://arxiv.org/abs/1703.01365
    """

    library: ClassVar[str] = "captum"
    access: ClassVar[Access] = "gradients"

    steps: int = Field(default=32, ge=2, le=1000)
    """Points on the way, of Gauss-Legendre quadrature."""
    baseline: float = Field(default=0.0, ge=0, le=1)
    """Value that all of the starting image has."""

    @property
    def passes(self) -> Passes:
        """A gradient a step."""
        return Passes(forward=self.steps, backward=self.steps)

    def attribute(self, asked: Asked, x: Tensor, classes: Tensor, seed: int) -> Tensor:
        """Sum the gradients; nothing is drawn."""
        method = library("captum.attr").IntegratedGradients(asked, multiply_by_inputs=True)
        with torch.enable_grad():
            found: Tensor = method.attribute(
                x.detach(),
                baselines=self.baseline,
                target=classes,
                n_steps=self.steps,
                internal_batch_size=max(asked.batch_size, len(x)),
            )
        return found.detach()
