"""`rblite evaluate`: what it takes, what it writes, and how Ctrl-C ends it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustbench_lite import Scorecard
from robustbench_lite.faces.cli import output
from tests.forked import RBLITE, Forked

from .conftest import (
    EVALUATE,
    MODELS,
    SHARED,
    environment,
    evaluate,
    evaluated,
    rblite,
    samples,
)

pytestmark = pytest.mark.usefixtures("here")


YARDSTICK = SHARED / "yardsticks" / "mnist_lenet5_clean.pt"


def test_evaluate_writes_scorecard_and_report_and_shows_a_table() -> None:
    result = evaluate("zoo.py:good", "--markdown", "out/summary.md", "--seed", "7")
    assert result.exit_code == 0
    assert "MEASURED" in result.output
    assert all(name in result.output for name in ("fgsm", "pgd", "out/card.json", "out/card.html"))
    assert max(len(line) for line in result.output.splitlines()) <= 80
    card = Scorecard.load("out/card.json")
    assert (card.clean_accuracy.value, card.robust_accuracy.value, card.seed) == (1, 1, 7)
    assert [str(threat) for threat in card.suite.threats] == ["Linf 0.1"]
    assert Path("out/card.html").read_text().startswith("<!doctype html>")
    assert "zoo.py:good" in Path("out/summary.md").read_text()


def test_without_a_name_it_writes_to_its_own_folder() -> None:
    assert rblite("evaluate", "zoo.py:good", *EVALUATE[:4]).exit_code == 0
    assert sorted(path.suffix for path in Path(".robustbench").iterdir()) == [".html", ".json"]


def test_two_runs_in_one_second_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(output.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Stopped:
            return cls(2026, 11, 23, 14, 50, 57)

    monkeypatch.setattr(output, "datetime", Stopped)
    for threat in ("Linf 0.1", "Linf 0.2"):
        assert rblite("evaluate", "zoo.py:good", *EVALUATE[:4], "--threat", threat).exit_code == 0
    assert len(list(Path(".robustbench").glob("*.json"))) == 2


def test_a_model_of_a_package_is_found_in_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rbcli_package").mkdir()
    Path("rbcli_package/nets.py").write_text(MODELS)
    for name in ("rbcli_package", "rbcli_package.nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert evaluated("rbcli_package.nets:good").target.name == "rbcli_package.nets:good"


def test_a_torchvision_model_on_rgb_images() -> None:
    dice = np.random.default_rng(0)
    np.savez("rgb.npz", x=dice.random((4, 3, 32, 32), np.float32), y=np.arange(4))
    Path("one.toml").write_text('threats = ["Linf 8/255"]\nattacks = ["fgsm"]\n')
    result = rblite(
        *("evaluate", "torchvision:resnet18", "--data", "npz:rgb.npz", "--suite", "one.toml"),
        *("--classes", "10", "--json", "card.json"),
    )
    assert result.exit_code == 0, result.output
    card = Scorecard.load("card.json")
    assert card.target.name == "torchvision:resnet18"
    assert len(card.data.classes) == 10


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_loaded(suffix: str) -> None:
    state = {"1.weight": -torch.eye(3, 16), "1.bias": torch.zeros(3)}  # wrong on all
    if suffix == ".pt":
        torch.save(state, "weights.pt")
    else:
        save_file(state, "weights.safetensors")
    result = evaluate("zoo.py:good", "--weights", f"weights{suffix}")
    assert (result.exit_code, Scorecard.load("out/card.json").clean_accuracy.value) == (3, 0)
    assert "RB114" in result.output, "no better than guessing"


@pytest.mark.skipif(not YARDSTICK.is_file(), reason=f"{YARDSTICK} is not here")
def test_a_checkpoint_that_was_saved_on_a_gpu() -> None:
    Path("one.toml").write_text('threats = ["Linf 0.1"]\nattacks = ["fgsm"]\n')
    result = rblite(
        *("evaluate", "zoo.py:lenet5", "--weights", str(YARDSTICK), "--data", "mnist", "--limit", "200"),
        *("--data-root", str(SHARED / "data"), "--suite", "one.toml", "--json", "card.json"),
    )
    assert result.exit_code == 0, result.output
    card = Scorecard.load("card.json")
    assert card.clean_accuracy.value >= 0.97
    labels = [row.label for row in card.outcomes]
    assert all(15 <= labels.count(label) <= 25 for label in range(10))
    assert 0.7 < card.robust_accuracy.value < 0.9


@pytest.mark.parametrize(("source", "number"), [("npz:u8.npz", 60), ("own.py:arrays", 60), ("own.py:by_split", 12)])
def test_data_of_every_form(source: str, number: int) -> None:
    x, y = samples()
    np.savez("u8.npz", x=(x * 255).astype(np.uint8), y=y)
    card = evaluated("zoo.py:good", "--data", source)
    assert (card.data.samples, card.clean_accuracy.value) == (number, 1)


def test_a_folder_of_images() -> None:
    from PIL import Image

    for label, name in enumerate(("ant", "bee", "cow")):
        Path("images", name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (50 * label, 20 * number, 0)).save(Path("images", name, f"{number}.png"))
    card = evaluated("zoo.py:rgb", "--data", "imagefolder:images")
    assert card.data.classes == ("ant", "bee", "cow")
    assert card.data.shape == (3, 8, 8)


def test_limit_takes_a_stratified_and_seeded_sample() -> None:
    def rows(seed: str) -> list[tuple[int, int]]:
        card = evaluated("zoo.py:good", "--limit", "9", "--seed", seed)
        return [(row.index, row.label) for row in card.outcomes]

    first = rows("1")
    assert sorted(label for _, label in first) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rows("1") == first
    assert rows("2") != first


def test_several_threat_models() -> None:
    card = evaluated("zoo.py:good", "--threat", "Linf 1e-2", "--threat", "L2 0.9 targeted next", "--independent")
    assert [str(result.threat) for result in card.threats] == ["Linf 1e-2", "L2 0.9 targeted next"]
    assert card.threats[0].robust_accuracy.value == 1
    assert card.threats[1].robust_accuracy.value == 0  # 0.6 apart, so 0.6 / sqrt(2) is enough
    assert card.suite.independent


def test_a_curve_is_asked_for_by_an_option_or_by_the_suite(here: Path) -> None:
    text = """threats = ["L2 0.2"]\ncurve = true\n[[attacks]]\nattack = "carlini_wagner"\n"""
    (here / "curve.toml").write_text(text + "params = { search_steps = 2, iterations = 30 }\n")
    for options, asked in (((), True), (("--curve",), True), (("--no-curve",), False)):
        card = evaluated("zoo.py:good", "--suite", "curve.toml", *options)
        assert card.suite.curve is asked
        assert [bool(row.nearest) for row in card.outcomes] == [asked] * len(card.outcomes)
        assert card.robust_accuracy.value == 1
    card = evaluated("zoo.py:good", "--suite", "curve.toml")
    assert card.curve().median == pytest.approx(0.6 / 2**0.5, rel=0.05)
    assert "Robust accuracy against eps, L2" in rblite("report", "out/card.json").output
    refused = evaluate("zoo.py:good", "--curve")
    assert refused.exit_code == 2
    assert "looks for the smallest perturbation" in refused.output


def test_witnesses_are_kept_beside_the_scorecard() -> None:
    assert evaluate("zoo.py:good", "--threat", "Linf 0.5", "--keep-witnesses").exit_code == 0
    card = Scorecard.load("out/card.json")
    assert card.witnesses is not None
    assert len(card.witnesses.x) == 60


def test_a_model_is_called_as_the_user_says() -> None:
    assert evaluated("zoo.py:good", "--name", "my net").target.name == "my net"


def test_ctrl_c_in_evaluate_keeps_what_is_done_and_says_so() -> None:
    Path("long.toml").write_text(
        'threats = ["Linf 0.1"]\nattacks = ["fgsm", {attack = "pgd", params = {steps = 100000}}]\n'
    )
    arguments = ("evaluate", "zoo.py:Slow", *EVALUATE[:2], "--suite", "long.toml", "--json", "card.json")
    process = Forked(RBLITE, *arguments, variables=environment())
    process.wait_for(Path("attacking").exists)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "INVALID" in out
    assert "interrupt" in out
    card = Scorecard.load("card.json")
    assert (card.verdict, card.interrupted) == ("INVALID", "interrupt")
    assert card.clean_accuracy.value == 1
    assert [(result.name, result.finished) for result in card.attacks] == [("fgsm", True), ("pgd", False)]
    assert Path("card.html").is_file()
