"""Evaluations by content: an unchanged question costs a look-up, and one that was killed goes on where it stopped.

A question is the model (weights, architecture, code), the data, the suite, the seed and the versions. Each has a
folder, the name of which is their hash; it holds journals while the evaluation runs and the scorecard once it is done.
A lock keeps two processes from answering the same question at once: the second one waits, and finds the answer.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.errors import UserError
from robustbench_lite.journal import Journal
from robustbench_lite.scorecard import Scorecard

if TYPE_CHECKING:
    from torch import nn

CARD_FILE = "scorecard.json"
_ABOUT_FILE = "question.json"


@dataclass(frozen=True)
class Slot:
    """The folder of one question."""

    folder: Path

    def card(self) -> Scorecard | None:
        """The answer, where there is one; a damaged one counts as none."""
        try:
            return Scorecard.load(self.folder / CARD_FILE)
        except UserError:
            return None

    def journal(self, attack: str, threat: str) -> Journal:
        """What became of the samples under one attack so far."""
        mark = hashlib.sha256(f"{attack}|{threat}".encode()).hexdigest()[:8]
        return Journal(self.folder / f"{re.sub('[^a-z0-9]+', '-', attack.lower())}-{mark}.jsonl")

    def close(self, card: Scorecard) -> None:
        """Keep the answer and drop the journals; one that was cut short keeps its journals instead."""
        if card.interrupted is None:
            card.save(self.folder / CARD_FILE)
            for journal in self.folder.glob("*.jsonl"):
                journal.unlink()


@contextmanager
def slot(folder: str | Path, question: dict[str, Any]) -> Iterator[Slot]:
    """Open the slot of a question, alone: another process that asks the same waits."""
    from filelock import FileLock

    name = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]
    here = Path(folder) / name
    try:
        here.mkdir(parents=True, exist_ok=True)
        (Path(folder) / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as fault:
        raise UserError(f"cache folder {folder} can't be written: {fault.strerror}; choose another place") from None
    with FileLock(here / ".lock"):
        (here / _ABOUT_FILE).write_text(json.dumps(question, indent=1, sort_keys=True), encoding="utf-8")
        yield Slot(here)


def code_sha256(module: nn.Module) -> str:
    """Hash of what a state dict doesn't tell: layers, their settings, and the source of classes not of torch."""
    parts = [repr(module)]
    for name, part in module.named_modules():
        settings = {key: value for key, value in vars(part).items() if isinstance(value, bool | int | float | str)}
        settings.pop("training", None)
        parts.append(f"{name} {sorted(settings.items())}")
    for kind in sorted(
        {type(part) for part in module.modules()}, key=lambda one: f"{one.__module__}.{one.__qualname__}"
    ):
        if kind.__module__.partition(".")[0] not in ("torch", "torchvision"):
            try:
                parts.append(inspect.getsource(inspect.getmodule(kind) or kind))
            except (OSError, TypeError):  # typed in at a prompt
                parts.append(f"{kind.__module__}.{kind.__qualname__}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """One question in a cache folder."""

    name: str
    about: str
    done: bool
    size: int
    """Bytes."""
    age: float
    """Seconds since it was last written."""


def kept(folder: str | Path) -> list[Kept]:
    """What a cache folder holds, the newest first."""
    found = []
    for here in Path(folder).glob("*/"):
        if (here / _ABOUT_FILE).is_file():
            files = [path for path in here.iterdir() if path.is_file()]
            question = json.loads((here / _ABOUT_FILE).read_text(encoding="utf-8"))
            found.append(
                Kept(
                    name=here.name,
                    about=f"{question['target']} · {question['suite']['name']} · {question['data']}",
                    done=(here / CARD_FILE).is_file(),
                    size=sum(path.stat().st_size for path in files),
                    age=time.time() - max(path.stat().st_mtime for path in files),
                )
            )
    return sorted(found, key=lambda one: one.age)


def prune(folder: str | Path, older_than: float = 0.0) -> list[Kept]:
    """Delete what was last written longer ago than this many seconds; what is in use stays."""
    from filelock import FileLock, Timeout

    gone = []
    for one in kept(folder):
        here = Path(folder) / one.name
        if one.age < older_than:
            continue
        try:
            with FileLock(here / ".lock", timeout=0):
                shutil.rmtree(here)
        except Timeout:
            continue
        gone.append(one)
    return gone
