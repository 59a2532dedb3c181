"""What every check stands on: the model, asked a sample of the data, its passes counted by sample."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.core.cost import BudgetTracker, Passes, Stop
from robustbench_lite.core.errors import ModelError, out_of_memory
from robustbench_lite.data.dataset import Data
from robustbench_lite.model.float64 import Ask, alike, in_float64
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Finding, Severity

_log = logging.getLogger(__name__)

FEW = 4
"""Samples below which nothing is said about what all of them have in common."""
STRAY = 0.01
"""Share of samples (and at least one) that may be out of line all the same."""


@dataclass(frozen=True)
class Check:
    """One question about a model, and its answer."""

    name: str
    """What was asked, as the good answer reads."""
    saw: str = ""
    """What was seen, with numbers; or why it was not asked."""
    findings: tuple[Finding, ...] = ()
    asked: bool = True
    """False where it could not be asked."""


class CountedModel:
    """The model, and how often each sample was shown to it."""

    def __init__(
        self, target: Target, data: Data, seed: int, budget: BudgetTracker, gradients: bool, thorough: bool
    ) -> None:
        self.target, self.data, self.seed, self.budget = target, data, seed, budget
        self.thorough = thorough
        self.function = target.predictor.opaque
        self.gradients = gradients and not self.function
        self.precision = torch.finfo(target.dtype).eps
        self.forward = np.zeros(len(data), np.int64)
        self.backward = np.zeros(len(data), np.int64)
        self.differentiable = True

    @property
    def passes(self) -> Passes:
        """All passes together."""
        return Passes(forward=int(self.forward.sum()), backward=int(self.backward.sum()))

    def inputs(self, rows: Tensor) -> Tensor:
        return self.data.fetch(rows).to(self.target.device)

    def labels(self, rows: Tensor) -> Tensor:
        return self.data.labels[rows].to(self.target.device)

    def logits(self, rows: Tensor, x: Tensor, ask: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Logits of inputs, (n, K), without a gradient; ``rows`` says whose passes they are."""

        def part(rows: Tensor, x: Tensor) -> Tensor:
            with torch.no_grad(), self.counted(rows):
                return (ask or self.target)(x).detach()

        return torch.cat(self.in_parts(part, rows, x))

    def in_parts(self, ask: Callable[[Tensor, Tensor], Any], rows: Tensor, x: Tensor) -> list[Any]:
        """Ask in batches that memory holds."""
        while True:
            limit = self.budget.batch_limit
            try:
                return [ask(rows[at : at + limit], x[at : at + limit]) for at in range(0, len(x), limit)]
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault) or limit == 1:
                    raise
                self.budget.batch_limit = max(1, min(limit, len(x)) // 2)

    @contextmanager
    def counted(self, rows: Tensor, forward: int = 1, backward: int = 0) -> Iterator[None]:
        """Count passes, also those that fail."""
        self.budget.check(len(rows) * (forward + backward))
        try:
            yield
        finally:
            np.add.at(self.forward, rows.numpy(), forward)
            np.add.at(self.backward, rows.numpy(), backward)
            self.budget.spend(forward * len(rows), backward * len(rows))


def drawn(data: Data, samples: int, seed: int) -> Tensor:
    """Rows of a class-stratified draw, in random order."""
    rows = replace(data, index=torch.arange(len(data))).stratified(samples, seed).index
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]


def check(name: str, saw: str, *findings: Finding | None) -> Check:
    """A question that was asked, with the findings that there are."""
    return Check(name, saw, tuple(finding for finding in findings if finding is not None))


def found(code: str, severity: Severity, message: str, cure: str) -> Finding:
    """A finding about the model."""
    return Finding(code=code, severity=severity, message=message, cure=cure)


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def words(fault: BaseException) -> str:
    """What went wrong, in a line."""
    text = str(fault).strip().partition("\n")[0]
    if isinstance(fault, ModelError):
        return text[:300]
    return f"{type(fault).__name__}: {text[:200]}" if text else type(fault).__name__


class Asked(NamedTuple):
    """How the model is asked."""

    ask: Ask
    dtype: torch.dtype
    logits: Tensor | None
    """What it says in float64 to what it was tried on."""


def precise(model: CountedModel, rows: Tensor, x: Tensor) -> Asked:
    """In float64 where the module allows it, else as it is."""
    target = model.target
    try:
        ask = in_float64(target)
        return Asked(ask, torch.float64, model.logits(rows, x, ask))
    except Stop:
        raise
    except Exception:  # scripted and compiled modules, constants of a fixed type, a cast to a narrower type inside
        _log.debug("%s can't be asked in float64", target.name, exc_info=True)
    return Asked(target, torch.float32 if target.dtype != torch.float64 else torch.float64, None)


def float64_model(model: CountedModel, rows: Tensor) -> Ask | None:
    """The model in float64; None where it doesn't answer there, or is another model."""
    asked = precise(model, rows, model.inputs(rows))
    if asked.logits is None:
        return None
    same = alike(model.logits(rows, model.inputs(rows)), asked.logits)
    return asked.ask if bool(same.all()) else None
