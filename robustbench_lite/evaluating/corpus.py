"""The regression corpus: witnesses that once broke a model, kept in the user's repo and replayed before any attack.

A fixed model that breaks again fails after one forward pass a sample.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import NPZ_FAULTS, atomic_file, check_unpacked, write_atomically
from robustbench_lite.core.suite import REPLAY as REPLAY
from robustbench_lite.core.threat import NORMS, Access, ThreatModel
from robustbench_lite.results.taxonomy import MadeOn

LIMIT = 64 * 2**20
"""Bytes of inputs that a corpus keeps for each norm, goal and shape of the samples, before compression."""


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class Replay(Attack):
    """Propose what broke the sample once, and nothing else: one forward pass."""

    norms: ClassVar[tuple[str, ...]] = NORMS
    access: ClassVar[Access] = "labels"
    made_on: ClassVar[MadeOn] = "unknown"
    gradients: ClassVar[bool] = False

    known: dict[int, NDArray[np.float32]] = field(repr=False)
    """Adversarial inputs by the sample's key."""

    @property
    def steps(self) -> int:
        return 0

    def init(self, problem: Problem) -> State:
        shape = problem.x.shape[1:]
        found = [self.known.get(key) for key in problem.sample_keys.tolist()]
        rows = [
            torch.from_numpy(one).to(problem.x) if one is not None and one.shape == shape else x
            for one, x in zip(found, problem.x, strict=True)
        ]
        return State(torch.stack(rows) if rows else problem.x)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        return state

    def params(self) -> dict[str, int]:
        return {"witnesses": len(self.known)}


def digest(folder: str | Path | None) -> str:
    """Hash of all that a corpus holds; empty without one."""
    if folder is None:
        return ""
    found = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.npz")):
        found.update(f"{path.name}\n".encode() + path.read_bytes())
    return found.hexdigest()


def load(folder: str | Path, threat: ThreatModel) -> dict[int, NDArray[np.float32]]:
    """Witnesses kept for a norm and a goal, of samples of every shape, by sample key; none where there is no corpus.

    Raises
    ------
    ValueError
        For a file that is damaged.
    """
    paths = sorted(Path(folder).glob(f"{_stem(threat)}-*.npz"))
    return {key: x for path in paths for key, x in _read(path).items()}


def keep(folder: str | Path, threat: ThreatModel, found: dict[int, NDArray[np.float32]]) -> int:
    """Add witnesses, one a sample (the newest), the oldest beyond `LIMIT` left out.

    Parameters
    ----------
    folder
        The corpus; made where there is none.
    threat
        Under which they were found: norm and goal part the files, and a witness serves every eps.
    found
        Adversarial inputs of one shape, in [0, 1], by the key of the sample.

    Returns
    -------
    int
        How many are kept, of samples of this shape.

    Raises
    ------
    ValueError
        For a file that is damaged, and for a folder that can't be written.
    """
    if not found:
        return 0
    from filelock import FileLock

    shape = next(iter(found.values())).shape
    path = Path(folder) / f"{_stem(threat)}-{'x'.join(map(str, shape))}.npz"
    try:
        claim(folder)
        with FileLock(Path(folder) / ".lock"):
            return _add(path, found)
    except OSError as fault:
        raise UserError(f"corpus {folder} can't be written: {fault.strerror or fault}; choose another place") from None


def _add(path: Path, found: dict[int, NDArray[np.float32]]) -> int:
    old = _read(path) if path.is_file() else {}
    if all(key in old and np.array_equal(old[key], x) for key, x in found.items()):
        return len(old)  # not written again: the file is in the user's repo
    both = [*((key, x) for key, x in old.items() if key not in found), *found.items()]
    both = both[-max(1, LIMIT // both[0][1].nbytes) :]
    with atomic_file(path) as stream:
        keys, x = np.array([key for key, _ in both], np.int64), np.stack([x for _, x in both])
        np.savez_compressed(stream, keys=keys, x=x, sha256=np.array(_checksum(keys, x)))
    return len(both)


def _read(path: Path) -> dict[int, NDArray[np.float32]]:
    try:
        check_unpacked(path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            keys, x = stored["keys"], stored["x"]
            checksum = str(stored["sha256"]) if set(stored.files) != {"keys", "x"} else None  # as of version 0.1
        if keys.dtype != np.int64 or keys.ndim != 1 or x.dtype != np.float32:
            raise ValueError(f"keys are {keys.dtype} {keys.shape}, x is {x.dtype}: expected int64 (N,) and float32")
        if "x".join(map(str, x.shape[1:])) != path.stem.rpartition("-")[2]:  # told now, and not once it is added to
            raise ValueError(f"x has shape {x.shape}: expected samples of the shape in its name")
        if checksum is not None and checksum != _checksum(keys, x):
            raise ValueError("its checksum is not that of its content")
        return dict(zip(keys.tolist(), x, strict=True))
    except NPZ_FAULTS as fault:
        raise UserError(f"{path}: can't be read as a corpus ({fault}); delete it to start a new one") from None


def _checksum(keys: NDArray[np.int64], x: NDArray[np.float32]) -> str:
    return hashlib.sha256(
        f"{keys.dtype.str} {x.dtype.str} {x.shape}".encode() + keys.tobytes() + x.tobytes()
    ).hexdigest()


def claim(folder: str | Path) -> None:
    """Make the folder, where there is none.

    Raises
    ------
    ValueError
        Where it can't be made or written, told before a run and not after.
    """
    try:
        if not Path(folder).is_dir():
            Path(folder).mkdir(parents=True, exist_ok=True)
            # The lock, and itself: the rest belongs into the repo.
            write_atomically(Path(folder) / ".gitignore", ".*\n")
    except OSError as fault:
        raise UserError(f"corpus folder {folder} can't be written: {fault.strerror}; choose another place") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"corpus folder {folder} is write-protected; choose another place")


def _stem(threat: ThreatModel) -> str:
    return f"{threat.norm}-{threat.goal}".lower()
