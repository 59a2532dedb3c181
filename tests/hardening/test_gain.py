"""The verdict on a hardening."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robustbench_lite.hardening.gain import weigh
from robustbench_lite.results.paired import p_in_words


@pytest.mark.parametrize(
    ("before", "after", "word", "told"),
    [
        ({"clean": 0.9, "breaks": {"pgd": 0.9}}, {"clean": 0.9, "breaks": {"pgd": 0.2}}, "gained", "accuracy rose:"),
        ({"clean": 1.0, "breaks": {"pgd": 0.9}}, {"clean": 0.8, "breaks": {"pgd": 0.2}}, "gained", "given up"),
        ({"clean": 0.9, "breaks": {"pgd": 0.2}}, {"clean": 0.9, "breaks": {"pgd": 0.9}}, "lost", "accuracy fell:"),
        ({"clean": 1.0, "breaks": {"pgd": 0.5}}, {"clean": 0.7, "breaks": {"pgd": 0.3}}, "lost", "accuracy fell and"),
        ({"clean": 0.9, "breaks": {"pgd": 0.5}}, {"clean": 0.9, "breaks": {"pgd": 0.5}}, "not shown", "isn't shown"),
    ],
)  # fmt: skip
def test_weigh(
    make_card: Callable[..., Any], before: dict[str, Any], after: dict[str, Any], word: str, told: str
) -> None:
    gain = weigh(make_card("before", **before), make_card("after", **after))
    assert (gain.word, told in gain.why) == (word, True), gain.why
    assert f"clean {gain.clean.before.value:.1%} to {gain.clean.after.value:.1%}" in gain.why
    assert p_in_words(gain.robust.p_value) in gain.why


def test_what_can_not_be_trusted_shows_nothing(make_card: Callable[..., Any]) -> None:
    after = make_card("after", breaks={"pgd": 0.1}).model_copy(update={"verdict": "INVALID"})
    gain = weigh(make_card("before", breaks={"pgd": 0.9}), after)
    assert gain.word == "not shown"
    assert "can't be trusted" in gain.why
