"""Which epoch's weights are kept, and what is wrong with how a training goes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robustbench_lite.core.names import plural
from robustbench_lite.hardening.checkpoint import Epoch
from robustbench_lite.results.statistics import clopper_pearson

_CLEARLY = 3.0  # standard errors
_NEAR_ZERO = 0.25  # of what a single step leaves, and of the best epoch


def better(new: Epoch, kept: Epoch, best: float, samples: int) -> bool:
    """Whether an epoch is to be kept in the place of another.

    Robust accuracies within a standard error of the best can't be told apart on so few samples. Among those epochs the
    sum of clean and robust accuracy decides, and among equals the later one.

    Parameters
    ----------
    new, kept
        The epoch that has just ended, and the one that is kept so far.
    best
        Best robust accuracy of any epoch so far, the new one's included.
    samples
        Number of held-out samples on which the accuracies were measured.
    """
    least = best - _standard_error(best, samples)
    if new.robust < least:
        return False
    return kept.robust < least or new.clean + new.robust >= kept.clean + kept.robust


def why_kept(kept: Epoch, epochs: Sequence[Epoch], samples: int) -> str:
    """Say why an epoch was kept among those of its stage, with the numbers that decided."""
    best = max(epochs, key=lambda one: (one.robust, one.epoch))
    asked = plural(samples, "held-out sample")
    if kept.robust == best.robust:
        return f"the best robust accuracy of {asked}, {kept.robust:.1%} (clean {kept.clean:.1%})"
    return (
        f"on {asked} its robust accuracy, {kept.robust:.1%}, can't be told from the best, "
        f"{best.robust:.1%} in epoch {best.epoch}, and its clean accuracy is {kept.clean:.1%} against {best.clean:.1%}"
    )


def collapsed(new: Epoch, best: float, samples: int) -> bool:
    """Whether the training has overfitted to one-step attacks: it withstands one step, and several hardly ever.

    Both must be clear on so few samples: that robust accuracy fell from the best so far, and that it is below what a
    single step leaves (Wong et al. 2020, https://arxiv.org/abs/2001.03994).
    """
    fallen = new.robust <= _NEAR_ZERO * best and _clearly_above(best, new.robust, samples)
    return fallen and one_step_alone(new, samples)


def one_step_alone(epoch: Epoch, samples: int) -> bool:
    """Whether a single step is withstood, and several hardly ever. Early in a training that may pass."""
    if epoch.one_step is None or epoch.robust > _NEAR_ZERO * epoch.one_step:
        return False
    return _clearly_above(epoch.one_step, epoch.robust, samples)


def at_chance(epoch: Epoch, most_common: int, samples: int) -> bool:
    """Whether the clean accuracy isn't above that of always answering the most common class, of which there are so
    many.
    """  # noqa: D205
    return clopper_pearson(round(epoch.clean * samples), samples)[0] <= most_common / samples


def tells(most_common: int, samples: int) -> bool:
    """Whether so many samples could tell a model that is right from one that always gives the same answer."""
    return clopper_pearson(samples, samples)[0] > most_common / samples


def _standard_error(share: float, samples: int) -> float:
    return math.sqrt(share * (1 - share) / samples)


def _clearly_above(high: float, low: float, samples: int) -> bool:
    return high - low > _CLEARLY * math.hypot(_standard_error(high, samples), _standard_error(low, samples))
