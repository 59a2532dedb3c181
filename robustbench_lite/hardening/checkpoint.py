"""What a training leaves on disk: a checkpoint from which a killed run goes on, and the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import atomic_file, write_atomically

CHECKPOINT_FILE = "checkpoint.pt"
LOG_FILE = "log.jsonl"

Weights = dict[str, Any]
"""A state dict."""


class Epoch(NamedTuple):
    """A line of the log."""

    step: str
    """Name of the recipe's step."""
    stage: str
    """Which of the step's networks was trained."""
    epoch: int
    """Counted from 1."""
    loss: float
    """Mean over the epoch's samples."""
    lr: float
    """Learning rate at the epoch's last batch."""
    clean: float
    """Accuracy on the held-out samples."""
    robust: float
    """Share of the held-out samples that are right and withstand a short attack."""
    one_step: float | None
    """Share of them that are right and withstand a single step; None where the defense uses no ball."""
    seconds: float
    note: str = ""
    """What is wrong with how the training goes."""
    passes: int = 0
    """Samples that went forward and backward to learn; not those that were measured."""
    kept: int = 0
    """The epoch whose weights would be handed on if the training ended here; 0 in a log of before it was told."""


class Kept(NamedTuple):
    """The epoch whose weights a stage hands on."""

    stage: str
    epoch: int
    epochs: int
    """How many were done."""
    why: str


def check_settings(path: Path, was: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on with a run under other settings.

    Parameters
    ----------
    path
        Where its settings are kept.
    was, now
        The settings by name.

    Raises
    ------
    UserError
        With each one that differs.
    """
    pairs = {name: (was.get(name, "not given"), now.get(name, "not given")) for name in sorted(was.keys() | now.keys())}
    if differ := [f"  {name}: was {a}, is {b}" for name, (a, b) in pairs.items() if a != b]:
        told = f"{path}: belongs to a run with other settings; resume it with its own, or start another"
        raise UserError("\n".join([told, *differ]))


@dataclass
class StageState:
    """Where the training of one network stands."""

    epoch: int = 0
    """Epochs done."""
    weights: Weights = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    average: Weights = field(default_factory=dict)
    """Running mean of the weights, where the schedule asks for one."""
    updates: int = 0
    """How often it was updated."""
    kept: Weights = field(default_factory=dict)
    """Weights of the best epoch so far."""
    kept_epoch: int = 0
    ended: str = ""
    """Why the training ended before its last epoch; empty where it didn't."""


@dataclass(frozen=True)
class FinishedStage:
    """A network whose training has ended."""

    weights: Weights
    kept: Kept
    notes: tuple[str, ...] = ()
    """What went wrong."""


@dataclass
class Checkpoint:
    """Where a run stands: the networks that are done, the one under way, the log. Without a folder, in memory alone."""

    folder: Path | None = None
    fingerprint: dict[str, str] = field(default_factory=dict)
    """What a resumed run must have in common with the one that wrote the checkpoint, by name."""
    done: dict[str, FinishedStage] = field(default_factory=dict)
    """The networks whose training has ended, by ``step/stage``."""
    log: list[Epoch] = field(default_factory=list)
    state: StageState = field(default_factory=StageState)
    """The network under way."""
    on_epoch: Callable[[Epoch], None] | None = None
    """Told each new line of the log."""

    @classmethod
    def open(
        cls, folder: Path | None, fingerprint: Mapping[str, str] | None = None, *, resume: bool = False
    ) -> Checkpoint:
        """Read the checkpoint of a folder where one is to be resumed, or begin a new one.

        Raises
        ------
        UserError
            For a checkpoint that can't be read, and for one of a run with another fingerprint.
        """
        wanted = dict(fingerprint or {})
        if folder is None or not resume or not (folder / CHECKPOINT_FILE).is_file():
            return cls(folder, wanted)
        path = folder / CHECKPOINT_FILE
        try:
            stored = torch.load(path, weights_only=True, map_location="cpu")  # nothing in the file is executed
            found = cls(
                folder,
                stored["fingerprint"],
                {
                    key: FinishedStage(one["weights"], Kept(**one["kept"]), tuple(one["notes"]))
                    for key, one in stored["done"].items()
                },
                [Epoch(**line) for line in stored["log"]],
                StageState(**stored["state"]),
            )
        except Exception as fault:  # a damaged pickle can raise nearly anything
            raise UserError(f"{path}: can't be read as a checkpoint ({fault}); start again in another folder") from None
        check_settings(path, found.fingerprint, wanted)
        return found

    def note(self, line: Epoch) -> None:
        """Add a line to the log."""
        self.log.append(line)
        if self.on_epoch is not None:
            self.on_epoch(line)

    def save(self) -> None:
        """Write log and checkpoint."""
        if self.folder is None:
            return
        lines = [line._asdict() for line in self.log]
        write_atomically(self.folder / LOG_FILE, "".join(json.dumps(line) + "\n" for line in lines))
        done = {key: vars(one) | {"kept": one.kept._asdict()} for key, one in self.done.items()}
        stored = {"fingerprint": self.fingerprint, "done": done, "log": lines, "state": vars(self.state)}
        store(stored, self.folder / CHECKPOINT_FILE)

    def close(self, key: str, kept: Kept, notes: tuple[str, ...]) -> None:
        """End the training of the network under way, and be ready for the next."""
        self.done[key] = FinishedStage(self.state.kept, kept, notes)
        self.state = StageState()


def store(stored: Mapping[Any, Any], path: Path) -> None:
    """Write what `torch.load` reads, through `atomic_file`; what stops it is raised as it is, an interrupt say."""
    with atomic_file(path) as stream:
        try:
            torch.save(stored, stream)
        except RuntimeError as fault:  # torch closes its archive all the same, and that fails
            if fault.__context__ is None:
                raise
            raise fault.__context__ from None
