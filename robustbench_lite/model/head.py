"""The head of a network, its last layer: found, and replaced by one for another number of classes."""

from __future__ import annotations

import torch
from torch import nn

from robustbench_lite.core.errors import UserError


def find_head(module: nn.Module, logits: int) -> str:
    """Name of the last layer that gives so many logits.

    Raises
    ------
    UserError
        Where there is none that can be told.
    """
    found: list[str] = [name for name, layer in module.named_modules() if name and _outputs(layer) == logits]
    if not found:
        raise UserError(
            f"{type(module).__name__}: has no linear layer or 1x1 convolution with {logits} outputs, so its head can't "
            "be told; build the model with the number of classes that you need"
        )
    return found[-1]


def new_head(module: nn.Module, name: str, classes: int, seed: int = 0) -> None:
    """Replace a head, in place, by a fresh one for another number of classes.

    Raises
    ------
    UserError
        For a layer that isn't there, or isn't one that gives logits.
    """
    try:
        old = module.get_submodule(name)
    except AttributeError:
        raise UserError(f"{type(module).__name__}: has no layer {name!r} to be replaced by a new head") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module
        if isinstance(old, nn.Linear):
            made = nn.Linear(old.in_features, classes, bias=old.bias is not None)
        elif isinstance(old, nn.Conv2d):
            made = nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None)
        else:
            raise UserError(
                f"{type(module).__name__}: {name} is a {type(old).__name__}, and no layer that gives logits"
            )
    made.to(device=old.weight.device, dtype=old.weight.dtype).train(old.training)
    module.set_submodule(name, made)


def _outputs(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    one = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return layer.out_channels if one and isinstance(layer, nn.Conv2d) else None
