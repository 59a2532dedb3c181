"""What a search wants: robust accuracy alone, or a front of several numbers from a trial's card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.results.ranking import TRAINING_PASSES, TRAINING_SECONDS
from robustbench_lite.results.scorecard import Scorecard
from robustbench_lite.results.search import CLEAN, ROBUST

SHORT = {ROBUST: "robust_accuracy", CLEAN: "clean_accuracy", "latency": "latency_p50", "passes": TRAINING_PASSES}
"""Measures by what an objective may be called; any other is called as it is, such as ``bytes``."""

_BY_TRAINING = {TRAINING_PASSES, TRAINING_SECONDS}  # on the card of every trial without being asked for


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A number that trials are compared by."""

    name: str
    """As it was given: ``robust``, ``bytes``, ``latency``."""
    measure: str
    """Its name in the catalogue ``measures``."""
    better: Literal["higher", "lower"] = "higher"
    unit: str = "share"

    def of(self, card: Scorecard) -> float:
        """The number on a scorecard.

        Raises
        ------
        UserError
            Where the measure could not be taken.
        """
        own = {ROBUST: card.robust_accuracy, CLEAN: card.clean_accuracy}
        if self.name in own:
            return own[self.name].value
        for one in card.measures:
            if one.name == self.measure:
                return one.value
        why = next((one.message for one in card.validity if f"the measure {self.measure} " in one.message), "")
        raise UserError(f"objective {self.name}: {why or 'the scorecard has no such number'}")


ROBUST_ALONE = (Objective(name=ROBUST, measure=SHORT[ROBUST]),)
"""What a search wants by default."""


def objectives_of(text: str) -> tuple[Objective, ...]:
    """Read ``robust``, or several: ``robust,clean,bytes``.

    Raises
    ------
    UserError
        For an unknown measure, one that is there twice, and where ``robust`` is not among them.
    """
    names = [one.strip() for one in text.split(",")]
    if "" in names:
        raise UserError(f"objective {text!r}: holds an empty name: expected such as robust or robust,clean,bytes")
    if twice := [one for one in dict.fromkeys(names) if names.count(one) > 1]:
        raise UserError(f"objective {text!r}: has {twice[0]} twice: take one out")
    found = []
    for name in names:
        measure = SHORT.get(name, name)
        if measure not in registry.names("measures") and ":" not in measure:
            known = [*SHORT, *registry.names("measures")]
            raise UserError(f"objective {text!r}: {registry.unknown('measure', name, known)}")
        told = registry.find("measures", measure)
        found.append(Objective(name=name, measure=measure, better=told.better, unit=told.unit))
    if ROBUST not in names:
        raise UserError(f"objective {text!r}: robust is not among them, and the winner is chosen by it: add robust")
    return tuple(found)


def with_measures(recipe: Recipe, objectives: Sequence[Objective]) -> Recipe:
    """The recipe whose scorecards hold what the objectives need."""
    needed = [one.measure for one in objectives if one.name not in (ROBUST, CLEAN)]
    asked = dict.fromkeys((*recipe.measures, *(one for one in needed if one not in _BY_TRAINING)))
    return recipe.model_copy(update={"measures": tuple(asked)})
