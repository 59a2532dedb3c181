"""Interval bounds: what the logits can be at most and at least when every value of the input moves by so much.

The network is traced (``torch.fx``) and its layers are given intervals in the place of values. Gowal et al., *On the
effectiveness of interval bound propagation for training verifiably robust models*, 2018.
https://arxiv.org/abs/1810.12715
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.target import Target


class Bounds(NamedTuple):
    """Low and high ends, of one shape."""

    low: Tensor
    high: Tensor


_RISING: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d,
)  # fmt: skip
"""Layers that are rising in each of their inputs, in evaluation mode: the ends go through them as they are."""
_RISING_CALLS: tuple[Any, ...] = (
    torch.relu, F.relu, torch.sigmoid, torch.tanh, torch.flatten, F.avg_pool2d, F.max_pool2d,
    F.adaptive_avg_pool2d, torch.reshape,
)  # fmt: skip
_RISING_METHODS = ("relu", "flatten", "view", "reshape", "contiguous", "sigmoid", "tanh", "mean")


def unsupported(target: Target) -> str | None:
    """Say why a target's logits can't be bounded; None where they can."""
    found = _traced(target)
    return found if isinstance(found, str) else None


_KNOWN = (
    "linear and convolutional layers, batch norm, ReLU and other rising activations, pooling, flatten, sums of branches"
)


def output_bounds(target: Target, low: Tensor, high: Tensor) -> Bounds:
    """Bounds of the logits, (B, K), over all inputs from ``low`` to ``high``, both of shape (B, *shape).

    Batch norm counts with its running statistics, and dropout not at all, whatever the mode of the module.

    Raises
    ------
    UserError
        For a network that `unsupported` tells of.
    """
    found, last = _run(target, low, high)
    return found if last is None else _linear(last, found)


def margin_bounds(target: Target, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """Least values of the label's logit less each other one, (B, K), 0 at the label itself.

    Where the last layer is linear the difference is taken of its weights, so that what moves both logits alike doesn't
    count: tighter than the difference of two bounds, and exact for a network of that layer alone.
    """
    found, last = _run(target, low, high)
    if last is None:
        least = found.low.gather(1, labels[:, None]) - found.high
        return least.scatter(1, labels[:, None], 0.0)
    weight, bias = leads(last, labels)
    middle, radius = (found.low + found.high) / 2, (found.high - found.low) / 2
    return (weight @ middle[..., None])[..., 0] - (weight.abs() @ radius[..., None])[..., 0] + bias


def leads(last: nn.Linear, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit less each other one, of what the last layer is given: weights (B, K, ...), biases (B, K)."""
    weight = last.weight[labels][:, None] - last.weight[None]
    bias = torch.zeros(weight.shape[:2]).to(weight) if last.bias is None else last.bias[labels][:, None] - last.bias
    return weight, bias


def chain(target: Target) -> list[nn.Module] | str:
    """The layers of a network that is a chain of them, in order; in words why it is none, or can't be bounded."""
    graph = _traced(target)
    if isinstance(graph, str):
        return graph
    named, parts = dict(graph.named_modules()), []
    before = None
    for node in graph.graph.nodes:
        if before is not None and (node.op not in ("call_module", "output") or node.all_input_nodes != [before]):
            return "it isn't a chain of layers"
        if node.op == "call_module":
            parts.append(named[str(node.target)])
        before = node
    return parts


def _run(target: Target, low: Tensor, high: Tensor) -> tuple[Bounds, nn.Linear | None]:
    """Bounds before the last layer where that is linear, and that layer; else bounds of the logits, and None."""
    graph = _traced(target)
    if isinstance(graph, str):
        raise UserError(f"{target.name}: {graph}")
    # Copies, as a layer may work in place.
    low, high = (one.to(target.device, target.dtype, copy=True) for one in (low, high))
    values: dict[fx.Node, Any] = {}
    parts = dict(graph.named_modules())
    last = _last_linear(graph, parts)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = Bounds(target.normalised(low), target.normalised(high))
        elif node.op == "output" or (last is not None and node is last[0]):
            (given,) = node.all_input_nodes
            found: Bounds = values[given]
            return found, None if last is None else last[1]
        else:
            values[node] = _through(node, parts, values)
    raise AssertionError("a graph has an output")


def _last_linear(graph: fx.GraphModule, parts: dict[str, nn.Module]) -> tuple[fx.Node, nn.Linear] | None:
    """The linear layer that gives the logits, and its node; None where another one does."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    node = output.args[0]
    part = parts.get(node.target) if node.op == "call_module" else None
    return (node, part) if isinstance(part, nn.Linear) else None


def _traced(target: Target) -> fx.GraphModule | str:
    """The graph of the network, each layer of torch a node; in words what keeps it from being bounded."""
    if target.preprocessing is not None:
        return "its preprocessing is a function that can't be bounded"
    try:
        with _unwatched(target.module):
            graph = fx.symbolic_trace(nn.Sequential(target.module))  # within another: a single layer is a node, too
    except Exception as fault:  # whatever the forward pass does with what is no tensor
        return f"its forward pass can't be traced ({type(fault).__name__}: {str(fault).partition(chr(10))[0]:.120})"
    parts = dict(graph.named_modules())
    unknown = next(filter(None, (_unbounded(node, parts) for node in graph.graph.nodes)), None)
    return f"{unknown} can't be bounded; what can is: {_KNOWN}" if unknown else graph


@contextmanager
def _unwatched(module: nn.Module) -> Iterator[None]:
    """Set aside what counts the passes of a module: in a trace there are none to count."""
    hooks = dict(module._forward_pre_hooks)
    module._forward_pre_hooks.clear()
    try:
        yield
    finally:
        module._forward_pre_hooks.update(hooks)


def _unbounded(node: fx.Node, parts: dict[str, nn.Module]) -> str | None:
    """Name what can't be bounded; None where all can."""
    if node.op == "call_module":
        part = parts[str(node.target)]
        known = isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, *_RISING)) or _is_running(part)
        padded = isinstance(part, nn.Conv1d | nn.Conv2d) and part.padding_mode != "zeros"
        own = not type(part).__module__.startswith("torch.nn.modules")  # its forward pass may be another one
        return None if known and not (padded or own) else f"{node.target} ({type(part).__name__})"
    if node.op == "call_function":
        plain = node.target in (operator.add, torch.add, operator.getitem) and not node.kwargs
        shape = node.target is getattr and node.args[1:] == ("shape",)
        name = getattr(node.target, "__name__", node.target)
        return None if plain or shape or node.target in _RISING_CALLS else f"{name}()"
    if node.op == "call_method":
        return None if node.target in _RISING_METHODS or node.target == "size" else f".{node.target}()"
    if node.op == "placeholder":
        return None
    if node.op == "output":
        return None if isinstance(node.args[0], fx.Node) else "a forward pass that returns more than one tensor"
    return f"{node.target}"


def _is_running(part: nn.Module) -> bool:
    """Whether it is a batch norm with running statistics."""
    return isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None


def _through(node: fx.Node, parts: dict[str, nn.Module], values: dict[fx.Node, Any]) -> Any:
    """What a node makes of what it is given."""
    if node.op == "call_module":
        (given,) = (values[one] for one in node.all_input_nodes)
        return layer_bounds(parts[str(node.target)], given)
    ends = [_call(node, values, end) for end in (0, 1)]
    return Bounds(*ends) if isinstance(ends[0], Tensor) else ends[0]  # a size is no tensor


def _call(node: fx.Node, values: dict[fx.Node, Any], end: int) -> Any:
    def at_end(one: fx.Node) -> Any:
        return values[one][end] if isinstance(values[one], Bounds) else values[one]

    args = fx.node.map_arg(node.args, at_end)
    kwargs = fx.node.map_arg(node.kwargs, at_end)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    function: Callable[..., Any] = node.target  # type: ignore[assignment]
    return function(*args, **kwargs)


def layer_bounds(part: nn.Module, given: Bounds) -> Bounds:
    """Bounds of what a layer gives; of the layers that `unsupported` knows of."""
    if isinstance(part, nn.Linear):
        return _linear(part, given)
    if isinstance(part, nn.Conv1d | nn.Conv2d):
        return _convolved(part, given)
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        return _batch_normed(part, given)
    if isinstance(part, nn.Dropout | nn.Dropout2d):
        return given
    return Bounds(part(given.low), part(given.high))  # in place where the network does it in place


def _linear(part: nn.Linear, given: Bounds) -> Bounds:
    middle = F.linear((given.low + given.high) / 2, part.weight, part.bias)
    radius = F.linear((given.high - given.low) / 2, part.weight.abs())
    return Bounds(middle - radius, middle + radius)


def _convolved(part: nn.Conv1d | nn.Conv2d, given: Bounds) -> Bounds:
    convolve: Callable[..., Tensor] = F.conv1d if isinstance(part, nn.Conv1d) else F.conv2d
    how = (part.stride, part.padding, part.dilation, part.groups)
    middle = convolve((given.low + given.high) / 2, part.weight, part.bias, *how)
    radius = convolve((given.high - given.low) / 2, part.weight.abs(), None, *how)
    return Bounds(middle - radius, middle + radius)


def _batch_normed(part: nn.BatchNorm1d | nn.BatchNorm2d, given: Bounds) -> Bounds:
    slope, shift = normed(part, given.low.ndim)
    middle, radius = (given.low + given.high) / 2 * slope + shift, (given.high - given.low) / 2 * slope.abs()
    return Bounds(middle - radius, middle + radius)


def normed(part: nn.BatchNorm1d | nn.BatchNorm2d, dims: int) -> tuple[Tensor, Tensor]:
    """By what batch norm with running statistics multiplies, and what it adds, to be spread over so many dimensions."""
    assert part.running_mean is not None  # `_unbounded` lets no other through
    assert part.running_var is not None
    shape = [1, -1] + [1] * (dims - 2)
    slope = (part.running_var + part.eps).rsqrt().reshape(shape)
    shift = -part.running_mean.reshape(shape) * slope
    if part.weight is not None:
        slope = slope * part.weight.reshape(shape)
        shift = shift * part.weight.reshape(shape) + part.bias.reshape(shape)
    return slope, shift
