"""The space of a search: which settings of a recipe are tried, and which values each may take; read from TOML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.core.parameters import number
from robustbench_lite.core.toml import NamedFile, checked, read_toml
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.searching.architectures import ArchitectureSpace
from robustbench_lite.searching.proxy import Proxy
from robustbench_lite.searching.settings import fault_of, known_settings, unknown_setting

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

    from robustbench_lite.model.architectures.interface import Architecture
    from robustbench_lite.model.target import Target

Number = Annotated[int | float, BeforeValidator(number), Field(allow_inf_nan=False)]
"""A number, or a text such as ``2/255``."""

MODEL = "model."
"""What the names of the model's arguments begin with, among the settings of a trial."""

_SHARE = (math.sqrt(5) - 1) / 2  # of a range of whole numbers, however wide, it is never at a whole number

Value = str | int | float | bool | tuple[str, ...]
"""What a setting may be."""


class Dimension(BaseModel):
    """The values of one setting: a range, or choices."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    low: Number | None = None
    """The smallest value, itself included."""
    high: Number | None = None
    """The largest value, itself included."""
    log: bool = False
    """Whether ratios count, not differences: between 0.001 and 0.1, half of the draws are below 0.01."""
    step: Number | None = None
    """Distance of the values, from ``low`` on; by default any value, and of whole numbers each."""
    choices: tuple[Value, ...] | None = None
    """The values, in place of a range."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, given: Any) -> Any:
        if isinstance(given, list | tuple):
            return {"choices": given}
        if not isinstance(given, Mapping | Dimension):
            raise ValueError("expected a range, { low = 0.01, high = 0.1 }, or a list of choices")
        return given

    @model_validator(mode="after")
    def _holds_several(self) -> Self:
        if self.choices is not None:
            if (self.low, self.high, self.step) != (None, None, None) or self.log:
                raise ValueError("has choices and a range: give one of the two")
            if len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError("has a choice twice: take one out")
            if len(self.choices) < 2:
                raise ValueError(f"has {len(self.choices)} choices: expected two or more")
        elif self.low is None or self.high is None:
            raise ValueError("expected low and high, or choices")
        elif self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}: exchange them")
        elif self.step is not None and self.step <= 0:
            raise ValueError(f"step is {self.step:g}: expected a number above 0")
        elif self.high - self.low < (self.step or math.ulp(0.0)):
            raise ValueError(f"holds one value, {self.low:g}: give a wider range, or put the value into the recipe")
        elif self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """The choices, or the ends of the range."""
        return self.choices or (self.low, self.high)


class Space(NamedFile):
    """What is searched."""

    params: dict[str, Dimension]
    """By setting: ``params.steps``, ``schedule.lr``; of a recipe with several steps ``steps.1.eps_factor`` and
    ``steps.1.schedule.lr``, where 1 is the first."""
    model: dict[str, Dimension] = Field(default_factory=dict)
    """By keyword argument of the function that makes the model: ``width``."""

    architecture: ArchitectureSpace | None = None
    """Which networks are tried; by default MODEL alone."""

    proxy: Proxy | None = None
    """What is cheaper in a trial; by default each is run in full."""

    @model_validator(mode="after")
    def _holds_one(self) -> Self:
        if not self.params and not self.model and self.architecture is None:
            raise ValueError("params holds no setting: expected one or more, there, in model or in architecture")
        if self.model and self.architecture is not None:
            raise ValueError("has model and architecture, and both make the network: give one of the two")
        return self


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting of a certain recipe, with its values."""

    key: str
    values: Dimension
    whole: bool
    """Whether it takes whole numbers only."""

    @property
    def distribution(self) -> BaseDistribution:
        """The values in Optuna's words."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        one = self.values
        if one.choices is not None:
            return CategoricalDistribution(tuple(map(_label, one.choices)))
        low, high = self._ends()
        if self.whole:
            return IntDistribution(int(low), int(high), log=one.log, step=int(one.step or 1))
        return FloatDistribution(low, high, log=one.log, step=one.step)

    def suggest(self, trial: Trial) -> Any:
        """Have Optuna choose a value, or tell the one that it chose for this trial before."""
        one = self.values
        if one.choices is not None:
            return self.setting(trial.suggest_categorical(self.key, tuple(map(_label, one.choices))))
        low, high = self._ends()
        if self.whole:
            return trial.suggest_int(self.key, int(low), int(high), step=int(one.step or 1), log=one.log)
        return trial.suggest_float(self.key, low, high, step=one.step, log=one.log)

    def grid(self) -> list[Any] | None:
        """Every value, as Optuna names it; None where there is no end of them."""
        if self.values.choices is not None:
            return list(map(_label, self.values.choices))
        if self.values.step is None and not self.whole:
            return None
        low, high = self._ends()
        step = self.values.step or 1
        return [low + place * step for place in range(round((high - low) / step) + 1)]

    def setting(self, named: Any) -> Any:
        """The value that Optuna named."""
        if self.values.choices is None:
            return named
        return next(choice for choice in self.values.choices if _label(choice) == named)

    def _ends(self) -> tuple[Any, Any]:
        """Low and high end; the high one is a value that steps reach."""
        low: Any = self.values.low
        high: Any = self.values.high
        if self.values.step is not None:
            high = low + math.floor((high - low) / self.values.step + 1e-9) * self.values.step
        return low, high


def _label(choice: Any) -> Any:
    """A choice as Optuna can store it: a list is a text there."""
    return json.dumps(choice) if isinstance(choice, tuple) else choice


def load_space(space: str | Path | Space) -> Space:
    """Load a space from a TOML file.

    Raises
    ------
    UserError
        With every fault of the file, each with its key.
    """
    if isinstance(space, Space):
        return space
    if not str(space).endswith(".toml"):
        raise UserError(f"space {str(space)!r}: expected a TOML file, such as space.toml")
    raw, where = read_toml("spaces", space)
    if isinstance(raw.get("params"), dict):
        raw["params"] = dict(_flat(raw["params"]))
    elif isinstance(raw.get("model"), dict) or isinstance(raw.get("architecture"), dict):
        raw.setdefault("params", {})
    return checked(Space, raw, where, [])


def axes(
    space: Space, recipe: Recipe, target: Target | None = None, architecture: Architecture | None = None
) -> tuple[Axis, ...]:
    """Find the settings of a space in a recipe, and in what makes the target.

    Parameters
    ----------
    architecture
        Where architectures are searched, the one that the others are changes of.

    Raises
    ------
    UserError
        With every setting that isn't there, and every value that is refused.
    """
    known = known_settings(recipe)
    wrong, found = [], []
    for key, values in space.params.items():
        if key not in known:
            wrong.append(f"  {key}: {unknown_setting(key, known)}")
            continue
        whole = _takes_whole_numbers_only(recipe, key, values)
        wrong += [f"  {key}: {fault}" for fault in _refused(recipe, key, values, whole)]
        found.append(Axis(key=key, values=values, whole=whole))
    for name, values in space.model.items():
        wrong += [f"  {MODEL}{name}: {fault}" for fault in _refused_by_builder(target, name, values)]
        ends = (values.low, values.high, values.step or 1)
        whole = values.choices is None and all(isinstance(one, int) for one in ends)
        found.append(Axis(key=f"{MODEL}{name}", values=values, whole=whole))
    if space.architecture is not None and architecture is not None:
        wrong += [f"  {fault}" for fault in space.architecture.faults(architecture)]
        found += [
            Axis(key=f"{MODEL}{name}", values=Dimension.model_construct(choices=tuple(choices)), whole=False)
            for name, choices in space.architecture.choices_of(architecture).items()
        ]
    if wrong:
        raise UserError("\n".join([f"space {space.name!r} doesn't fit the recipe {recipe.name!r}", *wrong]))
    return tuple(found)


def of_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the function that makes the model, out of all settings of a trial."""
    return {key.removeprefix(MODEL): value for key, value in values.items() if key.startswith(MODEL)}


def of_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the recipe, out of all settings of a trial."""
    return {key: value for key, value in values.items() if not key.startswith(MODEL)}


def check_grid(found: tuple[Axis, ...], trials: int | None) -> int:
    """Count the points of a grid.

    Raises
    ------
    UserError
        For a range without end, and for more points than trials; ``trials`` is None where time is the limit.
    """
    sizes = {axis.key: axis.grid() for axis in found}
    if endless := [f"  {key}: give it a step, or choices" for key, values in sizes.items() if values is None]:
        raise UserError("\n".join(["sampler grid: a grid needs settings with a count of values", *endless]))
    points = math.prod(len(values) for values in sizes.values() if values is not None)
    if trials is not None and points > trials:
        raise UserError(
            f"sampler grid: the space has {points} points, more than {trials} trials; give --trials {points}, fewer "
            "values, or another sampler"
        )
    return points


def _flat(table: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    """Settings with their dotted names, be these quoted in the file or not: TOML makes tables of names that aren't."""
    for name, value in table.items():
        if isinstance(value, dict) and value and not any(map(_tells_values, value, value.values())):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield f"{head}{name}", value


def _tells_values(key: str, value: Any) -> bool:
    """Whether a line of a table is about one setting's values, as ``choices`` is, and not a setting by itself."""
    return key in Dimension.model_fields and not isinstance(value, dict)


def _takes_whole_numbers_only(recipe: Recipe, key: str, values: Dimension) -> bool:
    if values.low is None or values.high is None:
        return False
    between = values.low + _SHARE * (values.high - values.low)
    # Asked of the step itself; what it says of whole numbers is not a fault of the value.
    return fault_of(recipe, key, between) is not None and fault_of(recipe, key, math.ceil(values.low)) is None


def _refused_by_builder(target: Target | None, name: str, values: Dimension) -> Iterator[str]:
    """What keeps values of an argument from being tried: the model is made with each end of the range, or choice."""
    from robustbench_lite.model.building import builder_arguments, rebuilt

    if target is None:
        yield "there is no model that it is an argument of"
        return
    try:
        known = builder_arguments(target)
        if known is not None and name not in known:
            yield unknown("argument", name, known)
            return
        for value in values.ends:
            rebuilt(target, {name: value}, 0)
    except UserError as fault:
        yield str(fault)


def _refused(recipe: Recipe, key: str, values: Dimension, whole: bool) -> Iterator[str]:
    """What keeps the values from being tried."""
    if whole and any(one is not None and one != int(one) for one in (values.low, values.high, values.step)):
        yield "takes whole numbers only: give them as low, high and step"
        return
    for value in values.ends:
        if fault := fault_of(recipe, key, value):
            yield fault
