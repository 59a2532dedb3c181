"""The demo tells its story: a shorter training of the real thing, on fewer test digits, through the command line."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from robustbench_lite import Scorecard, load_recipe
from robustbench_lite.faces.cli import demo, main
from robustbench_lite.hardening import pipeline
from robustbench_lite.results.scorecard import Finding

EPOCHS = {"standard": 3, "distillation": 16, "pgd_training": 5}  # the real ones take over a minute
FILES = {
    "plain training": "plain-training.json",
    "defensive distillation": "defensive-distillation.json",
    "PGD training": "PGD-training.json",
}


class Ran(NamedTuple):
    """What a run of the demo left."""

    said: str
    folder: Path
    plain: Scorecard
    distilled: Scorecard
    hardened: Scorecard


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    recipes = {}
    for name, recipe in demo.RECIPES.items():
        full = load_recipe(recipe)
        short = full.schedule.model_copy(update={"epochs": EPOCHS[recipe]})
        recipes[name] = full.model_copy(update={"schedule": short})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        patch.setattr(demo, "RECIPES", recipes)
        patch.setattr(pipeline, "harden", partial(pipeline.harden, limit=120))
        result = CliRunner().invoke(main, ["demo", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return Ran(result.stdout, folder, *(Scorecard.load(folder / FILES[name]) for name in FILES))


def alone(card: Scorecard, attack: str) -> float:
    """Share of samples that an attack by itself leaves right."""
    [result] = [result for result in card.attacks if result.name == attack]
    assert result.alone is not None
    return result.alone.value


@pytest.mark.slow
def test_without_an_adversary_all_three_are_good(ran: Ran) -> None:
    assert min(card.clean_accuracy.value for card in (ran.plain, ran.distilled, ran.hardened)) > 0.9


@pytest.mark.slow
def test_plain_training_falls(ran: Ran) -> None:
    assert ran.plain.robust_accuracy.value < 0.3
    assert max(alone(ran.plain, name) for name in ("fgsm", "pgd")) < 0.4


@pytest.mark.slow
def test_distillation_withstands_the_cross_entropy_and_falls_to_carlini_wagner(ran: Ran) -> None:
    assert min(alone(ran.distilled, name) for name in ("fgsm", "bim", "pgd")) >= 0.8
    assert alone(ran.distilled, "carlini-wagner") < 0.35
    assert ran.distilled.robust_accuracy.value < 0.35


@pytest.mark.slow
def test_pgd_training_holds(ran: Ran) -> None:
    others = max(ran.plain.robust_accuracy.value, ran.distilled.robust_accuracy.value)
    assert ran.hardened.robust_accuracy.value > others + 0.25
    assert ran.hardened.robust_accuracy.low > max(ran.plain.robust_accuracy.high, ran.distilled.robust_accuracy.high)


@pytest.mark.slow
def test_the_masked_gradients_are_found_where_they_are(ran: Ran) -> None:
    masked = {finding.attack for finding in ran.distilled.validity if finding.code == "RB201"}
    assert masked == {"fgsm", "bim", "pgd"}
    assert not [finding for card in (ran.plain, ran.hardened) for finding in card.validity if finding.code == "RB201"]


@pytest.mark.slow
def test_the_same_suite_on_the_same_digits(ran: Ran) -> None:
    cards = (ran.plain, ran.distilled, ran.hardened)
    assert all(card.suite == ran.plain.suite for card in cards)
    assert all(card.data == ran.plain.data for card in cards)
    assert [str(threat) for threat in ran.plain.suite.threats] == [demo.THREAT]
    assert [card.target.name for card in cards] == list(FILES)
    assert len({card.target.weights_sha256 for card in cards}) == 3


@pytest.mark.slow
def test_what_it_says_on_the_terminal(ran: Ran) -> None:
    said = " ".join(ran.said.split())
    assert demo.TITLE in said
    assert f"leaves {ran.distilled.robust_accuracy.value:.1%}" in said
    assert f"keeps {ran.plain.robust_accuracy.value:.1%}" in said
    assert f"{ran.hardened.robust_accuracy} withstand" in said
    assert str((ran.folder / "scorecard.html").resolve()) in ran.said.replace("\n", "")
    table = ran.said.partition("Report ")[0]  # the last line is a path, however long
    assert max(len(line) for line in table.splitlines()) <= 80


@pytest.mark.slow
def test_it_ends_with_one_page_that_stands_alone(ran: Ran) -> None:
    assert {path.name for path in ran.folder.iterdir()} == {"scorecard.html", *FILES.values()}
    page = (ran.folder / "scorecard.html").read_text(encoding="utf-8")
    assert all(name in page for name in FILES)
    assert demo.TITLE in page
    assert "RB201" in page
    assert "Distillation looks like a defense" in page
    assert not re.findall(r"<script[^>]*\ssrc", page)
    sources = re.findall(r"\s(?:src|srcset|data|action|xlink:href)\s*=\s*[\"']?([^\"'>\s]{1,20})", page)
    assert sources  # the gallery
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.findall(r"url\((?![\"']?(?:data:|#))", page)
    assert not re.findall(r"<link\b|@import|<iframe\b|<object\b", page)


def test_the_network_is_small_and_takes_the_digits() -> None:
    model = demo.small_cnn()
    with torch.no_grad():
        assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) < 50_000


def test_the_docstrings_number_of_parameters_is_the_networks() -> None:
    [told] = re.findall(r"([\d,]+) parameters", demo.small_cnn.__doc__ or "")
    assert int(told.replace(",", "")) == sum(parameter.numel() for parameter in demo.small_cnn().parameters())


def test_the_three_start_from_the_same_seeded_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, dict[str, Any], str]] = []

    def harden(model: nn.Module, data: str, recipe: str, **more: Any) -> None:
        given.append((recipe, {name: value.clone() for name, value in model.state_dict().items()}, more["suite"]))
        if len(given) == 3:
            raise KeyboardInterrupt  # seen enough
        return Hardened()  # type: ignore[return-value]

    class Hardened:
        @property
        def after(self) -> Any:
            class Card:
                target = type("Info", (), {"model_copy": lambda self, update: self})()

                def model_copy(self, update: Any) -> Any:
                    return self

            return Card()

    monkeypatch.setattr(pipeline, "harden", harden)
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [recipe for recipe, _, _ in given] == list(demo.RECIPES.values())
    first = given[0][1]
    assert all(torch.equal(first[name], other[name]) for _, other, _ in given for name in first)
    assert {suite for _, _, suite in given} == {demo.SUITE}

    given.clear()
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(seed=6)
    assert not all(torch.equal(first[name], given[0][1][name]) for name in first)


def test_the_story_says_what_the_cards_say(make_card: Any) -> None:
    plain, hardened = make_card("plain training"), make_card("PGD training", breaks={"fgsm": 0.02})
    distilled = make_card("defensive distillation", clean=0.9, breaks={"fgsm": 0.01, "carlini-wagner": 0.9})
    told = demo.story([plain, distilled, hardened])
    assert len(told) == 3
    assert all(f"{card.clean_accuracy.value:.1%}" in told[0] for card in (plain, distilled, hardened))
    assert f"keeps {plain.robust_accuracy.value:.1%}" in told[0]
    assert f"leaves it {distilled.attacks[0].alone.value:.1%}" in told[1]
    assert f"leaves {distilled.robust_accuracy.value:.1%}" in told[1]
    assert told[1].startswith("Distillation looks like a defense: fgsm alone")
    assert "It is none: the whole suite leaves" in told[1]
    assert "blindly" not in told[1]  # no such finding
    assert "PGD training holds" in told[2]
    assert str(hardened.robust_accuracy) in told[2]


def test_the_story_claims_nothing_that_the_cards_do_not_say(make_card: Any) -> None:
    plain, hardened = make_card("plain training", clean=0.6), make_card("PGD training", clean=0.6)
    found = [
        Finding(code="RB201", severity="warning", attack=name, message="m", cure="c") for name in ("fgsm", "bim", "pgd")
    ]
    distilled = make_card("defensive distillation", breaks={"fgsm": 0.5, "pgd": 0.5}, validity=tuple(found))
    told = demo.story([plain, distilled, hardened])
    assert "good" not in told[0]
    assert "looks like a defense" not in told[1]
    assert "none" not in told[1]
    assert "fgsm, bim and pgd see no gradient" in told[1]
    assert "holds" not in told[2]
    assert "not clearly more than" in told[2]


def test_ctrl_c_ends_the_demo_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", interrupted)
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "out")])
    assert result.exit_code == 130
    assert "Interrupted" in result.output
    assert not list(tmp_path.rglob("*.json"))
