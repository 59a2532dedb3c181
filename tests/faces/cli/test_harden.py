"""`rblite harden`: a folder with everything, options over the recipe, and a training that is stopped."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite import Scorecard
from tests.forked import HERE, RBLITE, Forked, ran

from .conftest import HARDEN, environment, evaluate, rblite, refused

pytestmark = pytest.mark.usefixtures("here")


def test_a_training_that_is_stopped_twice_goes_on_to_the_same_weights() -> None:
    assert rblite(*HARDEN, "--out", "whole").exit_code == 0
    log = Path("cut/log.jsonl")
    for number, epochs, more in ((signal.SIGKILL, 3, ()), (signal.SIGINT, 6, ("--resume",))):
        process = Forked(RBLITE, *HARDEN, "--out", "cut", *more, variables=environment(NAP="0.005"))
        process.wait_for(lambda so_far=epochs: log.is_file() and len(log.read_text().splitlines()) >= so_far)
        process.send_signal(number)
        _, err = process.communicate()
        assert not Path("cut/model.safetensors").exists()  # else it came too late
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "--resume" in err
            assert "Traceback" not in err
        again = rblite(*HARDEN, "--out", "cut")
        assert again.exit_code == 2
        assert "--resume" in again.output
        other = rblite(*HARDEN, "--out", "cut", "--resume", "--lr", "0.5")
        assert other.exit_code == 2
        assert "schedule.lr: was 0.01, is 0.5" in other.output
    assert rblite(*HARDEN, "--out", "cut", "--resume").exit_code == 0
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert len(log.read_text().splitlines()) == 20
    assert not Path("cut/checkpoint.pt").exists()


def test_harden_from_scratch_then_evaluate_its_folder_then_fine_tune() -> None:
    result = rblite(*HARDEN[:-1], "--out", "first", "--epochs", "3", "--threat", "Linf 0.2", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in ("before", "after", "first", "first/report.html"))
    told = re.sub(r"\s+", " ", result.output)
    assert re.search(r"Hardening (gained|lost|not shown): .*robust under the suite .*% to .*% \(p = .*\); clean", told)
    assert re.search(r"Samples \d+ learnt from, \d+ held out, \d+ evaluated", told)
    assert re.search(r"Kept epoch \d of 3 \(pgd_training\): .* held-out samples", told)
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert "(before) (before)" not in told
    assert "zoo.py:net (before)" in told
    assert "first (after)" in told
    again = ("rblite", *HARDEN[:-1], "--threat", "Linf 0.2", "--epochs", "3", "--seed", "3", "--out", "first-again")
    for name in ("before", "after"):
        assert sorted(Scorecard.load(f"first/{name}.json").command) == sorted(again)
    assert "first-again" in Path("first/report.html").read_text()
    assert "MODEL stands for" not in Path("first/report.html").read_text()
    assert Scorecard.load("first/after.json").target.name == "first"
    compared = rblite("compare", "first/before.json", "first/after.json").output
    assert "zoo.py:net (before)" in compared
    assert "first (after)" in compared
    written = {"model.safetensors", "model.json", "recipe.toml", "log.jsonl", "before.json", "after.json"}
    assert {path.name for path in Path("first").iterdir()} == written | {"report.html", "zoo.py"}
    after = Scorecard.load("first/after.json")
    assert (after.seed, [str(threat) for threat in after.suite.threats]) == (3, ["Linf 0.2"])
    [lines] = re.findall(r"^In torch .*\n\n((?:.+\n)+)\n", result.stdout, re.MULTILINE)
    used = f"{HERE}{lines}import torch; assert model(torch.rand(2, 1, 4, 4)).shape == (2, 3)"
    plainly = ran(f"{used}; print(type(model).__name__)")
    assert (plainly.returncode, plainly.stdout.strip()) == (0, "Net"), plainly.stderr
    assert "robustbench_lite" not in lines
    barely = evaluate("first", "--allow-invalid", "three epochs leave it near chance")
    assert barely.exit_code == 0, barely.output
    assert Scorecard.load("out/card.json").target.weights_sha256 == after.target.weights_sha256

    tuned = rblite(*HARDEN, "--weights", "first/model.safetensors", "--out", "second", "--epochs", "1", "--limit", "6")
    assert tuned.exit_code == 0, tuned.output
    assert "before" not in tuned.output  # quiet: no table
    before = Scorecard.load("second/before.json")
    assert before.target.weights_sha256 == after.target.weights_sha256
    assert before.data.samples == 6


def test_the_options_of_the_schedule_replace_the_recipes() -> None:
    options = ("--epochs", "2", "--lr", "0.003", "--batch-size", "48", "--suite", "other.toml")
    Path("other.toml").write_text('threats = ["Linf 0.1"]\nattacks = ["bim"]\n')
    assert rblite(*HARDEN, "--out", "out", *options).exit_code == 0
    from robustbench_lite import load_recipe

    schedule = load_recipe("out/recipe.toml").schedule
    assert (schedule.epochs, schedule.lr, schedule.batch_size) == (2, 0.003, 48)
    assert [result.name for result in Scorecard.load("out/after.json").attacks] == ["bim"]
    log = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]


def test_harden_says_what_went_wrong_and_learns_from_a_part() -> None:
    # A rate so small that nothing is learnt.
    result = rblite(*HARDEN, "--out", "out", "--epochs", "3", "--lr", "1e-9", "--limit-train", "40")
    assert result.exit_code == 0, result.output
    told = re.sub(r"\s+", " ", result.output)
    assert "Hardening not shown: " in told
    assert "Note whether the model learnt can't be told from 4 held-out samples" in told
    sizes = re.search(r"Samples (\d+) learnt from, (\d+) held out", told)
    assert sizes is not None
    assert sum(map(int, sizes.groups())) == 40


def test_harden_ranks_several_recipes() -> None:
    both = ("harden", "zoo.py:net", "--data", "npz:ok.npz", "--recipe", "short_recipe.toml,standard", "--out", "out")
    options = ("--threat", "Linf 0.1", "--suite", "short.toml", "--epochs", "1", "--limit", "20")
    result = rblite(*both, *options)
    assert result.exit_code == 0, result.output
    assert "Recipe 2 of 2: standard" in result.stderr
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    told = re.sub(r"\s+", " ", result.stdout)
    assert re.search(r"(has the best robust accuracy|None of them is the best)", told)
    assert "Holm-corrected" in told
    assert "Ranking out/ranking.json" in told
    assert "Holm-corrected" in Path("out/report.html").read_text()
    assert "Training passes" in Path("out/ranking.md").read_text()
    for card in ("before", "standard/after"):
        assert Scorecard.load(f"out/{card}.json").command[-2:] == ("--out", "out-again")
    names = [one["name"] for one in json.loads(Path("out/ranking.json").read_text())["ranks"]]
    assert sorted(names) == ["before", "short_recipe", "standard"]
    assert rblite(*both, *options, "--resume", "--quiet").exit_code == 0


def test_harden_takes_one_threat_model() -> None:
    result = rblite(*HARDEN, "--out", "out", "--threat", "Linf 0.1", "--threat", "Linf 0.2")
    assert result.exit_code == 2
    assert "one" in result.output
    assert not Path("out").exists()


def test_a_hardened_folder_works_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rblite(*HARDEN, "--out", "hard", "--epochs", "1").exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = rblite("evaluate", "../hard", "--data", "npz:../ok.npz", "--suite", "../short.toml", "--json", "c.json")
    assert Scorecard.load("c.json").target.name == "hard", result.output  # weak as it is, whatever its verdict


def test_a_recipe_tells_all_its_faults_at_once(here: Path) -> None:
    Path("bad.toml").write_text(
        'defense = "pgd_trainin"\nthreat = "Linf 0"\nsuite = "nope"\ncolour = "red"\n[schedule]\nepochs = 0\nlr = "x"\n'
    )
    told = ["did you mean pgd_training", "threat", "suite", "colour", "schedule.epochs", "schedule.lr"]
    refused(here, (*HARDEN[:-3], "--recipe", "bad.toml", "--out", "out"), told)
    refused(here, (*HARDEN[:-3], "--recipe", "standard,,pgd_training", "--out", "out"), ["holds an empty name"])
    refused(here, (*HARDEN[:-3], "--recipe", "pgd_trainin", "--out", "out"), ["did you mean pgd_training?"])
    assert not Path("out").exists()


@pytest.mark.parametrize("place", ["ok.npz", "ok.npz/deep", "full"])
def test_harden_finds_before_the_run_that_it_cannot_write(
    here: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustbench_lite.hardening import pipeline as hardening

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the run had begun")

    monkeypatch.setattr(hardening, "evaluate", never)
    Path("full").mkdir()
    Path("full/keep").write_text("me")
    refused(here, (*HARDEN, "--out", place), [place])
