"""What a model keeps of its tasks: written, read back, and what became of each, counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.keys import keys_of
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating import corpus
from robustbench_lite.hardening.memory import MEMORY_FILE, Memory, Score, Task, retention
from robustbench_lite.hardening.rehearsal import rehearsal

SUITE = Suite.model_validate({"name": "short", "threats": ["Linf 0.1"], "attacks": ["fgsm"]})
THREAT = ThreatModel.parse("Linf 0.1")


def task(name: str, *scores: tuple[int, int]) -> Task:
    told = tuple(Score(clean=clean, robust=robust, total=10) for clean, robust in scores)
    return Task(name=name, threat=THREAT, suite=SUITE, scores=told)


def memory() -> Memory:
    x = torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    data = as_data((x, torch.arange(12) % 3))
    return Memory(tasks=(task("a", (9, 8)),), rehearsed=(data.take(range(8)),), judged=(data.take(range(8, 12)),))


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    kept = memory()
    kept.save(tmp_path)
    read = Memory.load(tmp_path)
    assert read.tasks == kept.tasks
    assert read.digest() == kept.digest()
    assert torch.equal(read.rehearsal().fetch(range(8)), kept.rehearsal().fetch(range(8)))
    assert torch.equal(read.judged[0].labels, kept.judged[0].labels)
    assert read.classes == (0, 1, 2)


def test_a_folder_without_one_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--remember N"):
        Memory.load(tmp_path)
    (tmp_path / MEMORY_FILE).write_bytes(b"PK\3\4 no archive")
    with pytest.raises(UserError, match="can't be read as a memory"):
        Memory.load(tmp_path)


def test_forgetting_and_backward_transfer_by_hand() -> None:
    tasks = [task("a", (9, 8), (10, 6), (7, 5)), task("b", (8, 4), (9, 6)), task("c", (10, 9))]
    found = {one.name: one for one in retention(tasks)}
    assert found["backward_transfer"].value == pytest.approx(((0.5 - 0.8) + (0.6 - 0.4)) / 2)
    assert found["forgetting"].value == pytest.approx(((0.8 - 0.5) + (0.4 - 0.6)) / 2)
    assert found["backward_transfer_clean"].value == pytest.approx(((0.7 - 0.9) + (0.9 - 0.8)) / 2)
    assert found["forgetting_clean"].value == pytest.approx(((1.0 - 0.7) + (0.8 - 0.9)) / 2)
    assert (found["task_1_robust"].count, found["task_1_robust"].total) == (5, 10)
    assert "80.0%, 60.0%, 50.0%" in found["task_1_robust"].definition
    assert [one.name for one in retention(tasks[2:])] == ["task_1_clean", "task_1_robust"]


def test_what_once_broke_the_remembered_samples_is_rehearsed_with_their_labels(tmp_path: Path) -> None:
    kept = memory()
    data = kept.rehearsed[0]
    [first, second] = keys_of(data, 8)[:2].tolist()
    stranger = np.ones((1, 2, 2), np.float32)
    corpus.keep(tmp_path, THREAT, {first: np.zeros((1, 2, 2), np.float32), second: stranger, first + second: stranger})
    found = rehearsal(kept, str(tmp_path))
    assert len(found) == len(data) + 2
    assert found.labels[-2:].tolist() == data.labels[:2].tolist()
    assert found.fetch([len(data)]).abs().sum() == 0
    assert len(rehearsal(kept)) == len(data)
