"""A project to run pytest in: a real model on the digits, small enough for a fraction of a second."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import sklearn.datasets  # noqa: F401
import torch  # noqa: F401

import robustbench_lite.evaluating.pipeline
import robustbench_lite.faces.plugin.collection
import robustbench_lite.faces.plugin.marker
import robustbench_lite.faces.plugin.results
import robustbench_lite.faces.plugin.summary
import robustbench_lite.faces.progress  # noqa: F401 - pytester drops what a run imports: these stay, and so do theirs
from robustbench_lite.core import registry

for _name in ("fgsm", "pgd"):
    registry.find("attacks", _name)
importlib.import_module("torch._dynamo")  # what the checks ask of a random model loads it; it can't be loaded twice
for _name in ("terminal", "html", "sarif", "github"):
    registry.find("reports", _name)

collect_ignore = ["sample_project"]

MODELS = '''
from pathlib import Path

import torch
from torch import nn

from robustbench_lite import load_data


class NearestMean(nn.Module):
    """Logits by the distance to the mean image of each class."""

    def __init__(self):
        super().__init__()
        train = load_data("digits", split="train")
        x = train.fetch(range(len(train))).flatten(1)
        self.means = nn.Parameter(torch.stack([x[train.labels == label].mean(0) for label in range(10)]))

    def forward(self, x):
        return -(x.flatten(1)[:, None] - self.means).square().sum(-1)


class Moody(NearestMean):
    """One that answers otherwise from call to call."""

    def forward(self, x):
        return super().forward(x) + 5 * torch.randn(len(x), 10)


class Soft(NearestMean):
    """One that gives probabilities, from which an adaptive evaluation gets logits."""

    def forward(self, x):
        return super().forward(x).softmax(1)


class Interrupted(NearestMean):
    """One whose user presses Ctrl-C in the first attack."""

    def forward(self, x):
        if torch.is_grad_enabled():
            raise KeyboardInterrupt
        return super().forward(x)


def _built(name):
    with Path("built.log").open("a") as log:
        log.write(f"{name}\\n")


def plain():
    _built("plain")
    return NearestMean()


def weak():
    """All but one of its classes hardly answer."""
    _built("weak")
    model = NearestMean()
    with torch.no_grad():
        model.means[:5] += 0.3
    return model


def moody():
    return Moody()


def soft():
    return Soft()


def interrupted():
    _built("interrupted")
    return Interrupted()


def broken():
    _built("broken")
    raise RuntimeError("no weights today")
'''

SLOW = """
import os
import time

from models import NearestMean


class Slow(NearestMean):
    '''Writes down what it is asked, and takes its time where it is told to.'''

    def forward(self, x):
        with open("asked.log", "a") as log:
            log.write(f"{os.getpid()} {len(x)}\\n")
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return super().forward(x)


def slow():
    return Slow()
"""

SUITE = """
threats = ["Linf 0.05"]

[[attacks]]
attack = "fgsm"

[[attacks]]
attack = "pgd"
params = { steps = 4 }
"""

QUICK = ("-W", "error", "-p", "no:hypothesispytest")
"""Warnings are errors; hypothesis, which each run would import again, stays away."""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with models and a suite; GitHub is not told what these runs find."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    pytester.makepyfile(models=MODELS)
    (pytester.path / "robustness.toml").write_text(SUITE, encoding="utf-8")
    return pytester


@pytest.fixture
def run(project: pytest.Pytester) -> Run:
    """Run pytest in the project, in this process, with warnings as errors; a table goes into its pyproject.toml."""

    def run(*args: str, table: str = "") -> pytest.RunResult:
        if table:
            (project.path / "pyproject.toml").write_text(table, encoding="utf-8")
        return project.runpytest_inprocess(*QUICK, *args, no_reraise_ctrlc=True)

    return run


@pytest.fixture
def built(project: pytest.Pytester) -> Callable[[], list[str]]:
    """Names of the models that were built, in order: one for each evaluation."""
    log: Path = project.path / "built.log"
    return lambda: log.read_text(encoding="utf-8").split() if log.is_file() else []


def asked(project: pytest.Pytester) -> dict[str, int]:
    """Samples that went through the slow model, by process."""
    log = project.path / "asked.log"
    found: dict[str, int] = {}
    for line in log.read_text(encoding="utf-8").split("\n") if log.is_file() else ():
        if line:
            process, samples = line.split()
            found[process] = found.get(process, 0) + int(samples)
    return found
