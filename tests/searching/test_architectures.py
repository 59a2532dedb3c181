"""Architectures in a search: what is tried, from what it starts, and what the winner's folder keeps."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna import load_study
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.hardening.interface import TrainingProgress
from robustbench_lite.hardening.pipeline import Listeners
from robustbench_lite.hardening.preparation import Changes, Sampling
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.model.architectures.cells import OPERATIONS, Cells
from robustbench_lite.model.architectures.files import FILE, load_architecture, save_architecture
from robustbench_lite.model.architectures.plain import Plain
from robustbench_lite.model.loading import load_target, save_model
from robustbench_lite.model.target import Target
from robustbench_lite.results.search import SearchResult
from robustbench_lite.searching.architectures import ArchitectureSpace
from robustbench_lite.searching.space import Space, load_space
from robustbench_lite.searching.storage import _storage
from robustbench_lite.searching.strategies.interface import BEFOREHAND
from robustbench_lite.searching.study import Search, Tuned, tune

SUITE = Suite.model_validate({"name": "short", "threats": ["Linf 0.05"], "attacks": [{"attack": "fgsm"}]})
RECIPE = Recipe.model_validate(
    {
        "name": "mine",
        "defense": "pgd_training",
        "params": {"steps": 1},
        "threat": "Linf 0.05",
        "schedule": {"epochs": 1, "batch_size": 32, "lr": 0.01, "optimizer": "adam"},
    }
)
LINEAR = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
SMALL: dict[str, Any] = {"depth": 1, "width": 8, "norm": "none"}


def run(
    out: Path,
    space: dict[str, Any],
    sampler: str = "random",
    model: Any = LINEAR,
    trials: int = 2,
    limit_train: int = 300,
    epochs: int | None = None,
    on_progress: Any = None,
) -> Tuned:
    return tune(
        model,
        "digits",
        RECIPE,
        Space.model_validate({"params": {}} | space),
        out=out,
        search=Search(trials=trials, suite=SUITE, sampler=sampler),
        changes=Changes(suite=SUITE, epochs=epochs),
        listeners=Listeners(on_progress=on_progress),
        sampling=Sampling(limit=40, limit_train=limit_train),
    )


def test_what_is_not_given_is_searched_and_what_is_fixed_is_the_same_for_all() -> None:
    space = ArchitectureSpace.model_validate({"space": "plain", "fixed": SMALL, "choices": {"kernel": (1, 3)}})
    start = space.start((1, 8, 8), 10, LINEAR)
    assert start == Plain(name="plain", shape=(1, 8, 8), classes=10, **SMALL)
    found = space.choices_of(start)
    assert set(found) == {"kernel", "skip", "activation"}
    assert found["kernel"] == (1, 3)
    assert not list(space.faults(start))
    few = space.model_copy(update={"search": ("skip",)})
    assert few.choices_of(start) == {"skip": (False, True)}


def test_values_that_are_not_searched_are_those_of_the_model(tmp_path: Path) -> None:
    save_architecture(Cells(shape=(1, 8, 8), classes=10, channels=3, edge_0_1="none"), tmp_path / "net.toml")
    target = load_target(f"arch:{tmp_path / 'net.toml'}")
    space = ArchitectureSpace.model_validate({"space": "cells", "search": ["edge_2_3"]})
    start = space.start((1, 8, 8), 10, target)
    assert isinstance(start, Cells)
    assert (start.channels, start.edge_0_1) == (3, "none")
    assert space.choices_of(start) == {"edge_2_3": OPERATIONS}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"search": ["edge_01"]}, "unknown choice 'edge_01': did you mean edge_0_1"),
        ({"search": ["channels"]}, "channels has no values by default: give them in choices"),
        ({"choices": {"edge_0_1": ["none"]}}, "choices.edge_0_1: expected two values or more, each once"),
        ({"choices": {"edge_0_1": ["none", "conv"]}}, "unknown operation 'conv'"),
        ({"choices": {"channels": [2, 0]}}, "channels: expected greater than or equal to 1"),
        ({"search": ["edge_0_1"], "fixed": {"edge_0_1": "none"}}, "searched and fixed"),
    ],
)
def test_what_can_not_be_searched_is_told(given: dict[str, Any], told: str) -> None:
    space = ArchitectureSpace.model_validate({"space": "cells"} | given)
    start = space.start((1, 8, 8), 10, LINEAR)
    assert told.casefold() in "\n".join(space.faults(start)).casefold()


def test_a_space_file_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('[architecture]\nspace = "cell"\nserch = ["a"]\n')
    with pytest.raises(UserError) as told:
        load_space(file)
    assert "did you mean cells" in str(told.value)
    assert "did you mean search" in str(told.value)
    file.write_text('[architecture]\nspace = "cells"\n[model]\nwidth = { low = 1, high = 2 }\n')
    with pytest.raises(UserError, match="has model and architecture"):
        load_space(file)
    file.write_text('[architecture]\nspace = "cells"\n')
    assert load_space(file).architecture == ArchitectureSpace(space="cells")


def test_data_of_another_shape_are_refused_before_anything_runs(tmp_path: Path) -> None:
    space = {"architecture": {"space": "cells", "fixed": {"stages": 6}}}
    with pytest.raises(UserError, match=r"don't fit the data\n.*stages is 6: expected sides of 32 or more"):
        run(tmp_path / "out", space)
    with pytest.raises(UserError, match="relaxes the operations of cells"):
        run(tmp_path / "out", {"architecture": {"space": "plain"}}, sampler="gradient")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    space = {
        "params": {"schedule.lr": {"low": 0.02, "high": 0.04, "log": True}},
        "architecture": {"space": "plain", "fixed": SMALL, "search": ["skip", "activation"]},
    }
    return run(tmp_path_factory.mktemp("search") / "out", space)


def test_recipe_and_architecture_are_searched_together(made: Tuned) -> None:
    trials = [one for one in made.trials if one.name != "recipe"]
    assert all(set(one.values) == {"schedule.lr", "model.skip", "model.activation"} for one in trials)
    for one in trials:
        kept = load_architecture(made.folder / one.name / FILE)
        assert isinstance(kept, Plain)
        assert (kept.skip, kept.activation, kept.width) == (one.values["model.skip"], one.values["model.activation"], 8)
        recipe = tomllib.loads((made.folder / one.name / "recipe.toml").read_text())
        assert recipe["schedule"]["lr"] == pytest.approx(one.values["schedule.lr"])


def test_each_trial_s_folder_is_a_model(made: Tuned) -> None:
    x = torch.rand(2, 1, 8, 8)
    for name in ("trial-0", "trial-1"):
        assert load_target(str(made.folder / name))(x).shape == (2, 10)
    assert made.judged is not None
    assert (made.folder / made.judged.winner.name / "fresh.json").is_file()


def test_the_result_tells_each_architecture_in_words(made: Tuned) -> None:
    told = SearchResult.load(made.folder)
    for one in told.trials:
        assert (one.architecture is None) == (one.name == "recipe")
    assert any("norm " in (one.architecture or "") for one in told.trials)


def test_the_same_search_goes_on_and_another_is_refused(made: Tuned) -> None:
    space = {
        "params": {"schedule.lr": {"low": 0.02, "high": 0.04, "log": True}},
        "architecture": {"space": "plain", "fixed": SMALL, "search": ["skip", "activation"]},
    }
    times = {path: path.stat().st_mtime_ns for path in made.folder.glob("trial-*/after.json")}
    again = run(made.folder, space)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert again.trials == made.trials
    space["architecture"] |= {"fixed": SMALL | {"width": 5}}
    with pytest.raises(UserError, match="architecture"):
        run(made.folder, space)


def test_trials_start_from_fresh_weights_whatever_the_model_has_learnt(tmp_path: Path) -> None:
    save_architecture(Plain(shape=(1, 8, 8), classes=10, depth=1, width=2), tmp_path / "net.toml")
    target = load_target(f"arch:{tmp_path / 'net.toml'}")
    with torch.no_grad():
        for one in target.module.parameters():
            one.zero_()
    save_model(target, tmp_path / "learnt")
    space = {"architecture": {"space": "plain", "search": ["skip"], "choices": {"skip": [False, True]}}}
    made = run(tmp_path / "out", space, model=load_target(str(tmp_path / "learnt")), trials=1)
    [trial] = [one for one in made.trials if one.name == "trial-0"]
    assert trial.clean is not None
    weights = load_target(str(made.folder / "trial-0")).module.state_dict()
    assert weights["0.weights.weight"].abs().min() > 1e-6  # from zeros no gradient would have moved them


ONE_EDGE = {
    "space": "cells",
    "fixed": {"channels": 2, "stages": 1, **{f"edge_{one}": "none" for one in ("0_1", "0_2", "1_2", "1_3", "2_3")}},
}


def test_the_gradient_s_supernet_is_trained_once_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def stop(at: TrainingProgress) -> None:
        if (at.epoch, at.step) == (2, 2):
            raise KeyboardInterrupt

    def search(out: str, on_progress: Any = None) -> Tuned:
        space = {"architecture": ONE_EDGE}
        return run(tmp_path / out, space, "gradient", trials=1, limit_train=100, epochs=2, on_progress=on_progress)

    with pytest.raises(KeyboardInterrupt):
        search("stopped", stop)
    assert not list((tmp_path / "stopped").glob("trial-*"))
    made, whole = search("stopped"), search("whole")
    told = made.result.beforehand
    assert told is not None
    # Learnt from 90 of 100 samples: half to learn, half to choose, each with one step of PGD and the loss.
    assert told.passes == 2 * 4 * 90
    assert made.trials == whole.trials
    kept = [load_study(study_name=out, storage=_storage(None, tmp_path / out)) for out in ("stopped", "whole")]
    first, other = (one.user_attrs[BEFOREHAND]["probabilities"] for one in kept)
    assert first == other
    log = made.folder / "supernet/log.jsonl"
    written = log.stat().st_mtime_ns
    assert search("stopped").result.beforehand == told
    assert log.stat().st_mtime_ns == written
