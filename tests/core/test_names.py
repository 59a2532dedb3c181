"""Names in lines of a terminal."""

from __future__ import annotations

import pytest

from robustbench_lite.core.names import name_lines, name_parts


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("robustness.toml::models.py:plain", 20, ["robustness.toml::", "models.py:plain"]),
        ("tests/test_one.py::test_withstands", 34, ["tests/test_one.py::test_withstands"]),
        ("digits (before)", 10, ["digits", "(before)"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("a_bcdefgh", 4, ["a_", "bcde", "fgh"]),
        ("ab", 1, ["a", "b"]),
        ("", 5, [""]),
    ],
)
def test_a_name_is_broken_between_its_words(text: str, width: int, lines: list[str]) -> None:
    assert name_lines(text, width) == lines


def test_nothing_of_a_name_is_lost() -> None:
    text = "::.a-b__c d//e"
    assert "".join(name_parts(text)) == text
    assert "".join(name_lines(text, 3)).replace(" ", "") == text.replace(" ", "")
