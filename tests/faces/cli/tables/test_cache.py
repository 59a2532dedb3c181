"""The table of a cache folder."""

from __future__ import annotations

import pytest

from robustbench_lite.faces.cli.tables.cache import size_text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (999_999, "1.0 MB"), (2_500_000_000, "2.5 GB")]
)
def test_sizes_are_told_for_people(size: int, text: str) -> None:
    assert size_text(size) == text
