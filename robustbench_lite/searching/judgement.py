"""The winner of a search, judged on samples that the search never saw."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.hardening.gain import Gain, weigh
from robustbench_lite.hardening.pipeline import Listeners, judge
from robustbench_lite.hardening.preparation import Plan
from robustbench_lite.model.architectures.files import FILE as ARCHITECTURE_FILE
from robustbench_lite.model.loading import load_target
from robustbench_lite.model.target import Target
from robustbench_lite.model.weights import WEIGHTS_FILE, load_weights
from robustbench_lite.model.wrapping import bare
from robustbench_lite.results.scorecard import Interval, Scorecard
from robustbench_lite.results.statistics import unpaired_interval
from robustbench_lite.searching.trials import RECIPE, Tried

FRESH_FILE, FRESH_SEARCH_FILE = "fresh.json", "fresh-search.json"
"""Scorecards of the fresh samples in a trial's folder: by the suite that judges, and by the search's."""


@dataclass(frozen=True, kw_only=True)
class Fall:
    """The winner's robust accuracy under the search's attack: where it was chosen, and on fresh samples.

    Of several numbers the best is too good (the winner's curse): so the second tells more.
    """

    validation: Interval
    fresh: Interval
    low: float
    """Ends of the 95 % interval of how much it fell."""
    high: float

    @property
    def by(self) -> float:
        """Validation less fresh, in [-1, 1]."""
        return self.validation.value - self.fresh.value


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The winner on fresh samples."""

    winner: Tried
    card: Scorecard
    """By the suite that judges, on the fresh samples."""
    fall: Fall
    gain: Gain | None
    """Against the recipe as it is, on the same samples; None where that is the winner, or failed."""
    passed_over: tuple[str, ...] = ()
    """Trials with a better validation number whose judgement can't be trusted."""

    @property
    def found_better(self) -> bool:
        """Whether the search has found settings whose robust accuracy is shown to be above the recipe's own."""
        return self.gain is not None and self.gain.word == "gained"


def judge_winner(
    plan: Plan, suite: Suite, folder: Path, trials: Sequence[Tried], listeners: Listeners
) -> Judged | None:
    """Evaluate the best trial and the recipe as it is on the plan's test samples.

    Parameters
    ----------
    plan
        Its test samples are those that no trial has seen, and its suite the one that judges.
    suite
        The search's.
    folder
        Of the search.
    trials
        Of the search, the best first.

    Returns
    -------
    Judged or None
        None where no trial can win. One whose judgement is INVALID doesn't; the next is judged in its place.

    Raises
    ------
    UserError
        Where the folder of the winner isn't here.
    """
    passed_over = []
    for one in trials:
        if not one.can_win:
            continue
        card = _fresh(plan, folder / one.name, FRESH_FILE, listeners)
        if card.verdict == "INVALID":
            passed_over.append(one.name)
            continue
        fall = _fall(one, plan, suite, folder, listeners, card)
        gain = None if one.name == RECIPE else _against_recipe(plan, folder, trials, card, listeners)
        return Judged(winner=one, card=card, fall=fall, gain=gain, passed_over=tuple(passed_over))
    return None


def _fall(one: Tried, plan: Plan, suite: Suite, folder: Path, listeners: Listeners, card: Scorecard) -> Fall:
    if suite != plan.suite:
        card = _fresh(dataclasses.replace(plan, suite=suite), folder / one.name, FRESH_SEARCH_FILE, listeners)
    assert one.robust is not None  # of those that can win
    was, is_ = one.robust, card.robust_accuracy
    low, high = unpaired_interval((was.count, was.total), (is_.count, is_.total))
    return Fall(validation=was, fresh=is_, low=low, high=high)


def _against_recipe(
    plan: Plan, folder: Path, trials: Sequence[Tried], card: Scorecard, listeners: Listeners
) -> Gain | None:
    if not any(one.name == RECIPE and one.state == "done" for one in trials):
        return None
    return weigh(_fresh(plan, folder / RECIPE, FRESH_FILE, listeners), card)


def _fresh(plan: Plan, folder: Path, file: str, listeners: Listeners) -> Scorecard:
    """Evaluate a trial's model on the test samples, or read what came of it."""
    if (folder / file).is_file():
        return Scorecard.load(folder / file)
    if not folder.is_dir():
        raise UserError(
            f"{folder.name} is the best trial, and was run elsewhere: {folder} isn't there; copy it from the machine "
            "that ran it, and give the same command again"
        )
    target = _hardened(plan.target, folder)
    card = judge(plan, target, listeners)
    card.save(folder / file)
    return card


def _hardened(start: Target, folder: Path) -> Target:
    """The model in a trial's folder."""
    if bare(start).spec is not None or (folder / ARCHITECTURE_FILE).is_file():
        return load_target(str(folder), device=str(start.device))
    target = copy.deepcopy(start)  # it was made by no name, so the folder knows the weights alone
    load_weights(target.module, folder / WEIGHTS_FILE)
    target.module.eval()
    target.name = folder.name
    return target
