"""`rblite auto`: what is refused before it begins, and how its board is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import rblite, refused

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--data", "npz:ok.npz"), ["Missing option '--budget'"]),
        (("--data", "npz:ok.npz", "--budget", "soon"), ["'soon' is no time: expected such as 90s, 30m or 1.5h"]),
        (
            ("--data", "npz:ok.npz", "--budget", "1m", "--entrant", "tpott"),
            ["unknown entrant 'tpott'", "MODEL"],
        ),
        (("--data", "npz:ok.npz", "--budget", "1m", "--threat", "Linf"), ["'Linf'", "expected 'NORM EPS"]),
        (("--data", "csv:t.csv?immutable=a", "--budget", "1m"), ["all 1 columns are immutable"]),
        (("--data", "csv:t.csv?label=z", "--budget", "1m"), ["unknown column 'z'"]),
        (("--data", "csv:words.csv", "--budget", "1m"), ["line 2, column 'a': holds 'red'", "encode it as numbers"]),
        (("--data", "npz:ok.npz", "--budget", "1s"), ["too short for one trial", "m or more"]),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_left(here: Path, arguments: tuple[str, ...], told: list[str]) -> None:
    Path("t.csv").write_text("a,label\n" + "".join(f"{place},{place % 2}\n" for place in range(20)))
    Path("words.csv").write_text("a,label\nred,x\nblue,y\n")
    refused(here, ("auto", *arguments, "--out", "found"), told)


def test_its_help_names_the_rivals() -> None:
    assert "flaml, tpot, h2o" in " ".join(rblite("auto", "--help").output.split())
