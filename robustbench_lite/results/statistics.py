"""Intervals: what the counts of an evaluation allow one to say. On scipy."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from statistics import NormalDist

_EARLY = 0.2
"""Part of the error that an evaluation which may stop early spends on looking early; its last look has the rest."""
_MOST = 10**9
"""Samples beyond which none are asked for: the share is at the threshold as far as anyone will ever know."""


def clopper_pearson(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval for a binomial share.

    Parameters
    ----------
    count, total
        Successes and trials, ``0 <= count <= total``.
    confidence
        Coverage that is guaranteed, in (0, 1).

    Returns
    -------
    tuple of float
        Low and high end, in [0, 1]; ``(0, 1)`` without trials.

    References
    ----------
    Clopper and Pearson, *The use of confidence or fiducial limits*, 1934. https://doi.org/10.1093/biomet/26.4.404
    """
    check_counts(count, total, confidence)
    from scipy.special import betaincinv  # scipy.stats costs 0.7 s to import and adds nothing here

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high


def unpaired_interval(first: tuple[int, int], second: tuple[int, int], confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the difference of two shares, the first less the second, that were seen on different samples.

    Parameters
    ----------
    first, second
        Successes and trials of each, ``0 <= count <= total``, with a total above 0.
    confidence
        Coverage that is aimed at, in (0, 1). The two exact intervals are joined by the root of their squares, as
        Newcombe does with Wilson's; exact ones are wider.

    Returns
    -------
    tuple of float
        Low and high end, in [-1, 1].

    References
    ----------
    Newcombe, *Interval estimation for the difference between independent proportions*, 1998.
    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I
    """
    one, other = first[0] / first[1], second[0] / second[1]
    (one_low, one_high), (other_low, other_high) = (clopper_pearson(*pair, confidence) for pair in (first, second))
    low = one - other - math.hypot(one - one_low, other_high - other)
    high = one - other + math.hypot(one_high - one, other - other_low)
    return max(-1.0, low), min(1.0, high)


def spearman(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float] | None:
    """Rank correlation of two numbers of the same things, with its interval.

    Parameters
    ----------
    first, second
        One each a thing, finite, in the same order. Equal ones share the mean of their ranks.
    confidence
        Coverage that is aimed at, in (0, 1), by Fisher's transformation with the variance of Bonett and Wright. Of
        fewer than four things the interval is all of [-1, 1].

    Returns
    -------
    tuple of float or None
        Correlation, low and high end, in [-1, 1]; None where one of the two is the same for all things.

    References
    ----------
    Bonett and Wright, *Sample size requirements for estimating Pearson, Kendall and Spearman correlations*, 2000.
    https://doi.org/10.1007/BF02294183
    """
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    one, other = _ranks(first), _ranks(second)
    middle = (len(first) - 1) / 2
    found = sum((a - middle) * (b - middle) for a, b in zip(one, other, strict=True))
    found /= math.sqrt(sum((a - middle) ** 2 for a in one) * sum((b - middle) ** 2 for b in other))
    found, count = max(-1.0, min(1.0, found)), len(first)
    if count < 4:
        return found, -1.0, 1.0
    spread = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((1 + found**2 / 2) / (count - 3))
    # Of the same order, or the reverse, the interval is that of the order next to it: few things are no proof.
    most = 1 - 12 / (count * (count**2 - 1))
    middle = math.atanh(max(-most, min(most, found)))
    low, high = math.tanh(middle - spread), math.tanh(middle + spread)
    return found, min(low, found), max(high, found)


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) - 1) / 2 for value in values]


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval for the median of what numbers were drawn from, by their order alone: exact for any distribution.

    Parameters
    ----------
    values
        Numbers, in any order.
    confidence
        Coverage that is guaranteed, in (0, 1).

    Returns
    -------
    tuple of float, or None
        Low and high end; None where there are too few numbers for so much confidence (below 6 at 95 %).

    References
    ----------
    Thompson, *On confidence ranges for the median and other expectation distributions for populations of unknown
    distribution form*, 1936. https://doi.org/10.1214/aoms/1177732502
    """
    from scipy.special import bdtr

    ordered, total = sorted(values), len(values)
    tail = (1 - confidence) / 2
    # How many of the numbers lie below the median is a binomial count of fair coins.
    left = [place for place in range(total // 2) if float(bdtr(place, total, 0.5)) <= tail]
    return (ordered[left[-1]], ordered[total - 1 - left[-1]]) if left else None


def samples_needed(count: int, total: int, threshold: float, confidence: float = 0.95) -> int | None:
    """Samples at which the Clopper-Pearson interval leaves a threshold out, if the share stays as it is.

    Parameters
    ----------
    count, total
        Successes and trials so far, ``0 <= count <= total``.
    threshold
        A share in [0, 1].
    confidence
        Of the interval, in (0, 1).

    Returns
    -------
    int or None
        Samples altogether, ``total`` where the interval already leaves it out; None where no number would do, because
        the share is the threshold, and without trials.
    """
    check_counts(count, total, confidence)
    from scipy.special import betainc

    if total == 0 or count / total == threshold:
        return None
    share, tail = count / total, (1 - confidence) / 2
    if share < threshold:  # the same question about the failures
        share, threshold = 1 - share, 1 - threshold

    def clear(samples: int) -> bool:
        # The low end of the interval is above the threshold; the count need not be whole for the formula to hold.
        return bool(betainc(samples * share, samples * (1 - share) + 1, threshold) < tail)

    return fewest(clear, total)


def confidence_sequence(count: int, seen: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a binomial share that holds at every number of samples at once.

    One may look after every sample and stop whenever one likes: the chance that the share is ever outside is at most
    ``1 - confidence``, half of it on each side. Each side is a mixture of likelihood ratios, uniform over the shares
    beyond the one that is tested, hence a supermartingale that exceeds ``1 / error`` at most that often (Ville).

    Parameters
    ----------
    count, seen
        Successes and trials so far, in an order that doesn't depend on how they came out.
    confidence
        Coverage that is guaranteed at all times together, in (0, 1).

    Returns
    -------
    tuple of float
        Low and high end, in [0, 1]; ``(0, 1)`` without trials.

    References
    ----------
    Robbins, *Statistical methods related to the law of the iterated logarithm*, 1970.
    https://doi.org/10.1214/aoms/1177696786

    Howard, Ramdas, McAuliffe and Sekhon, *Time-uniform, nonparametric, nonasymptotic confidence sequences*, 2021.
    https://arxiv.org/abs/1810.08240
    """
    check_counts(count, seen, confidence)
    error = (1 - confidence) / 2
    return _mixture_low(count, seen, error), 1 - _mixture_low(seen - count, seen, error)


def sequential_interval(count: int, seen: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a binomial share after some of the samples, in an evaluation that may stop after any of them.

    It is what two intervals leave, each with its part of the error, so that the share is outside at any time with a
    chance of at most ``1 - confidence``:

    - the confidence sequence, with a fifth of the error (of 5 %: 1 %);
    - the Clopper-Pearson interval of all the samples, with the rest (4 %), as wide as the samples not yet seen could
      make it: its low end if all of them fail, its high end if all succeed (curtailment).

    Once all are seen the second is the ordinary interval, a little wider for having looked early.

    Parameters
    ----------
    count, seen
        Successes and trials so far, in an order that doesn't depend on how they came out.
    total
        Samples there are, ``seen <= total``.
    confidence
        Coverage that is guaranteed at all times together, in (0, 1).

    Returns
    -------
    tuple of float
        Low and high end, in [0, 1].
    """
    if seen > total:
        raise ValueError(f"{seen} of {total} samples were seen: expected no more than there are")
    early = _EARLY * (1 - confidence)
    low, high = confidence_sequence(count, seen, 1 - early)
    last = last_look(confidence)
    worst, _ = clopper_pearson(count, total, last)
    _, best = clopper_pearson(count + total - seen, total, last)
    return max(low, worst), min(high, best)


def last_look(confidence: float = 0.95) -> float:
    """Confidence of the interval of all samples, in an evaluation that might have stopped before."""
    return 1 - (1 - _EARLY) * (1 - confidence)


def check_counts(count: int, total: int, confidence: float) -> None:
    """Check that 0 <= count <= total, and that the confidence is between 0 and 1."""
    if not 0 <= count <= total:
        raise ValueError(f"count {count} of total {total}: expected 0 <= count <= total")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: expected a number between 0 and 1, such as 0.95")


def fewest(clear: Callable[[int], bool], total: int) -> int | None:
    """Fewest samples, from ``total`` on, with which something is clear; None beyond reach."""
    most = total
    while not clear(most):
        if most > _MOST:
            return None
        most *= 2
    return bisect_left(range(most), True, lo=max(total, most // 2), key=clear)


def crossing(beyond: Callable[[float], bool], low: float, high: float) -> float:
    """Last number at which a condition that holds above some number does not yet hold, to 1e-9 of the range."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return low


def _mixture_low(count: int, seen: int, error: float) -> float:
    """Low end of the confidence sequence: shares below it have evidence of at least ``1 / error`` against them."""
    if count == 0:
        return 0.0
    from scipy.special import betaincc, betaln

    success, failure = count + 1.0, seen - count + 1.0
    normal, demanded = float(betaln(success, failure)), -math.log(error)

    def plausible(share: float) -> bool:
        # log of the mean over (share, 1) of the likelihood of each share, against that of this one
        mixture = normal + math.log(betaincc(success, failure, share)) - math.log1p(-share)
        return mixture - count * math.log(share) - (seen - count) * math.log1p(-share) < demanded

    # Up to this end the evidence falls as the share grows; from there to the share that was seen it is at most e.
    return crossing(plausible, 0.0, count / (seen + 1))
