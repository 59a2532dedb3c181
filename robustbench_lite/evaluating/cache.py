"""Evaluations by content: an unchanged question costs a look-up, and one that was killed goes on where it stopped.

A question is the model (weights, architecture, code), the data, the suite, the seed and the versions. Each has a
folder, the name of which is their hash; it holds journals while the evaluation runs and the scorecard once it is done.
A lock keeps two processes from answering the same question at once: the second one waits, and finds the answer. Locks
stand beside the folders, not in them, so that a folder can be deleted while its lock is held.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_lite.attacking.journal import Journal
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import write_atomically
from robustbench_lite.model.fingerprint import code_sha256 as code_sha256
from robustbench_lite.results.scorecard import Scorecard

_CORPUS_FILE = "corpus.sha256"
CARD_FILE = "scorecard.json"
_ABOUT_FILE = "question.json"
_LOCKS = ".locks"
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Slot:
    """The folder of one question."""

    folder: Path
    with_witnesses: bool = False
    """Whether an answer without witnesses is none."""

    def card(self) -> Scorecard | None:
        """The answer, where there is one; a damaged one counts as none."""
        try:
            card = Scorecard.load(self.folder / CARD_FILE)
        except UserError:
            return None
        return None if self.with_witnesses and card.witnesses is None else card

    def journal(self, attack: str, threat: str) -> Journal:
        """What became of the samples under one attack so far."""
        mark = hashlib.sha256(f"{attack}|{threat}".encode()).hexdigest()[:8]
        return Journal(self.folder / f"{re.sub('[^a-z0-9]+', '-', attack.lower())[:64]}-{mark}.jsonl")

    def corpus_then(self) -> str:
        """Digest of the corpus when the answer was kept; empty without one."""
        path = self.folder / _CORPUS_FILE
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def close(self, card: Scorecard, corpus: str = "") -> None:
        """Keep the answer and drop the journals; where it is not whole, keep the journals to go on from instead."""
        if card.interrupted is None and all(result.fault is None for result in card.attacks):
            write_atomically(self.folder / _CORPUS_FILE, corpus)
            card.save(self.folder / CARD_FILE)
            for part in (*self.folder.glob("*.jsonl"), *self.folder.glob("clean.npz"), *self.folder.glob("checks.npz")):
                part.unlink()


@contextmanager
def slot(folder: str | Path, question: dict[str, Any]) -> Iterator[Slot]:
    """Open the slot of a question, alone: another process that asks the same waits.

    Raises
    ------
    ValueError
        For a folder that can't be written.
    """
    text = json.dumps(question, indent=1, sort_keys=True)
    here = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:32]
    try:
        _make(Path(folder))
        lock = _lock(here)
        lock.acquire()
    except OSError as fault:
        raise UserError(_unwritable(folder, fault)) from None
    try:
        try:
            here.mkdir(exist_ok=True)
            write_atomically(here / _ABOUT_FILE, text)
        except OSError as fault:
            raise UserError(_unwritable(folder, fault)) from None
        yield Slot(here, with_witnesses=bool(question.get("keep_witnesses")))
    finally:
        lock.release()


@dataclass(frozen=True)
class Kept:
    """One question in a cache folder."""

    name: str
    about: str
    done: bool
    """Whether it is answered; what isn't holds the journals of an evaluation that runs, or that was cut short."""
    size: int
    """Bytes."""
    age: float
    """Seconds since it was last asked or written."""


def kept(folder: str | Path, older_than: float = 0.0) -> list[Kept]:
    """What a cache folder holds, the newest first: only what was last used longer ago than this many seconds."""
    entries = Path(folder).iterdir() if Path(folder).is_dir() else ()
    found = [_kept(here) for here in entries if _NAME.fullmatch(here.name) and not here.is_symlink()]
    return sorted((one for one in found if one is not None and one.age >= older_than), key=lambda one: one.age)


def prune(folder: str | Path, older_than: float = 0.0) -> list[Kept]:
    """Delete what was last used longer ago than this many seconds; what is in use stays. Returns what is gone."""
    from filelock import Timeout

    gone = []
    for one in kept(folder, older_than):
        here = Path(folder) / one.name
        try:
            _make(Path(folder))
            with _lock(here, timeout=0):
                shutil.rmtree(here)
        except Timeout:
            continue
        except OSError as fault:
            raise UserError(f"{here} can't be deleted: {fault.strerror or fault}; see to whom it belongs") from None
        gone.append(one)
    return gone


def _kept(here: Path) -> Kept | None:
    """Read one folder; None where it is none of ours, or goes away while it is read."""
    try:
        if not (here / _ABOUT_FILE).is_file():
            return None
        stats = [path.stat() for path in here.iterdir() if path.is_file()]
        return Kept(
            name=here.name,
            about=_about(here / _ABOUT_FILE),
            done=(here / CARD_FILE).is_file(),
            size=sum(stat.st_size for stat in stats),
            age=max(0.0, time.time() - max(stat.st_mtime for stat in stats)),
        )
    except FileNotFoundError:
        return None


def _about(path: Path) -> str:
    """Say in a line what was asked."""
    try:
        question = json.loads(path.read_text(encoding="utf-8"))
        threats = " and ".join(f"{threat['norm']} {threat['eps_text']}" for threat in question["suite"]["threats"])
        text = f"{question['target']} · {question['suite']['name']}, {threats} · {question['data']}"
        return "".join(character if character.isprintable() else " " for character in text)  # names may be anything
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{path.parent.name} (damaged)"


def _make(folder: Path) -> None:
    """Make a cache folder that git ignores; one that is there already is left as it is."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".gitignore", "*\n")
    (folder / _LOCKS).mkdir(exist_ok=True)


def _lock(here: Path, timeout: float = -1) -> Any:
    from filelock import FileLock

    return FileLock(here.parent / _LOCKS / here.name, timeout=timeout)


def _unwritable(folder: str | Path, fault: OSError) -> str:
    return f"cache folder {folder} can't be written: {fault.strerror or fault}; choose another place"
