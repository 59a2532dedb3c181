"""The samples in flight: one lane each, every field a tensor with the batch dimension first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_EARLY = 0.8  # of the steps: what rises after them still rises at the end
_ROUNDING = 1e-6  # of float32 logits
_LARGEST = 1e30  # a loss of infinity is told as this, so that every number of a scorecard is finite


class StepSums(NamedTuple):
    """What an attack saw, summed by step over some samples; each of shape (steps + 1,)."""

    samples: NDArray[np.int64]
    """How many reached the step."""
    loss: NDArray[np.float64]
    """Sum of their losses."""
    fell: NDArray[np.int64]
    """How many were broken there."""
    zero: NDArray[np.int64]
    """How many had a gradient that was zero, or no number."""


class Climb(NamedTuple):
    """How far each lane's margin rose, whatever the loss that its attack follows."""

    flat: NDArray[np.bool_]
    """Whether it never rose above where it was at the first candidate, shape (B,)."""
    late: NDArray[np.float64]
    """Share of its rise that came in the last fifth of its steps; 0 where there was none, shape (B,)."""


class ActiveBatch(NamedTuple):
    """What the engine knows of each sample in flight, and what its attack remembers (``state``)."""

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
    best: Tensor
    """Distance of the nearest adversarial candidate so far; inf without one."""
    best_x: Tensor
    """That candidate."""
    forward: Tensor
    """Passes spent."""
    backward: Tensor
    loss: Tensor
    """The loss seen at each step, shape (B, steps + 1); NaN at those not reached."""
    margin: Tensor
    """The same of the margin, which no softmax saturates; the lowest number where the candidate was out of the ball."""
    zero: Tensor
    """Whether the gradient was blind at each step, shape (B, steps + 1)."""
    strange: Tensor
    """Whether its logits were ever no finite numbers."""
    rounded: Tensor
    """Whether it ever held an example that rounding alone made."""
    fell: Tensor
    """Step at which it was first broken; -1 where it was not."""
    state: Any
    """What the attack remembers: a NamedTuple of tensors; see `engine.State`."""

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
        """Lanes at step 0, without a state yet; ``steps`` is the attack's number of them."""
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
            best=torch.full((size,), torch.inf, dtype=torch.float64, device=device),
            best_x=x.clone(),
            forward=nothing,
            backward=nothing,
            loss=torch.full((size, steps + 1), torch.nan, dtype=torch.float32, device=device),
            margin=torch.full((size, steps + 1), torch.nan, dtype=torch.float32, device=device),
            zero=torch.zeros(size, steps + 1, dtype=torch.bool, device=device),
            strange=nothing > 0,
            rounded=torch.zeros(size, dtype=torch.bool, device=device),
            fell=nothing - 1,
            state=None,
        )

    @property
    def size(self) -> int:
        """Number of lanes."""
        return len(self.rows)

    def select(self, keep: Tensor | slice) -> ActiveBatch:
        """The lanes of a mask, shape (B,), or of a slice."""
        return self._map(lambda part: part[keep])

    def join(self, other: ActiveBatch) -> ActiveBatch:
        """These lanes and others behind them."""
        return self._map(lambda *parts: torch.cat(parts), other)

    def _map(self, function: Callable[..., Tensor], *others: ActiveBatch) -> ActiveBatch:
        def columns(*tuples: tuple[Tensor, ...]) -> list[Tensor]:
            return [function(*column) for column in zip(*tuples, strict=True)]

        parts = columns(*(one[:-1] for one in (self, *others)))
        state = type(self.state)(*columns(*(one.state for one in (self, *others))))
        return ActiveBatch(*parts, state)  # type: ignore[call-arg]

    def note(self, loss: Tensor, margin: Tensor, blind: Tensor, inside: Tensor) -> None:
        """Write down what was seen at each lane's step, for the trace; out of the ball no margin counts as a rise."""
        at = self.step[:, None]
        for room, seen in ((self.loss, loss), (self.margin, margin.where(inside, -torch.inf))):
            finite = seen.detach().float().nan_to_num(0.0, _LARGEST, -_LARGEST).clamp(-_LARGEST, _LARGEST)
            room.scatter_(1, at, finite[:, None])
        self.zero.scatter_(1, at, blind[:, None])

    def sums(self) -> StepSums:
        """Sums by step over these lanes."""
        fell = torch.bincount(self.fell[self.fell >= 0], minlength=self.loss.shape[1])
        sums = ((~self.loss.isnan()).sum(0), self.loss.double().nansum(0), fell, self.zero.sum(0))
        return StepSums(*(one.cpu().numpy() for one in sums))

    def climb(self) -> Climb:
        """How far the margins rose over the steps taken."""
        seen = ~self.margin.isnan()
        place = torch.arange(self.margin.shape[1], device=self.margin.device)
        margin = self.margin.double().nan_to_num(-torch.inf)
        first, best = margin[:, 0], margin.amax(1)
        early = margin.masked_fill(place > _EARLY * (seen.sum(1, keepdim=True) - 1), -torch.inf).amax(1)
        rise = (best - first).nan_to_num(0.0)  # of those that a budget ended before their first look
        # Of two batches the rounding differs: a rise below it is none.
        flat = rise <= _ROUNDING * first.abs().clamp_min(_ROUNDING)
        late = torch.where(flat, 0.0, (best - early) / rise.clamp_min(_ROUNDING**2))
        return Climb((flat & seen.any(1)).cpu().numpy(), late.cpu().numpy())
