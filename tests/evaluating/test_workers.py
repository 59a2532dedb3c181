"""Evaluations shared out to worker processes: the same card, whatever happens to a worker."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch import Tensor, nn

from robustbench_lite import Scorecard, evaluate, load_data
from robustbench_lite.core.cost import BudgetTracker, Progress
from robustbench_lite.core.errors import UserError
from robustbench_lite.evaluating import run_suite
from robustbench_lite.faces.cli import main
from robustbench_lite.reports import html
from robustbench_lite.workers.local import LocalExecutor
from tests.forked import RBLITE, Forked

SAMPLES = 40
SUITE = ["fgsm", "pgd"]
THREAT = "Linf 0.1"


@pytest.fixture(scope="module")
def network(train_on_digits: Callable[..., Any]) -> nn.Module:
    network, *_ = train_on_digits(600, epochs=3)
    return network


def found(card: Scorecard) -> dict[str, Any]:
    """What was found, by sample and by attack. Passes are left out: rounding may move the step at which one ends."""
    return {
        "samples": [(row.key, row.label, row.prediction, row.breaks) for row in card.outcomes],
        "attacks": [(one.name, one.attempted, one.robust_accuracy, one.fault) for one in card.attacks],
        "findings": [finding.code for finding in card.validity],
        "data": card.data,
    }


class Marked(nn.Module):
    """Does something else on a worker's first pass, of all workers with this marker."""

    def __init__(self, network: nn.Module, marker: Path, then: Callable[[], None]) -> None:
        super().__init__()
        self.network, self.marker, self.then = network, marker, then
        self.home = os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home:
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                self.then()
        return self.network(x)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("forked_workers")
def test_workers_find_the_same_also_where_one_is_killed(network: nn.Module, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    told: list[Progress] = []
    model = Marked(network, marker, kill)
    shared = evaluate(model, "digits", SUITE, THREAT, limit=SAMPLES, workers=2, on_progress=told.append)
    assert marker.exists()
    assert found(shared) == found(evaluate(model, "digits", SUITE, THREAT, limit=SAMPLES))
    assert shared.verdict == "MEASURED"
    last = [one for one in told if one.name == "2 workers"][-1]  # the checks of what stands follow
    assert (last.done, last.total) == (SAMPLES, SAMPLES)
    assert shared.environment.processors == {shared.environment.processor: SAMPLES}


class Mixed(LocalExecutor):
    """Runs every second part as another kind of machine would, by the name of its processor."""

    workers = 2

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def map(self, function: Any, parts: Any, budget: BudgetTracker, until: Any) -> Any:
        def named() -> Any:
            for number, part in enumerate(parts):
                name = ("the GPU", "the CPU")[number % 2]
                self.patch.setattr(run_suite, "processor", lambda _, name=name: name)
                yield part

        return super().map(function, named(), budget, until)


def test_a_card_tells_what_kinds_of_machines_attacked(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    card = evaluate(network, "digits", SUITE, THREAT, limit=SAMPLES, workers=Mixed(monkeypatch))
    assert card.environment.processors == {"the CPU": SAMPLES // 2, "the GPU": SAMPLES // 2}
    assert Scorecard.model_validate_json(card.model_dump_json()).environment == card.environment
    assert "2 worker processes (20 samples on the CPU, 20 samples on the GPU)" in html.render([card])
    alone = evaluate(network, "digits", SUITE, THREAT, limit=SAMPLES)
    assert "processors" not in alone.model_dump()["environment"]


class Deadly(nn.Module):
    """Ends any worker that asks about one sample."""

    def __init__(self, network: nn.Module, sample: Tensor) -> None:
        super().__init__()
        self.network, self.sample, self.home = network, sample, os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home and bool(((x - self.sample).abs().amax((1, 2, 3)) <= 0.11).any()):
            kill()
        return self.network(x)


@pytest.mark.usefixtures("forked_workers")
def test_samples_that_kill_every_worker_are_told_and_the_rest_is_attacked(network: nn.Module) -> None:
    data = load_data("digits", split="test").stratified(SAMPLES, 0)
    right = network(data.fetch(range(SAMPLES))).argmax(1) == data.labels
    row = int(right.nonzero()[-1])  # in the last part
    card = evaluate(Deadly(network, data.fetch([row])), data, SUITE, THREAT, workers=2)
    assert card.verdict == "INVALID"
    assert len(card.outcomes) == SAMPLES - SAMPLES // 4
    faults = [attack.fault for attack in card.attacks]
    assert all("10 samples were not attacked (30, 31, 32, 33, 34, 35, 36, 37, ...)" in fault for fault in faults)
    assert "it ended 3 worker processes, the last one by signal SIGKILL" in str(faults[0])


def test_a_model_that_can_not_be_sent_is_told(network: nn.Module) -> None:
    network = nn.Sequential(network)
    network.lock = threading.Lock()
    with pytest.raises(UserError, match="can't be sent to worker processes"):
        evaluate(network, "digits", SUITE, THREAT, limit=SAMPLES, workers=2)


def test_workers_is_a_number_from_one(network: nn.Module) -> None:
    with pytest.raises(UserError, match="workers is 0"):
        evaluate(network, "digits", SUITE, THREAT, limit=SAMPLES, workers=0)


MODEL = """
import time, torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        time.sleep(0.02)
        return self.layer(x.flatten(1))

def build():
    return Slow()
"""


def _command(folder: Path, cache: str, workers: int) -> list[str]:
    (folder / "models.py").write_text(MODEL)
    return [
        *("evaluate", f"{folder / 'models.py'}:build", "--data", "digits"),
        *("--suite", "linf_quick", "--threat", "Linf 0.02", "--limit", "60", "--allow-invalid", "untrained", "--quiet"),
        *("--cache", str(folder / cache), "--json", str(folder / f"{cache}.json"), "--workers", str(workers)),
    ]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    run = Forked(RBLITE, *_command(tmp_path, "killed", 2))
    run.wait_for(lambda: any((tmp_path / "killed").glob("*/*.*.jsonl")))  # what a worker has settled
    run.kill()
    for cache in ("killed", "whole"):
        done = CliRunner().invoke(main, _command(tmp_path, cache, 1))
        assert done.exit_code == 0, done.output
    cards = [Scorecard.load(tmp_path / f"{name}.json") for name in ("killed", "whole")]
    assert cards[0].outcomes == cards[1].outcomes
    assert not list((tmp_path / "killed").glob("*/*.jsonl"))


@pytest.mark.usefixtures("forked_workers")
def test_attacks_of_ones_own_go_along(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = Path(__file__).parents[2] / "attacks"
    own = tmp_path / "attacks"
    own.mkdir()
    for name in ("_auto_pgd", "apgd"):  # one that builds on another file of its folder
        shutil.copy(attacks / f"{name}.py", own)
    (own / "__init__.py").write_text('CATALOGUE = {"mine": "apgd:APGD"}\n')
    monkeypatch.chdir(tmp_path)
    suite = [{"attack": "mine", "params": {"steps": 5}}]
    alone, shared = (evaluate(network, "digits", suite, THREAT, limit=SAMPLES, workers=workers) for workers in (1, 2))
    assert found(shared) == found(alone)
