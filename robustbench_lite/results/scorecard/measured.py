"""A number that a measure found, with what is needed to read it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from robustbench_lite.results.scorecard.values import Frozen

CERTIFIED = "certified_accuracy"
"""Name of the measure that is the other side of robust accuracy: what no attack can break."""


class Measured(Frozen):
    """A number with its name, unit, interval and direction."""

    name: str
    """Name of the measure in the catalogue."""
    value: float
    unit: str
    """``share`` of the samples, or any other, such as ``passes``, ``s``, ``bytes``, ``parameters``."""
    better: Literal["higher", "lower"]
    """Which way is better."""
    definition: str
    """What it is, in a sentence, with its source where it has one."""
    low: float | None = None
    """Low end of its interval; None where it has none."""
    high: float | None = None
    """High end of its interval."""
    count: int | None = None
    """Of a share, the samples counted."""
    total: int | None = None
    """Of a share, the samples looked at."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if value is not None}
