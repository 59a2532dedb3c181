"""Intervals and paired tests: what the counts of an evaluation allow one to say. On scipy."""

from __future__ import annotations


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
    if not 0 <= count <= total:
        raise ValueError(f"count {count} of total {total}: expected 0 <= count <= total")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: expected a number between 0 and 1, such as 0.95")
    from scipy.special import betaincinv  # scipy.stats costs 0.7 s to import and adds nothing here

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high


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
