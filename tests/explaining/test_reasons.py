"""The glass-box model finds a planted reason, and none in shuffled outcomes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from robustbench_lite.explaining.properties import Property
from robustbench_lite.explaining.reasons import reasons

COUNT = 120
DICE = np.random.default_rng(0)
BRIGHTNESS = DICE.random(COUNT)
PROPERTIES = (
    Property("class", "the class", np.array([str(one) for one in DICE.integers(0, 4, COUNT)], dtype=object)),
    Property("brightness", "the mean", BRIGHTNESS),
    Property("contrast", "the spread", DICE.random(COUNT)),
)
BROKEN = DICE.random(COUNT) < 1 / (1 + np.exp(-20 * (BRIGHTNESS - 0.5)))


def test_a_planted_reason_is_found_and_named_first() -> None:
    found = reasons(PROPERTIES, BROKEN, 0)
    assert found.found
    assert found.told is not None
    assert found.told > 0.4
    assert found.terms[0].name == "brightness"
    assert found.terms[0].importance > 3 * found.terms[1].importance
    assert "best by brightness" in found.words
    darkest, *_, brightest = found.terms[0].groups
    assert darkest.broken.value < 0.1 < 0.9 < brightest.broken.value
    assert sum(group.broken.total for group in found.terms[0].groups) == COUNT
    steps = found.terms[0].steps
    assert steps[0].score < 0 < steps[-1].score
    assert all(one.end == other.start for one, other in pairwise(steps))


def test_nothing_is_found_in_shuffled_outcomes_and_it_says_so() -> None:
    found = reasons(PROPERTIES, np.random.default_rng(1).permutation(BROKEN), 0)
    assert not found.found
    assert found.low is not None
    assert found.low < 0
    assert found.words.startswith("None of the measured properties tells which samples break")


@pytest.mark.parametrize(
    ("broken", "told"), [(3, "3 of 120 samples broke: too few"), (115, "115 of 120 samples broke: too few")]
)
def test_too_few_on_one_side_are_not_fitted(broken: int, told: str) -> None:
    found = reasons(PROPERTIES, np.arange(COUNT) < broken, 0)
    assert not found.found
    assert told in found.missing
    assert found.words.startswith("Which samples break was not looked into")
