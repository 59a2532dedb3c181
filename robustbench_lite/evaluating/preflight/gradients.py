"""Whether gradients reach the input, and are the slope of the loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.core.cost import Stop
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.losses import cross_entropy, margin
from robustbench_lite.evaluating.preflight.check import Asked, Check, CountedModel, check, found, precise, words
from robustbench_lite.evaluating.preflight.outputs import gap, short
from robustbench_lite.results.scorecard import Finding

_NO_GRADIENT = 0.1
"""Share of samples without a gradient from which on attacks by gradient are doubted."""
_SATURATED = 40.0
"""Median gap of the two largest logits from which on a softmax counts as saturated: cross-entropy is exactly 0 from a
gap of 17 on, and here its gradient is below 5e-18; well trained networks measure 7 to 20."""
_DISAGREE = 0.3
"""Share of samples whose gradient is not the slope from which on it is told; honest networks measure below 0.05."""
_CLIMB = 0.2
"""Cosine of gradient and steepest direction below which an attack by gradient goes nowhere."""


def gradients(model: CountedModel, rows: Tensor, x: Tensor, logits: Tensor, *, slopes: bool) -> Iterator[Check]:
    """Gradients of cross-entropy and margin on clean samples; with ``slopes`` finite differences, too."""
    name = "gradients reach the input"
    start = time.perf_counter()
    try:
        grads = model.in_parts(lambda rows, x: both_gradients(model, rows, x), rows, x)
    except (UserError, Stop):
        raise
    except Exception as fault:
        yield check(name, "", _no_gradient(f"the backward pass fails: {words(fault)}"))
        return
    by_loss = [torch.cat(parts) for parts in zip(*grads, strict=True)]
    steepest = torch.stack([grad.flatten(1).abs().amax(1) for grad in by_loss])
    strange = ~steepest.isfinite()
    zero = steepest == 0
    total, least = len(rows), max(2.0, _NO_GRADIENT * len(rows))
    told = [int(one.sum()) for one in zero]
    model.budget.speed.measured(total, len(by_loss), time.perf_counter() - start)
    saw = f"zero for {told[0]} (cross-entropy) and {told[1]} (margin) of {total} samples"
    brief = f"of {total} samples {told[0]} (cross-entropy), {told[1]} (margin) zero"
    findings = []
    if int(strange.any(0).sum()) >= least:
        findings.append(_strange_gradient(strange, total))
    if int(zero.all(0).sum()) >= least:
        cut = "the graph is cut: " if not model.differentiable else ""
        findings.append(_no_gradient(f"{cut}the gradient of the loss with respect to the input is {saw}"))
    elif told[0] >= least or float(gap(logits).median()) > _SATURATED:
        findings.append(_saturated(logits, saw))
    yield check(name, brief, *findings)
    usable = ~(strange.any(0) | zero[1])
    if slopes and not findings and int(usable.sum()) > 1:
        yield _slopes(model, rows[usable.cpu()], x[usable])


def both_gradients(model: CountedModel, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of cross-entropy and margin, zeros where there are none."""
    labels = model.labels(rows)
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        with model.counted(rows):
            logits = model.target(x)
        model.differentiable = logits.requires_grad
        if not logits.requires_grad:
            return torch.zeros_like(x), torch.zeros_like(x)
        losses = [loss(logits, labels, False).sum() for loss in (cross_entropy, margin)]
        with model.counted(rows, forward=0, backward=2):
            found = [torch.autograd.grad(loss, x, retain_graph=True, allow_unused=True)[0] for loss in losses]
    one, two = (torch.zeros_like(x) if grad is None else grad.detach() for grad in found)
    return one, two


def _no_gradient(what: str) -> Finding:
    return found(
        "RB131",
        "error",
        f"{what}: attacks by gradient are blind",
        "find what cuts or quantises (detach, numpy, rounding, argmax, a dead activation) and give it a gradient, or "
        "attack it without gradients (suite black_box)",
    )


def _saturated(logits: Tensor, saw: str) -> Finding:
    certain = nn.functional.cross_entropy(logits, logits.argmax(1), reduction="none") == 0
    return found(
        "RB125",
        "warning",
        f"the softmax is saturated: the two largest logits are {float(gap(logits).median()):.3g} apart (median), so "
        f"cross-entropy is exactly 0 for {int(certain.sum())} of {len(logits)} samples, and its gradient {saw}",
        "attack it by the margin as well (carlini_wagner, or pgd with loss = 'margin' or 'dlr'), or divide the logits "
        "by a temperature",
    )


def _strange_gradient(strange: Tensor, total: int) -> Finding:
    return found(
        "RB132",
        "error",
        f"the gradient with respect to the input holds NaN or infinity for {int(strange[0].sum())} (cross-entropy) and "
        f"{int(strange[1].sum())} (margin) of {total} samples",
        "find the operation without a derivative there (a square root or norm at 0, a logarithm, a division) and add a "
        "small constant",
    )


def _slopes(model: CountedModel, rows: Tensor, x: Tensor) -> Check:
    """Whether the gradient is the slope: finite differences along it and along random directions.

    At points near the samples, inside the box and off the ties and corners that real images are full of (a black
    background under max-pooling), where a piecewise linear network has no derivative.
    """
    name = "the gradient is the slope"
    count = min(len(rows), 32) if model.thorough else min(8, max(2, len(rows) // 8))
    rows, x = rows[:count], x[:count]
    dice = torch.Generator().manual_seed(model.seed)
    inside = 0.05 + 0.9 * x.cpu() + 0.08 * (torch.rand(x.shape, generator=dice) - 0.5)
    signs = [torch.randint(0, 2, x.shape, generator=dice) * 2.0 - 1 for _ in range(4 if model.thorough else 2)]
    try:
        asked = precise(model, rows[:1], inside[:1].to(x))
        seen = _differences(model, asked, rows, inside.to(x), torch.stack(signs).to(x))
    except (UserError, Stop):
        raise
    except Exception as fault:
        return Check(name, f"can't be told: {words(fault)}", asked=False)
    if seen.decided < 2:
        return Check(name, "can't be told: the differences are below rounding", asked=False)
    saw = f"differences disagree for {seen.unlike} of {seen.decided} samples"
    if seen.unlike < max(2.0, _DISAGREE * seen.decided):
        return Check(name, saw)
    cosine = f"a step along it gains {min(max(seen.climb, 0.0), 1.0):.0%} of what the steepest one would"
    return check(
        name,
        saw,
        found(
            "RB133",
            "error" if seen.climb < _CLIMB else "warning",
            f"the gradient that the model returns is not the slope of its loss: finite {saw} "
            f"(in {seen.precision}); {cosine}",
            "look for a backward pass of its own, a straight-through estimate, a rounding or a detached branch; where "
            "it is meant so, attack it without gradients as well (suite black_box)",
        ),
    )


class _Slopes(NamedTuple):
    decided: int
    unlike: int
    climb: float
    """Cosine of the gradient and the steepest direction, at the length of step where it is largest."""
    precision: str


def _differences(model: CountedModel, asked: Asked, rows: Tensor, x: Tensor, signs: Tensor) -> _Slopes:
    """Compare slopes; ``signs`` are random directions, (directions, n, *shape)."""
    lengths = (1e-6, 1e-2, 1e-1) if asked.dtype == torch.float64 else (1e-3, 1e-2, 1e-1)
    x = x.to(asked.dtype)
    top = model.logits(rows, x, asked.ask).topk(2, dim=1).indices

    def rise(logits: Tensor, top: Tensor) -> Tensor:
        # Of two fixed classes, so that the loss has no corner of its own.
        return logits.gather(1, top).diff(dim=1)[:, 0]

    place = {row: at for at, row in enumerate(rows.tolist())}

    def slope(rows: Tensor, x: Tensor) -> Tensor:
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad(), model.counted(rows, backward=1):
            loss = rise(asked.ask(x), top[[place[row] for row in rows.tolist()]])
            return torch.autograd.grad(loss.sum(), x)[0].detach()

    grad = torch.cat(model.in_parts(slope, rows, x)).flatten(1).to(asked.dtype)
    size = math.prod(x.shape[1:]) ** 0.5
    norm = grad.norm(dim=1, keepdim=True)
    along = torch.cat(
        [(grad / norm)[None], signs.flatten(2).to(asked.dtype) / size]
    )  # unit vectors, (directions, n, D)
    expected = (along * grad).sum(2)
    scale = torch.cat([norm.T, norm.T.expand(len(signs), -1) / size])
    eps = torch.finfo(asked.dtype).eps
    agreed = torch.zeros_like(expected, dtype=torch.bool)
    told = torch.zeros_like(agreed)
    climb = -1.0
    for length in lengths:
        step = (length * size * along).reshape(-1, *x.shape[1:])
        many = rows.repeat(len(along))
        ends = [
            model.logits(many, x.repeat(len(along), *[1] * (x.ndim - 1)) + sign * step, asked.ask) for sign in (1, -1)
        ]
        both = top.repeat(len(along), 1)
        slopes = ((rise(ends[0], both) - rise(ends[1], both)) / (2 * length * size)).reshape(expected.shape)
        largest = torch.stack([end.abs().amax(1) for end in ends]).amax(0).reshape(expected.shape)
        floor = 8 * eps * largest / (length * size)
        near = (slopes - expected).abs() <= 0.1 * torch.maximum(scale, slopes.abs()) + floor
        clear = floor < 0.1 * scale
        told |= clear
        agreed |= near & clear
        steepest = size * slopes[1:].square().mean(0).sqrt()
        if float(steepest.sum()) > 0:
            climb = max(climb, float(slopes[0].sum() / steepest.sum()))
    decided = told.all(0)
    unlike = decided & ~agreed.all(0)
    return _Slopes(int(decided.sum()), int(unlike.sum()), climb, short(asked.dtype))
