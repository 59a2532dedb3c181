"""The recipe: the steps that harden a model, in order, and the suite that evaluates it; read from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.core.toml import NamedFile, build_fault, checked, read_toml
from robustbench_lite.hardening.schedule import Schedule as Schedule

_FEDERATED = "federated"


class RecipeStep(BaseModel):
    """One step of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Name in the catalogue, such as ``pgd_training``."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Its parameters."""
    schedule: Schedule | None = None
    """Of a step that trains; by default the recipe's."""
    scorecard: bool = False
    """Whether the model is evaluated after this step, and not only before the first and after the last."""


class Recipe(NamedFile):
    """How to harden: the steps, and the suite that evaluates the model.

    The steps are ``[[steps]]``, in order; of a single one it is enough to name its ``defense`` and its ``params``.
    """

    defense: str = ""
    """Name of the only step; empty where there are ``steps``."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the only step."""
    steps: tuple[RecipeStep, ...] = ()
    """The steps, in order, each from what the one before made of the model."""
    threat: ThreatModel
    """What it is to withstand; used where the caller names none."""
    suite: str = "linf_quick"
    """Evaluates the model before and after."""
    remember: int = Field(default=0, ge=0)
    """Samples that the model keeps of this task, to rehearse it later, and as many to be judged by; 0 keeps none."""
    measures: tuple[str, ...] = ()
    """Further numbers to put on the scorecards, by name."""
    schedule: Schedule = Schedule()
    """Of every step that trains and has none of its own."""

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if not self.defense and not self.steps:
            raise ValueError("names no step: give defense = '...', or [[steps]] with a name each")
        if self.steps and (self.defense or self.params):
            raise ValueError("has steps and a defense or params as well: put both into its [[steps]]")
        return self

    @property
    def chain(self) -> tuple[RecipeStep, ...]:
        """The steps in order, whichever way they are written, each with its schedule."""
        chain = self.steps or (RecipeStep(name=self.defense, params=self.params),)
        return tuple(step.model_copy(update={"schedule": step.schedule or self.schedule}) for step in chain)


def load_recipe(recipe: str | Path | Recipe) -> Recipe:
    """Load a recipe: a built-in or own one by name, or a TOML file by path.

    Raises
    ------
    ValueError
        With every fault of the file, each with its key.
    """
    if isinstance(recipe, Recipe):
        return recipe
    raw, where = read_toml("recipes", recipe)
    return checked(Recipe, raw, where, _step_faults(raw))


def trains(step: str) -> bool:
    """Whether a step, by its name, goes by a schedule."""
    return bool(getattr(registry.find("defenses", step), "trains", False))


def federated(recipe: Recipe, params: Mapping[str, Any]) -> Recipe:
    """The recipe with each of its steps that trains done at clients, by the step ``federated`` with these parameters.

    Raises
    ------
    UserError
        Where none of its steps trains.
    """
    steps = []
    for step in recipe.chain:
        if trains(step.name) and step.name != _FEDERATED:
            given = {**params, "defense": step.name, "params": step.params}
            step = step.model_copy(update={"name": _FEDERATED, "params": given})
        steps.append(step)
    if not any(step.name == _FEDERATED for step in steps):
        raise UserError(f"recipe {recipe.name!r}: none of its steps trains, so there is nothing to do at clients")
    return recipe.model_copy(update={"defense": "", "params": {}, "steps": tuple(steps)})


def _step_faults(raw: Mapping[str, Any]) -> list[str]:
    """What the model of the file can't see: names and parameters that the catalogue doesn't have."""
    found = build_fault("defenses", "defense", raw["defense"], raw.get("params", {})) if raw.get("defense") else []
    steps = raw.get("steps")
    for number, step in enumerate(steps if isinstance(steps, list) else ()):
        if isinstance(step, dict):
            found += build_fault("defenses", f"steps.{number}", step.get("name"), step.get("params", {}))
    measures = raw.get("measures")
    for name in measures if isinstance(measures, list) else ():
        try:
            registry.find("measures", str(name))
        except UserError as fault:
            found.append(f"  measures: {fault}")
    if isinstance(raw.get("suite"), str):
        try:
            registry.find_file("suites", raw["suite"])
        except UserError as fault:
            found.append(f"  suite: {fault}")
    return found
