"""A user's folder with models, data, a suite and a recipe, and the commands that are run in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from robustbench_lite import Scorecard
from robustbench_lite.evaluating import pipeline as evaluation
from robustbench_lite.faces.cli import main

SHARED = Path(__file__).parents[4] / "shared"


MODELS = '''
import os, time
from pathlib import Path
import torch
from torch import nn

def good():
    """Right on all samples; none can be broken within Linf 0.25, all can within 0.5."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model[1].weight.data = torch.eye(3, 16)
    model[1].bias.data.zero_()
    return model

class Net(nn.Sequential):
    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0")))
        return super().forward(x)

def net(): return Net(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = good()
    def forward(self, x):
        if x.requires_grad:
            Path("attacking").touch()
            time.sleep(0.02)
        return self.inner(x)

class Dice(nn.Module):
    def forward(self, x): return torch.rand(len(x), 3) + 0 * x.sum()

def lenet5():
    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
            self.linear1, self.linear2 = nn.Linear(3136, 200), nn.Linear(200, 10)
        def forward(self, x):
            x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
            x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
            return self.linear2(torch.relu(self.linear1(x.flatten(1))))
    return LeNet()

def rgb(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
def two_classes(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
def three_channels(): return nn.Sequential(nn.Conv2d(3, 3, 4), nn.Flatten())
def not_a_number():
    model = good()
    model[1].bias.data.fill_(float("nan"))
    return model
def raises(): raise RuntimeError("out of tea")
def a_number(): return 3
def needs(depth): return good()
'''


DATA = """
import numpy as np
def arrays():
    stored = np.load("ok.npz")
    return stored["x"], stored["y"]
def by_split(split):
    x, y = arrays()
    return (x[:12], y[:12]) if split == "test" else (x[12:], y[12:])
"""


SUITE = """
threats = ["Linf 0.1"]
attacks = ["fgsm", {attack = "pgd", params = {steps = 3}}]
"""


RECIPE = """
defense = "pgd_training"
params = { steps = 2 }
threat = "Linf 0.1"
suite = "short.toml"
[schedule]
epochs = 20
batch_size = 16
lr = 0.01
optimizer = "adam"
keep = "last"
"""


def samples(number: int = 60, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(0)
    y = np.arange(number) % 3
    x = 0.2 + 0.01 * dice.random((number, size * size), np.float32)
    x[np.arange(number), y] = 0.8
    return x.reshape(number, 1, size, size), y


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with models, data, a suite and a recipe; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, text in {"zoo.py": MODELS, "own.py": DATA, "short.toml": SUITE, "short_recipe.toml": RECIPE}.items():
        (tmp_path / name).write_text(text)
    x, y = samples()
    np.savez(tmp_path / "ok.npz", x=x, y=y)
    return tmp_path


def rblite(*args: str) -> Result:
    result = CliRunner().invoke(main, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


EVALUATE = ("--data", "npz:ok.npz", "--suite", "short.toml", "--json", "out/card.json")


def evaluate(model: str = "zoo.py:good", *more: str) -> Result:
    return rblite("evaluate", model, *EVALUATE, *more)


def evaluated(model: str = "zoo.py:good", *more: str) -> Scorecard:
    result = evaluate(model, *more)
    assert result.exit_code == 0, result.output
    return Scorecard.load("out/card.json")


def command(*args: str) -> list[str]:
    return [sys.executable, "-P", "-m", "robustbench_lite.faces.cli", *args]  # -P: as the script, not from this folder


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def shell(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
    """What the program leaves that a new interpreter runs: its start is part of what is tested."""
    return subprocess.run(command(*args), capture_output=True, text=True, check=False, env=environment(**more))


def files(folder: Path) -> dict[str, int]:
    ours = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.stat().st_size for path in ours if path.is_file()}


def own_report(body: str) -> None:
    Path("reports").mkdir()
    Path("reports/__init__.py").write_text('CATALOGUE = {"mine": "mine:render"}\n')
    Path("reports/mine.py").write_text(f'def render(cards, *, title=None, story=()):\n    """Mine."""\n    {body}\n')


HARDEN = ("harden", "zoo.py:net", "--data", "npz:ok.npz", "--recipe", "short_recipe.toml", "--quiet")


def refused(folder: Path, arguments: Sequence[str], told: Sequence[str]) -> None:
    """It ends with a plain error that tells all this, and leaves no file behind."""
    held = files(folder)
    result = rblite(*arguments)
    assert result.exit_code == 2, result.output
    assert "Error: " in result.output
    assert "Traceback" not in result.output
    for word in told:
        assert word in result.output
    assert files(folder) == held


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the run had begun")

    monkeypatch.setattr(evaluation, "evaluate", never)
