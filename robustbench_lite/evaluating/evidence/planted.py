"""A unit test of the suite: adversarial examples that are known to exist, and whether its attacks find them.

After Zimmermann et al. 2022, *Increasing confidence in adversarial robustness evaluations*,
https://arxiv.org/abs/2206.13991. They fit a new last layer to each sample; here one logit is lowered, which leaves the
model's surface, its saturation and the number of its classes as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES, project
from robustbench_lite.evaluating.evidence.survivors import ClimbResult, Survivors
from robustbench_lite.evaluating.validity import clearly_more
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Finding

PLANTED = 8
"""Samples that an example is planted for."""
HIGH = 0.5
"""Where it is planted, between the margin at the input (0) and the largest one known in the ball (1)."""
MISSED = 0.25
"""Share of planted examples that a suite may miss."""
_DRAWS = 8  # random points of the ball that the largest margin is looked for at


class _Lowered(nn.Module):
    """A model with one class made less likely, by the same amount for every input."""

    def __init__(self, target: Target, label: int, by: float) -> None:
        super().__init__()
        self.module = target.module  # for device, type and mode
        self._target, self._label, self._by = (target,), label, by

    def forward(self, x: Tensor) -> Tensor:
        logits = self._target[0](x)
        lower = torch.zeros_like(logits[:1])
        lower[0, self._label] = self._by
        return logits - lower


def planted(survivors: Survivors, climbed: ClimbResult) -> Iterator[Finding]:
    """Lower the right class of a few samples until an example in the ball is known, and send the suite for it."""
    if survivors.threat.goal == "targeted":
        return
    best = torch.maximum(climbed.margin, _drawn(survivors))
    rise = best - survivors.start
    able = (rise > 1e-4 * survivors.start.abs()).nonzero()[:PLANTED, 0].tolist()
    enough = next((count for count in range(len(able) + 1) if clearly_more(count, MISSED, len(able))), None)
    if enough is None:
        return
    missed = 0
    for tried, place in enumerate(able, 1):
        # Lowering the label's logit by h raises every margin by h: a point with margin -h is then on the boundary.
        height = float(survivors.start[place] + HIGH * rise[place])
        row = int(survivors.rows[place])
        label = int(survivors.samples.data.labels[row])
        lowered = _Lowered(survivors.model.target, label, -height)
        target = Target(lowered, device=survivors.model.target.device)
        missed += not _found(survivors, target, row)
        if tried - missed > len(able) - enough:
            return
        if missed == enough:
            break
    yield survivors.finding(
        "RB231",
        f"the suite misses {missed} of the first {tried} adversarial examples that were planted: one logit was lowered "
        "so that they exist, half as high as a plain climb gets",
        "an attack that misses what is there proves nothing by finding nothing: look at its step size, its steps, its "
        "loss and its direction",
    )


def _drawn(survivors: Survivors) -> Tensor:
    """Largest margin at random points of the ball, shape (n,)."""
    geometry, threat = GEOMETRIES[survivors.threat.norm], survivors.threat
    columns = survivors.samples.data.columns
    noise = Noise(survivors.samples.sample_keys[survivors.rows].to(survivors.x.device)).at(survivors.model.seed)

    def point(draw: int) -> Tensor:
        delta = geometry.random(noise.at(draw), tuple(survivors.x.shape[1:]), threat.eps)
        x = project(survivors.x + delta, survivors.x, threat.norm, threat.eps)
        return x if columns is None else columns.allowed(x, survivors.x)

    return survivors.margins(*map(point, range(_DRAWS))).amax(0)


def _found(survivors: Survivors, target: Target, row: int) -> bool:
    rows = torch.tensor([row]).numpy()
    return any(
        survivors.run(record.attack, rows, name=record.name, target=target).broken[row] for record in survivors.attacks
    )
