"""A search: what it sees and doesn't see, what can win, and how it goes on where it was killed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna import load_study
from optuna.trial import TrialState
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.hardening.interface import TrainingProgress
from robustbench_lite.hardening.pipeline import Listeners
from robustbench_lite.hardening.preparation import Changes, Sampling
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.model.loading import load_target
from robustbench_lite.results.scorecard import Scorecard
from robustbench_lite.searching.proxy import Proxy
from robustbench_lite.searching.space import Space
from robustbench_lite.searching.storage import _storage
from robustbench_lite.searching.study import Search, Standing, Tuned, tune
from tests.forked import ROOT, Forked

SUITE = Suite.model_validate(
    {"name": "short", "threats": ["Linf 0.05"], "attacks": [{"attack": "pgd", "params": {"steps": 2}}]}
)
LONGER = Suite.model_validate(
    {"name": "longer", "threats": ["Linf 0.05"], "attacks": [{"attack": "pgd", "params": {"steps": 5}}]}
)
RECIPE = Recipe.model_validate(
    {
        "name": "mine",
        "defense": "pgd_training",
        "params": {"steps": 1},
        "threat": "Linf 0.05",
        "schedule": {"epochs": 1, "batch_size": 64, "lr": 0.001, "decay": "constant"},
    }
)
SPACE = Space.model_validate(
    {
        "name": "space",
        "params": {
            "schedule.lr": {"low": 0.02, "high": 0.5, "log": True},
            "params.steps": {"low": 1, "high": 2},
        },
    }
)
STEPS = Space.model_validate({"params": {"params.steps": {"low": 1, "high": 2}}})
NOBODY = Listeners()


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def run(
    out: Path,
    space: Space = SPACE,
    listeners: Listeners = NOBODY,
    on_trial: Any = None,
    jobs: Any = 1,
    model: Any = None,
    **search: Any,
) -> Tuned:
    return tune(
        network() if model is None else model,
        "digits",
        RECIPE,
        space,
        out=out,
        search=Search(**{"trials": 3, "suite": SUITE, "sampler": "random"} | search),
        changes=Changes(suite=LONGER),
        sampling=Sampling(limit=100, limit_train=400),
        listeners=listeners,
        on_trial=on_trial,
        jobs=jobs,
    )


def trials_of(out: Path) -> list[Any]:
    return load_study(study_name=out.name, storage=_storage(None, out)).trials


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return run(tmp_path_factory.mktemp("search") / "out")


def keys(path: Path) -> set[str]:
    return {row.key for row in Scorecard.load(path).outcomes}


def test_the_search_sees_no_sample_that_judges_the_winner(made: Tuned) -> None:
    assert made.judged is not None
    seen: set[str] = set()
    for one in made.trials:
        seen |= keys(made.folder / one.name / "before.json") | keys(made.folder / one.name / "after.json")
    fresh = keys(made.folder / made.judged.winner.name / "fresh.json")
    assert len(seen) == len(fresh) == 100
    assert not seen & fresh
    # And no trial learnt from either: it would be told by the plan's own split, which holds the validation out.
    assert {path.parent.name for path in made.folder.glob("*/fresh.json")} <= {made.judged.winner.name, "recipe"}


def test_the_winner_is_judged_on_fresh_samples_against_the_recipe_as_it_is(made: Tuned) -> None:
    judged = made.judged
    assert judged is not None
    assert [one.name for one in made.trials if one.state == "done"] == [one.name for one in made.trials]
    values = [one.robust.value for one in made.trials if one.robust is not None]
    assert values == sorted(values, reverse=True)
    assert judged.winner == made.trials[0]
    assert judged.winner.name != "recipe"  # whose learning rate is far too small
    assert judged.card.suite.name == "longer"
    assert judged.found_better
    assert judged.gain is not None
    assert judged.gain.robust.p_value < 0.05
    fall = judged.fall
    assert fall.validation == judged.winner.robust
    assert fall.low < fall.by < fall.high
    assert fall.by == pytest.approx(fall.validation.value - fall.fresh.value)
    told = json.loads((made.folder / "search.json").read_text())
    assert (told["winner"], told["tried"], told["found_better"]) == (judged.winner.name, 3, True)


def test_a_finished_search_is_read_and_more_trials_go_on_from_it(made: Tuned) -> None:
    again = run(made.folder, listeners=Listeners(on_progress=never, on_attack=never))
    seconds = again.result.seconds  # of this process alone
    assert again == replace(made, result=made.result.model_copy(update={"seconds": seconds}))
    with pytest.raises(UserError, match=r"(?s)other settings.*sampler: was random, is tpe"):
        run(made.folder, sampler="tpe")


def never(*_: object) -> None:
    raise AssertionError("something was done again")


def test_what_is_told_on_the_way(tmp_path: Path) -> None:
    told: list[Standing] = []
    run(tmp_path / "out", on_trial=told.append, trials=2)
    names = [("recipe", 0, 2), ("trial-0", 0, 2), ("trial-1", 1, 2), ("", 2, 2)]
    assert [(one.name, one.done, one.total) for one in told] == names
    assert told[1].best is None  # the recipe as it is learns nothing in one epoch, and can't win
    assert told[-1].best is not None
    assert told[1].seconds_left is None
    assert told[2].seconds_left is not None


def test_a_trial_that_diverges_is_kept_as_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    space = Space.model_validate({"name": "wild", "params": {"schedule.lr": {"choices": [1e38, 0.05]}}})
    found = run(tmp_path / "out", space, sampler="grid", trials=2)
    failed = [one for one in found.trials if one.state == "failed"]
    assert len(failed) == 1
    assert "diverges" in failed[0].out
    assert found.judged is not None
    assert found.judged.winner.values == {"schedule.lr": 0.05}
    assert {one.state for one in trials_of(found.folder)} == {TrialState.FAIL, TrialState.COMPLETE}


def test_five_failures_in_a_row_end_the_search(tmp_path: Path) -> None:
    space = Space.model_validate({"name": "wild", "params": {"schedule.lr": {"low": 1e37, "high": 1e38}}})
    with pytest.raises(UserError, match=r"(?s)5 trials failed one after the other.*trial-4: .*diverges"):
        run(tmp_path / "out", space, trials=9)
    assert len(trials_of(tmp_path / "out")) == 5


def test_nothing_below_the_floor_of_clean_accuracy_wins(tmp_path: Path) -> None:
    found = run(tmp_path / "out", min_clean=0.999, trials=1)
    assert found.judged is None
    assert all("below the floor of 99.9%" in one.out or "INVALID" in one.out for one in found.trials)
    assert json.loads((found.folder / "search.json").read_text())["winner"] is None


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "cmaes"])
def test_samplers_propose_again_what_they_proposed(tmp_path: Path, sampler: str) -> None:
    """A search that is stopped between two trials goes on as if it had not been."""
    whole = run(tmp_path / "a" / "out", sampler=sampler, trials=3)
    run(tmp_path / "b" / "out", sampler=sampler, trials=1)
    parts = run(tmp_path / "b" / "out", sampler=sampler, trials=3)
    assert parts.trials == whole.trials


def test_a_grid_is_each_point_once(tmp_path: Path) -> None:
    space = Space.model_validate({"name": "grid", "params": {"schedule.lr": {"choices": [0.05, 0.1, 0.2]}}})
    found = run(tmp_path / "out", space, sampler="grid", trials=10)
    assert sorted(one.values["schedule.lr"] for one in found.trials if one.values) == [0.05, 0.1, 0.2]


class Stop:
    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, progress: TrainingProgress) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_an_interrupted_trial_goes_on_with_the_same_settings(made: Tuned, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(out, listeners=Listeners(on_progress=Stop(14)))  # 6 batches a trial
    assert [one.state for one in trials_of(out)] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert run(out).trials == made.trials


def test_a_search_in_a_database(made: Tuned, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    found = run(tmp_path / "out", storage=url)
    assert found.trials == made.trials
    assert len(load_study(study_name="out", storage=url).trials) == 3
    with pytest.raises(UserError, match="other settings"):  # the same study from another folder
        run(tmp_path / "other" / "out", storage=url, min_clean=0.5)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("sqlite:////nowhere/at/all.db", "can't be reached"),
        ("nosuch://me:secret@host/db", r"'nosuch://\*\*\*@host/db': can't be reached"),
        ("/nowhere/study.journal", "can't be reached"),
    ],
)
def test_a_storage_that_can_not_be_reached(tmp_path: Path, storage: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run(tmp_path / "out", storage=storage)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "out").exists()  # so that the corrected command finds no other search there


def test_two_processes_on_one_study_run_no_trial_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [Forked(SCRIPT, out, ROOT) for _ in range(2)]
    ran = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    names = sorted(name for names in ran for name in names)
    assert names == ["recipe", "recipe", "trial-0", "trial-1", "trial-2", "trial-3"]
    trials = trials_of(out)
    assert [one.state for one in trials] == [TrialState.COMPLETE] * 4
    told = json.loads((out / "search.json").read_text())
    assert told["tried"] == 4
    folders = [out / one["name"] for one in told["trials"]]
    assert len({json.dumps(one["settings"]) for one in told["trials"]}) == 5
    assert all((folder / "after.json").is_file() and not (folder / "checkpoint.pt").is_file() for folder in folders)


def test_jobs_share_a_search_and_survive_a_kill(made: Tuned, tmp_path: Path, forked_workers: list[Any]) -> None:
    told: list[Standing] = []
    killed: list[int] = []

    def hear(now: Standing) -> None:
        told.append(now)
        workers = [worker.pid for worker in forked_workers if worker.poll() is None]
        if not killed and now.done and workers:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    found = run(tmp_path / "out", on_trial=hear, jobs=2, trials=5)
    assert killed
    assert [one.state for one in trials_of(found.folder)] == [TrialState.COMPLETE] * 5
    assert [(one.name, one.done) for one in told[:2]] == [("recipe", 0), ("2 jobs", 0)]
    assert (told[-1].name, told[-1].done, told[-1].total) == ("", 5, 5)
    # What is proposed at random depends on the trial's number alone: the first three are those of one process.
    firsts = sorted((one.name, one.values, one.robust) for one in found.trials if one.name < "trial-3")
    assert firsts == sorted((one.name, one.values, one.robust) for one in made.trials)
    assert found.judged is not None


BUILDER = """
from torch import nn
def build(width=4, depth=1, classes=10):
    layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))
"""


def test_arguments_of_the_model_are_searched_and_kept_with_the_winner(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(BUILDER)
    target = load_target(f"{tmp_path / 'nets.py'}:build", classes=10)
    space = Space.model_validate(
        {"params": {"schedule.lr": {"choices": [0.2, 0.3]}}, "model": {"width": {"low": 6, "high": 12, "step": 6}}}
    )
    found = run(tmp_path / "out", space, model=target, sampler="grid", trials=4)
    assert {one.state for one in found.trials} == {"done"}
    for one in found.trials:
        width = one.values.get("model.width", 4)
        again = load_target(str(found.folder / one.name))
        assert again.module.get_parameter("1.weight").shape == (width, 64)
        assert again.arguments == ({"width": width} if one.values else {})
    assert found.judged is not None
    assert found.judged.card.target.name == found.judged.winner.name
    wrong = space.model_copy(update={"model": {"widht": space.model["width"], "depth": space.model["width"]}})
    with pytest.raises(UserError, match=r"model\.widht: unknown argument 'widht': did you mean width"):
        run(tmp_path / "other", wrong, model=target)
    with pytest.raises(UserError, match=r"model\.width: Sequential: is made by no function with arguments"):
        run(tmp_path / "other", space)


def test_finalists_of_a_proxy_are_run_in_full_and_one_of_them_wins(tmp_path: Path) -> None:
    space = SPACE.model_copy(update={"proxy": Proxy(limit_train=100, limit=50, defense="free", finalists=2)})
    with pytest.raises(UserError, match=r"params.steps is searched, and free doesn't have it"):
        run(tmp_path / "out", space)
    space = space.model_copy(update={"params": {"schedule.lr": SPACE.params["schedule.lr"]}})
    found = run(tmp_path / "out", space, trials=3)
    assert [one.robust.total for one in found.trials if one.robust] == [50, 50, 50]
    best = [one.name.replace("trial", "final") for one in found.trials[:2]]
    assert {one.name for one in found.finals} == {*best, "recipe"}
    assert [one.robust.total for one in found.finals if one.robust] == [100, 100, 100]
    assert found.judged is not None
    assert found.judged.winner == found.finals[0]
    told = found.result.proxy
    assert told is not None
    assert told.told == "100 samples to learn from, 50 validation samples, training by free"
    assert len(told.pairs) == 2
    assert told.passes_in_full is not None
    assert told.passes < told.passes_in_full
    assert run(tmp_path / "out", space, listeners=Listeners(on_progress=never, on_attack=never)).finals == found.finals


def test_what_is_given_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown sampler 'tpee': did you mean tpe"):
        run(tmp_path / "out", sampler="tpee")
    with pytest.raises(UserError, match="needs an end"):
        run(tmp_path / "out", trials=None)
    with pytest.raises(UserError, match="more than 1 trials"):
        run(
            tmp_path / "out",
            Space.model_validate({"params": {"params.steps": {"low": 1, "high": 2}}}),
            sampler="grid",
            trials=1,
        )
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="is not empty and holds no search"):
        run(tmp_path / "full")
    optunas, own = {"grid", "random", "tpe", "gp", "nsga2", "cmaes"}, {"evolution", "reinforce", "gradient", "gdas"}
    assert set(registry.names("strategies")) == optunas | own | {"hyperopt"}


def test_pruned_trials_can_not_win(tmp_path: Path) -> None:
    space = Space.model_validate({"name": "s", "params": {"schedule.lr": {"choices": [0.1, 0.2, 0.15, 1e-7]}}})
    found = run(tmp_path / "out", space, sampler="grid", pruner="median", trials=4)
    states = {one.values.get("schedule.lr"): one.state for one in found.trials}
    assert set(states.values()) <= {"done", "pruned"}
    assert all(not one.can_win for one in found.trials if one.state == "pruned")


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from tests.searching.test_study import run
run(Path(sys.argv[1]), trials=4, on_trial=lambda now: print(now.name, flush=True))
"""


def test_a_killed_search_loses_no_trial_and_runs_none_twice(tmp_path: Path) -> None:
    whole, out = run(tmp_path / "whole" / "out", trials=4), tmp_path / "out"
    first = Forked(SCRIPT, out, ROOT)
    first.wait_for((out / "trial-1").is_dir)
    first.kill()
    done = {one.number: one.datetime_complete for one in trials_of(out) if one.state == TrialState.COMPLETE}
    assert 0 in done
    resumed = run(out, trials=4)
    assert resumed.trials == whole.trials
    assert {one.number: one.datetime_complete for one in trials_of(out) if one.number in done} == done
