"""Linear bounds, backwards: how small the label's lead can get, followed as one linear function from output to input.

Interval bounds forget at each layer how its values hang together. Here a linear function of a layer's values, a lower
bound of the lead, is replaced layer by layer by one of the values before it: exactly where the layer is linear, and by
the lines that enclose it where it is a ReLU. How far each ReLU's input reaches is taken from interval bounds.

Zhang et al., *Efficient neural network robustness certification with general activation functions* (CROWN), NeurIPS
2018, https://arxiv.org/abs/1811.00866; with interval bounds inside: Zhang et al., *Towards stable and efficient
training of verifiably robust neural networks* (CROWN-IBP), ICLR 2020, https://arxiv.org/abs/1906.06316
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.bounds import Bounds, chain, layer_bounds, leads, normed
from robustbench_lite.model.target import Target


class _Line(NamedTuple):
    """A linear function of a layer's values: of each sample (B) one for each class (K)."""

    slope: Tensor
    """(B, K, *shape)."""
    constant: Tensor
    """(B, K)."""


def unsupported(target: Target) -> str | None:
    """Say why a target can't be bounded backwards; None where it can."""
    parts = chain(target)
    if isinstance(parts, str):
        return parts
    if not parts or not isinstance(parts[-1], nn.Linear):
        return "its last layer isn't linear"
    for part in parts:
        if not isinstance(part, tuple(_BACKWARDS)) or (isinstance(part, nn.Conv2d) and isinstance(part.padding, str)):
            return f"a layer of type {type(part).__name__} can't be bounded backwards"
    return None


def margin_bounds(target: Target, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """Least values of the label's logit less each other one, (B, K), 0 at the label itself.

    Neither these nor the interval bounds are the tighter ones everywhere; both hold, so the larger of the two does.

    Parameters
    ----------
    target
        A chain of linear and convolutional layers, batch norm (with its running statistics) and ReLU.
    low, high
        Ends of the box, in [0, 1], shape (B, *shape).
    labels
        Shape (B,).

    Raises
    ------
    UserError
        For a network that `unsupported` tells of.
    """
    if fault := unsupported(target):
        raise UserError(f"{target.name}: {fault}")
    parts = chain(target)
    assert isinstance(parts, list)
    low, high = (one.to(target.device, target.dtype, copy=True) for one in (low, high))
    given = [Bounds(target.normalised(low), target.normalised(high))]
    for part in parts[:-1]:
        given.append(layer_bounds(part, Bounds(*(end.clone() for end in given[-1]))))  # it may work in place
    last = parts[-1]
    assert isinstance(last, nn.Linear)
    line = _Line(*leads(last, labels))
    for part, before in zip(reversed(parts[:-1]), reversed(given[:-1]), strict=True):
        line = next(backwards for kind, backwards in _BACKWARDS.items() if isinstance(part, kind))(part, before, line)
    middle, radius = (given[0].low + given[0].high) / 2, (given[0].high - given[0].low) / 2
    slope = line.slope.flatten(2)
    least = torch.einsum("bkf,bf->bk", slope, middle.flatten(1)) - torch.einsum(
        "bkf,bf->bk", slope.abs(), radius.flatten(1)
    )
    return (least + line.constant).scatter(1, labels[:, None], 0.0)


def _relu(part: nn.Module, before: Bounds, line: _Line) -> _Line:
    """Between the ends a ReLU lies below the chord, and above any line through 0 with a slope from 0 to 1."""
    low, high = before.low.clamp_max(0), before.high.clamp_min(0)
    chord = high / (high - low).clamp_min(torch.finfo(high.dtype).tiny)
    above = torch.where(before.low >= 0, torch.ones_like(chord), chord)  # 1 where it is always on, 0 where always off
    below = torch.where(before.low >= 0, torch.ones_like(chord), (high > -low).to(chord))  # whichever leaves less
    up, down = line.slope.clamp_min(0), line.slope.clamp_max(0)
    lift = torch.where(before.low >= 0, torch.zeros_like(low), -low * chord)
    constant = line.constant + (down * lift[:, None]).flatten(2).sum(2)
    return _Line(up * below[:, None] + down * above[:, None], constant)


def _linear(part: nn.Module, before: Bounds, line: _Line) -> _Line:
    assert isinstance(part, nn.Linear)
    constant = line.constant if part.bias is None else line.constant + (line.slope * part.bias).flatten(2).sum(2)
    return _Line(line.slope @ part.weight, constant)


def _convolved(part: nn.Module, before: Bounds, line: _Line) -> _Line:
    assert isinstance(part, nn.Conv2d)
    assert not isinstance(part.padding, str)
    kernel = [d * (k - 1) + 1 for d, k in zip(part.dilation, part.kernel_size, strict=True)]
    sizes = zip(before.low.shape[2:], line.slope.shape[3:], part.stride, part.padding, kernel, strict=True)
    # Rows at the end that the last step of the kernel doesn't reach get no slope.
    left = [size - ((made - 1) * stride - 2 * pad + reach) for size, made, stride, pad, reach in sizes]
    flat = line.slope.flatten(0, 1)
    slope = F.conv_transpose2d(flat, part.weight, None, part.stride, part.padding, left, part.groups, part.dilation)
    constant = line.constant
    if part.bias is not None:
        constant = constant + line.slope.sum((3, 4)) @ part.bias
    return _Line(slope.reshape(*line.slope.shape[:2], *slope.shape[1:]), constant)


def _batch_normed(part: nn.Module, before: Bounds, line: _Line) -> _Line:
    assert isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
    slope, shift = normed(part, before.low.ndim)
    return _Line(line.slope * slope[None], line.constant + (line.slope * shift[None]).flatten(2).sum(2))


def _reshaped(part: nn.Module, before: Bounds, line: _Line) -> _Line:
    return _Line(line.slope.reshape(*line.slope.shape[:2], *before.low.shape[1:]), line.constant)


_BACKWARDS: dict[type[nn.Module], Callable[[nn.Module, Bounds, _Line], _Line]] = {
    nn.ReLU: _relu,
    nn.Linear: _linear,
    nn.Conv2d: _convolved,
    nn.BatchNorm1d: _batch_normed,
    nn.BatchNorm2d: _batch_normed,
    nn.Flatten: _reshaped,
    nn.Identity: lambda part, before, line: line,
    nn.Dropout: lambda part, before, line: line,
}
