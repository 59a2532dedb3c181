"""What the command line says to wrong input: everything that is wrong, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from .conftest import EVALUATE, refused, samples

pytestmark = pytest.mark.usefixtures("here")


def test_a_key_that_is_misspelt_is_told_with_the_one_that_was_meant(here: Path) -> None:
    Path("bad.toml").write_text('threats = ["Linf 0.1"]\natacks = ["pgd"]\n')
    told = ["atacks", "did you mean attacks", "attacks: is missing"]
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "bad.toml"), told)
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "linf_fast"), ["did you mean linf_quick?"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("report", "none.json"), ["none.json", "no such file", "rblite evaluate"]),
        (("report", "ok.npz"), ["ok.npz", "JSON"]),
        (("report", "old.json"), ["old.json", "schema_version", "99"]),
        (("report", "empty.json"), ["empty.json", "schema_version"]),
        (("report", "card.json", "--format", "htm"), ["htm", "did you mean html"]),
        (("report", "card.json", "--out", "x.txt"), ["terminal", "html"]),
        (("report", "card.json", "--format", "html", "--out", "ok.npz/x.html"), ["ok.npz/x.html", "written"]),
        (("report", "card.json", "--format", "html", "--out", "folder"), ["folder", "written"]),
        (("report", "no*.json"), ["no*.json", "no file fits"]),
        (("report", "card.json", "card.json", "old.json", "--badge", "b.svg"), ["old.json"]),
        (("report", "card.json", "other.json", "--badge", "b.svg"), ["a badge shows one scorecard, and 2"]),
        (("report", "card.json", "--html", "x.html", "--csv", "x.html"), ["x.html", "a file of its own"]),
        (("report", "card.json", "--html", "x.html", "--out", "y.txt"), ["--out", "--format"]),
        (("report", "card.json", "--csv", "folder"), ["folder", "expected the name of a file"]),
        (("compare", "card.json", "none.json"), ["none.json", "no such file"]),
        (("compare", "card.json"), ["AFTER.json"]),
        (("compare", "card.json", "card.json", "--html", "folder"), ["folder", "written"]),
        (("list", "attack"), ["attack", "did you mean attacks"]),
        (("evalute",), ["evalute"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_input_to_the_other_commands(
    here: Path, make_card: Callable[..., Any], arguments: tuple[str, ...], told: list[str]
) -> None:
    make_card().save("card.json")
    make_card("other").save("other.json")
    Path("old.json").write_text(Path("card.json").read_text().replace('"schema_version": 1', '"schema_version": 99'))
    Path("empty.json").write_text("{}")
    Path("folder").mkdir()
    refused(here, arguments, told)


def test_what_is_refused_leaves_no_folder_behind(here: Path) -> None:
    refused(here, ("evaluate", "zoo.py:raises", *EVALUATE[:4]), ["out of tea"])
    assert not Path(".robustbench").exists()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nothing", ["nothing", "no such folder", "package.module:callable"]),
        ("no_such_package:make", ["no_such_package", "looked for"]),
        ("zoo.py:goof", ["zoo.py", "did you mean good?"]),
        ("zo.py:good", ["zo.py", "no such file"]),
        ("zoo.py", ["zoo.py:"]),
        ("broken.py:make", ["broken.py", "SyntaxError", ":1"]),
        ("zoo.py:raises", ["out of tea", "RuntimeError", "zoo.py:"]),
        ("zoo.py:a_number", ["int", "torch.nn.Module"]),
        ("zoo.py:needs", ["depth", "without arguments"]),
        ("zoo.py:three_channels", ["(2, 1, 4, 4)", "in_channels=3", "data of the shape"]),
        ("zoo.py:two_classes", ["label 2", "2 logits", "same classes"]),
        ("zoo.py:not_a_number", ["NaN", "weights"]),
        ("folder", ["folder", "model.json", "harden"]),
        ("torchvison:resnet18", ["did you mean torchvision:resnet18"]),
        ("weights.pt", ["architecture", "--weights"]),
    ],
)
def test_a_model_that_is_none(here: Path, model: str, told: list[str]) -> None:
    Path("broken.py").write_text("def (")
    Path("folder").mkdir()
    Path("weights.pt").touch()
    refused(here, ("evaluate", model, *EVALUATE), told)


def test_an_object_is_looked_for_in_the_module_by_its_full_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rbcli_models.py").write_text("def digits(): ...\n")
    monkeypatch.delitem(sys.modules, "rbcli_models", raising=False)
    refused(here, ("evaluate", "rbcli_models:digit", *EVALUATE), ["rbcli_models ", "did you mean digits?"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x": 255 * samples()[0]}, ["204", "[0, 1]", "divide by 255"]),
        ({"x": samples()[0] * 4 - 2}, ["from -1.19989 to 1.2", "[0, 1]", "normalis"]),
        ({"x": np.where(samples()[0] > 0.7, np.nan, samples()[0])}, ["NaN", "[0, 1]", "clean"]),
        ({"x": np.full((60, 1, 4, 4), np.inf, np.float32)}, ["infinity", "[0, 1]"]),
        ({"x": samples()[0].astype(np.int64)}, ["int64", "float", "convert"]),
        ({"x": np.zeros((60, 8, 8, 3), np.float32)}, ["channels last", "(N, C, H, W)", "transpose"]),
        ({"x": samples()[0][:0], "y": samples()[1][:0]}, ["no samples"]),
        ({"y": samples()[1] + 1}, ["label 3", "0 to 2", "subtract 1"]),
        ({"y": samples()[1] - 1}, ["label -1", "0 to 2"]),
        ({"y": samples()[1][:5]}, ["60 samples", "5 labels"]),
        ({"y": samples()[1] + 0.5}, ["fractions", "number of a class"]),
        ({"y": 0.5 * np.eye(3)[samples()[1]] + 0.5 / 3}, ["soft", "argmax"]),
        ({"x": np.array([{}], dtype=object)}, ["Object arrays", "convert"]),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[0],
)
def test_data_that_are_wrong(here: Path, change: dict[str, Any], told: list[str]) -> None:
    x, y = samples()
    np.savez("bad.npz", **{"x": x, "y": y} | change)
    refused(here, ("evaluate", "zoo.py:good", "--data", "npz:bad.npz", *EVALUATE[2:]), told)


def test_a_fault_after_the_first_batch_is_found_before_the_first_attack(here: Path) -> None:
    x, y = samples(300)
    x[299] *= 255
    np.savez("bad.npz", x=x, y=y)
    refused(here, ("evaluate", "zoo.py:Slow", "--data", "npz:bad.npz", *EVALUATE[2:]), ["[0, 1]", "divide by 255"])
    assert not Path("attacking").exists()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("digit", ["did you mean digits?"]),
        ("ok.npz", ["npz:ok.npz"]),
        ("folder", ["imagefolder:folder"]),
        ("npz:none.npz", ["none.npz", "no such file", "savez"]),
        ("npz:zoo.py", ["zoo.py", "can't be read", "savez"]),
        ("imagefolder:none", ["none", "no such folder"]),
        ("imagefolder:folder", ["folder", "class"]),
        ("own.py:array", ["did you mean arrays?"]),
        ("mnist", ["mnist", "--data-root", "--download"]),
        ("cifar10", ["cifar10", "--data-root", "--download"]),
    ],
)
def test_a_source_of_data_that_is_none(here: Path, source: str, told: list[str]) -> None:
    Path("folder").mkdir()
    refused(here, ("evaluate", "zoo.py:good", "--data", source, *EVALUATE[2:]), told)


@pytest.mark.parametrize(
    ("threat", "told"),
    [
        ("Linf 0", ["eps is 0", "above 0", "8/255"]),
        ("Linf -0.1", ["eps is -0.1", "above 0"]),
        ("Linf 1.5", ["eps is 1.5", "exceed 1"]),
        ("Linf 8", ["eps is 8", "8/255"]),
        ("Linf nan", ["nan", "8/255"]),
        ("Linf 1/0", ["1/0", "8/255"]),
        ("L2 100", ["100", "4"]),
        ("L7 0.3", ["L7", "Linf, L2"]),
        ("0.3", ["0.3", "NORM EPS"]),
        ("Linf 0.3 targeted nearest", ["nearest", "least_likely"]),
    ],
)
def test_a_threat_model_that_is_none(here: Path, threat: str, told: list[str]) -> None:
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--threat", threat), told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["threats", "attacks"]),
        ("threats = [", ["bad.toml", "TOML"]),
        ('threats = ["Linf 0.1"]\nattacks = ["pdg"]', ["attacks.0", "pdg", "did you mean pgd"]),
        (
            'thraets = 1\nthreats = ["Linf 9", "L3 1"]\nindependent = "perhaps"\n[[attacks]]\nattack = "pdg"\n'
            '[[attacks]]\nattack = "pgd"\nparams = {steps = 0}\n[[attacks]]\nname = "b"\nattack = "pgd"\n'
            "params = {stpes = 1}\n[budget]\nseconds = -1\n",
            [
                *("thraets", "threats.0", "threats.1", "independent", "attacks.0", "attacks.1", "steps", "attacks.2"),
                *("did you mean steps", "budget.seconds"),
            ],
        ),
        (
            'threats = ["Linf 0.1"]\nattacks = [{attack = "pgd", params = {stpes = 1, loss = "hinge", restarts = 0}}]',
            ["stpes", "loss", "restarts"],
        ),
    ],
    ids=["empty", "no TOML", "unknown attack", "many faults", "several faults in one attack"],
)
def test_a_suite_tells_all_its_faults_at_once(here: Path, text: str, told: list[str]) -> None:
    Path("bad.toml").write_text(text)
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "bad.toml"), told)


def test_an_unknown_suite(here: Path) -> None:
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "linf_quik"), ["did you mean linf_quick"])
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "none.toml"), ["none.toml", "no such file"])
    refused(
        here,
        ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "linf_classic", "--threat", "L2 1"),
        ["carlini-wagner", "L2 1", "Linf"],
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.pt", ["none.pt", "no such file"]),
        ("whole.pt", ["whole.pt", "refused", "run code", "state_dict"]),
        ("other.pt", ["other.pt", "missing: 1.weight", "unexpected: a", "architecture"]),
        ("shape.safetensors", ["1.weight", "(5, 16)", "(3, 16)"]),
        ("zoo.py", ["zoo.py", "no torch checkpoint", "torch.save"]),
        ("folder", ["folder", "file"]),
    ],
)
def test_weights_that_do_not_fit(here: Path, name: str, told: list[str]) -> None:
    Path("folder").mkdir()
    torch.save(torch.nn.Linear(2, 2), "whole.pt")
    torch.save({"a": torch.zeros(1)}, "other.pt")
    save_file({"1.weight": torch.zeros(5, 16), "1.bias": torch.zeros(5)}, "shape.safetensors")
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--weights", name), told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--normalize", "imagnet"), ["imagnet", "did you mean imagenet"]),
        (("--normalize", "imagenet"), ["3 channels", "(2, 1, 4, 4)"]),
        (("--normalize", "0.5/0"), ["std", "above 0"]),
        (("--device", "abacus"), ["abacus", "cpu"]),
        (("--limit", "0"), ["--limit", "x>=1"]),
        (("--batch-size", "0"), ["--batch-size"]),
        (("--seed", "-1"), ["--seed"]),
        (("--classes", "1"), ["--classes"]),
        (("--seconds", "0"), ["--seconds"]),
        (("--passes", "0"), ["--passes"]),
        (("--min-clean-accuracy", "90"), ["--min-clean-accuracy", "0<=x<=1"]),
        (("--min-robust-accuracy", "nan"), ["nan"]),
        (("--max-drop", "-0.1"), ["--max-drop"]),
        (("--nonsense",), ["--nonsense"]),
    ],
    ids=" ".join,
)
def test_options_that_are_wrong(here: Path, options: tuple[str, ...], told: list[str]) -> None:
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, *options), told)
