"""What a model keeps of the tasks that it has learnt: samples to rehearse, samples to be judged by, and how it did.

A task is some data under a threat model. The memory stands in the model's folder, as ``memory.npz``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import NPZ_FAULTS, atomic_file, check_unpacked
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.results.scorecard import Interval, Measured, Scorecard

MEMORY_FILE = "memory.npz"


class Score(BaseModel):
    """How a model did on a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clean: int
    robust: int
    total: int

    @classmethod
    def of(cls, card: Scorecard) -> Score:
        """What a scorecard counts."""
        return cls(clean=card.clean_accuracy.count, robust=card.robust_accuracy.count, total=card.clean_accuracy.total)

    def share(self, kind: str) -> float:
        """``clean`` or ``robust`` accuracy."""
        return float(getattr(self, kind) / self.total)


class Task(BaseModel):
    """Some data under a threat model, with how well it was known since it was learnt."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Of the data."""
    threat: ThreatModel
    suite: Suite
    """Judges it, now and later."""
    scores: tuple[Score, ...] = ()
    """After it was learnt, and after each task since; empty where that isn't known yet."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Memory:
    """The tasks so far, in order."""

    tasks: tuple[Task, ...]
    rehearsed: tuple[Data, ...]
    """Of each task, samples to learn again."""
    judged: tuple[Data, ...]
    """Of each task, samples to be judged by; never learnt from."""

    def with_task(self, task: Task, rehearsed: Data, judged: Data) -> Memory:
        """The memory with one task more."""
        return Memory(tasks=(*self.tasks, task), rehearsed=(*self.rehearsed, rehearsed), judged=(*self.judged, judged))

    def with_scores(self, scores: Sequence[Score]) -> Memory:
        """The memory with a score more for each task."""
        pairs = zip(self.tasks, scores, strict=True)
        return replace(
            self, tasks=tuple(task.model_copy(update={"scores": (*task.scores, new)}) for task, new in pairs)
        )

    @property
    def classes(self) -> tuple[int, ...]:
        """Labels that occur in it."""
        return tuple(sorted({label for data in self.rehearsed for label in data.labels.tolist()}))

    def rehearsal(self) -> Data:
        """All samples to learn again."""
        x = torch.cat([data.fetch(range(len(data))) for data in self.rehearsed])
        return replace(as_data((x, torch.cat([data.labels for data in self.rehearsed]))), name="what is remembered")

    def digest(self) -> str:
        """Hash of all that it holds."""
        found = hashlib.sha256(json.dumps([task.model_dump(mode="json") for task in self.tasks]).encode())
        for data in (*self.rehearsed, *self.judged):
            found.update(data.fetch(range(len(data))).numpy().tobytes() + data.labels.numpy().tobytes())
        return found.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write it into a model's folder, in one step."""
        tasks = json.dumps([task.model_dump(mode="json") for task in self.tasks])
        arrays: dict[str, Any] = {"tasks": np.array(tasks)}
        for use, parts in (("rehearsed", self.rehearsed), ("judged", self.judged)):
            for place, data in enumerate(parts):
                arrays[f"{use}_x_{place}"] = data.fetch(range(len(data))).numpy()
                arrays[f"{use}_y_{place}"] = data.labels.numpy()
        with atomic_file(folder / MEMORY_FILE) as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Memory:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            For a folder without a memory, and for one that is damaged.
        """
        path = folder / MEMORY_FILE
        if not path.is_file():
            raise UserError(
                f"{folder}: holds no {MEMORY_FILE}, so nothing is known of what it learnt; harden it with --remember N "
                "in the first place, or give the earlier data by name"
            )
        try:
            check_unpacked(path)
            with np.load(path, allow_pickle=False) as stored:
                tasks = tuple(Task.model_validate(one) for one in json.loads(str(stored["tasks"])))
                parts = {
                    use: tuple(
                        replace(as_data((stored[f"{use}_x_{place}"], stored[f"{use}_y_{place}"])), name=task.name)
                        for place, task in enumerate(tasks)
                    )
                    for use in ("rehearsed", "judged")
                }
        except NPZ_FAULTS as fault:
            raise UserError(f"{path}: can't be read as a memory ({fault}); harden the model anew") from None
        return cls(tasks=tasks, **parts)


def retention(tasks: Sequence[Task]) -> tuple[Measured, ...]:
    """What is left of each task, and what learning the last one did to those before it, as measures.

    Parameters
    ----------
    tasks
        All so far, each with its scores up to now.

    References
    ----------
    Backward transfer: Lopez-Paz and Ranzato, *Gradient episodic memory for continual learning*, NeurIPS 2017.
    https://arxiv.org/abs/1706.08840. Forgetting: Chaudhry et al., *Riemannian walk for incremental learning*, ECCV
    2018. https://arxiv.org/abs/1801.10112
    """
    found = []
    for number, task in enumerate(tasks, 1):
        for kind in ("clean", "robust"):
            now = task.scores[-1]
            share = Interval.of(getattr(now, kind), now.total)
            course = ", ".join(f"{score.share(kind):.1%}" for score in task.scores)
            found.append(
                Measured(
                    name=f"task_{number}_{kind}",
                    unit="share",
                    better="higher",
                    definition=f"{kind} accuracy on {now.total} samples of {task.name}, kept to judge it by, under "
                    f"{task.threat}, so not quite that of the evaluation; after each task since: {course}",
                    **{key: getattr(share, key) for key in ("value", "low", "high", "count", "total")},
                )
            )
    earlier = [task.scores for task in tasks[:-1]]
    for suffix, kind in (("", "robust"), ("_clean", "clean")) if earlier else ():
        shares = [[score.share(kind) for score in scores] for scores in earlier]
        found.append(
            Measured(
                name=f"backward_transfer{suffix}",
                value=mean(one[-1] - one[0] for one in shares),
                unit="accuracy",
                better="higher",
                definition=f"{kind} accuracy on the earlier tasks now, less that after each was learnt; their mean",
            )
        )
        found.append(
            Measured(
                name=f"forgetting{suffix}",
                value=mean(max(one[:-1]) - one[-1] for one in shares),
                unit="accuracy",
                better="lower",
                definition=f"best {kind} accuracy that each earlier task ever had, less that now; their mean",
            )
        )
    return tuple(found)
