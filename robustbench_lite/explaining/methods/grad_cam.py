"""Grad-CAM, by Captum."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.core.threat import Access
from robustbench_lite.explaining.extra import library
from robustbench_lite.explaining.interface import Asked, Explainer
from robustbench_lite.model.target import Target


@dataclass(frozen=True, kw_only=True)
class GradCAM(Explainer):
    """Where the maps of a convolution that raise the class's logit are active; coarse, and never below 0.

    Selvaraju et al. 2017, *Grad-CAM: visual explanations from deep networks via gradient-based localization*.
    https://arxiv.org/abs/1610.02391
    """

    library: ClassVar[str] = "captum"
    access: ClassVar[Access] = "gradients"

    layer: str | None = None
    """Name of the layer in the module; by default the last convolution, as the module lists them."""

    @property
    def passes(self) -> Passes:
        """One gradient."""
        return Passes(forward=1, backward=1)

    def unfit(self, target: Target, shape: tuple[int, ...]) -> str | None:
        """It needs images, and a convolution."""
        if len(shape) != 3:
            return f"needs images, (C, H, W); the samples are {shape}"
        named = dict(target.module.named_modules())
        if self.layer is not None and self.layer not in named:
            return f"finds no such layer: {unknown('layer', self.layer, [name for name in named if name])}"
        return None if self.layer is not None or _last(target) else "needs a convolution, and the model has none"

    def attribute(self, asked: Asked, x: Tensor, classes: Tensor, seed: int) -> Tensor:
        """Weigh the layer's maps by their gradients; nothing is drawn."""
        name = self.layer if self.layer is not None else _last(asked.target)
        layer = dict(asked.target.module.named_modules())[name or ""]
        method = library("captum.attr").LayerGradCam(asked, layer)
        with torch.enable_grad():
            try:
                found: Tensor = method.attribute(x.detach().clone(), target=classes, relu_attributions=True).detach()
            except (RuntimeError, AssertionError, IndexError, KeyError, TypeError, ValueError) as fault:
                told = f"{type(fault).__name__}: {fault}".splitlines()[0]
                raise UserError(f"grad_cam: can't read the layer {name!r} ({told}); name another one") from fault
        if found.ndim != 4:
            raise UserError(
                f"grad_cam: the layer {name!r} gives {tuple(found.shape)}: expected maps, (N, C, H, W); "
                "name another one"
            )
        return nn.functional.interpolate(found, x.shape[-2:], mode="bilinear", align_corners=False)


def _last(target: Target) -> str | None:
    names = [name for name, part in target.module.named_modules() if isinstance(part, nn.Conv2d)]
    return names[-1] if names else None
