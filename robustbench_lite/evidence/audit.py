"""Ask about witnesses once more, from scratch, in every way in which an example may be an accident of arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.engine import Run, Samples, reach
from robustbench_lite.norms import GEOMETRIES
from robustbench_lite.preflight.look import Ask, Look, precise
from robustbench_lite.scorecard import Audit, Denied
from robustbench_lite.threat import NORMS, ThreatModel

MOST, LEAST = 256, 16
"""Witnesses that are asked about, where not all of them are; `SHARE` of the evaluation's passes between the two."""
SHARE = 0.03
_PASSES = 3  # of a witness
_SAME = 1e-4  # of the largest logit: rounding, and no more
_BATCH = 16  # another one than the engine's


class Kept(NamedTuple):
    """What one attack found under a threat model."""

    name: str
    threat: ThreatModel
    samples: Samples
    run: Run


def audit(look: Look, kept: Sequence[Kept], everything: bool) -> tuple[Audit | None, list[tuple[int, int]]]:
    """Ask about the witnesses that are in memory: of some, or of every one.

    Returns
    -------
    audit
        What is told of it; None where there was nothing to ask about.
    denied
        Those that are not confirmed: place in ``kept``, and position in the data.

    Raises
    ------
    Stop
        Where the meter's budget is spent; what the engine confirmed stands.
    """
    asked = [(place, row) for place, one in enumerate(kept) for row in one.run.witnesses if one.threat.norm in NORMS]
    if not everything:
        asked.sort(key=lambda one: int(kept[one[0]].samples.keys[one[1]]))
        asked = asked[: min(MOST, max(LEAST, int(SHARE * look.meter.passes.total / _PASSES)))]
    confirmed = rounded = done = 0
    denied: list[tuple[int, int]] = []
    told: list[Denied] = []
    ask: Ask | None = None
    with look.target.attacking():
        for place, rows in _batches(asked):
            one = kept[place]
            ask = ask or precise(look, rows[:1], look.inputs(rows[:1]))
            reasons, survive = _examine(look, ask, one, rows)
            done += len(rows)
            confirmed += reasons.count("")
            rounded += survive
            for row, reason in zip(rows.tolist(), reasons, strict=True):
                if reason:
                    denied.append((place, row))
                    index = int(look.data.index[row])
                    told.append(Denied(index=index, attack=one.name, threat=str(one.threat), reason=reason))
    if ask is None:
        return None, []
    exact = ask.dtype == torch.float64
    return Audit(asked=done, confirmed=confirmed, precise=exact, rounded=rounded, denied=tuple(told)), denied


def _batches(asked: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Tensor]]:
    for place in sorted({place for place, _ in asked}):
        rows = torch.tensor([row for at, row in asked if at == place])
        for part in torch.split(rows, _BATCH):
            yield place, part


def _examine(look: Look, ask: Ask, kept: Kept, rows: Tensor) -> tuple[list[str], int]:
    """Why each witness is denied, empty where it isn't, and how many of the others stay so when rounded."""
    witnesses: list[NDArray[np.float32]] = [kept.run.witnesses[row] for row in rows.tolist()]
    x, origin = torch.from_numpy(np.stack(witnesses)).to(look.target.device), look.inputs(rows)
    aims = kept.samples.aims[rows].to(x.device)

    def adversarial(logits: Tensor) -> Tensor:
        same = logits.argmax(1) == aims
        return (same if kept.threat.goal == "targeted" else ~same) & logits.isfinite().all(1)

    logits = look.logits(rows, x)
    exact = look.logits(rows, x, ask.logits)
    # One that draws by type, say, is another model in float64: that tells nothing of this one.
    other = (exact - logits).abs().amax(1) > _SAME * logits.abs().amax(1)
    again, exactly = adversarial(logits), adversarial(exact) | other
    as_image = adversarial(look.logits(rows, (x * 255).round() / 255))
    inside = GEOMETRIES[kept.threat.norm].distance(x.double() - origin.double()) <= reach(kept.threat)
    inside &= ((x >= 0) & (x <= 1)).flatten(1).all(1)
    reasons = [
        "out of the ball or the box"
        if not ball
        else "not adversarial in another batch"
        if not same
        else "not adversarial in float64"
        if not sure
        else ""
        for ball, same, sure in zip(inside.tolist(), again.tolist(), exactly.tolist(), strict=True)
    ]
    return reasons, int((inside & again & exactly & as_image).sum())
