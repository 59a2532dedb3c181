"""Evaluations by content: an unchanged question costs a look-up, and one that was killed goes on where it stopped.

A question is the model (weights, architecture, code), the data, the suite, the seed and the versions. Each has a
folder, the name of which is their hash; it holds journals while the evaluation runs and the scorecard once it is done.
A lock keeps two processes from answering the same question at once: the second one waits, and finds the answer. Locks
stand beside the folders, not in them, so that a folder can be deleted while its lock is held.

Every file has a checksum, and no link is followed: what is damaged, or is not ours, counts as not there. A disk that is
full or fails costs the cache, and never the evaluation: it is told once, and nothing is kept from then on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
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
from robustbench_lite.core.files import read_own, read_sealed, write_atomically, write_sealed
from robustbench_lite.model.answer_log import AnswerLog
from robustbench_lite.model.fingerprint import code_sha256 as code_sha256
from robustbench_lite.results.scorecard import Scorecard

_log = logging.getLogger(__name__)
CARD_FILE = "scorecard.json"
_WITNESS_FILE = "scorecard.witnesses.npz"
_ANSWER_FILE = "answer.json"
_ABOUT_FILE = "question.json"
_JOURNAL = ".jsonl"
_LOCKS = ".locks"
_NAME = re.compile(r"[0-9a-f]{32}")
_USERS_MISTAKES = (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG)  # a file where a folder is to be, and the like


class Slot:
    """The folder of one question.

    Parameters
    ----------
    folder
        Where the question's files are. None keeps nothing, and finds nothing.
    with_witnesses
        Whether only an answer with witnesses will do.
    """

    def __init__(self, folder: Path | None, with_witnesses: bool = False) -> None:
        self.folder, self._with_witnesses = folder, with_witnesses
        self._owner = os.getpid()
        self._earlier: tuple[Path, ...] = ()
        self._answers: AnswerLog | None = None

    def look_back(self) -> None:
        """Find the journals of an evaluation that was killed."""
        if self.folder is not None:
            self._earlier = tuple(sorted(self.folder.glob(f"*{_JOURNAL}")))

    def answer(self, corpus: str = "") -> Scorecard | None:
        """The scorecard that was kept, where the corpus that it replayed is still this one; a damaged one is none."""
        if self.folder is None:
            return None
        try:
            answer = json.loads(read_sealed(self.folder / _ANSWER_FILE))
            for name, digest in answer["files"].items():
                if hashlib.sha256(read_own(self.folder / name)).hexdigest() != digest:
                    return None
            if answer["corpus"] != corpus or (self._with_witnesses and _WITNESS_FILE not in answer["files"]):
                return None
            return Scorecard.load(self.folder / CARD_FILE)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def close(self, card: Scorecard, corpus: str = "") -> None:
        """Keep the answer and drop the journals; an evaluation that isn't whole leaves its journals, to go on from.

        The answer is there once its last file is, which names the others' checksums and the digest of the corpus: a
        failure before that leaves none.
        """
        whole = card.interrupted is None and all(result.fault is None for result in card.attacks)
        if self.folder is None or not whole:
            return
        names = [CARD_FILE] if card.witnesses is None else [CARD_FILE, _WITNESS_FILE]
        try:
            for name in (CARD_FILE, _WITNESS_FILE):
                if (self.folder / name).is_symlink():
                    (self.folder / name).unlink()
            card.save(self.folder / CARD_FILE)
            digests = {name: hashlib.sha256(read_own(self.folder / name)).hexdigest() for name in names}
            write_sealed(self.folder / _ANSWER_FILE, json.dumps({"corpus": corpus, "files": digests}).encode())
            for part in (*self.folder.glob(f"*{_JOURNAL}"), *self.folder.glob("*.part")):
                part.unlink()
        except OSError as fault:
            self.give_up(fault)

    def journal(self, attack: str, threat: str) -> Journal | None:
        """What became of the samples under one attack so far."""
        if self.folder is None:
            return None
        mark = hashlib.sha256(f"{attack}|{threat}".encode()).hexdigest()[:8]
        name = re.sub("[^a-z0-9]+", "-", attack.lower())[:64]
        path, others = self._files(f"{name}-{mark}")
        return Journal(path, on_fault=self.give_up, others=others)

    def answers(self) -> AnswerLog | None:
        """What a server answered so far, also of samples that are not settled; one log a process."""
        if self._answers is None and self.folder is not None:
            path, others = self._files("answers")
            self._answers = AnswerLog(path, on_fault=self.give_up, others=others)
        return self._answers

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_answers": None}

    def _files(self, name: str) -> tuple[Path, list[Path]]:
        """Where this process writes, and what earlier ones have written."""
        assert self.folder is not None
        # Processes that share an evaluation write a file each: no line of one is cut off by another.
        writer = "" if os.getpid() == self._owner else f".{os.getpid()}"
        path = self.folder / f"{name}{writer}{_JOURNAL}"
        return path, [one for one in self._earlier if one.name.startswith(name) and one != path]

    def read(self, name: str) -> bytes | None:
        """What `write` kept; None where there is nothing, or where it is damaged."""
        if self.folder is None:
            return None
        try:
            return read_sealed(self.folder / f"{name}.part")
        except (OSError, ValueError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Keep a part of the answer, until the whole is there."""
        if self.folder is not None:
            try:
                write_sealed(self.folder / f"{name}.part", content)
            except OSError as fault:
                self.give_up(fault)

    def give_up(self, fault: OSError) -> None:
        """Keep nothing any more, and tell it once."""
        if self.folder is not None:
            _log.warning("%s; the evaluation goes on without a cache", _unwritable(self.folder.parent, fault))
            self.folder = None


@contextmanager
def slot(folder: str | Path, question: dict[str, Any]) -> Iterator[Slot]:
    """Open the slot of a question, alone: another process that asks the same waits.

    Where the disk is full, or the folder may not be written, that is told, and the slot keeps nothing.

    Raises
    ------
    ValueError
        For a path that can be no folder.
    """
    text = json.dumps(question, indent=1, sort_keys=True)
    here = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:32]
    opened = Slot(here, with_witnesses=bool(question.get("keep_witnesses")))
    lock = None
    try:
        _make(Path(folder))
        lock = _lock(here)
        lock.acquire()
        here.mkdir(exist_ok=True)
        for path in (here, here / _ABOUT_FILE):
            if path.is_symlink():
                raise OSError(errno.ELOOP, f"{path.name} is a link")
        write_atomically(here / _ABOUT_FILE, text)
        opened.look_back()
    except OSError as fault:
        if fault.errno in _USERS_MISTAKES:
            if lock is not None:
                lock.release()
            raise UserError(f"{_unwritable(folder, fault)}; choose another place") from None
        opened.give_up(fault)
    try:
        yield opened
    finally:
        if lock is not None:
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
            done=(here / _ANSWER_FILE).is_file(),
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
    if (folder / _LOCKS).is_symlink():
        raise OSError(errno.ELOOP, f"{_LOCKS} is a link")


def _lock(here: Path, timeout: float = -1) -> Any:
    from filelock import FileLock

    path = here.parent / _LOCKS / here.name
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{_LOCKS}/{path.name} is a link")
    return FileLock(path, timeout=timeout)


def _unwritable(folder: str | Path, fault: OSError) -> str:
    return f"cache folder {folder} can't be written: {fault.strerror or fault}"
