"""The log of a hardening as curves: accuracies on the held-out samples and the loss, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from ._charts import Curve, curve_of
from ._format import plain

Log = Sequence[Mapping[str, Any]]
"""Lines of a ``log.jsonl``, as `robustbench_lite.hardening` writes it."""

_LINES = (
    ("clean", "clean", "right when clean"),
    ("robust", "robust", "right, and standing against a short attack"),
    ("one_step", "step", "right, and standing against a single step"),
)


@dataclass(frozen=True)
class Line:
    """One accuracy over the epochs, from 0 at the bottom to 1 at the top."""

    kind: str
    label: str
    curve: Curve


class Row(NamedTuple):
    """An epoch; None stands for what the log doesn't tell, or what is no number."""

    epoch: int
    loss: float | None
    clean: float | None
    robust: float | None
    one_step: float | None
    seconds: float | None
    note: str


@dataclass(frozen=True)
class Training:
    """One network of one step."""

    name: str
    epochs: int
    lines: tuple[Line, ...]
    loss: Curve | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    kept: int | None
    """The epoch whose weights were handed on; None where the log doesn't tell."""

    @property
    def kept_at(self) -> float:
        """Where the kept epoch stands, in percent of the width."""
        return round(100 * ((self.kept or 1) - 1) / max(self.epochs - 1, 1), 2)


def trainings(log: Log) -> list[Training]:
    """What the log tells, a part for each network that was trained; nothing of a log without lines."""
    stages = groupby(log, key=lambda line: (str(line.get("step", "")), str(line.get("stage", ""))))
    return [_training(step, stage, list(lines)) for (step, stage), lines in stages]


def _training(step: str, stage: str, log: Log) -> Training:
    rows = tuple(
        Row(
            epoch=place,
            note=plain(str(line.get("note") or "")),
            **{key: _number(line.get(key)) for key in ("loss", "clean", "robust", "one_step", "seconds")},
        )
        for place, line in enumerate(log, 1)
    )
    return Training(
        name=plain(step if stage in ("", "model") else f"{step}, {stage}"),
        epochs=len(rows),
        lines=tuple(_lines(log)),
        loss=curve_of([_or_nan(line.get("loss")) for line in log]),
        rows=rows,
        notes=tuple(f"epoch {row.epoch}: {row.note}" for row in rows if row.note),
        kept=_kept(log),
    )


def _kept(log: Log) -> int | None:
    """What the last line says, counted among the lines, where it can be."""
    kept = log[-1].get("kept")
    return kept if isinstance(kept, int) and 1 <= kept <= len(log) else None


def _lines(log: Log) -> Iterator[Line]:
    for key, kind, label in _LINES:
        if curve := curve_of([_or_nan(line.get(key)) for line in log], floor=0.0, ceiling=1.0):
            yield Line(kind, label, curve)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _or_nan(value: Any) -> float:
    number = _number(value)
    return float("nan") if number is None else number
