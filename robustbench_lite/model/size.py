"""What a module takes: bytes, parameters, and multiply-adds of a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.model.quantized import Quantized


class Size(NamedTuple):
    """What a model's numbers take."""

    bytes: int
    """On disk: the file of the model, or of its state dict."""
    parameters: int
    """Numbers that were trained, or made of such."""
    nonzero: int
    """Of these, the ones that are not 0."""


def size_of(module: nn.Module) -> Size:
    """Size of a module by its state dict. Tensors that share their memory count once.

    The parameters are the module's own and the integers that stand for such where it was quantised; running statistics
    and scales are bytes, and no parameters.
    """
    held: dict[tuple[int, int], Tensor] = {}
    for value in module.state_dict().values():
        for tensor in _plain(value):
            held.setdefault((tensor.data_ptr(), tensor.numel()), tensor)
    weights = {id(one): one for one in (*module.parameters(), *_quantised(module))}.values()
    return Size(
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in held.values()),
        parameters=sum(one.numel() for one in weights),
        nonzero=sum(int(torch.count_nonzero(_unpacked(one))) for one in weights),
    )


def multiply_adds(module: nn.Module, x: Tensor) -> int:
    """Multiply-adds of a forward pass: in convolutions, matrix products and attention, zeros included.

    Parameters
    ----------
    module
        In evaluation mode.
    x
        Inputs as the module itself takes them, shape (N, *shape).
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(x)
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and an addition as two


def _quantised(module: nn.Module) -> Iterator[Tensor]:
    """The integers of quantised layers."""
    for layer in module.modules():
        if isinstance(layer, Quantized):
            yield layer.unpacked()


def _plain(value: Any) -> Iterator[Tensor]:
    """The tensors that a value of a state dict is written as: those within packed weights and tensor subclasses."""
    if isinstance(value, tuple | list):
        for entry in value:
            yield from _plain(entry)
    elif isinstance(value, Tensor):
        flatten = getattr(value, "__tensor_flatten__", None)
        if flatten is None:
            yield value.detach()
        else:
            for name in flatten()[0]:
                yield from _plain(getattr(value, name))


def _unpacked(value: Tensor) -> Tensor:
    return value.dequantize() if value.is_quantized or hasattr(value, "__tensor_flatten__") else value.detach()
