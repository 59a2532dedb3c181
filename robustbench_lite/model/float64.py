"""The target in float64: the same model with less rounding, to tell an adversarial example from an accident of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_lite.model.target import Target

Ask = Callable[[Tensor], Tensor]
"""Inputs in [0, 1], (N, C, H, W), to logits, (N, K)."""
_SAME = {"cpu": 1e-4, "cuda": 1e-2}  # of the largest logit: rounding, and no more; a GPU may multiply in TF32
_DOUBT = {"cpu": 1e-5, "cuda": 1e-2}  # of the largest logit: what rounding may make of a margin


def in_float64(target: Target) -> Ask:
    """Copy its state; what asks the copy raises whatever the module does where it can't compute in float64.

    Raises
    ------
    Exception
        Where there is no state to copy, as in some scripted modules.
    """
    module = target.module
    held = {
        name: value.detach().to(torch.float64 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in [*module.named_parameters(), *module.named_buffers()]
    }

    def ask(x: Tensor) -> Tensor:
        x = x.to(target.device, torch.float64, copy=True)  # no leaf: the module may work in place
        logits = target.predictor.answer(target.normalised(x), held)
        if logits.dtype != torch.float64:
            raise TypeError(f"the module answers in {logits.dtype}")
        return logits

    return ask


def alike(logits: Tensor, precise: Tensor) -> Tensor:
    """Whether two answers to the same inputs, (n, K), differ by rounding alone, shape (n,).

    Otherwise it is another model there: one such as one that draws at random, or computes otherwise by type.
    """
    return (precise - logits).abs().amax(1) <= _SAME.get(logits.device.type, 1e-2) * logits.abs().amax(1)


def doubtful(logits: Tensor, margin: Tensor) -> Tensor:
    """Whether rounding may have made a margin, shape (n,), of logits, (n, K)."""
    return margin.abs() <= _DOUBT.get(logits.device.type, 1e-2) * logits.abs().amax(1)
