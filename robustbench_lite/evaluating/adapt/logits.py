"""Logits that a loss can climb: of probabilities, and at a temperature."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.evaluating.adapt.measuring import Around, Sample, Step
from robustbench_lite.model.target import Target

_WIDE = 40.0  # median gap of the two largest logits from which on a softmax counts as saturated, as in the preflight
_GAP = 10.0
"""To which a temperature brings the median gap: well trained networks measure 7 to 20, and here cross-entropy still has
a gradient of 5e-5, far above what float32 rounds away."""


class _Logits(Around):
    """The logarithm of probabilities; where they went through a softmax twice, of what went into the second one."""

    def __init__(self, target: Target, twice: bool) -> None:
        super().__init__(target)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        p = self.target(x)
        return _log(_before_softmax(p) if self.twice else p)


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _before_softmax(p: Tensor) -> Tensor:
    """What went in, up to a shift that is chosen so that it sums to 1."""
    log_p = _log(p)
    return log_p + (1 - log_p.sum(1, keepdim=True)) / p.shape[1]


def as_logits(target: Target, sample: Sample) -> Step:
    """Give logits where the target gives probabilities."""
    p = sample.logits(target)
    first = _before_softmax(p)
    twice = bool((first > -1e-4).all()) and float(first.amax(1).median()) > 2 / p.shape[1]
    return Step(
        "logits",
        "inverse of two softmaxes" if twice else "logarithm of the probabilities",
        f"the outputs are probabilities (median of the largest {float(p.amax(1).median()):.6g}"
        + (", as of a softmax of probabilities)" if twice else ")"),
        _Logits(target, twice),
    )


class _Rescaled(Around):
    """Logits divided by a temperature."""

    def __init__(self, target: Target, temperature: float) -> None:
        super().__init__(target)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.target(x) / self.temperature


def rescaled(target: Target, sample: Sample) -> Step | None:
    """Divide the logits, where they are so far apart that cross-entropy has no gradient."""
    gap = _gap(sample.logits(target))
    if gap <= _WIDE:
        return None
    # Of two digits, so that it is the same wherever it is measured.
    temperature = float(f"{gap / _GAP:.1e}")
    why = f"the two largest logits are {gap:.3g} apart (median): divided, {gap / temperature:.3g}"
    return Step("rescale", f"temperature {temperature:g}", why, _Rescaled(target, temperature))


def _gap(logits: Tensor) -> float:
    """Median of the largest logit less the second."""
    return float(-logits.topk(2, dim=1).values.diff(dim=1)[:, 0].median())
