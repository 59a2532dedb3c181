"""``rblite doctor`` without a model: the walk on the digits, planted faults on the screen, in JSON and on the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from robustbench_lite.data.load import load_data
from robustbench_lite.faces.cli import main


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def doctor(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def test_the_digits_are_a_walk_that_works() -> None:
    result = doctor("--data", "digits", "--html", "digits.html")
    assert result.exit_code == 0, result.output
    assert "digits/test: 539 test, 1,258 train samples" in result.output
    assert "no test sample is among the training samples" in result.output
    assert "Nothing stands against these data." in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    assert "data:image/png;base64," in Path("digits.html").read_text("utf-8")


def test_planted_faults_are_told_everywhere() -> None:
    data = load_data("digits")
    x, y = data.fetch(range(200)).numpy(), data.labels[:200].numpy()
    x[7], y[7] = x[6], y[6] + 1 if y[6] < 9 else 0
    x[9] = 0.25
    np.savez("mine.npz", x=x, y=y)
    result = doctor("--data", "npz:mine.npz")
    assert result.exit_code == 0
    assert "RB154   warning: 1 samples are there once more under another label" in result.output
    assert "RB156   warning: 1 of 200 samples are constant" in result.output
    assert "-       no test sample is among the training samples" in result.output
    found = json.loads(doctor("--data", "npz:mine.npz", "--json").output)
    suspects = {
        fault["finding"]["code"]: [one["index"] for one in fault["suspects"]]
        for check in found["checks"]
        for fault in check["faults"]
    }
    assert suspects["RB154"] == [7]
    assert suspects["RB156"] == [9]
    assert "picture" not in json.dumps(found)
    np.savez("mine.npz", x=255 * x, y=y)
    assert doctor("--data", "npz:mine.npz").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "digits", "--weights", "w.pt"], "--weights: about a model"),
        (["m.py:f", "--data", "digits", "--html", "x.html"], "leave MODEL away"),
        (["--data", "digits", "--html", "/proc/x/y.html"], "can't be written"),
        ([], "--data"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], told: str) -> None:
    result = doctor(*arguments)
    assert result.exit_code == 2
    assert told in result.output
