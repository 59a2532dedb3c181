"""Mistakes of a new user: what each is told, and that nothing was run, written or lost for it."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from robustbench_lite.faces.cli import main

MODELS = """
import sys
from torch import nn

def build(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

class Exits(nn.Linear):
    def forward(self, x): sys.exit(0)
def exits(): return Exits(16, 3)

class Keyed(nn.Linear):
    def forward(self, x): return {}["b"]
def keyed(): return Keyed(16, 3)
"""
SUITE = """threats = ["Linf 0.1"]
attacks = ["fgsm"]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("models.py").write_text(MODELS)
    Path("syntax.py").write_text("def build(:\n")
    Path("suite.toml").write_text(SUITE)
    Path("unclosed.toml").write_text(SUITE + "attacks = [")
    Path("empty.toml").write_text("")
    for name in ("empty.json", "empty.pt"):
        Path(name).touch()
    Path("text.pt").write_text("hello")
    Path("words.pt").write_text("weights")
    Path("other.json").write_text("[1]")
    Path("folder").mkdir()
    x, y = np.random.default_rng(0).random((6, 1, 4, 4)).astype(np.float32), np.arange(6) % 3
    np.savez("ok.npz", x=x, y=y)
    np.savez("range.npz", x=x * 255, y=y)
    np.savez("last.npz", x=np.repeat(x, 3, 1).transpose(0, 2, 3, 1), y=y)
    np.savez("short.npz", x=x, y=y[:4])
    np.savez("keys.npz", images=x, labels=y)
    np.savez("none.npz", x=x[:0], y=y[:0])
    np.savez("below.npz", x=x, y=y - 1)
    np.savez("halves.npz", x=x, y=y + 0.5)
    np.savez("nan.npz", x=x * np.nan, y=y)
    return tmp_path


EVALUATE = "evaluate models.py:build --data npz:ok.npz --suite suite.toml"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        # a model
        ("evaluate models.py --data npz:ok.npz", "name the object in it that makes the model, such as models.py:"),
        ("evaluate models.py:bulid --data npz:ok.npz", "did you mean build?"),
        ("evaluate model.py:build --data npz:ok.npz", "model.py: no such file; it was looked for from"),
        ("evaluate text.pt --data npz:ok.npz", "weights alone are no model; give the architecture as MODEL"),
        ("evaluate card.json --data npz:ok.npz", "a scorecard or another JSON file is no model"),
        ("evaluate syntax.py:build --data npz:ok.npz", "syntax.py:1"),
        ("evaluate models.py:exits --data npz:ok.npz", "it raised SystemExit(0), which would end the process"),
        ("evaluate models.py:keyed --data npz:ok.npz", "KeyError: 'b' ("),
        ("evaluate . --data npz:ok.npz", "holds no model.json; expected package.module:callable"),
        ("evaluate npz:ok.npz --data models.py:build", "Sequential: sample 0 is of type Flatten; expected a pair"),
        # weights
        (f"{EVALUATE} --weights gone.pt", "no such file; expected a .safetensors file or a torch state dict"),
        (f"{EVALUATE} --weights empty.pt", "damaged, or no torch checkpoint"),
        (f"{EVALUATE} --weights text.pt", "damaged, or no torch checkpoint"),
        (f"{EVALUATE} --weights words.pt", "damaged, or no torch checkpoint (it begins as neither an archive nor a"),
        # data
        ("evaluate models.py:build --data ok.npz", "did you mean npz:ok.npz"),
        ("evaluate models.py:build --data npz:gone.npz", "no such file; expected what numpy.savez"),
        ("evaluate models.py:build --data npz:range.npz", "they look like 0 to 255: divide by 255"),
        ("evaluate models.py:build --data npz:last.npz", "channels last; expected (N, C, H, W)"),
        ("evaluate models.py:build --data npz:short.npz", "holds 6 samples and 4 labels"),
        ("evaluate models.py:build --data npz:keys.npz", "holds images, labels, not x and y"),
        ("evaluate models.py:build --data npz:none.npz", "holds no samples"),
        ("evaluate models.py:build --data npz:below.npz", "(row 0 has label -1)"),
        ("evaluate models.py:build --data npz:halves.npz", "labels hold fractions (row 0 has 0.5)"),
        ("evaluate models.py:build --data npz:nan.npz", "NaN or infinity in"),
        ("evaluate models.py:build --data npz:text.pt", "expected what numpy.savez writes"),
        (
            "evaluate models.py:build --data imagefolder:gone",
            "no such folder; expected one that holds a folder of images",
        ),
        ("evaluate models.py:build --data imagefolder:folder", "in folder; expected a folder of images for each class"),
        ("evaluate models.py:build --data imagfolder:folder", "did you mean imagefolder:folder?"),
        ("evaluate models.py:build --data cifar10", "nothing is downloaded unless you ask"),
        # what is asked
        (f"{EVALUATE} --threat 8/255", "expected 'NORM EPS"),
        (f"{EVALUATE} --threat 'Linf 8'", "for 8-bit levels write 8/255"),
        (f"{EVALUATE} --threat 'Linf -0.1'", "expected a finite number above 0"),
        (f"{EVALUATE} --threat 'L3 0.1'", "expected one of Linf, L2, L1, L0"),
        (f"{EVALUATE} --min-robust-accuracy 30", "30.0 is not in the range 0<=x<=1"),
        (f"{EVALUATE} --gate 'speed > 3'", "expected 'NAME >= X' or 'NAME <= X'"),
        (f"{EVALUATE} --gate 'min_robust_acuracy >= 0.3'", "unknown gate 'min_robust_acuracy': did you mean min_rob"),
        (f"{EVALUATE} --limit -5", "-5 is not in the range x>=1"),
        (f"{EVALUATE} --seed -1", "-1 is not in the range x>=0"),
        (f"{EVALUATE} --min-robust-acuracy 0.3", "'--min-robust-accuracy'"),
        (f"{EVALUATE} --normalize 0.5/0", "standard deviations above 0, one a channel"),
        (f"{EVALUATE} --strict", "--strict is about gates: give one"),
        (f"{EVALUATE} --normalize imagnet", "did you mean imagenet"),
        (f"{EVALUATE} --device gpu", "give cpu, cuda, cuda:1, ... or auto"),
        (f"{EVALUATE} --json .", ". is a folder: expected the name of a file"),
        ("evaluate models.py:build --data npz:ok.npz --suite linf_fast", "did you mean linf_quick?"),
        ("evaluate models.py:build --data npz:ok.npz --suite unclosed.toml", "can't be read as TOML"),
        ("evaluate models.py:build --data npz:ok.npz --suite empty.toml", "threats: is missing\n  attacks: is missing"),
        # reading cards
        ("report empty.json", "can't be read as JSON"),
        ("report suite.toml", "can't be read as JSON"),
        ("compare empty.json gone.json", "can't be read as JSON"),
        ("report other.json", "(no schema_version); expected what 'rblite evaluate' wrote"),
        ("report folder", "holds no before.json and after.json of 'rblite harden'"),
        ("compare folder other.json", "folder: is a folder; expected a scorecard: name the file in it"),
        ("explain other.json", "not a scorecard"),
        ("attest folder", "folder: is a folder; expected a scorecard: name the file in it"),
        # other commands
        ("tune models.py:build --data npz:ok.npz --recipe standard --out out", "Missing option '--space'"),
        ("completion fishh", "'fishh' is not one of 'bash', 'zsh', 'fish'"),
        ("export models.py:build --out out.onnx", "Missing option '--data'"),
        ("init --ci githb", "'githb' is not one of 'github', 'gitlab', 'pre-commit'"),
        ("harden models.py:build --data npz:ok.npz --recipe standard --out ok.npz", "can't be written"),
        ("harden models.py:build --data npz:ok.npz --recipe standard,standard --out out", "is given twice"),
        ("evalute models.py:build", "Did you mean 'evaluate'?"),
        ("list atacks", "unknown kind 'atacks': did you mean attacks"),
        ("list attacks pgdd", "did you mean pgd"),
        ("harden models.py:build --data npz:ok.npz --out out --recipe nope", "unknown recipe 'nope': expected one of"),
    ],
)
def test_a_mistake_is_told_and_nothing_comes_of_it(here: Path, command: str, told: str) -> None:
    before = sorted(path.name for path in here.iterdir())
    done = CliRunner().invoke(main, shlex.split(command))
    assert done.exit_code == 2, done.output
    assert told in done.output
    assert "Traceback" not in done.output
    assert {path.name for path in here.iterdir()} - {"__pycache__"} == set(before)


def test_a_number_of_classes_that_the_model_does_not_have_is_told() -> None:
    done = CliRunner().invoke(main, shlex.split(f"{EVALUATE} --classes 7"))
    assert done.exit_code == 2, done.output
    assert "has 3 outputs, and 7 classes were given" in " ".join(done.output.split())


def test_the_traceback_of_ones_own_code_is_shown_on_request() -> None:
    done = CliRunner().invoke(main, shlex.split("--debug evaluate models.py:keyed --data npz:ok.npz"))
    assert done.exit_code == 2
    assert "Traceback" in done.output
    assert 'def forward(self, x): return {}["b"]' in done.output


def test_a_card_called_before_is_no_unfinished_run(here: Path, make_card) -> None:
    make_card("mine").save(here / "before.json")
    asked = "harden models.py:build --data npz:ok.npz --recipe standard --epochs 1 --out ."
    done = CliRunner().invoke(main, shlex.split(asked))
    assert done.exit_code == 2
    assert "out .: is not empty; give a new or empty folder" in done.output
