"""Whether hardening has helped: the scorecards before and after, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robustbench_lite.core.names import plural
from robustbench_lite.results.compare import Change, compare
from robustbench_lite.results.scorecard import Scorecard

Word = Literal["gained", "not shown", "lost"]

_LEVEL = 0.05  # of the paired tests


@dataclass(frozen=True)
class Gain:
    """The verdict on a hardening."""

    word: Word
    """``gained``: robust accuracy rose. ``lost``: it fell, or clean accuracy fell and it did not rise. ``not shown``:
    neither is more than chance could do, or the evaluation after can't be trusted."""
    why: str
    """In one sentence, with the numbers."""
    clean: Change
    robust: Change
    """Under the suite alone, as `compare` has it: what is found beside it, and counted by the card, isn't paired."""


def weigh(before: Scorecard, after: Scorecard) -> Gain:
    """Tell by paired tests, exact McNemar at 5 %, what hardening has done to the clean and the robust accuracy."""
    compared = compare(before, after)
    clean, robust = compared.clean, compared.robust
    numbers = f"robust under the suite {robust.told}; clean {clean.told}"
    word: Word = "not shown"
    if after.verdict == "INVALID":
        why = f"the evaluation afterwards can't be trusted, so its numbers show nothing: {numbers}"
    elif _clear(robust):
        word = "gained" if robust.difference > 0 else "lost"
        given_up = ", but clean accuracy was given up" if word == "gained" and _fell(clean) else ""
        why = f"robust accuracy {'rose' if word == 'gained' else 'fell'}{given_up}: {numbers}"
    elif _fell(clean):
        word = "lost"
        why = f"clean accuracy fell and robust accuracy isn't shown to have risen: {numbers}"
    else:
        why = f"robust accuracy isn't shown to have changed on {plural(compared.samples, 'sample')}: {numbers}"
    return Gain(word, why, clean, robust)


def _clear(change: Change) -> bool:
    return change.p_value < _LEVEL and change.difference != 0


def _fell(change: Change) -> bool:
    return _clear(change) and change.difference < 0
