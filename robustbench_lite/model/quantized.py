"""Layers whose weights are integers, and whose inputs are rounded to 8 bits; with a gradient that passes the rounding.

They compute what a kernel of integers computes, up to the rounding of floats, as products of integers times a scale: so
the robustness that is measured is that of the quantised network, while attacks and training see a gradient (straight
through; Bengio, Leonard and Courville 2013, https://arxiv.org/abs/1308.3432). They are not faster: for speed, export.

torchao's layers of integers are for linear layers, and its PT2E makes a program without a gradient that no code of the
user's makes again; so these are our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = (8, 4)
_LEVELS = 255  # steps of an activation


def straight(x: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, with the gradient of the values that were rounded."""
    return x + (rounded - x).detach()


def rounded_activation(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values of 8 bits between the ends of a range, which holds 0; the gradient ends outside of it."""
    scale = (high - low) / _LEVELS
    zero = (-low / scale).round()
    inside = x.clamp(-zero * scale, (_LEVELS - zero) * scale)
    return straight(inside, (inside / scale).round() * scale)


def weight_scale(weight: Tensor, bits: int) -> Tensor:
    """By channel, what the largest integer stands for, shape (out,)."""
    scale: Tensor = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    return scale


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """Weights as integers by channel would have them."""
    scale = _by_channel(weight_scale(weight, bits), weight)
    return straight(weight, (weight / scale).round() * scale)


def widened(low: float, high: float) -> tuple[float, float]:
    """A range that holds 0 and isn't empty."""
    return min(low, 0.0), max(high, 0.0, min(low, 0.0) + 1e-6)


class Computed(nn.Module):
    """What a convolution or a linear layer computes, of weights given for the moment."""

    def __init__(self, layer: nn.Module, activations: tuple[float, float] | None) -> None:
        super().__init__()
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        self.conv: dict[str, Any] | None = None
        if isinstance(layer, nn.Conv2d):
            self.conv = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        place = layer.weight
        low, high = (None, None) if activations is None else map(place.new_tensor, widened(*activations))
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.low: Tensor | None
        self.high: Tensor | None

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Round the input and compute."""
        if self.low is not None and self.high is not None:
            x = rounded_activation(x, self.low, self.high)
        return F.linear(x, weight, bias) if self.conv is None else F.conv2d(x, weight, bias, **self.conv)


class Quantizing(Computed):
    """A layer that learns: its weights are floats, and are rounded whenever it computes."""

    def __init__(self, layer: nn.Module, bits: int, activations: tuple[float, float] | None) -> None:
        super().__init__(layer, activations)
        self.layer, self.bits = layer, bits

    def forward(self, x: Tensor) -> Tensor:
        """As the layer of integers that it becomes."""
        weight, bias = self.layer.weight, self.layer.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor | None)
        return self.compute(x, rounded_weight(weight, self.bits), bias)


class Quantized(Computed):
    """A layer whose weights are integers of 8 bits, or of 4, of which two share a byte."""

    def __init__(self, layer: nn.Module, bits: int, activations: tuple[float, float] | None) -> None:
        super().__init__(layer, activations)
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        self.shape, self.bits = tuple(weight.shape), bits
        scale = weight_scale(weight, bits)
        integers = (weight.detach() / _by_channel(scale, weight)).round().to(torch.int8)
        self.register_buffer("integers", integers if bits == 8 else _packed(integers))
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())  # type: ignore[operator]
        self.integers: Tensor
        self.scale: Tensor

    def unpacked(self) -> Tensor:
        """The integers, in the shape of the weights."""
        return self.integers if self.bits == 8 else _unpacked(self.integers, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Products of integers, times a scale."""
        weight = self.unpacked().to(self.scale.dtype)
        return self.compute(x, weight * _by_channel(self.scale, weight), self.bias)


def quantized(layer: nn.Module, bits: int, activations: tuple[float, float] | None) -> Quantized:
    """A layer of integers in the place of one of floats."""
    return Quantized(layer.layer if isinstance(layer, Quantizing) else layer, bits, activations)


def quantizable(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that can become integers, by name: linear ones, and convolutions of images."""
    for name, layer in module.named_modules():
        plain = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")
        if name and plain:
            yield name, layer


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _packed(integers: Tensor) -> Tensor:
    """Two integers from -8 to 7 in a byte, shape (ceil(n / 2),)."""
    flat = integers.flatten().to(torch.int16) & 15
    flat = F.pad(flat, (0, len(flat) % 2))
    return (flat[::2] | (flat[1::2] << 4)).to(torch.uint8)


def _unpacked(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    both = packed.to(torch.int16)
    flat = torch.stack([both & 15, both >> 4], 1).flatten()
    signed = torch.where(flat > 7, flat - 16, flat)
    return signed[: math.prod(shape)].reshape(shape)
