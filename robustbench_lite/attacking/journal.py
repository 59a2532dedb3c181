"""What became of samples, as a list of entries. An attack's result is their sum, live or read back after a kill.

An entry is written as one line of JSON, with a checksum at its end, when its samples are settled. A line that a kill
cut off, or that a disk damaged, is left out with those after it when the file is read: a run that starts again goes on
from the last settled batch.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.files import open_own, sealed_line, unsealed_line

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]
_BY_SAMPLE = {
    "rows": np.int64,
    "restart": np.int64,
    "another_start": np.bool_,
    "broken": np.bool_,
    "denial_reasons": np.int64,
    "non_finite": np.bool_,
    "prediction": np.int64,
    "distance": np.float64,
    "forward": np.int64,
    "backward": np.int64,
    "never_rose": np.bool_,
    "late_rise": np.float64,
}
_BY_STEP = {"samples": np.int64, "loss": np.float64, "newly_broken": np.int64, "zero_gradients": np.int64}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Samples that were settled together. Arrays hold one element a sample, or one a step where it says "by step"."""

    rows: _Ints
    """Positions in the data."""
    restart: _Ints
    """Which start of the attack came to its end, from 0."""
    another_start: _Bools
    """Whether another start follows."""
    broken: _Bools
    """Whether a witness was confirmed."""
    denial_reasons: _Ints
    """Why an example was not confirmed: the reason's place in `scorecard.DENIALS`; -1 where none was denied."""
    non_finite: _Bools
    """Whether the model ever gave logits that are not finite."""
    prediction: _Ints
    """What the model says to the witness; -1 without one."""
    distance: _Floats
    """Distance of the nearest adversarial example seen; inf without one."""
    forward: _Ints
    """Passes spent in this start."""
    backward: _Ints
    never_rose: _Bools
    """Whether the margin never rose."""
    late_rise: _Floats
    """Share of its rise that came in the last fifth of the steps."""
    samples: _Ints
    """By step: samples that reached it."""
    loss: _Floats
    """By step: sum of their losses."""
    newly_broken: _Ints
    """By step: samples that were broken there for the first time."""
    zero_gradients: _Ints
    """By step: samples whose gradient was zero."""
    seconds: float
    """Wall-clock time since the last entry."""
    witnesses: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Adversarial inputs that are kept, by position."""

    def to_line(self) -> str:
        """One line of JSON."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            plain[item.name] = value.tolist() if isinstance(value, np.ndarray) else value
        plain["witnesses"] = {
            str(row): [list(x.shape), base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()]
            for row, x in self.witnesses.items()
        }
        return sealed_line(json.dumps(plain, separators=(",", ":")))

    @classmethod
    def from_line(cls, line: str) -> Entry:
        """Read what `to_line` wrote.

        Raises
        ------
        ValueError
            For a line that is damaged.
        """
        try:
            plain = json.loads(unsealed_line(line))
            arrays: dict[str, Any] = {
                name: np.array(plain[name], kind) for name, kind in (_BY_SAMPLE | _BY_STEP).items()
            }
            witnesses = {
                int(row): np.frombuffer(base64.b64decode(data), np.float32).reshape(shape).copy()
                for row, (shape, data) in plain["witnesses"].items()
            }
            seconds = float(plain["seconds"])
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as fault:
            raise ValueError(f"no entry of a journal: {type(fault).__name__}: {fault}") from None
        for names in (_BY_SAMPLE, _BY_STEP):
            shapes = {arrays[name].shape for name in names}
            if len(shapes) > 1 or len(shapes.pop()) != 1:
                raise ValueError(f"no entry of a journal: {', '.join(names)} are not of one length")
        return cls(**arrays, seconds=seconds, witnesses=witnesses)


def _entry(line: bytes) -> Entry | None:
    """Read a line; None where it is cut off or damaged."""
    try:
        return Entry.from_line(line.decode()) if line.endswith(b"\n") else None
    except ValueError:
        return None


class Journal:
    """Entries of one attack in a file.

    Parameters
    ----------
    path
        The file; a link in its place is not followed.
    others
        Files of processes that ran a part of this attack, and have ended: read, and never written.
    on_fault
        Called once, where the file can't be written any more: the run goes on, and can't be resumed from here. Without
        it the `OSError` is raised.
    """

    def __init__(
        self, path: Path, on_fault: Callable[[OSError], None] | None = None, others: Sequence[Path] = ()
    ) -> None:
        self._path, self._on_fault, self._others = path, on_fault, others
        self._closed = False

    def entries(self) -> Iterator[Entry]:
        """Entries so far; a damaged line and what follows it are cut off, so that new lines stand on whole ones."""
        for path in (self._path, *self._others):
            if not path.is_file():
                continue
            try:
                with open_own(path, "r+b" if path == self._path else "rb") as stream:
                    whole = 0
                    for line in stream:
                        if (entry := _entry(line)) is None:
                            if path == self._path:
                                stream.truncate(whole)
                            break
                        whole += len(line)
                        yield entry
            except OSError as fault:
                self._close(fault)

    def add(self, entry: Entry) -> None:
        """Append an entry; once this returns, a kill of the process doesn't lose it."""
        if self._closed:
            return
        try:
            with open_own(self._path, "ab") as stream:
                stream.write(f"{entry.to_line()}\n".encode())
        except OSError as fault:
            self._close(fault)

    def _close(self, fault: OSError) -> None:
        """Write no more: new lines must stand on whole ones."""
        if self._on_fault is None:
            raise fault
        self._closed = True
        self._on_fault(fault)
