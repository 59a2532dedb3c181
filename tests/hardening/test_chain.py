"""Recipes of several steps: in order, checked as a whole, resumed at the step where they were killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.hardening.folder import recipe_text
from robustbench_lite.hardening.pipeline import Hardened, harden
from robustbench_lite.hardening.recipe import Recipe, load_recipe
from robustbench_lite.results.scorecard import Scorecard
from tests.forked import ROOT, Forked

SUITE = Suite.model_validate(
    {"name": "short", "threats": ["Linf 0.1"], "attacks": [{"attack": "pgd", "params": {"steps": 3}}]}
)
SCHEDULE = {"epochs": 2, "batch_size": 64, "lr": 0.05}
CHAIN = Recipe.model_validate(
    {
        "name": "chain",
        "threat": "Linf 0.1",
        "schedule": SCHEDULE,
        "steps": [
            {"name": "standard", "scorecard": True},
            {"name": "pgd_training", "params": {"steps": 2}, "schedule": SCHEDULE | {"epochs": 3, "lr": 0.02}},
        ],
    }
)
FILES = {"model.safetensors", "model.json", "recipe.toml", "log.jsonl", "before.json", "after.json"}

OWN = """
import copy
from dataclasses import dataclass

import torch
from robustbench_lite.hardening import Step, StepRecord


@dataclass(frozen=True, kw_only=True)
class Halve(Step):
    factor: float = 0.5

    def unfit(self, artifact):
        return "must not be the first" if not artifact.records else None

    def run(self, artifact, context):
        target = copy.deepcopy(artifact.target)
        with torch.no_grad():
            for parameter in target.module.parameters():
                parameter.mul_(self.factor)
        return artifact.after(target, StepRecord(name=context.name, params={"factor": self.factor}))
"""


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def hardened(recipe: Recipe | str = CHAIN, **more: Any) -> Hardened:
    return harden(network(), "digits", recipe, **{"suite": SUITE, "limit": 60} | more)


def weights(run: Hardened) -> list[Tensor]:
    return list(run.target.module.state_dict().values())


def same(one: Hardened, other: Hardened) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.fixture
def halve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own step that trains nothing."""
    room = tmp_path / "room" / "defenses"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text('CATALOGUE = {"halve": "halve:Halve"}\n')
    (room / "halve.py").write_text(OWN)
    monkeypatch.chdir(room.parent)


def test_the_steps_run_in_order_each_on_what_the_one_before_made(tmp_path: Path) -> None:
    run = hardened(out=tmp_path / "out")
    assert [(record.name, len(record.log)) for record in run.steps] == [("standard", 2), ("pgd_training", 3)]
    assert run.steps[1].params["steps"] == 2
    assert [(line.step, line.epoch) for line in run.log] == [
        *[("1-standard", epoch) for epoch in (1, 2)],
        *[("2-pgd_training", epoch) for epoch in (1, 2, 3)],
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"after-1-standard.json"}
    assert run.between == (Scorecard.load(tmp_path / "out" / "after-1-standard.json"),)
    first = hardened(CHAIN.model_copy(update={"steps": CHAIN.steps[:1]}))
    assert first.after.target.weights_sha256 == run.between[0].target.weights_sha256
    alone = hardened(CHAIN.model_copy(update={"steps": CHAIN.steps[1:]}))
    assert alone.after.target.weights_sha256 != run.after.target.weights_sha256


def test_a_list_of_one_is_the_same_as_a_defense() -> None:
    step = {"name": "pgd_training", "params": {"steps": 2}}
    listed = Recipe.model_validate({"threat": "Linf 0.1", "schedule": SCHEDULE, "steps": [step]})
    single = Recipe.model_validate(
        {"threat": "Linf 0.1", "schedule": SCHEDULE, "defense": "pgd_training", "params": {"steps": 2}}
    )
    assert same(hardened(listed), hardened(single))


def test_a_recipe_of_several_steps_is_written_so_that_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "chain.toml"
    path.write_text(recipe_text(CHAIN), encoding="utf-8")
    assert load_recipe(path) == CHAIN


@pytest.mark.usefixtures("halve")
def test_a_step_that_trains_nothing(tmp_path: Path) -> None:
    steps = [{"name": "standard"}, {"name": "halve", "params": {"factor": 0.25}}]
    recipe = CHAIN.model_validate(CHAIN.model_dump() | {"steps": steps})
    run = hardened(recipe, out=tmp_path / "out")
    before = hardened(CHAIN.model_copy(update={"steps": CHAIN.steps[:1]}))
    assert all(torch.equal(a * 0.25, b) for a, b in zip(weights(before), weights(run), strict=True))
    assert load_recipe(tmp_path / "out" / "recipe.toml").steps[1].params == {"factor": 0.25}


@pytest.mark.usefixtures("halve")
def test_all_faults_of_the_steps_are_told_at_once_and_nothing_runs(tmp_path: Path) -> None:
    steps = [
        {"name": "halve", "schedule": SCHEDULE},
        {"name": "trades"},
        {"name": "pgd_training", "params": {"stepps": 3}},
        {"name": "mine"},
    ]
    recipe = Recipe.model_validate({"name": "bad", "threat": "L1 3", "steps": steps, "suite": "l1_quick"})
    with pytest.raises(UserError) as fault:
        hardened(recipe, out=tmp_path / "out", suite=None)
    told = str(fault.value)
    assert told.startswith("recipe 'bad' can't be run:\n")
    for expected in (
        "halve: must not be the first",
        "halve: has a schedule, but doesn't train",
        "trades: can't be run under L1 3: it does Linf, L2",
        "unknown parameter 'stepps': did you mean steps",
        "unknown defense 'mine'",
    ):
        assert expected in told
    assert not (tmp_path / "out").exists()


def test_a_file_tells_the_faults_of_every_step_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'threat = "Linf 0.1"\n[[steps]]\nname = "standrad"\n[[steps]]\nname = "trades"\nparams = { beta = -1 }\n'
        "[[steps]]\nparams = 3\n[steps.schedule]\nepochs = 0\n"
    )
    with pytest.raises(UserError) as fault:
        load_recipe(path)
    for expected in ("steps.0: unknown defense 'standrad'", "steps.1: trades: beta", "steps.2.name", "steps.2.params"):
        assert expected in str(fault.value)
    assert "steps.2.schedule.epochs" in str(fault.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('threat = "Linf 0.1"', "names no step"),
        ('threat = "Linf 0.1"\ndefense = "standard"\n[[steps]]\nname = "standard"', "has steps and a defense"),
    ],
)
def test_either_one_defense_or_steps(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        load_recipe(path)


def test_epochs_and_rates_given_by_the_caller_hold_for_every_step() -> None:
    run = hardened(epochs=1, lr=0.01)
    assert [(line.step, line.epoch) for line in run.log] == [("1-standard", 1), ("2-pgd_training", 1)]


@pytest.fixture(scope="module")
def undisturbed() -> Hardened:
    return hardened()


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import time
from tests.hardening import test_chain as t
t.torch.set_num_threads(1)
slow = lambda progress: time.sleep(0.05)
t.hardened(out=sys.argv[2], on_progress=slow, on_attack=slow)
"""


@pytest.mark.parametrize(
    "reached",
    [
        pytest.param(lambda out: (out / "after-1-standard.json").is_file(), id="between steps"),
        pytest.param(
            lambda out: (
                len((out / "log.jsonl").read_text().splitlines()) == 2 and not (out / "after-1-standard.json").exists()
            ),
            id="in the scorecard between",
        ),
        pytest.param(lambda out: (out / "model.safetensors").is_file(), id="in the last scorecard"),
    ],
)
def test_a_chain_killed_with_kill_9_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: Hardened, reached: Callable[[Path], bool]
) -> None:
    out = tmp_path / "killed"
    child = Forked(CHILD, ROOT, out)
    child.wait_for(lambda: (out / "log.jsonl").is_file() and reached(out))
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert not (out / "after.json").exists()
    resumed = hardened(out=out, resume=True)
    assert same(resumed, undisturbed)
    assert resumed.after.outcomes == undisturbed.after.outcomes
    assert resumed.between[0].outcomes == undisturbed.between[0].outcomes
    assert [line._replace(seconds=0) for line in resumed.log] == [line._replace(seconds=0) for line in undisturbed.log]
    assert {path.name for path in out.iterdir()} == FILES | {"after-1-standard.json"}
