"""What is told of the witnesses: each was confirmed when it was found, and some are rounded to images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.core.suite import adversary
from robustbench_lite.core.threat import NORMS
from robustbench_lite.evaluating.attack_run import AttackRun
from robustbench_lite.evaluating.preflight.check import CountedModel
from robustbench_lite.results.scorecard import Audit, Denied

MOST, LEAST = 256, 16
"""Witnesses that are rounded, where not all of them are; `SHARE` of the evaluation's passes between the two."""
SHARE = 0.02


def audit(runs: Sequence[AttackRun], index: Tensor, precise: bool) -> Audit | None:
    """Count the examples that were confirmed when they were found, and list the others; None where there were none.

    Parameters
    ----------
    runs
        What came of the attacks.
    index
        Of each position, its number in the data source, shape (N,).
    precise
        Whether they were asked about in float64.
    """
    denied = [
        Denied(index=int(index[row]), attack=run.name, threat=str(run.threat), reason=why)
        for run in runs
        for row, why in sorted(run.result.denial_reasons.items())
    ]
    # A witness at an eps is one at every larger eps, where nobody asked about it again.
    confirmed = len(
        {(run.name, adversary(run.threat), row) for run in runs for row in run.result.broken.nonzero()[0].tolist()}
    )
    if not confirmed and not denied:
        return None
    exact = precise and all(run.result.float64_held for run in runs)
    return Audit(asked=confirmed + len(denied), confirmed=confirmed, precise=exact, denied=tuple(denied))


def as_images(
    model: CountedModel, runs: Sequence[AttackRun], keys: NDArray[np.int64], everything: bool
) -> tuple[int, int]:
    """Round witnesses that are in memory, every one or some, and count those that stay adversarial.

    Returns
    -------
    images, rounded
        How many were rounded, and how many of these stay adversarial.

    Raises
    ------
    Stop
        Where the budget is spent.
    """
    once = {
        (run.name, adversary(run.threat), row): (place, row)
        for place, run in enumerate(runs)
        for row in run.result.witnesses
        if run.threat.norm in NORMS
    }
    kept = list(once.values())
    if not everything:
        kept.sort(key=lambda one: int(keys[one[1]]))  # the same ones in whatever order the data come
        kept = kept[: min(MOST, max(LEAST, int(SHARE * model.budget.passes.total)))]
    rounded = 0
    with model.target.attacking():
        for place in sorted({place for place, _ in kept}):
            rows = torch.tensor([row for at, row in kept if at == place])
            for part in torch.split(rows, model.budget.batch_limit):
                rounded += _stay(model, runs[place], part)
    return len(kept), rounded


def _stay(model: CountedModel, run: AttackRun, rows: Tensor) -> int:
    witnesses = [run.result.witnesses[row] for row in rows.tolist()]
    x = torch.from_numpy(np.stack(witnesses)).to(model.target.device)
    logits = model.logits(rows, (x * 255).round() / 255)
    said = logits.argmax(1)
    if run.threat.goal == "targeted":
        stays = said == torch.from_numpy(run.result.prediction)[rows].to(x.device)
    else:
        stays = said != model.labels(rows)
    return int((stays & logits.isfinite().all(1)).sum())
