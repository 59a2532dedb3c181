"""A worker process: it holds a function, is handed one part after the other, and hands back what the function returns.

`processes.ProcessExecutor` starts it. It reads from its standard input and writes to its standard output; what the
function prints goes to the standard error stream.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.errors import UserError
from robustbench_lite.workers.ledger import FileLedger

READY, DONE, RAISED = "ready", "done", "raised"


def main() -> None:
    """Run parts until there is no more to read."""
    parts = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device, not a file
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the first one tells us
    folder, place = Path(sys.argv[1]), int(sys.argv[2])
    try:
        sys.meta_path.append(_Finder(json.loads((folder / "modules").read_text(encoding="utf-8"))))
        with (folder / "function").open("rb") as stream:
            function, budget = pickle.load(stream)
        budget.ledger = FileLedger(folder / "ledger", place, budget.passes.total)
    except Exception as fault:
        _answer(answers, RAISED, UserError(f"a worker process can't read what it is to run: {_words(fault)}"), Passes())
        return
    _answer(answers, READY, None, Passes())
    for part in _read_ahead(parts):
        before = budget.passes
        try:
            kind, value = DONE, function(part)
        except BaseException as fault:
            kind, value = RAISED, fault
        spent = Passes(
            forward=budget.passes.forward - before.forward, backward=budget.passes.backward - before.backward
        )
        _answer(answers, kind, value, spent)


class _Finder(MetaPathFinder):
    """Finds what was loaded from a file under a private name, as models and attacks of a user are."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Say where a module is; None where it is none of these."""
        if (file := self._files.get(fullname)) is None:
            return None
        within = [str(Path(file).parent)] if Path(file).name == "__init__.py" else None
        return spec_from_file_location(fullname, file, submodule_search_locations=within)


def _read_ahead(stream: IO[bytes]) -> Any:
    """Parts, as they come. Where the other process is gone, this one ends at once, also in the middle of a part."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        try:
            while True:
                waiting.put(pickle.load(stream))
        except (EOFError, OSError, pickle.UnpicklingError):
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def _answer(stream: IO[bytes], kind: str, value: Any, spent: Passes) -> None:
    import cloudpickle

    try:
        answer = cloudpickle.dumps((kind, value, spent))
    except Exception as fault:  # an exception that can't be pickled, say
        said = _words(value) if isinstance(value, BaseException) else f"its result can't be sent: {_words(fault)}"
        answer = cloudpickle.dumps((RAISED, RuntimeError(said), spent))
    try:
        stream.write(answer)
        stream.flush()
    except OSError:  # nobody reads it any more
        os._exit(0)


def _words(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}"
