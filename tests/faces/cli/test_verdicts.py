"""Gates and exit codes: the exit code is the verdict."""

from __future__ import annotations

import pytest
import torch

from robustbench_lite import Scorecard

from .conftest import evaluate

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    ("more", "code", "verdict"),
    [
        (("--min-clean-accuracy", "0.9", "--min-robust-accuracy", "0.5", "--max-drop", "0.2"), 0, "PASS"),
        (("--threat", "Linf 0.5", "--min-clean-accuracy", "0.9"), 0, "PASS"),
        (("--threat", "Linf 0.5", "--min-robust-accuracy", "0.5"), 1, "FAIL"),
        (("--threat", "Linf 0.5", "--max-drop", "0.5"), 1, "FAIL"),
        (("--weights", "wrong.pt", "--min-clean-accuracy", "0.5"), 3, "INVALID"),
        (("--weights", "wrong.pt", "--min-clean-accuracy", "0.5", "--allow-invalid", "a test"), 1, "INVALID"),
        (("--weights", "wrong.pt", "--allow-invalid", "a test"), 0, "INVALID"),
        (("--min-clean-accuracy", "0.95"), 0, "UNDECIDED"),
        (("--min-clean-accuracy", "0.95", "--strict"), 1, "FAIL"),
        (("--passes", "121", "--min-clean-accuracy", "0.5"), 3, "INVALID"),
        (("--seconds", "1e-9"), 3, "INVALID"),
    ],
)
def test_the_exit_code_is_the_verdict(more: tuple[str, ...], code: int, verdict: str) -> None:
    torch.save({"1.weight": -torch.eye(3, 16), "1.bias": torch.zeros(3)}, "wrong.pt")
    result = evaluate("zoo.py:good", *more)
    assert result.exit_code == code, result.output
    assert Scorecard.load("out/card.json").verdict == verdict
    assert verdict in result.output


def test_a_model_that_throws_dice_is_invalid_whatever_the_gates_say() -> None:
    result = evaluate("zoo.py:Dice", "--min-clean-accuracy", "0")
    assert result.exit_code == 3
    assert "RB101" in result.output


def test_a_failed_gate_is_told_in_plain_words() -> None:
    said = evaluate("zoo.py:good", "--threat", "Linf 0.5", "--min-robust-accuracy", "0.5").output
    assert "robust accuracy at least 50.0%" in said
    assert "0.0%" in said
