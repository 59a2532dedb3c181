"""Another gradient, where the target's own one leads nowhere: passed straight through, or smoothed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustbench_lite.core.cost import Stop
from robustbench_lite.core.losses import margin
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES, project
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating.adapt.measuring import Around, Sample, Step, over
from robustbench_lite.model.target import Preprocessing, Target

_WAYS = ((False, 16, 0.5), (False, 16, 1.0), (True, 64, 0.5), (True, 256, 0.5))
"""Smoothings that are tried, the cheapest first: by differences or not, draws, and share of the ball's scale."""
_CASTS = frozenset({"to", "type", "int", "long", "short", "char", "byte"})
_STEPS = _CASTS | {"round", "floor", "ceil", "trunc", "fix", "sign", "detach"}
_CLEARLY = 1.1  # times the rise along the model's own gradient, from which on another direction is the better one
_FAR = 1.5  # the same, from which on no dearer one is looked for


def straight_through(target: Target, exact: Preprocessing) -> Target:
    """Keep the preprocessing that a target declares, and pass it over on the way back."""
    return target.fed(mean=target.mean, std=target.std, preprocessing=_StraightThrough(exact))


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exact: Preprocessing) -> Tensor:
        with torch.no_grad():
            return exact(x.clone())  # it may write into its input, or hand it back as it is

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _StraightThrough(nn.Module):
    """A preprocessing, exact on the way forward and the identity on the way back."""

    def __init__(self, exact: Preprocessing) -> None:
        super().__init__()
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = _Identity.apply(x, self.exact)
        return done


def sloping(target: Target, sample: Sample, threats: Sequence[ThreatModel]) -> Step | None:
    """Another gradient, chosen by how far a few steps along it lead; of those that lead as far, the cheapest."""
    right = sample.logits(target).argmax(1) == sample.y
    x, y = sample.x[right], sample.y[right]
    if not len(x):
        return None
    threat = next((one for one in threats if one.norm in ("Linf", "L2", "L1")), ThreatModel.parse("Linf 0.05"))
    scale = smoothing_scale(threats, tuple(x.shape[1:]))
    ways: list[tuple[str, str, nn.Module]] = [
        ("bpda", "straight through what rounds or cuts the graph", _Through(target)),
        *(_smoothing(target, share * scale, draws, differences) for differences, draws, share in _WAYS),
    ]
    own = max(0.0, _climb(target, sample, x, y, threat))
    rises: list[float] = []
    for _, _, module in ways:
        rises.append(_climb(over(target, module), sample, x, y, threat))
        if rises[-1] > _FAR * own:
            break
    if not max(rises) > _CLEARLY * own:
        return None
    best = next(place for place, rise in enumerate(rises) if rise * _CLEARLY >= max(rises))
    name, setting, module = ways[best]
    reason = (
        f"three steps along it raise the margin by {rises[best]:.3g} (median), along the target's own gradient by "
        f"{own:.3g}"
    )
    return Step(name, setting, reason, module)


def _smoothing(target: Target, scale: float, draws: int, differences: bool) -> tuple[str, str, nn.Module]:
    how = f"differences of {draws} pairs" if differences else f"mean gradient of {draws} neighbours"
    return "smoothing", f"{how}, scale {scale:.3g}", _Smoothed(target, scale, draws, differences)


def smoothing_scale(threats: Sequence[ThreatModel], shape: tuple[int, ...]) -> float:
    """How much a value of the input changes within the largest ball, from a grey level to a quarter of the range."""
    width = math.sqrt(math.prod(shape))
    changes = [{"Linf": one.eps, "L2": one.eps / width, "L1": one.eps / width}.get(one.norm, 0.05) for one in threats]
    return min(max(changes, default=0.05), 0.25) if max(changes, default=0.05) > 1 / 255 else 1 / 255


def _climb(target: Target, sample: Sample, x: Tensor, y: Tensor, threat: ThreatModel) -> float:
    """By how much the margin rises along the gradient, within the ball (median); 0 where there is no way."""
    moved = x
    try:
        for _ in range(3):
            grad = sample.slope(target, moved, y)
            moved = moved + 0.5 * threat.eps * GEOMETRIES[threat.norm].steepest(grad)
            moved = project(moved, x, threat.norm, threat.eps)
    except Stop:
        raise
    except Exception:  # the backward pass fails, or a cast was needed
        return 0.0
    rise = margin(sample.logits(target, moved), y, False) - margin(sample.logits(target, x), y, False)
    return float(rise.nan_to_num(0.0).median())


class _Through(Around):
    """The target's own logits, with the gradient of the identity where it rounds, casts to integers or cuts the graph.

    What `Target.preprocessing` declares, found inside the module: BPDA for the operations of torch that have no slope.
    """

    def forward(self, x: Tensor) -> Tensor:
        exact = _exactly(self.target, x)
        if not _sloped(x):
            return exact
        with _PassOver():
            slope = self.target(x)
        return exact + (slope - slope.detach())


class _PassOver(TorchFunctionMode):
    """Gives steps the slope of the identity; what comes out is the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = func(*args, **(kwargs or {}))
        given = args[0] if args else None
        if getattr(func, "__name__", "") not in _STEPS or not isinstance(given, Tensor) or not given.requires_grad:
            return done
        if not isinstance(done, Tensor) or (done.is_floating_point() and func.__name__ in _CASTS):
            return done
        return given + (done.to(given.dtype) - given).detach()


class _Smoothed(Around):
    """The target's own logits, with the gradient of their mean over a Gaussian neighbourhood.

    The mean's gradient is the mean of the gradients at the neighbours or, where these are none or lead nowhere, that of
    differences between opposite neighbours, for which no gradient is needed: E[(f(x + s z) - f(x - s z)) z] / 2s. Where
    the neighbours lie is a hash of the input: the same whenever it is asked about, and others after every step.
    """

    def __init__(self, target: Target, scale: float, draws: int, differences: bool) -> None:
        super().__init__(target)
        self.scale, self.draws, self.differences = scale, draws, differences

    def forward(self, x: Tensor) -> Tensor:
        exact = _exactly(self.target, x)
        if not _sloped(x):
            return exact
        noise = Noise(_hash(x.detach()))
        slope = self._one(x, noise.at(0))
        for draw in range(1, self.draws):
            slope = slope + self._one(x, noise.at(draw))
        return exact + (slope - slope.detach()) / self.draws

    def _one(self, x: Tensor, noise: Noise) -> Tensor:
        """Logits whose gradient is one draw of the mean's."""
        z = noise.normal(tuple(x.shape[1:])).to(x)
        if not self.differences:
            return self.target(x + self.scale * z)
        with torch.no_grad():
            rise = (self.target(x + self.scale * z) - self.target(x - self.scale * z)) / (2 * self.scale)
        return (x * z).flatten(1).sum(1, keepdim=True).to(rise.dtype) * rise


def _exactly(target: Target, x: Tensor) -> Tensor:
    with torch.no_grad():
        return target(x)


def _sloped(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _hash(x: Tensor) -> Tensor:
    """One int64 a sample, of its values alone, shape (B,)."""
    bits = x.float().flatten(1).contiguous().view(torch.int32).long()
    odd = 2 * torch.arange(bits.shape[1], device=x.device) * 0x5851F42D4C95 + 1
    return (bits * odd).sum(1)  # integers: the order of the sum doesn't matter
