"""From outside: the command on a card repeats its run, and a full or read-only disk costs no result."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from robustbench_lite import Scorecard
from robustbench_lite.faces.cli import main
from robustbench_lite.reports import _again
from tests.forked import RBLITE, ran

MODEL = """
import torch
from torch import nn
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its weights, data and a suite, whose names have spaces; the working directory."""
    monkeypatch.chdir(tmp_path)
    import torch

    from robustbench_lite.model.loading import load_target

    Path("my model.py").write_text(MODEL)
    target = load_target("my model.py:net")
    target.module[1].weight.data *= 2
    torch.save(target.module.state_dict(), "my weights.pt")
    x = np.random.default_rng(0).random((12, 1, 4, 4)).astype(np.float32)
    np.savez("my data.npz", x=x, y=target(torch.from_numpy(x)).argmax(1).numpy())
    Path("my suite.toml").write_text('threats = ["Linf 0.3"]\nattacks = ["fgsm"]\n')
    return tmp_path


def rblite(*words: str) -> Result:
    return CliRunner().invoke(main, words)


ASKED = ["evaluate", "my model.py:net", "--data", "npz:my data.npz", "--suite", "my suite.toml"]


# -- the standard output is for JSON alone ---------------------------------------------------------------------------

LOUD = """
import os
class Loud(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()
    def forward(self, x):
        print("from Python")
        os.write(1, b"from a library below it\\n")
        os.system("echo from a program")
        return self.inner(x)
def loud(): return Loud()
"""


@pytest.mark.usefixtures("repo")
def test_what_a_model_prints_stands_in_no_pipes_way() -> None:
    Path("loud.py").write_text(MODEL + LOUD)
    asked = ["evaluate", "loud.py:loud", *ASKED[2:], "--allow-invalid", "a test", "--json"]
    alone = ran(RBLITE, *asked, "-")
    assert json.loads(alone.stdout)["target"]["name"] == "loud.py:loud", alone.stdout[:200] + alone.stderr
    for told in ("from Python", "from a library", "from a program"):
        assert told in alone.stderr


# -- the command that repeats a run ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("repo")
@pytest.mark.parametrize(
    "more",
    [
        [],
        [
            "--weights",
            "my weights.pt",
            "--normalize",
            "0.5/0.25",
            "--name",
            "it's $A",
            "--seed",
            "3",
            "--limit",
            "9",
        ],
        ["--threat", "Linf 8/255", "--threat", "L2 0.5", "--suite", "fgsm.toml", "--independent", "--batch-size", "5"],
        [
            "--measure",
            "parameters",
            "--gate",
            "parameters <= 1e6",
            "--gate",
            "certified_accuracy:0.01 >= 0.1",
            "--max-drop",
            "0.9",
            "--strict",
            "--classes",
            "3",
        ],
    ],
    ids=["plain", "weights", "threats", "gates"],
)
def test_the_command_on_a_card_repeats_the_run(more: list[str]) -> None:
    Path("fgsm.toml").write_text('threats = ["Linf 0.1"]\n[[attacks]]\nattack = "fgsm"\n')
    first = rblite(*ASKED, *more, "--json", "first.json", "--html", "page.html", "-q")
    card = Scorecard.load("first.json")
    command = _again.command(card)
    program, *words = shlex.split(command)
    assert (program, "first.json" in command, "-q" in words) == ("rblite", False, False)
    again = rblite(*words, "--json", "again.json")
    assert again.exit_code == first.exit_code, again.output
    repeated = Scorecard.load("again.json")
    kept = {"outcomes", "suite", "gates", "target", "data", "seed", "batch_size", "command", "verdict"}
    assert repeated.model_dump(include=kept) == card.model_dump(include=kept)
    assert [(one.name, one.value) for one in repeated.measures] == [(one.name, one.value) for one in card.measures]


def test_a_hostile_word_of_the_command_is_one_word(make_card) -> None:
    card = make_card(samples=2, command=("rblite", "evaluate", "$(rm -r .); `x`\n'\"", "\x1b[2J"))
    assert shlex.split(_again.command(card)) == ["rblite", "evaluate", "$(rm -r .); `x` '\"", " [2J"]


# -- results that can't be written -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("repo")
@pytest.mark.parametrize("option", ["--json", "--html", "--markdown"])
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("/proc/x/y.out", "no file can be made in /proc"),
        ("my model.py/y.out", "my model.py is a file, not a folder"),
        (".", "is a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_run(option: str, place: str, told: str) -> None:
    if place.startswith("/") and not Path(place).parents[-2].exists():
        pytest.skip(f"there is no {place} here")
    done = rblite("evaluate", "my model.py:never_made", *ASKED[2:], option, place)
    assert done.exit_code == 2
    assert told in done.output
    assert "never_made" not in done.output


@pytest.mark.usefixtures("repo")
def test_a_folder_that_is_a_file_is_told_in_words() -> None:
    Path("taken").write_text("mine")
    done = rblite("harden", *ASKED[1:4], "--out", "taken")
    assert done.exit_code == 2
    assert "out taken: can't be written (there is a file of that name); give a folder that can" in done.output
    assert "Errno" not in done.output


@pytest.mark.usefixtures("repo")
def test_an_unknown_suite_says_that_a_file_may_be_given() -> None:
    done = rblite(*ASKED[:4], "--suite", "nosuch")
    assert done.exit_code == 2
    assert "(or give the path of a .toml file)" in done.output


MOUNTED = """
import ctypes, subprocess
assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS: mounts of this process's own, as by unshare -m
for words in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "{kind}", "tmpfs", "disk"]):
    subprocess.run(["mount", *words], check=True)
"""


def on_a_disk(kind: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose folder ``disk`` is a file system of its own, which nobody else sees."""
    allowed = shutil.which("unshare") and not subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode
    if not allowed:
        pytest.skip("no mount namespace of its own is allowed here (unshare -m)")
    (folder / "disk").mkdir(exist_ok=True)
    done = ran(f"{MOUNTED.format(kind=kind)}\n{RBLITE}", *words, variables=os.environ | {"HOME": str(folder)})
    if "mount:" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    return done


def test_what_does_not_fit_on_a_full_disk_is_written_elsewhere(repo: Path) -> None:
    done = on_a_disk("size=8k", repo, *ASKED, "-q", "--json", "disk/card.json", "--html", "disk/page.html")
    assert done.returncode == 0, done.stderr
    for name in ("card.json", "page.html"):
        told = f"disk/{name} can't be written: No space left on device; it was written to {repo / name} instead"
        assert told in done.stderr
    assert f"Scorecard  {repo / 'card.json'}" in done.stdout
    assert Scorecard.load(repo / "card.json").data.samples == 12
    assert (repo / "page.html").read_text().startswith("<!doctype html>")


def test_a_disk_that_may_not_be_written_is_refused_before_the_run(repo: Path) -> None:
    asked = [ASKED[0], "my model.py:never_made", *ASKED[2:]]
    done = on_a_disk("ro", repo, *asked, "--json", "disk/card.json")
    assert done.returncode == 2
    assert f"disk/card.json can't be written: {repo / 'disk'} is write-protected; choose another place" in done.stderr
    assert "never_made" not in done.stderr


def test_a_report_that_does_not_fit_says_so(repo: Path, make_card) -> None:
    make_card("plain").save(repo / "card.json")
    done = on_a_disk("size=8k", repo, "report", "card.json", "--format", "html", "--out", "disk/page.html")
    assert done.returncode == 2
    assert "disk/page.html can't be written: No space left on device; choose another place" in done.stderr
    assert "Traceback" not in done.stderr


def test_hardening_on_a_full_disk_says_how_to_go_on(repo: Path) -> None:
    asked = ["harden", *ASKED[1:4], "--recipe", "standard", "--epochs", "1", "--suite", "my suite.toml"]
    done = on_a_disk("size=8k", repo, *asked, "--out", "disk/out", "-q")
    assert done.returncode == 2
    assert "out disk/out: can't be written (No space left on device); make room: the same command" in done.stderr
    assert "Traceback" not in done.stderr
