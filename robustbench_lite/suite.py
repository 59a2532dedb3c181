"""What is asked: a suite of attacks under threat models, or a recipe that hardens. Read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from robustbench_lite import registry
from robustbench_lite.errors import UserError, faults
from robustbench_lite.threat import ThreatModel


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = ""
    """By default the file's name."""
    description: str = ""
    """What it is for, in a line."""


REPLAY = "replay"
"""The algorithm of an attack that tries what is known, and nothing else."""
EVIDENCE = "evidence"
"""What broke a survivor while it was asked about stands on the card as found by this."""


class AttackSpec(BaseModel):
    """One attack of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    attack: str
    """Name in the registry, such as ``pgd`` or ``foolbox:L2DeepFoolAttack``."""
    name: str = ""
    """What it is called in the scorecard; by default the attack's name."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the algorithm."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"attack": given}
        if not isinstance(given, dict | AttackSpec):
            raise PydanticCustomError("attack_type", "Expected the name of an attack, or a table with `attack`")
        if isinstance(given, dict) and not given.get("name") and isinstance(given.get("attack"), str):
            given = {**given, "name": given["attack"]}
        return given


class Budget(BaseModel):
    """When to stop early; the result until then is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Wall-clock time."""
    passes: int | None = Field(default=None, gt=0)
    """Forward and backward passes of all samples together."""


class Suite(_File):
    """An ordered list of attacks under one or more threat models."""

    threats: tuple[ThreatModel, ...] = Field(min_length=1)
    """Used where the caller names none."""
    attacks: tuple[AttackSpec, ...] = Field(min_length=1)
    """Run in this order."""
    independent: bool = False
    """False (a cascade): an attack starts from what those before it left. True: each sees every sample."""
    curve: bool = False
    """Whether a minimal attack goes on to the nearest adversarial example of every sample, in the ball or out of it, so
    that the scorecard can tell the robust accuracy at every eps."""
    budget: Budget = Budget()
    """Used where the caller gives none."""

    @field_validator("threats", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | ThreatModel) else given

    @field_validator("threats")
    @classmethod
    def _once(cls, threats: tuple[ThreatModel, ...]) -> tuple[ThreatModel, ...]:
        return once_each(threats)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [spec.name for spec in self.attacks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"attacks: the name {', '.join(twice)} is taken twice; give each a `name` of its own")
        if ours := sorted({EVIDENCE, REPLAY} & set(names)):
            raise ValueError(
                f"attacks: the name {', '.join(ours)} is that of what every scorecard may add; give it another `name`"
            )
        return self

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Written only where it is asked for, so that a card of before there were curves is saved as it was read.
        return {key: value for key, value in write(self).items() if key != "curve" or value}


class Schedule(BaseModel):
    """How long and how fast to train."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: int = Field(default=10, ge=1)
    """Passes over the training data."""
    batch_size: int = Field(default=128, ge=1)
    """Samples a step."""
    lr: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Peak learning rate."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with Nesterov momentum, or Adam (decoupled weight decay)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    """Pull of the weights towards zero."""
    decay: Literal["constant", "cosine", "one_cycle"] = "cosine"
    """Course of the learning rate over the training."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training data that is kept out, to measure clean and robust accuracy after each epoch."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are deployed: those of the best held-out robust accuracy, or the last."""


class Recipe(_File):
    """How to harden: a defense, its schedule, and the suite that judges it."""

    defense: str
    """Name in the registry, such as ``pgd_training``."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the defense."""
    threat: ThreatModel
    """What it is to withstand; used where the caller names none."""
    suite: str = "linf_quick"
    """Judges the model before and after."""
    schedule: Schedule = Schedule()


_AnyFile = TypeVar("_AnyFile", bound=_File)


def once_each(threats: tuple[ThreatModel, ...]) -> tuple[ThreatModel, ...]:
    """Leave out threat models that differ in nothing but how eps is written."""
    return tuple({(one.norm, one.eps, one.goal, one.target_class): one for one in threats}.values())


def adversary(threat: ThreatModel) -> tuple[str, str, str]:
    """What two threat models that differ in nothing but eps have in common: norm, goal, and the class it wants.

    A witness under one of them is a witness under every other of larger eps.
    """
    return threat.norm, threat.goal, threat.target_class if threat.goal == "targeted" else ""


def load_suite(suite: str | Path | Suite | Sequence[str]) -> Suite:
    """Load a suite: a built-in or own one by name, a TOML file by path, or a list of attacks.

    Raises
    ------
    ValueError
        With every fault of the file, each with its key.
    """
    if isinstance(suite, Suite):
        return suite
    if not isinstance(suite, str | Path):
        raw: dict[str, Any] = {"name": "custom", "threats": ["Linf 8/255"], "attacks": list(suite)}
        return _checked(Suite, raw, "suite", _attack_faults(raw))
    raw, where = _read_toml("suites", suite)
    return _checked(Suite, raw, where, _attack_faults(raw))


def load_recipe(recipe: str | Path | Recipe) -> Recipe:
    """Load a recipe: a built-in or own one by name, or a TOML file by path.

    Raises
    ------
    ValueError
        With every fault of the file, each with its key.
    """
    if isinstance(recipe, Recipe):
        return recipe
    raw, where = _read_toml("recipes", recipe)
    return _checked(Recipe, raw, where, _defense_faults(raw))


def describe(kind: str, name: str) -> str:
    """One line on a suite or a recipe, without loading what it names."""
    return str(_read_toml(kind, name)[0].get("description", ""))


def _read_toml(kind: str, name: str | Path) -> tuple[dict[str, Any], str]:
    path = registry.find_file(kind, name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:  # a number of thousands of digits, too
        raise UserError(f"{path}: can't be read as TOML: {fault}") from None
    except RecursionError:
        raise UserError(f"{path}: can't be read as TOML: it is nested too deep") from None
    raw.setdefault("name", path.stem)
    return raw, str(path)


def _checked(model: type[_AnyFile], raw: dict[str, Any], where: str, more: list[str]) -> _AnyFile:
    try:
        checked = model.model_validate(raw)
    except ValidationError as error:
        raise UserError("\n".join([f"{where}: not a valid {model.__name__.lower()}", faults(error), *more])) from None
    except ValueError as fault:  # of pydantic's own: a whole number too long to be written in an error
        raise UserError(f"{where}: not a valid {model.__name__.lower()}: {fault}") from None
    if more:
        raise UserError("\n".join([f"{where}: not a valid {model.__name__.lower()}", *more]))
    return checked


def _attack_faults(raw: dict[str, Any]) -> list[str]:
    found = []
    attacks = raw.get("attacks")
    for position, spec in enumerate(attacks if isinstance(attacks, list) else []):
        spec = {"attack": spec} if isinstance(spec, str) else spec
        if isinstance(spec, dict):
            found += _build_fault("attacks", f"attacks.{position}", spec.get("attack"), spec.get("params", {}))
    return found


def _defense_faults(raw: dict[str, Any]) -> list[str]:
    found = _build_fault("defenses", "defense", raw.get("defense"), raw.get("params", {}))
    if isinstance(raw.get("suite"), str):
        try:
            registry.find_file("suites", raw["suite"])
        except UserError as fault:
            found.append(f"  suite: {fault}")
    return found


def _build_fault(kind: str, key: str, name: Any, params: Any) -> list[str]:
    if not isinstance(name, str) or not isinstance(params, dict):
        return []  # pydantic tells
    try:
        registry.build(kind, name, params)
    except UserError as fault:
        return [f"  {key}: {fault}"]
    return []
