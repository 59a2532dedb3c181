"""Paired tests: what two evaluations of the same samples allow one to say of their difference. On scipy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_lite.results.statistics import check_counts, clopper_pearson, crossing, fewest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NUISANCE = 0.001
"""Error, a side, that is spent on how often two classifiers differ at all; Berger and Boos's choice."""


def p_in_words(value: float) -> str:
    """A p-value as papers write it: ``p = 0.021``, ``p < 0.001``."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test of two classifiers on the same samples.

    Parameters
    ----------
    only_first, only_second
        Samples that only the first, and only the second, got right.

    Returns
    -------
    float
        The p-value; 1 where they never differ.

    References
    ----------
    McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947.
    https://doi.org/10.1007/BF02295996
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts are {only_first} and {only_second}: expected none below 0")
    from scipy.special import bdtr

    total = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), total, 0.5))) if total else 1.0


def mcnemar_loss(lost: int, gained: int) -> float:
    """Exact one-sided McNemar test that a second classifier is worse than a first on the same samples.

    Parameters
    ----------
    lost, gained
        Samples that only the first, and only the second, got right.

    Returns
    -------
    float
        How likely it is to lose at least as many of those on which they differ where nothing but chance is at work; 1
        where they never differ.

    References
    ----------
    McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947.
    https://doi.org/10.1007/BF02295996
    """
    if min(lost, gained) < 0:
        raise ValueError(f"counts are {lost} and {gained}: expected none below 0")
    from scipy.special import bdtr

    return float(bdtr(gained, lost + gained, 0.5))


def paired_interval(lost: int, gained: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the share that a second classifier loses against a first on the same samples, gains deducted.

    It holds every loss that an exact test doesn't refute. For 0 that is McNemar's, so the interval leaves 0 out exactly
    where McNemar's one-sided test sees a change. For others it is the test of ``lost - gained``; how often the two
    differ at all, which is unknown and not of interest, is taken to be the most that an interval for it allows, whose
    error is added (Berger and Boos).

    Parameters
    ----------
    lost, gained
        Samples that only the first, and only the second, got right.
    total
        Samples that both were asked.
    confidence
        Coverage that is guaranteed, in (0, 1).

    Returns
    -------
    tuple of float
        Low and high end, in [-1, 1]; ``(-1, 1)`` without samples.

    References
    ----------
    Berger and Boos, *P values maximized over a confidence set for the nuisance parameter*, 1994.
    https://doi.org/10.1080/01621459.1994.10476836
    """
    _check_pairs(lost, gained, total, confidence)
    error = (1 - confidence) / 2
    return _paired_low(lost, gained, total, error), -_paired_low(gained, lost, total, error)


def pairs_needed(lost: int, gained: int, total: int, threshold: float, confidence: float = 0.95) -> int | None:
    """Samples at which the paired interval leaves a threshold out, if the shares stay as they are.

    Parameters
    ----------
    lost, gained
        Samples that only the first, and only the second classifier got right.
    total
        Samples that both were asked so far.
    threshold
        A loss in [-1, 1].
    confidence
        Of the interval, in (0, 1).

    Returns
    -------
    int or None
        Samples altogether, but for the rounding of their counts; None where no number would do, because what was lost
        is the threshold, and without samples.
    """
    _check_pairs(lost, gained, total, confidence)
    if total == 0 or (lost - gained) / total == threshold:
        return None
    if (lost - gained) / total < threshold:  # the same question about the gain
        lost, gained, threshold = gained, lost, -threshold
    error = (1 - confidence) / 2

    def clear(samples: int) -> bool:
        first, second = round(lost * samples / total), round(gained * samples / total)
        return _at_most(threshold, first, second, samples) <= error

    return fewest(clear, total)


def visible_loss(gained: int, total: int, power: float = 0.8, confidence: float = 0.95) -> float | None:
    """Smallest loss that a one-sided exact McNemar test on so many samples sees with a given chance.

    Parameters
    ----------
    gained
        Samples that only the second classifier gets right: as many as in another run are taken to be won by chance,
        and have to be outweighed.
    total
        Samples that both are asked.
    power
        Chance to see the loss, in (0, 1).
    confidence
        Of the two-sided interval whose one side the test is: 0.95 for an error of 2.5 %.

    Returns
    -------
    float or None
        Share of the samples that is lost, gains deducted; None where not even the largest is seen.
    """
    check_counts(gained, total, confidence)
    if total == 0:
        return None
    error, won = (1 - confidence) / 2, gained / total
    most = 1 - 2 * won  # lost and gained together are no more than all
    if most <= 0 or _power(most, won, total, error) < power:
        return None
    return crossing(lambda loss: _power(loss, won, total, error) >= power, 0.0, most)


def _check_pairs(lost: int, gained: int, total: int, confidence: float) -> None:
    if min(lost, gained) < 0:
        raise ValueError(f"counts are {lost} and {gained}: expected none below 0")
    check_counts(lost + gained, total, confidence)


def _paired_low(lost: int, gained: int, total: int, error: float) -> float:
    """Low end of the paired interval: with a smaller loss, as much as was lost would be too unlikely."""
    low = crossing(lambda loss: _at_most(loss, lost, gained, total) > error, -1.0, 1.0)
    if mcnemar_loss(lost, gained) > error:
        return min(low, 0.0)
    return max(low, math.ulp(0.0))  # the smallest float above 0: McNemar's test excludes 0, so the interval must


def _at_most(loss: float, lost: int, gained: int, total: int) -> float:
    """P-value of the hypothesis that no larger share is lost, gains deducted."""
    if loss == 0:
        return mcnemar_loss(lost, gained)
    _, differ = clopper_pearson(lost + gained, total, 1 - 2 * _NUISANCE)
    if differ < abs(loss):
        return 1.0 if loss > 0 else _NUISANCE
    # The more often the two differ, the farther the difference scatters: the most that is allowed is the worst.
    chance = _loses(loss, differ, total, lambda differing: (differing + lost - gained + 1) // 2)
    return min(1.0, chance + _NUISANCE)


def _power(loss: float, won: float, total: int, error: float) -> float:
    """Chance that McNemar's test sees a loss."""
    return _loses(loss, 2 * won + loss, total, lambda differing: differing - _most_gained(differing, error))


def _most_gained(differing: NDArray[np.int64], error: float) -> NDArray[np.int64]:
    """Most samples that may be gained, of those that differ, for McNemar's test to see a loss; -1 where none may."""
    import numpy as np
    from scipy.special import bdtr, bdtrik

    # The inverse is a float, a little off, and NaN where there is none: begin one above, come down.
    inverse = np.floor(np.nan_to_num(bdtrik(error, differing, 0.5)))
    most: NDArray[np.int64] = np.minimum(inverse.astype(np.int64) + 1, differing)
    for _ in range(3):
        most -= (most >= 0) & (bdtr(most.clip(0), differing, 0.5) > error)
    return most


def _loses(loss: float, differ: float, total: int, least: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> float:
    """Chance that at least so many are lost of the samples on which two classifiers differ.

    Parameters
    ----------
    loss
        Share of all samples that is lost, gains deducted.
    differ
        Share of all samples on which the two differ, at least ``abs(loss)``.
    total
        Samples.
    least
        How many must be lost, given how many differ.
    """
    import numpy as np
    from scipy.special import bdtrc, gammaln, xlog1py, xlogy

    # Eight standard deviations to either side leave out less than 1e-14.
    middle, reach = total * differ, 8 * math.sqrt(total * differ * (1 - differ)) + 20
    count = np.arange(max(0, int(middle - reach)), min(total, int(middle + reach)) + 1)
    chance = np.exp(
        gammaln(total + 1)
        - gammaln(count + 1)
        - gammaln(total - count + 1)
        + xlogy(count, differ)
        + xlog1py(total - count, -differ)
    )
    share = min(1.0, max(0.0, (1 + loss / differ) / 2)) if differ > 0 else 0.5
    enough = least(count)
    return float(chance @ np.where(enough > count, 0.0, bdtrc((enough - 1).clip(-1, count), count, share)))
