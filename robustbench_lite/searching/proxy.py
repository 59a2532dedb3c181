"""Cheap runs in the place of full ones: few epochs, few samples, a short attack, one-step training.

A trial by the proxy tells which settings deserve a full run. Whether it does is measured on the finalists, which are
run both ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.preparation import Changes, Sampling
from robustbench_lite.hardening.recipe import Recipe, RecipeStep, trains
from robustbench_lite.results.search import ProxyResult
from robustbench_lite.results.statistics import spearman
from robustbench_lite.searching.settings import known_settings, parameters_of


class Proxy(BaseModel):
    """What is cheaper in a trial, and how many of the best are then run in full."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: int | None = Field(default=None, ge=1)
    """Of every step that trains; by default the recipe's."""
    limit_train: int | None = Field(default=None, ge=2)
    """Samples to learn from; by default as many as in full."""
    limit: int | None = Field(default=None, ge=1)
    """Validation samples; by default as many as in full."""
    suite: str | None = None
    """Attacks them; by default as in full."""
    defense: str | None = None
    """Trains in the place of each step that trains, such as ``fgsm_rs``, with the parameters that both have."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of that defense."""
    finalists: int = Field(default=5, ge=1)
    """Best trials that are run in full."""

    def recipe(self, full: Recipe) -> Recipe:
        """The recipe with the cheaper defense."""
        if self.defense is None:
            return full
        if not full.steps:
            name, params = self._swapped(full.defense, full.params)
            return full.model_copy(update={"defense": name, "params": params})
        steps = []
        for step in full.steps:
            name, params = self._swapped(step.name, step.params)
            steps.append(RecipeStep(name=name, params=params, schedule=step.schedule, scorecard=step.scorecard))
        return full.model_copy(update={"steps": tuple(steps)})

    def _swapped(self, name: str, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if self.defense is None or not trains(name):
            return name, params
        known = parameters_of(self.defense)
        return self.defense, {key: value for key, value in params.items() if key in known} | self.params

    def changes(self, full: Changes) -> Changes:
        """Epochs and suite of a trial."""
        return dataclasses.replace(full, epochs=self.epochs or full.epochs, suite=self.suite or full.suite)

    def sampling(self, full: Sampling) -> Sampling:
        """Sizes of the samples of a trial."""
        return dataclasses.replace(
            full, limit=self.limit or full.limit, limit_train=self.limit_train or full.limit_train
        )

    def words(self) -> str:
        """What is cheaper, in words."""
        told = [
            self.epochs and f"{self.epochs} epochs",
            self.limit_train and f"{self.limit_train} samples to learn from",
            self.limit and f"{self.limit} validation samples",
            self.suite and f"the suite {self.suite}",
            self.defense and f"training by {self.defense}",
        ]
        return ", ".join(one for one in told if one) or "nothing"

    def check(self, recipe: Recipe, keys: Iterable[str]) -> None:
        """Refuse a proxy that can't tell the settings that are searched, or is none.

        Raises
        ------
        UserError
            With every fault.
        """
        wrong = []
        if self.words() == "nothing":
            wrong.append("  gives nothing that is cheaper: expected epochs, limit_train, limit, suite or defense")
        if self.defense is not None and not trains(self.defense):
            wrong.append(f"  defense: {self.defense} doesn't train; expected one that does, such as fgsm_rs")
        elif self.params and self.defense is None:
            wrong.append("  params: are of no defense; give defense, such as fgsm_rs")
        else:
            known = {*known_settings(recipe)} - {*known_settings(self.recipe(recipe))}
            wrong += [f"  {key} is searched, and {self.defense} doesn't have it" for key in keys if key in known]
        if self.epochs is not None:
            wrong += [f"  epochs: {key} is searched" for key in keys if key.endswith("schedule.epochs")]
        if wrong:
            raise UserError("\n".join(["proxy: can't stand for the recipe", *wrong]))


def agreement(
    proxy: Proxy, pairs: Sequence[tuple[str, float, float]], passes: float, mean: float | None, trials: int
) -> ProxyResult:
    """How well the proxy told the order of the finalists.

    Parameters
    ----------
    pairs
        Each finalist: its trial, its robust accuracy by the proxy, and in full.
    passes
        What all the trials took to train.
    mean
        What a finalist took, on average; None where that isn't known.
    trials
        How many there were.
    """
    found = spearman([one for _, one, _ in pairs], [full for _, _, full in pairs])
    rho, low, high = found or (None, None, None)
    return ProxyResult(
        told=proxy.words(),
        pairs=tuple(pairs),
        correlation=rho,
        low=low,
        high=high,
        passes=passes,
        passes_in_full=None if mean is None else mean * trials,
    )
