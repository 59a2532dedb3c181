"""``rblite explain`` as a user meets it: by the card's command, by options, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_lite.results.scorecard import Scorecard

from .conftest import EVALUATE, evaluate, rblite, refused

BREAKING = ("--threat", "Linf 0.5", "--keep-witnesses", "--limit", "12")
CONVOLUTION = """
import torch
from torch import nn

def conv():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.copy_(torch.eye(3, 16))
        model[2].bias.zero_()
    return model

def flat():
    return nn.Linear(16, 3)
"""


@pytest.fixture
def card(here: Path) -> Path:
    """A scorecard with witnesses, of a model with a convolution."""
    (here / "conv.py").write_text(CONVOLUTION, encoding="utf-8")
    assert evaluate("conv.py:conv", *BREAKING, "-q").exit_code == 0
    return here / "out" / "card.json"


def test_the_card_knows_its_model_and_data(card: Path) -> None:
    run = rblite("explain", str(card), "--method", "integrated_gradients", "--method", "grad_cam", "--png", "png")
    assert run.exit_code == 0, run.output
    assert "As the card's command says: conv.py:conv, npz:ok.npz" in run.output
    assert "Why conv.py:conv failed" in run.output
    assert "was not looked into: 12 of 12 samples broke: too few to tell of those that stood" in " ".join(
        run.output.split()
    )
    assert "attribution_spearman" in run.output
    assert max(map(len, run.output.splitlines())) <= 80 or len(str(card)) > 40
    page = card.with_suffix(".explained.html").read_text(encoding="utf-8")
    assert "Why it failed: conv.py:conv" in page
    index = Scorecard.load(card).outcomes[0].index
    pictures = sorted(path.name for path in Path("png").glob(f"{index}-*.png"))
    assert pictures == [
        f"{index}-{name}.png"
        for name in (
            *("adversarial", "clean", "grad-cam-adversarial", "grad-cam-clean"),
            *("integrated-gradients-adversarial", "integrated-gradients-clean"),
        )
    ]
    with Image.open(Path("png") / pictures[0]) as image:
        assert image.size == (224, 224)


def test_json_is_for_machines_and_quiet_tells_where_the_page_is(card: Path) -> None:
    run = rblite("explain", str(card), "--method", "grad_cam", "--samples", "2", "--json", "-")
    told = json.loads(run.stdout)
    assert [one["name"] for one in told["methods"]] == ["grad_cam"]
    assert len(told["exhibits"]) == 2
    assert "original" not in told["exhibits"][0]
    quiet = rblite("explain", str(card), "--method", "grad_cam", "-q", "--html", "page.html")
    assert quiet.output == "Explained  page.html\n"


def test_model_and_data_can_be_given_where_the_card_is_elsewhere(
    card: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = card.parents[1]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    lost = rblite("explain", str(card), "--method", "grad_cam")
    assert lost.exit_code == 2
    assert "The card's command names conv.py:conv, npz:ok.npz, to be found from this folder" in lost.output
    given = ("explain", str(card), f"{source}/conv.py:conv", "--data", f"npz:{source}/ok.npz", "--method", "grad_cam")
    found = rblite(*given)
    assert found.exit_code == 0, found.output
    assert "As the card's command says" not in found.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.json"], ["none.json", "no such file"]),
        (["out/card.json", "--method", "grad_cams"], ["unknown explanation 'grad_cams': did you mean grad_cam"]),
        (["out/card.json", "zoo.py:good"], ["is not the model of the card"]),
        (["out/card.json", "--data", "digits"], ["the forward pass fails on inputs of shape (1, 1, 8, 8)"]),
        (["out/card.json", "--layer", "9"], ["finds no such layer: unknown layer '9'"]),
        (["out/card.json", "--html", "out"], ["out is a folder: expected the name of a file"]),
    ],
)
def test_wrong_input_is_told_without_a_traceback(card: Path, arguments: list[str], told: list[str]) -> None:
    refused(card.parents[1], ["explain", *arguments], told)


def test_a_card_without_witnesses_is_refused(card: Path) -> None:
    card.with_suffix(".witnesses.npz").unlink()
    refused(card.parents[1], ["explain", "out/card.json"], ["no adversarial examples: evaluate with --keep-witnesses"])


def test_a_card_that_python_made_needs_a_model_and_data(card: Path) -> None:
    kept = Scorecard.load(card)
    kept.model_copy(update={"command": ()}).with_witnesses(kept.witnesses).save(card)
    refused(card.parents[1], ["explain", "out/card.json"], ["the card doesn't tell which command made it", "--data"])
    assert rblite("explain", str(card), "conv.py:conv", "--data", "npz:ok.npz", "--method", "grad_cam").exit_code == 0


def test_samples_that_are_no_images_are_refused_before_the_run(card: Path, no_run: None) -> None:
    x, y = np.random.default_rng(0).random((12, 16), np.float32), np.arange(12) % 3
    np.savez("flat.npz", x=x, y=y)
    arguments = ["evaluate", "conv.py:flat", "--data", "npz:flat.npz", "--suite", "short.toml", "--explain"]
    refused(card.parents[1], arguments, ["samples of shape (16,) are no images"])


def test_evaluate_explains_what_it_broke_and_says_where_nothing_was(card: Path) -> None:
    run = rblite("evaluate", "conv.py:conv", *EVALUATE, "--threat", "Linf 0.5", "--limit", "6", "--explain", "-q")
    assert run.exit_code == 0, run.output
    assert "Explained  out/card.explained.html" in run.output
    assert not card.with_suffix(".witnesses.npz").exists()
    assert "--explain" not in Scorecard.load(card).command
    stood = rblite("evaluate", "zoo.py:good", *EVALUATE, "--threat", "Linf 0.1", "--limit", "6", "--explain", "-q")
    assert stood.exit_code == 0
    assert "Explained  no: the card has no broken sample" in stood.output
