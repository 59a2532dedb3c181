"""What was evaluated, on which data, on what machine."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from robustbench_lite.core.threat import Access
from robustbench_lite.results.scorecard.values import Frozen


class TargetInfo(Frozen):
    """The model under test."""

    name: str
    weights_sha256: str
    """Hash of the state dict: names, shapes and values. Of a function, of what it holds; empty where that can't be
    read."""
    parameters: int
    """Number of parameters; 0 of a function."""
    device: str
    access: Access = "gradients"
    """What was seen of it: ``scores`` or ``labels`` of a function, gradients as well of a module."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The default is left out, so that a card of an older version is saved unchanged.
        return {key: value for key, value in write(self).items() if (key, value) != ("access", "gradients")}


NO_ANSWER = "no answer"
"""Name of what a model may say in the place of a class."""


class DataInfo(Frozen):
    """The samples it was tested on."""

    name: str
    samples: int
    planned: int | None = None
    """Samples there were, of an evaluation that was to end as soon as its gates are settled; None of any other."""
    limit: int | None = None
    """Size of the class-stratified sample that was asked for; None where all were."""
    shape: tuple[int, ...]
    """Shape of one sample, (channels, height, width) for images."""
    classes: tuple[str, ...]
    """Names of the classes, by label; `NO_ANSWER` comes last where the model may say that."""
    sha256: str
    """Hash over the samples' keys and labels, whatever their order."""

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return sum(name != NO_ANSWER for name in self.classes)


class Environment(Frozen):
    """What it ran on, so that the run can be repeated."""

    python: str
    platform: str
    processor: str
    threads: int
    workers: int = 1
    """Processes that attacked a part of the samples each; 1: all were attacked in one."""
    processors: dict[str, int] = Field(default_factory=dict)
    """Where there were several workers: how many samples each kind of processor had to attack, on whatever machine."""
    packages: dict[str, str]
    """Versions of what the result depends on."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        alone = {"workers": 1, "processors": {}}
        return {key: value for key, value in write(self).items() if key not in alone or value != alone[key]}
