"""Answers of a server, kept across a kill: given back once each, whatever happened to the file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from robustbench_lite.model.answer_log import AnswerLog


def refuse(fault: OSError) -> None:
    raise fault


X = np.random.default_rng(0).random((5, 1, 2, 2), np.float32)
SCORES = np.random.default_rng(1).random((5, 3))


@pytest.mark.parametrize("answers", [SCORES, SCORES.argmax(1)], ids=["scores", "labels"])
def test_an_answer_is_given_back_to_the_bit_and_once(tmp_path: Path, answers: np.ndarray) -> None:
    first = AnswerLog(tmp_path / "log", refuse)
    assert first.recall(X) == [None] * 5
    first.add(X[:3], answers[:3])
    first.add(X[2:4], answers[2:4])  # a second time, as a check of randomness asks
    again = AnswerLog(tmp_path / "log", refuse)
    assert again.recall(X) == [*answers[:4].tolist(), None]
    assert again.recall(X) == [None, None, answers[2].tolist(), None, None]
    assert again.recall(X) == [None] * 5


def test_what_a_run_adds_itself_is_no_answer_to_it(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "log", refuse)
    log.add(X, SCORES)
    assert log.recall(X) == [None] * 5


def test_files_of_other_processes_are_read_and_not_written(tmp_path: Path) -> None:
    AnswerLog(tmp_path / "other", refuse).add(X[:2], SCORES[:2])
    content = (tmp_path / "other").read_bytes()
    log = AnswerLog(tmp_path / "log", refuse, others=[tmp_path / "other"])
    assert log.recall(X[:1]) == [SCORES[0].tolist()]
    log.add(X[2:], SCORES[2:])
    assert (tmp_path / "other").read_bytes() == content


def test_what_is_damaged_is_asked_again_and_never_served(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AnswerLog(path, refuse)
    for at in range(5):
        log.add(X[at : at + 1], SCORES[at : at + 1])
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.3 else whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        for found, expected in zip(AnswerLog(path, refuse).recall(X), SCORES.tolist(), strict=True):
            assert found in (None, expected)


def test_a_link_is_not_followed_and_a_fault_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "log").symlink_to(tmp_path / "target")
    told: list[OSError] = []
    log = AnswerLog(tmp_path / "log", told.append)
    log.add(X, SCORES)
    log.add(X, SCORES)
    assert len(told) == 1
    assert (tmp_path / "target").read_text() == "precious"
