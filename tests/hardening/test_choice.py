"""Which epoch is kept, and when a training has gone wrong: rules over numbers."""

from __future__ import annotations

import pytest

from robustbench_lite.hardening.checkpoint import Epoch
from robustbench_lite.hardening.choice import at_chance, better, collapsed, tells, why_kept


def epoch(robust: float, clean: float = 0.9, one_step: float | None = 0.5, number: int = 1) -> Epoch:
    return Epoch("1", "model", number, 1.0, 0.1, clean, robust, one_step, 1.0)


@pytest.mark.parametrize(
    ("new", "kept", "best", "expected"),
    [
        # 2 of 60 held-out samples more are no reason to give up 20 points of clean accuracy
        ((33 / 60, 0.7), (31 / 60, 0.9), 33 / 60, False),
        ((31 / 60, 0.9), (33 / 60, 0.7), 33 / 60, True),
        # 12 of 60 are
        ((43 / 60, 0.7), (31 / 60, 0.9), 43 / 60, True),
        ((31 / 60, 0.9), (43 / 60, 0.7), 43 / 60, False),
        # of equal ones the later
        ((0.5, 0.9), (0.5, 0.9), 0.5, True),
        # small losses in a row don't add up: the bar is the best so far, not the one that is kept
        ((27 / 60, 0.95), (30 / 60, 0.9), 33 / 60, False),
    ],
)
def test_better(new: tuple[float, float], kept: tuple[float, float], best: float, expected: bool) -> None:
    assert better(epoch(*new), epoch(*kept), best, 60) is expected


def test_on_many_samples_small_differences_count() -> None:
    new, kept = epoch(33 / 60, 0.7), epoch(31 / 60, 0.9)
    assert better(new, kept, 33 / 60, 6000)


@pytest.mark.parametrize(
    ("robust", "one_step", "best", "samples", "expected"),
    [
        (0.0, 0.9, 0.5, 100, True),
        (0.05, 0.9, 0.5, 100, True),
        (0.3, 0.9, 0.5, 100, False),  # fallen, but far from nothing
        (0.0, 0.02, 0.5, 100, False),  # a single step breaks it as well: it has unlearnt, not overfitted
        (0.0, 0.9, 0.0, 100, False),  # it never withstood
        (0.0, 0.9, 0.2, 20, False),  # 4 of 20 to 0 of 20 may be chance
        (0.0, None, 0.5, 100, False),  # a defense that uses no ball
    ],
)
def test_collapsed(robust: float, one_step: float | None, best: float, samples: int, expected: bool) -> None:
    assert collapsed(epoch(robust, one_step=one_step), best, samples) is expected


def test_at_chance() -> None:
    assert at_chance(epoch(0.0, clean=0.12), 10, 100)
    assert at_chance(epoch(0.0, clean=0.85), 85, 100)  # of imbalanced data
    assert not at_chance(epoch(0.0, clean=0.3), 10, 100)


def test_so_few_samples_tell_nothing_of_chance() -> None:
    assert not tells(1, 1)
    assert not tells(2, 4)
    assert tells(3, 30)
    assert why_kept(epoch(1.0), [epoch(1.0)], 1).startswith("the best robust accuracy of 1 held-out sample, ")


def test_the_reason_names_the_numbers() -> None:
    first, second = epoch(31 / 60, 0.9, number=1), epoch(33 / 60, 0.7, number=2)
    told = why_kept(first, [first, second], 60)
    assert "60 held-out samples" in told
    assert "51.7%, can't be told from the best, 55.0% in epoch 2" in told
    assert "90.0% against 70.0%" in told
    assert why_kept(second, [first, second], 60).startswith("the best robust accuracy of 60 held-out samples, 55.0%")
