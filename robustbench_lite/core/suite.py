"""What is asked: a suite of attacks under threat models. Read from TOML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from robustbench_lite.core.cost import Budget
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.core.toml import NamedFile, build_fault, checked, read_toml

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


class Suite(NamedFile):
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


def once_each(threats: tuple[ThreatModel, ...]) -> tuple[ThreatModel, ...]:
    """Leave out threat models that differ in nothing but how eps is written."""
    return tuple({(one.norm, one.eps, one.goal, one.target_class): one for one in threats}.values())


def adversary(threat: ThreatModel) -> tuple[str, str, str]:
    """What two threat models that differ in nothing but eps have in common: norm, goal, and the class it wants.

    A witness under one of them is a witness under every other of larger eps.
    """
    return threat.norm, threat.goal, threat.target_class if threat.goal == "targeted" else ""


def load_suite(suite: str | Path | Suite | Mapping[str, Any] | Sequence[str]) -> Suite:
    """Load a suite: a built-in or own one by name, a TOML file by path, a dict, or a list of attacks.

    A dict holds what such a file does; its `threats` may be left out.

    Raises
    ------
    ValueError
        With every fault of the file, each with its key.
    """
    if isinstance(suite, Suite):
        return suite
    if not isinstance(suite, str | Path):
        given = suite if isinstance(suite, Mapping) else {"attacks": list(suite)}
        raw: dict[str, Any] = {"name": "custom", "threats": ["Linf 8/255"], **given}
        return checked(Suite, raw, "suite", _attack_faults(raw))
    raw, where = read_toml("suites", suite)
    return checked(Suite, raw, where, _attack_faults(raw))


def _attack_faults(raw: dict[str, Any]) -> list[str]:
    found = []
    attacks = raw.get("attacks")
    for position, spec in enumerate(attacks if isinstance(attacks, list) else []):
        spec = {"attack": spec} if isinstance(spec, str) else spec
        if isinstance(spec, dict):
            found += build_fault("attacks", f"attacks.{position}", spec.get("attack"), spec.get("params", {}))
    return found
