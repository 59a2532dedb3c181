"""How fast a model answers, here: on the processor and with the threads that the scorecard's environment names.

Times of two machines can't be compared, and those of two runs on one hardly. So what is gated should be `slowdown`,
a ratio to another model whose calls alternate with the target's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from robustbench_lite.core.errors import UserError
from robustbench_lite.evaluating.measures.interface import Estimate, Measure, Subject
from robustbench_lite.model.timing import call_times
from robustbench_lite.results.statistics import clopper_pearson

_LARGE = 64


def _batch(subject: Subject, size: int) -> Tensor:
    return subject.data.fetch([row % len(subject.data) for row in range(size)])


def _times(subject: Subject, size: int) -> list[float]:
    """Seconds of each call; the measures of one card tell of the same calls."""
    key = f"times of batches of {size}"
    if key not in subject.shared:
        subject.shared[key] = [one for (one,) in call_times([subject.target], _batch(subject, size))]
    found: list[float] = subject.shared[key]
    return found


def _milliseconds(percentile: float, size: int, subject: Subject) -> float:
    return _rounded(1e3 * float(np.percentile(_times(subject, size), percentile)))


def _throughput(subject: Subject) -> float:
    return _rounded(_LARGE / float(np.median(_times(subject, _LARGE))))


def _slowdown(subject: Subject) -> Estimate:
    if subject.reference is None:
        raise UserError("it compares with another model: name one (--reference MODEL, or reference=...)")
    pairs = call_times([subject.target, subject.reference], _batch(subject, 1))
    return median_ratio([one / other for one, other in pairs])


def median_ratio(ratios: list[float]) -> Estimate:
    """Median with its interval: from the order alone, whatever the distribution."""
    ordered, total = sorted(ratios), len(ratios)
    low, high = clopper_pearson(total // 2, total)
    ends = ordered[int(low * total)], ordered[min(total - 1, int(np.ceil(high * total)))]
    return Estimate(*(_rounded(value) for value in (float(np.median(ordered)), *ends)))


def _rounded(value: float) -> float:
    """Four significant digits: no clock tells more."""
    return float(f"{value:.4g}")


def _time(what: str, size: int, of: Callable[[Subject], float]) -> Measure:
    return Measure(
        unit="ms",
        better="lower",
        definition=f"{what} to answer a batch of {size}, normalisation included, on the processor and with the threads "
        "of the scorecard's environment",
        of=of,
    )


P50 = _time("median time", 1, partial(_milliseconds, 50, 1))
P95 = _time("95th percentile of the time", 1, partial(_milliseconds, 95, 1))
P50_BATCH_64 = _time("median time", _LARGE, partial(_milliseconds, 50, _LARGE))
P95_BATCH_64 = _time("95th percentile of the time", _LARGE, partial(_milliseconds, 95, _LARGE))
THROUGHPUT = Measure(
    unit="samples/s",
    better="higher",
    definition=f"samples a second in batches of {_LARGE}, at the median time of a batch",
    of=_throughput,
)
SLOWDOWN = Measure(
    unit="times",
    better="lower",
    definition="median ratio of the time for one sample to the reference's, whose calls alternate with the target's in "
    "the same run; its interval comes from the order of the ratios",
    of=_slowdown,
)
