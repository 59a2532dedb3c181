"""The settings of a recipe by their dotted names: which there are, and the recipe with other values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError, faults, unknown
from robustbench_lite.hardening.recipe import Recipe, RecipeStep, trains
from robustbench_lite.hardening.schedule import Schedule

DEFENSE = "defense"
"""Exchanges the defense of a recipe of one step. The parameters that the other one has as well stay; those that it
doesn't have are left out."""


def known_settings(recipe: Recipe) -> list[str]:
    """Every setting of a recipe: of its steps, counted from 1, and of its schedules."""
    return list(_settings(recipe))


def _settings(recipe: Recipe) -> Iterator[str]:
    schedule = list(Schedule.model_fields)
    if not recipe.steps:
        yield DEFENSE
        yield from (f"params.{name}" for name in parameters_of(recipe.defense))
    for number, step in enumerate(recipe.steps, 1):
        yield from (f"steps.{number}.{name}" for name in parameters_of(step.name))
        if trains(step.name):
            yield from (f"steps.{number}.schedule.{name}" for name in schedule)
    if not recipe.steps or any(step.schedule is None and trains(step.name) for step in recipe.steps):
        yield from (f"schedule.{name}" for name in schedule)


def unknown_setting(key: str, known: Iterable[str]) -> str:
    """Say that there is no such setting, and which was meant; all of them would be too many."""
    near = [one for one in known if one.rpartition(".")[2] == key.rpartition(".")[2]]
    if near:
        return f"unknown setting {key!r}: did you mean {' or '.join(near[:3])}?"
    return unknown("setting", key, known)


def with_settings(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some settings.

    Parameters
    ----------
    values
        By setting, each one of `known_settings`.

    Raises
    ------
    UserError
        For a value that the schedule refuses. Those of steps are checked where the steps are made.
    """
    given: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        head, _, name = key.rpartition(".")
        given.setdefault(head, {})[name] = value
    schedule = _rescheduled(recipe.schedule, given.get("schedule", {}))
    steps = []
    for number, step in enumerate(recipe.steps, 1):
        own: Schedule | None = step.schedule
        if changes := given.get(f"steps.{number}.schedule"):
            own = _rescheduled(own or schedule, changes)
        params = step.params | given.get(f"steps.{number}", {})
        steps.append(RecipeStep(name=step.name, params=params, schedule=own, scorecard=step.scorecard))
    params, defense = recipe.params | given.get("params", {}), recipe.defense
    if (other := given.get("", {}).get(DEFENSE)) is not None:
        if not isinstance(other, str) or not trains(other):
            raise UserError(f"defense is {other!r}: expected the name of one that trains, such as trades")
        known = parameters_of(other)
        params, defense = {name: value for name, value in params.items() if name in known}, other
    return recipe.model_copy(update={"schedule": schedule, "steps": tuple(steps), "params": params, "defense": defense})


def fault_of(recipe: Recipe, key: str, value: Any) -> str | None:
    """Say why a setting can't have a value; None where it can."""
    try:
        changed = with_settings(recipe, {key: value})
        for step in changed.chain:
            registry.build("defenses", step.name, step.params)
    except UserError as fault:
        return str(fault)
    return None


def _rescheduled(schedule: Schedule, changes: Mapping[str, Any]) -> Schedule:
    try:
        return Schedule.model_validate(schedule.model_dump() | dict(changes))
    except ValidationError as error:
        raise UserError("; ".join(line.strip() for line in faults(error).splitlines())) from None


def parameters_of(defense: str) -> list[str]:
    """Names of a step's parameters."""
    step = registry.find("defenses", defense)
    return [field.name for field in dataclasses.fields(step) if field.init] if dataclasses.is_dataclass(step) else []
