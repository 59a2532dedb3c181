"""What no evaluation can have written: a card whose numbers contradict one another is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator

from robustbench_lite.results.scorecard.contents import Contents
from robustbench_lite.results.scorecard.values import Interval
from robustbench_lite.results.scorecard.verdict import verdict_of


def impossible(card: Contents) -> Iterator[str]:
    """Tell what is of the right type and yet from no evaluation: shares out of [0, 1], distances below 0."""
    shares: dict[str, Interval | None] = {
        "clean_accuracy": card.clean_accuracy,
        "robust_accuracy": card.robust_accuracy,
        **{f"threats.{place}.robust_accuracy": one.robust_accuracy for place, one in enumerate(card.threats)},
        **{f"attacks.{place}.robust_accuracy": one.robust_accuracy for place, one in enumerate(card.attacks)},
        **{f"attacks.{place}.alone": one.alone for place, one in enumerate(card.attacks)},
    }
    for key, one in shares.items():
        if one is not None and not all(0 <= share <= 1 for share in (one.value, one.low, one.high, one.confidence)):
            yield f"  {key}: is {one.value} [{one.low}, {one.high}]: expected shares from 0 to 1"
        if one is not None and not 0 <= one.count <= one.total:
            yield f"  {key}: counts {one.count} of {one.total} samples"
        elif one is not None and not (
            math.isclose(one.value, one.count / max(one.total, 1), abs_tol=1e-9) and one.low <= one.value <= one.high
        ):
            yield f"  {key}: is {one.value} [{one.low}, {one.high}], and counts {one.count} of {one.total} samples"
    yield from _contradictory(card)
    for place, row in enumerate(card.outcomes):
        if any(one.distance < 0 for one in row.breaks) or any(one.distance < 0 for one in row.nearest):
            yield f"  outcomes.{place}: a distance is below 0"


def _contradictory(card: Contents) -> Iterator[str]:
    """Tell where a card's rows and findings say something else than its sums and its verdict."""
    rows = {
        "clean_accuracy": sum(row.correct for row in card.outcomes),
        "robust_accuracy": sum(row.robust for row in card.outcomes),
    }
    for key, counted in rows.items():
        told: Interval = getattr(card, key)
        if (told.count, told.total) != (counted, len(card.outcomes)):
            yield f"  {key}: counts {told.count} of {told.total} samples, its rows {counted} of {len(card.outcomes)}"
    expected = verdict_of(card.validity, card.gates)
    before = card.version == "0.1.0" and expected in ("MEASURED", "UNDECIDED")  # which 0.1 called PASS
    if card.verdict != expected and not (before and card.verdict == "PASS"):
        yield f"  verdict: is {card.verdict}: expected {expected} by the findings and the gates"
