"""Answers of a server, kept as they come: a run that was cut off doesn't ask for them again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.files import open_own, sealed_line, unsealed_line


class AnswerLog:
    """Answers by the content of the input, in a file: one line of JSON for each request, with a checksum at its end.

    An answer is given back once. What the run asks twice was asked twice: a model whose answers change is still seen
    to change. Threads may share a log.

    Parameters
    ----------
    path
        The file; a link in its place is not followed.
    others
        Files of processes that ran a part of this, and have ended: read, and never written.
    on_fault
        Called once, where the file can't be written any more: the run goes on, and its answers aren't kept.
    """

    def __init__(self, path: Path, on_fault: Callable[[OSError], None], others: Sequence[Path] = ()) -> None:
        self._path, self._on_fault, self._closed = path, on_fault, False
        self._lock = threading.Lock()
        self._known: dict[str, deque[Any]] = defaultdict(deque)
        for one in (path, *others):
            self._read(one)

    def recall(self, x: NDArray[np.float32]) -> list[Any]:
        """What was answered to each input, (N, *shape): a list of K scores, or a label; None where nothing was."""
        with self._lock:
            return [waiting.popleft() if (waiting := self._known.get(_key(row))) else None for row in x]

    def add(self, x: NDArray[np.float32], answers: NDArray[Any]) -> None:
        """Keep the answers, (N, K) or (N,), to inputs, (N, *shape); once this returns, a kill doesn't lose them."""
        line = sealed_line(json.dumps({"inputs": [_key(row) for row in x], "answers": answers.tolist()}))
        with self._lock:
            if self._closed:
                return
            try:
                with open_own(self._path, "ab") as stream:
                    stream.write(f"{line}\n".encode())
            except OSError as fault:
                self._closed = True
                self._on_fault(fault)

    def _read(self, path: Path) -> None:
        """Take in the lines that are whole; one that is damaged is left out, and what it held is asked again."""
        try:
            with open_own(path, "rb") as stream:
                lines = stream.read().split(b"\n")
        except OSError:
            return
        for line in lines:
            try:
                told = json.loads(unsealed_line(line.decode()))
                pairs = list(zip(told["inputs"], told["answers"], strict=True))
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            for key, answer in pairs:
                self._known[key].append(answer)


def _key(row: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()[:32]
