from __future__ import annotations

import pytest

from robustbench_lite.core import launched


@pytest.mark.parametrize(
    ("variables", "processes", "rank"),
    [
        ({}, 1, 0),
        ({"WORLD_SIZE": "4"}, 1, 0),  # of a cluster's scheduler, not of torchrun
        ({"WORLD_SIZE": "4", "RANK": "3"}, 4, 3),
        ({"WORLD_SIZE": "1", "RANK": "0"}, 1, 0),
    ],
)
def test_what_torchrun_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], processes: int, rank: int
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched.processes() == processes
    assert launched.rank() == rank
