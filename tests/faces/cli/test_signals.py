"""Ctrl-C and SIGTERM: before, while and after a run, however the program was started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robustbench_lite import Scorecard
from tests.forked import RBLITE, Forked

MODEL = """
import time
from pathlib import Path
import torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.layer.weight.data = 2 * torch.eye(2, 4)  # no probabilities
        self.layer.bias.data.zero_()
    def forward(self, x):
        if x.requires_grad:
            Path("attacking").touch()
            time.sleep(0.02)
        return self.layer(x.flatten(1))

def starting():
    Path("starting").touch()
    time.sleep(60)
"""
SUITE = """
threats = ["Linf 0.1"]
attacks = [{attack = "pgd", params = {steps = 100000}}]
"""
EVALUATE = ["--data", "npz:data.npz", "--suite", "long.toml", "--json", "card.json"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo.py").write_text(MODEL)
    (tmp_path / "long.toml").write_text(SUITE)
    x = np.full((8, 1, 2, 2), 0.2, np.float32)
    y = np.arange(8) % 2
    x[np.arange(8), 0, 0, y] = 0.8
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return tmp_path


def ended(process: Forked, number: int) -> str:
    """What it says to a signal, on both streams; with the right exit code, and no traceback."""
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number, (out, err)
    assert "Traceback" not in err
    return out + err


@pytest.mark.parametrize("ignoring", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["sigint", "sigterm"])
def test_an_interrupted_evaluation_keeps_what_is_done(here: Path, number: signal.Signals, ignoring: bool) -> None:
    process = Forked(RBLITE, "evaluate", "zoo.py:Slow", *EVALUATE, ignoring=ignoring)
    process.wait_for((here / "attacking").exists)
    said = ended(process, number)
    assert "INVALID" in said
    assert Scorecard.load("card.json").interrupted == "interrupt"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["sigint", "sigterm"])
def test_an_interrupt_while_the_model_is_built_ends_the_program(here: Path, number: signal.Signals) -> None:
    process = Forked(RBLITE, "evaluate", "zoo.py:starting", *EVALUATE)
    process.wait_for((here / "starting").exists)
    assert ended(process, number) == "Interrupted.\n"


def test_an_interrupt_at_any_time_of_the_start_ends_without_a_traceback() -> None:
    """Imports of torch among them, in which an exception could abort the interpreter."""
    script = (
        "import os, sys; from robustbench_lite.faces.cli import signals; signals.leave_at_once(); os.write(1, b'!')\n"
        "from robustbench_lite.faces.cli.group import main; main()"
    )
    arguments = ("evaluate", "zoo.py:starting", *EVALUATE)
    for delay in np.linspace(0, 2.0, 5):
        with subprocess.Popen(
            [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read(1) == "!"
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == ("", "Interrupted.\n")
        assert process.returncode == 130
