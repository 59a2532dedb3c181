"""What is told of the witnesses: each was confirmed when it was found, and some are rounded to images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.preflight.look import Look
from robustbench_lite.scorecard import Audit, Denied
from robustbench_lite.suite import adversary
from robustbench_lite.tally import Bout
from robustbench_lite.threat import NORMS

MOST, LEAST = 256, 16
"""Witnesses that are rounded, where not all of them are; `SHARE` of the evaluation's passes between the two."""
SHARE = 0.02


def audit(bouts: Sequence[Bout], index: Tensor, precise: bool) -> Audit | None:
    """Count the examples that were confirmed when they were found, and list the others; None where there were none.

    Parameters
    ----------
    bouts
        What came of the attacks.
    index
        Of each position, its number in the data source, shape (N,).
    precise
        Whether they were asked about in float64.
    """
    denied = [
        Denied(index=int(index[row]), attack=bout.name, threat=str(bout.threat), reason=why)
        for bout in bouts
        for row, why in sorted(bout.run.denied.items())
    ]
    # A witness at an eps is one at every larger eps, where nobody asked about it again.
    confirmed = len(
        {(bout.name, adversary(bout.threat), row) for bout in bouts for row in bout.run.broken.nonzero()[0].tolist()}
    )
    if not confirmed and not denied:
        return None
    exact = precise and all(bout.run.exact for bout in bouts)
    return Audit(asked=confirmed + len(denied), confirmed=confirmed, precise=exact, denied=tuple(denied))


def as_images(look: Look, bouts: Sequence[Bout], keys: NDArray[np.int64], everything: bool) -> tuple[int, int]:
    """Round witnesses that are in memory, every one or some, and count those that stay adversarial.

    Returns
    -------
    images, rounded
        How many were rounded, and how many of these stay adversarial.

    Raises
    ------
    Stop
        Where the meter's budget is spent.
    """
    once = {
        (bout.name, adversary(bout.threat), row): (place, row)
        for place, bout in enumerate(bouts)
        for row in bout.run.witnesses
        if bout.threat.norm in NORMS
    }
    kept = list(once.values())
    if not everything:
        kept.sort(key=lambda one: int(keys[one[1]]))  # the same ones in whatever order the data come
        kept = kept[: min(MOST, max(LEAST, int(SHARE * look.meter.passes.total)))]
    rounded = 0
    with look.target.attacking():
        for place in sorted({place for place, _ in kept}):
            rows = torch.tensor([row for at, row in kept if at == place])
            for part in torch.split(rows, look.meter.batch_limit):
                rounded += _stay(look, bouts[place], part)
    return len(kept), rounded


def _stay(look: Look, bout: Bout, rows: Tensor) -> int:
    witnesses = [bout.run.witnesses[row] for row in rows.tolist()]
    x = torch.from_numpy(np.stack(witnesses)).to(look.target.device)
    logits = look.logits(rows, (x * 255).round() / 255)
    said = logits.argmax(1)
    if bout.threat.goal == "targeted":
        stays = said == torch.from_numpy(bout.run.prediction)[rows].to(x.device)
    else:
        stays = said != look.labels(rows)
    return int((stays & logits.isfinite().all(1)).sum())
