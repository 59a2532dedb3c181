"""The recipe: a defense with its parameters, its schedule, and the suite that judges it; read from TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.core.toml import NamedFile, build_fault, checked, read_toml


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


class Recipe(NamedFile):
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
    return checked(Recipe, raw, where, _defense_faults(raw))


def _defense_faults(raw: dict[str, Any]) -> list[str]:
    found = build_fault("defenses", "defense", raw.get("defense"), raw.get("params", {}))
    if isinstance(raw.get("suite"), str):
        try:
            registry.find_file("suites", raw["suite"])
        except UserError as fault:
            found.append(f"  suite: {fault}")
    return found
