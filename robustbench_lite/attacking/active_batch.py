"""The samples in flight, and those that wait for an answer: every field is a tensor, the batch dimension first."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.core.cost import Passes

_EARLY = 0.8  # of the steps: what rises after them still rises at the end
_ROUNDING = 1e-6  # of float32 logits
_LARGEST = 1e30  # stands for an infinite loss, so that every number of a scorecard is finite


class StepSums(NamedTuple):
    """What an attack saw, summed by step over some samples; each of shape (steps + 1,)."""

    samples: NDArray[np.int64]
    """How many reached the step."""
    loss: NDArray[np.float64]
    """Sum of their losses."""
    newly_broken: NDArray[np.int64]
    """How many were broken there for the first time."""
    zero_gradients: NDArray[np.int64]
    """How many had a gradient that was zero throughout, or held what is no number."""


class MarginRise(NamedTuple):
    """How far each sample's margin rose, whatever objective its attack climbs."""

    never: NDArray[np.bool_]
    """Whether it never rose above where it was at the first candidate, shape (B,)."""
    late: NDArray[np.float64]
    """Share of the rise that came in the last fifth of the steps; 0 where there was none, shape (B,)."""


class ActiveBatch(NamedTuple):
    """What the engine knows of each sample in flight, and what the attack remembers of it (``state``)."""

    rows: Tensor
    """Position in the data."""
    restart: Tensor
    """Which start of the attack this is, from 0."""
    x: Tensor
    y: Tensor
    target_class: Tensor
    sample_keys: Tensor
    """Key of the sample, by its content."""
    step: Tensor
    """Steps taken."""
    draw_keys: Tensor
    """Of the random draws: of the sample, the attack and the start."""
    distance: Tensor
    """Of the nearest adversarial candidate so far; inf without one."""
    nearest: Tensor
    """That candidate; the input without one."""
    forward: Tensor
    """Passes spent."""
    backward: Tensor
    loss: Tensor
    """The loss seen at each step, shape (B, steps + 1); NaN at those not reached."""
    margin: Tensor
    """The margin seen at each step; the lowest number where the candidate was out of the ball."""
    zero_gradient: Tensor
    """Whether the gradient was blind at each step, shape (B, steps + 1)."""
    non_finite: Tensor
    """Whether the logits were ever not finite."""
    rounding_only: Tensor
    """Whether there ever was an example that rounding alone made."""
    broken_at: Tensor
    """Step of the first adversarial candidate in the ball; -1 without one."""
    state: Any
    """What the attack remembers: a NamedTuple of tensors; see `interface.State`."""

    @classmethod
    def start(
        cls,
        rows: Tensor,
        restart: Tensor,
        x: Tensor,
        y: Tensor,
        target_class: Tensor,
        sample_keys: Tensor,
        draw_keys: Tensor,
        steps: int,
    ) -> ActiveBatch:
        """Samples at step 0, without a state yet; ``steps`` is how many the attack takes."""
        size, device = len(rows), x.device
        nothing = torch.zeros(size, dtype=torch.int64, device=device)
        return cls(
            rows=rows.to(device),
            restart=restart.to(device),
            x=x,
            y=y,
            target_class=target_class,
            sample_keys=sample_keys,
            step=nothing,
            draw_keys=draw_keys,
            distance=torch.full((size,), torch.inf, dtype=torch.float64, device=device),
            nearest=x.clone(),
            forward=nothing,
            backward=nothing,
            loss=torch.full((size, steps + 1), torch.nan, dtype=torch.float32, device=device),
            margin=torch.full((size, steps + 1), torch.nan, dtype=torch.float32, device=device),
            zero_gradient=torch.zeros(size, steps + 1, dtype=torch.bool, device=device),
            non_finite=nothing > 0,
            rounding_only=torch.zeros(size, dtype=torch.bool, device=device),
            broken_at=nothing - 1,
            state=None,
        )

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def select(self, keep: Tensor | slice) -> ActiveBatch:
        """The samples of a mask, shape (B,), or of a slice."""
        return self._map(lambda part: part[keep])

    def join(self, other: ActiveBatch) -> ActiveBatch:
        """These samples and others behind them."""
        return self._map(lambda *parts: torch.cat(parts), other)

    def _map(self, function: Callable[..., Tensor], *others: ActiveBatch) -> ActiveBatch:
        def columns(*tuples: tuple[Tensor, ...]) -> list[Tensor]:
            return [function(*column) for column in zip(*tuples, strict=True)]

        parts = columns(*(one[:-1] for one in (self, *others)))
        state = type(self.state)(*columns(*(one.state for one in (self, *others))))
        return ActiveBatch(*parts, state)  # type: ignore[call-arg]

    def note(self, loss: Tensor, margin: Tensor, blind: Tensor | None, inside: Tensor | None) -> None:
        """Write down what the model said at each sample's step; out of the ball no margin counts as a rise.

        ``blind`` is None where no gradient was asked for, and ``inside`` where all are in the ball.
        """
        at = self.step[:, None]
        reached = margin if inside is None else margin.where(inside, -torch.inf)
        for column, value in ((self.loss, loss), (self.margin, reached)):
            column.scatter_(1, at, value.float().nan_to_num(0.0, _LARGEST, -_LARGEST)[:, None])
        if blind is not None:
            self.zero_gradient.scatter_(1, at, blind[:, None])

    def keep_nearest(
        self, x: Tensor, hit: Tensor, distance_of: Callable[[Tensor], Tensor], reach: float
    ) -> ActiveBatch:
        """Keep the nearest adversarial candidate of each sample, and the step of the first one in the ball.

        Parameters
        ----------
        x, hit
            The candidates, shape (B, *shape), and whether they are adversarial, shape (B,).
        distance_of, reach
            Perturbations to their norms, shape (B,), and the largest norm in the ball.
        """
        rows = hit.nonzero()[:, 0]
        distance = distance_of(x[rows] - self.x[rows]).double()
        nearer = distance < self.distance[rows]
        rows, distance = rows[nearer], distance[nearer]
        self.distance[rows] = distance
        self.nearest[rows] = x[rows]
        newly_broken = (self.broken_at < 0) & (self.distance <= reach)
        return self._replace(broken_at=torch.where(newly_broken, self.step, self.broken_at))

    def charge(self, spent: Passes) -> ActiveBatch:
        """Share passes that were spent on all samples together evenly among them."""
        if not spent.total:
            return self
        place = torch.arange(self.size, device=self.rows.device)
        forward, backward = (
            total // self.size + (place < total % self.size) for total in (spent.forward, spent.backward)
        )
        return self._replace(forward=self.forward + forward, backward=self.backward + backward)

    def sums(self) -> StepSums:
        """Sums by step over these samples."""
        newly_broken = torch.bincount(self.broken_at[self.broken_at >= 0], minlength=self.loss.shape[1])
        loss = self.loss.clamp(-_LARGEST, _LARGEST)
        sums = ((~loss.isnan()).sum(0), loss.double().nansum(0), newly_broken, self.zero_gradient.sum(0))
        return StepSums(*(one.cpu().numpy() for one in sums))

    def margin_rise(self) -> MarginRise:
        """How far the margins rose over the steps taken."""
        reached = ~self.margin.isnan()
        place = torch.arange(self.margin.shape[1], device=self.margin.device)
        margin = self.margin.clamp(-_LARGEST, _LARGEST).double().nan_to_num(-torch.inf)
        first, best = margin[:, 0], margin.amax(1)
        early = margin.masked_fill(place > _EARLY * (reached.sum(1, keepdim=True) - 1), -torch.inf).amax(1)
        rise = (best - first).nan_to_num(0.0)  # a budget may end before the first answer
        # Rounding differs between batches: a rise below it is none.
        never = rise <= _ROUNDING * first.abs().clamp_min(_ROUNDING)
        late = torch.where(never, 0.0, (best - early) / rise.clamp_min(_ROUNDING**2))
        return MarginRise((never & reached.any(1)).cpu().numpy(), late.cpu().numpy())


class WaitingSamples:
    """Samples that wait to be asked about together, in whole batches. They stay until they are settled."""

    def __init__(self) -> None:
        self._parts: list[ActiveBatch] = []

    @property
    def size(self) -> int:
        """Number of samples."""
        return sum(part.size for part in self._parts)

    def add(self, batch: ActiveBatch) -> None:
        """Put samples at the end."""
        if batch.size:
            self._parts.append(batch)

    def first(self, most: int) -> ActiveBatch:
        """The first samples, which stay."""
        self._parts = [reduce(ActiveBatch.join, self._parts)]
        return self._parts[0].select(slice(None, most))

    def drop(self, count: int) -> None:
        """Let go of the first ``count`` samples, after `first`."""
        rest = self._parts[0].select(slice(count, None))
        self._parts = [rest, *self._parts[1:]] if rest.size else self._parts[1:]
