"""``[tool.robustbench_lite]`` of a project's ``pyproject.toml``: what its tests attack, and what they demand.

::

    [tool.robustbench_lite]
    data = "cifar10"
    data_root = "data"
    suites = ["linf_quick", "robustness.toml"]
    threats = ["Linf 8/255"]
    limit = 500

    [tool.robustbench_lite.targets]
    resnet18 = "my.models:build"
    hardened = { model = "my.models:build", weights = "hardened.safetensors", gates = { min_robust_accuracy = 0.45 } }

    [tool.robustbench_lite.gates]
    min_clean_accuracy = 0.9
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError, in_our_words
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.faces.plugin.demands import gate_faults

NAME = "tool.robustbench_lite"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TargetEntry(_Section):
    """One target; a text alone is its ``model``."""

    model: str = Field(min_length=1)
    """``package.module:callable``, ``path/to/file.py:callable``, ``torchvision:NAME``, or a folder."""
    weights: str | None = None
    """safetensors, or a PyTorch state dict."""
    normalize: str | None = None
    """``imagenet``, ``cifar10``, ``mnist``, ``none``, or ``m1,m2,m3/s1,s2,s3``."""
    classes: int | None = Field(default=None, ge=2)
    """Number of classes, where the model must be told."""
    device: str | None = None
    """``cpu``, ``cuda``, ...; by default a GPU where there is one."""
    gates: dict[str, float] = Field(default_factory=dict)
    """Gates of this target, which replace those of the same name in the table."""


class Table(_Section):
    """The table as it is written. Paths in it are meant from the folder of the file."""

    targets: dict[str, TargetEntry] = Field(default_factory=dict)
    """By the name that the tests bear."""
    data: str | None = None
    """A source of data, as for ``--data``."""
    data_root: str | None = None
    """Where torchvision's data sets lie."""
    resize: int | str | None = None
    """Pixels of the pictures' shorter side, or ``"HxW"``."""
    crop: int | str | None = None
    """Pixels of the centre that is kept then."""
    label_map: str | dict[str, int | str] | None = None
    """Of the data's labels, which of the models' classes they are; or a file."""
    suites: tuple[str, ...] = ()
    """Names, or TOML files; each is run against each target."""
    threats: tuple[ThreatModel, ...] = ()
    """Instead of the suites' own."""
    limit: int | None = Field(default=None, ge=1)
    """Evaluate so many samples, drawn by class."""
    seed: int = Field(default=0, ge=0)
    """Of every random draw."""
    gates: dict[str, float] = Field(default_factory=dict)
    """What is demanded of every target."""
    baseline: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the baseline to compare with, where the command line names none."""
    baselines: str = ".robustbench/baselines"
    """Folder of the baselines."""
    cache: bool | str = True
    """Folder of the cache, instead of ``.robustbench/cache``; false for none."""
    corpus: bool | str = False
    """Folder of the witnesses that are replayed, or true for ``.robustbench/corpus``."""
    sequential: bool = False
    """Whether an evaluation ends as soon as its gates are settled."""
    strict: bool = False
    """Whether a gate fails where it is undecided, too."""
    adapt: bool = False
    """Whether what hides from the attacks is evaluated once more, past it."""

    @field_validator("suites", "threats", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("cache", "corpus", mode="before")
    @classmethod
    def _folder_or_not(cls, given: Any) -> Any:
        if not isinstance(given, bool | str) or given == "":
            raise ValueError(f"{given!r}: expected the name of a folder, or true or false")
        return given

    @field_validator("targets", mode="before")
    @classmethod
    def _model_alone(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: {"model": entry} if isinstance(entry, str) else entry for name, entry in given.items()}

    @field_validator("targets")
    @classmethod
    def _fit_for_a_node_id(cls, targets: dict[str, TargetEntry]) -> dict[str, TargetEntry]:
        if odd := [name for name in targets if not name.strip() or "::" in name or "[" in name]:
            raise ValueError(f"the names {odd} can't be part of a test's name: expected no '::' and no '['")
        return targets


def read_table(raw: dict[str, Any]) -> Table:
    """Check the table.

    Raises
    ------
    UserError
        With every fault, each with its key.
    """
    more = _gate_faults(raw)
    try:
        table = Table.model_validate(raw)
    except ValidationError as error:
        told = [_told(fault) for fault in error.errors() if "gates" not in fault["loc"][:-1]]
    else:
        if not more:
            return table
        told = []
    raise UserError("\n".join([f"pyproject.toml: [{NAME}] is not valid", *told, *more]))


def _gate_faults(raw: dict[str, Any]) -> list[str]:
    """Faults that only the gates themselves know: unknown names, shares out of range."""
    found = [f"  gates: {fault}" for fault in gate_faults(raw.get("gates"))]
    targets = raw.get("targets")
    for name, entry in targets.items() if isinstance(targets, dict) else ():
        if isinstance(entry, dict):
            found += [f"  targets.{name}.gates: {fault}" for fault in gate_faults(entry.get("gates"))]
    return found


def _told(fault: Any) -> str:
    place = [str(part) for part in fault["loc"]]
    message = in_our_words(fault)
    if fault["type"] == "extra_forbidden":
        model = TargetEntry if place[0] == "targets" else Table
        message = registry.unknown("key", place[-1], model.model_fields)
    return f"  {'.'.join(place)}: {message}"
