"""What every probe stands on: the model, a few of the samples that the suite left standing, and the suite itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.interface import Attack
from robustbench_lite.attacking.record import RunResult, Samples
from robustbench_lite.core.cost import Stop
from robustbench_lite.core.losses import margin
from robustbench_lite.core.norms import GEOMETRIES, per_sample, project
from robustbench_lite.core.threat import Norm, ThreatModel
from robustbench_lite.evaluating.preflight.check import CountedModel
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Finding, Plot, Severity


class AttackRecord(NamedTuple):
    """One attack of the suite, and what it broke."""

    name: str
    attack: Attack
    broken: NDArray[np.int64]
    """Positions."""


class BrokenSurvivors(NamedTuple):
    """Survivors that a probe broke all the same."""

    threat: ThreatModel
    witnesses: dict[int, NDArray[np.float32]]
    """By position; what a look at them saw, and no more."""


class ClimbResult(NamedTuple):
    """The highest margins on a way up."""

    margin: Tensor
    """Shape (n,); above 0 is adversarial."""
    x: Tensor
    """Where they were seen, shape (n, *shape)."""


@dataclass(frozen=True)
class Survivors:
    """One threat model of an evaluation."""

    model: CountedModel
    samples: Samples
    threat: ThreatModel
    attacks: Sequence[AttackRecord]
    rows: Tensor
    """Positions of the survivors that are asked."""
    x: Tensor
    start: Tensor
    """Their margins, shape (n,): below 0."""
    grad: Tensor
    """Gradients of the margin there, shape (n, *shape)."""
    batch_size: int
    _counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By question, how many it broke, and of how many."""

    @classmethod
    def of(
        cls,
        model: CountedModel,
        samples: Samples,
        threat: ThreatModel,
        attacks: Sequence[AttackRecord],
        rows: Tensor,
        batch_size: int,
    ) -> Survivors:
        """Look at the survivors."""
        x = model.inputs(rows)
        start, grad = _asked(model, samples, rows, x, threat)
        return cls(model, samples, threat, attacks, rows, x, start, grad, batch_size)

    def others(self, rows: Tensor) -> Survivors:
        """Look at further survivors; what is counted of them is added to what was counted of these."""
        further = self.of(self.model, self.samples, self.threat, self.attacks, rows, self.batch_size)
        return replace(further, _counts=self._counts)

    def counted(self, question: str, broken: int) -> tuple[int, int]:
        """How many a question broke, and of how many, with those that were asked it before."""
        before, asked = self._counts.get(question, (0, 0))
        self._counts[question] = before + broken, asked + len(self.rows)
        return self._counts[question]

    def margins(self, *points: Tensor) -> Tensor:
        """Margins at other inputs for the survivors, each of shape (n, *shape), without a gradient: (points, n)."""
        rows = self.rows.repeat(len(points))
        target_classes = self.samples.target_classes[rows].to(self.x.device)
        logits = self.model.logits(rows, torch.cat(points))
        return margin(logits, target_classes, self.threat.goal == "targeted").reshape(len(points), -1)

    def climb(self, norm: Norm, eps: float, steps: int, *, anywhere: bool = False) -> ClimbResult:
        """Climb the margin from the inputs, in steps that fall to zero along a cosine: a plain attack of our own.

        The columns of a table change as an adversary may change them; ``anywhere``: as if any of them could.
        """
        steepest, reach = stride(norm, eps)
        columns = None if anywhere else self.samples.data.columns
        x, value, grad = self.x, self.start, self.grad
        best = ClimbResult(value, x)
        for step in range(steps):
            length = reach * (1 + math.cos(math.pi * step / steps))
            grad = grad if columns is None else columns.slope(grad)
            x = project(x + length * steepest(grad), self.x, norm, eps, columns)
            seen = x if columns is None else columns.allowed(x, self.x)
            if step == steps - 1:
                value = self.margins(seen)[0]
            else:
                value, grad = _asked(self.model, self.samples, self.rows, seen, self.threat)
            higher = value > best.margin
            best = ClimbResult(
                torch.where(higher, value, best.margin), torch.where(per_sample(higher, x), seen, best.x)
            )
        return best

    def run(
        self,
        attack: Attack,
        rows: NDArray[np.int64],
        *,
        name: str,
        threat: ThreatModel | None = None,
        target: Target | None = None,
        keep: Container[int] = (),
    ) -> RunResult:
        """Run an attack on some samples; its passes count as the checks'."""
        done = run_attack(
            attack,
            target or self.model.target,
            self.samples,
            rows,
            threat or self.threat,
            RunOptions(
                name=name, seed=self.model.seed, batch_size=self.batch_size, keep=keep, budget=self.model.budget
            ),
        )
        self.model.forward += done.forward
        self.model.backward += done.backward
        if done.stopped is not None:
            raise Stop(done.stopped)
        return done

    def finding(
        self,
        code: str,
        message: str,
        cure: str,
        plot: Plot | None = None,
        attack: str | None = None,
        severity: Severity = "error",
    ) -> Finding:
        """What stands against the evaluation under this threat model."""
        return Finding(
            code=code,
            severity=severity,
            message=message,
            cure=cure,
            attack=attack,
            threat=str(self.threat),
            plot=plot,
        )


def stride(norm: Norm, eps: float) -> tuple[Callable[[Tensor], Tensor], float]:
    """Direction of a plain step, of a gradient, and how far it may lead."""
    # Under L1 and L0 the steepest step moves one value: too slow for a few steps, so the projection chooses.
    steepest = GEOMETRIES["Linf" if norm == "Linf" else "L2"].steepest
    return steepest, eps if norm in ("Linf", "L2") else math.sqrt(eps)


def _asked(
    model: CountedModel, samples: Samples, rows: Tensor, x: Tensor, threat: ThreatModel
) -> tuple[Tensor, Tensor]:
    """Margins, (n,), and their gradients, zeros where there are none."""

    def part(rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            with model.counted(rows):
                logits = model.target(x)
            values = margin(logits, samples.target_classes[rows].to(x.device), threat.goal == "targeted")
            if not values.requires_grad:
                return values.detach(), torch.zeros_like(x)
            with model.counted(rows, forward=0, backward=1):
                grad = torch.autograd.grad(values.sum(), x, allow_unused=True)[0]
        return values.detach(), torch.zeros_like(x) if grad is None else grad.detach().nan_to_num(0.0, 0.0, 0.0)

    values, grads = zip(*model.in_parts(part, rows, x), strict=True)
    return torch.cat(values), torch.cat(grads)
