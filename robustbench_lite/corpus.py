"""The regression corpus: witnesses that once broke a model, kept in the user's repo and replayed before any attack.

A fixed model that breaks again fails after one forward pass a sample.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.files import atomic_file
from robustbench_lite.scorecard import NPZ_FAULTS
from robustbench_lite.stepper import Attack, Problem, Seen
from robustbench_lite.threat import ThreatModel

REPLAY = "replay"
LIMIT = 64 * 2**20
"""Bytes of inputs that a corpus keeps for each norm, before compression."""


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class Replay(Attack):
    """Propose what broke the sample once, and nothing else: one forward pass."""

    gradients: ClassVar[bool] = False

    known: dict[int, NDArray[np.float32]] = field(repr=False)
    """Adversarial inputs by the sample's key."""

    @property
    def steps(self) -> int:
        return 0

    def init(self, problem: Problem) -> State:
        shape = problem.x.shape[1:]
        found = [self.known.get(key) for key in problem.samples.tolist()]
        rows = [
            torch.from_numpy(one).to(problem.x) if one is not None and one.shape == shape else x
            for one, x in zip(found, problem.x, strict=True)
        ]
        return State(torch.stack(rows) if rows else problem.x)

    def step(self, problem: Problem, state: State, seen: Seen) -> State:
        return state

    def params(self) -> dict[str, int]:
        return {"witnesses": len(self.known)}


def load(folder: str | Path, threat: ThreatModel) -> dict[int, NDArray[np.float32]]:
    """Witnesses kept for a norm, by sample key; none where there is no corpus yet.

    Raises
    ------
    ValueError
        For a file that is damaged.
    """
    path = _path(folder, threat)
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            keys, x = stored["keys"], stored["x"]
            return dict(zip(keys.tolist(), x, strict=True))
    except NPZ_FAULTS as fault:
        raise UserError(f"{path}: can't be read as a corpus ({fault}); delete it to start a new one") from None


def keep(folder: str | Path, threat: ThreatModel, found: dict[int, NDArray[np.float32]]) -> int:
    """Add witnesses, one a sample (the newest), the oldest beyond `LIMIT` left out; return how many there are now."""
    shape = next((x.shape for x in found.values()), None)
    old = {key: x for key, x in load(folder, threat).items() if key not in found and x.shape == shape}
    both = [*old.items(), *found.items()]
    if not both:
        return 0
    most = max(1, LIMIT // both[0][1].nbytes)
    both = both[-most:]
    path = _path(folder, threat)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        np.savez_compressed(stream, keys=np.array([key for key, _ in both], np.int64), x=np.stack([x for _, x in both]))
    return len(both)


def _path(folder: str | Path, threat: ThreatModel) -> Path:
    return Path(folder) / f"{re.sub('[^a-z0-9]+', '-', f'{threat.norm} {threat.goal}'.lower())}.npz"
