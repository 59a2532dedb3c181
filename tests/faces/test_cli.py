"""The command line: what it promises, and what it says to wrong input."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import robustbench_lite
from robustbench_lite import Scorecard
from robustbench_lite.evaluating import pipeline as evaluation
from robustbench_lite.faces.cli import demo, main, output

COMMANDS = ["demo", "evaluate", "doctor", "calibrate", "harden", "report", "compare", "list", "init", "cache"]
SHARED = Path(__file__).parents[3] / "shared"
YARDSTICK = SHARED / "yardsticks" / "mnist_lenet5_clean.pt"

MODELS = '''
import os, time
from pathlib import Path
import torch
from torch import nn

def good():
    """Right on all samples; none can be broken within Linf 0.25, all can within 0.5."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model[1].weight.data = torch.eye(3, 16)
    model[1].bias.data.zero_()
    return model

class Net(nn.Sequential):
    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0")))
        return super().forward(x)

def net(): return Net(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = good()
    def forward(self, x):
        if x.requires_grad:
            Path("attacking").touch()
            time.sleep(0.02)
        return self.inner(x)

class Dice(nn.Module):
    def forward(self, x): return torch.rand(len(x), 3) + 0 * x.sum()

def lenet5():
    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
            self.linear1, self.linear2 = nn.Linear(3136, 200), nn.Linear(200, 10)
        def forward(self, x):
            x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
            x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
            return self.linear2(torch.relu(self.linear1(x.flatten(1))))
    return LeNet()

def rgb(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
def two_classes(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
def three_channels(): return nn.Sequential(nn.Conv2d(3, 3, 4), nn.Flatten())
def not_a_number():
    model = good()
    model[1].bias.data.fill_(float("nan"))
    return model
def raises(): raise RuntimeError("out of tea")
def a_number(): return 3
def needs(depth): return good()
'''
DATA = """
import numpy as np
def arrays():
    stored = np.load("ok.npz")
    return stored["x"], stored["y"]
def by_split(split):
    x, y = arrays()
    return (x[:12], y[:12]) if split == "test" else (x[12:], y[12:])
"""
SUITE = """
threats = ["Linf 0.1"]
attacks = ["fgsm", {attack = "pgd", params = {steps = 3}}]
"""
RECIPE = """
defense = "pgd_training"
params = { steps = 2 }
threat = "Linf 0.1"
suite = "short.toml"
[schedule]
epochs = 20
batch_size = 16
lr = 0.01
optimizer = "adam"
keep = "last"
"""


def samples(number: int = 60, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(0)
    y = np.arange(number) % 3
    x = 0.2 + 0.01 * dice.random((number, size * size), np.float32)
    x[np.arange(number), y] = 0.8
    return x.reshape(number, 1, size, size), y


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with models, data, a suite and a recipe; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, text in {"zoo.py": MODELS, "own.py": DATA, "short.toml": SUITE, "short_recipe.toml": RECIPE}.items():
        (tmp_path / name).write_text(text)
    x, y = samples()
    np.savez(tmp_path / "ok.npz", x=x, y=y)
    return tmp_path


def rblite(*args: str) -> Result:
    result = CliRunner().invoke(main, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


EVALUATE = ("--data", "npz:ok.npz", "--suite", "short.toml", "--json", "out/card.json")


def evaluate(model: str = "zoo.py:good", *more: str) -> Result:
    return rblite("evaluate", model, *EVALUATE, *more)


def evaluated(model: str = "zoo.py:good", *more: str) -> Scorecard:
    result = evaluate(model, *more)
    assert result.exit_code == 0, result.output
    return Scorecard.load("out/card.json")


def command(*args: str) -> list[str]:
    return [sys.executable, "-P", "-m", "robustbench_lite.faces.cli", *args]  # -P: as the script, not from this folder


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def shell(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, check=False, env=environment(**more))


def files(folder: Path) -> dict[str, int]:
    ours = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.stat().st_size for path in ours if path.is_file()}


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.01)


# -- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda names: " ".join(names) or "main")
def test_help_fits_80_columns(arguments: list[str]) -> None:
    result = rblite(*arguments, "--help")
    assert result.exit_code == 0
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "\\" not in result.output  # a mark of the source that was meant to format, such as \b


def test_every_command_and_option_says_what_it_is_for() -> None:
    assert sorted(main.commands) == sorted(COMMANDS)
    for name, one in main.commands.items():
        assert one.help, name
        for option in one.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} {option.name}"


def test_help_tells_the_exit_codes() -> None:
    told = " ".join(rblite("--help").output.split())
    for code, word in ((0, "PASS"), (1, "FAIL"), (2, "wrong input"), (3, "INVALID"), (130, "interrupted")):
        assert re.search(rf"\b{code} (\w+ )?\(?{word}", told), (code, word)


def test_help_comes_at_once() -> None:
    def seconds() -> float:
        """Processor time, so that it doesn't matter what else the machine does."""
        before = os.times()
        assert shell("--help").returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(5)) < 0.4


def test_the_version() -> None:
    assert rblite("--version").output == f"rblite, version {robustbench_lite.__version__}\n"


# -- evaluate ------------------------------------------------------------------------------------------------------


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_report_that_a_full_disk_refuses_goes_elsewhere_and_is_told(here: Path) -> None:
    (here / "out").mkdir()
    Path("out/page.html").symlink_to("/dev/full")
    result = evaluate("zoo.py:good", "--html", "out/page.html")
    assert result.exit_code == 0
    assert "out/page.html can't be written: No space left on device; it was written to" in result.output
    assert (here / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("no_run")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_that_takes_no_files_is_found_before_the_run(here: Path) -> None:
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE[:4], "--json", "/proc/x/y.json"), ["/proc/x/y.json"])


def test_debug_shows_where_a_users_code_fails() -> None:
    assert "Traceback" not in rblite("evaluate", "zoo.py:raises", *EVALUATE).output
    shown = rblite("--debug", "evaluate", "zoo.py:raises", *EVALUATE)
    assert shown.exit_code == 2
    assert "Traceback" in shown.output
    assert 'raise RuntimeError("out of tea")' in shown.output


def test_a_key_that_is_misspelt_is_told_with_the_one_that_was_meant(here: Path) -> None:
    Path("bad.toml").write_text('threats = ["Linf 0.1"]\natacks = ["pgd"]\n')
    told = ["atacks", "did you mean attacks", "attacks: is missing"]
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "bad.toml"), told)
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "linf_fast"), ["did you mean linf_quick?"])


def test_quiet_is_short() -> None:
    lines = evaluate("zoo.py:good", "--quiet").output.splitlines()
    assert len(lines) <= 3
    assert any("out/card.json" in line for line in lines)


# -- gates and exit codes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "code", "verdict"),
    [
        (("--min-clean-accuracy", "0.9", "--min-robust-accuracy", "0.5", "--max-drop", "0.2"), 0, "PASS"),
        (("--threat", "Linf 0.5", "--min-clean-accuracy", "0.9"), 0, "PASS"),
        (("--threat", "Linf 0.5", "--min-robust-accuracy", "0.5"), 1, "FAIL"),
        (("--threat", "Linf 0.5", "--max-drop", "0.5"), 1, "FAIL"),
        (("--weights", "wrong.pt", "--min-clean-accuracy", "0.5"), 3, "INVALID"),
        (("--weights", "wrong.pt", "--min-clean-accuracy", "0.5", "--allow-invalid", "a test"), 1, "INVALID"),
        (("--weights", "wrong.pt", "--allow-invalid", "a test"), 0, "INVALID"),
        (("--min-clean-accuracy", "0.95"), 0, "UNDECIDED"),
        (("--min-clean-accuracy", "0.95", "--strict"), 1, "FAIL"),
        (("--passes", "121", "--min-clean-accuracy", "0.5"), 3, "INVALID"),
        (("--seconds", "1e-9"), 3, "INVALID"),
    ],
)
def test_the_exit_code_is_the_verdict(more: tuple[str, ...], code: int, verdict: str) -> None:
    torch.save({"1.weight": -torch.eye(3, 16), "1.bias": torch.zeros(3)}, "wrong.pt")
    result = evaluate("zoo.py:good", *more)
    assert result.exit_code == code, result.output
    assert Scorecard.load("out/card.json").verdict == verdict
    assert verdict in result.output


def test_a_model_that_throws_dice_is_invalid_whatever_the_gates_say() -> None:
    result = evaluate("zoo.py:Dice", "--min-clean-accuracy", "0")
    assert result.exit_code == 3
    assert "RB101" in result.output


def test_a_failed_gate_is_told_in_plain_words() -> None:
    said = evaluate("zoo.py:good", "--threat", "Linf 0.5", "--min-robust-accuracy", "0.5").output
    assert "robust accuracy at least 50.0%" in said
    assert "0.0%" in said


def own_report(body: str) -> None:
    Path("reports").mkdir()
    Path("reports/__init__.py").write_text('CATALOGUE = {"mine": "mine:render"}\n')
    Path("reports/mine.py").write_text(f'def render(cards, *, title=None, story=()):\n    """Mine."""\n    {body}\n')


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_an_unexpected_error_has_a_code_of_its_own(debug: tuple[str, ...], make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    own_report('raise ZeroDivisionError("a bug")')
    done = shell(*debug, "report", "card.json", "--format", "mine")
    assert "ZeroDivisionError: a bug" in done.stderr
    assert ("Traceback" in done.stderr) == bool(debug)
    assert done.returncode == 4  # with --debug too: 1 would say that a gate is missed


# -- interruption --------------------------------------------------------------------------------------------------


def test_ctrl_c_in_evaluate_keeps_what_is_done_and_says_so() -> None:
    Path("long.toml").write_text(
        'threats = ["Linf 0.1"]\nattacks = ["fgsm", {attack = "pgd", params = {steps = 100000}}]\n'
    )
    arguments = ("evaluate", "zoo.py:Slow", *EVALUATE[:2], "--suite", "long.toml", "--json", "card.json")
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        wait_for(Path("attacking").exists, process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "INVALID" in out
    assert "interrupt" in out
    card = Scorecard.load("card.json")
    assert (card.verdict, card.interrupted) == ("INVALID", "interrupt")
    assert card.clean_accuracy.value == 1
    assert [(result.name, result.finished) for result in card.attacks] == [("fgsm", True), ("pgd", False)]
    assert Path("card.html").is_file()


HARDEN = ("harden", "zoo.py:net", "--data", "npz:ok.npz", "--recipe", "short_recipe.toml", "--quiet")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_training_that_is_stopped_goes_on_to_the_same_weights(number: signal.Signals) -> None:
    assert rblite(*HARDEN, "--out", "whole").exit_code == 0
    with subprocess.Popen(
        command(*HARDEN, "--out", "cut"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(NAP="0.005"),
    ) as process:
        log = Path("cut/log.jsonl")
        wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) >= 3, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
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


# -- harden --------------------------------------------------------------------------------------------------------


def test_harden_from_scratch_then_evaluate_its_folder_then_fine_tune() -> None:
    result = rblite(*HARDEN[:-1], "--out", "first", "--epochs", "3", "--threat", "Linf 0.2", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in ("before", "after", "first", "first/report.html"))
    told = re.sub(r"\s+", " ", result.output)
    assert re.search(r"Hardening (gained|lost|not shown): .*robust under the suite .*% to .*% \(p = .*\); clean", told)
    assert re.search(r"Samples \d+ learnt from, \d+ held out, \d+ evaluated", told)
    assert re.search(r"Kept epoch \d of 3 \(pgd_training\): .* held-out samples", told)
    assert max(len(line) for line in result.stdout.splitlines() if not line.startswith("In torch")) <= 80
    assert "(before) (before)" not in told
    assert "zoo.py:net (before)" in told
    assert "first (after)" in told
    assert Scorecard.load("first/after.json").target.name == "first"
    compared = rblite("compare", "first/before.json", "first/after.json").output
    assert "zoo.py:net (before)" in compared
    assert "first (after)" in compared
    written = {"model.safetensors", "model.json", "recipe.toml", "log.jsonl", "before.json", "after.json"}
    assert {path.name for path in Path("first").iterdir()} == written | {"report.html", "zoo.py"}
    after = Scorecard.load("first/after.json")
    assert (after.seed, [str(threat) for threat in after.suite.threats]) == (3, ["Linf 0.2"])
    [line] = re.findall(r"^In torch   (.*)$", result.stdout, re.MULTILINE)
    used = f"{line}\nimport torch; assert model(torch.rand(2, 1, 4, 4)).shape == (2, 3); print(type(model).__name__)"
    plainly = subprocess.run([sys.executable, "-c", used], capture_output=True, text=True, check=False)
    assert (plainly.returncode, plainly.stdout.strip()) == (0, "Net"), plainly.stderr
    assert "robustbench_lite" not in line
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
    assert re.search(r"Note the model never learnt: .* a learning rate of 1e-09 may be too large or too small", told)
    sizes = re.search(r"Samples (\d+) learnt from, (\d+) held out", told)
    assert sizes is not None
    assert sum(map(int, sizes.groups())) == 40


def test_harden_ranks_several_recipes() -> None:
    both = ("harden", "zoo.py:net", "--data", "npz:ok.npz", "--recipe", "short_recipe.toml,standard", "--out", "out")
    options = ("--threat", "Linf 0.1", "--suite", "short.toml", "--epochs", "1", "--limit", "20")
    result = rblite(*both, *options)
    assert result.exit_code == 0, result.output
    assert "Recipe 2 of 2: standard" in result.stderr
    assert max(len(line) for line in result.stdout.splitlines() if not line.startswith("In torch")) <= 80
    told = re.sub(r"\s+", " ", result.stdout)
    assert re.search(r"(has the best robust accuracy|None of them is the best)", told)
    assert "Holm-corrected" in told
    assert "Ranking out/ranking.json" in told
    assert "Holm-corrected" in Path("out/report.html").read_text()
    assert "Training passes" in Path("out/ranking.md").read_text()
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


# -- report and compare --------------------------------------------------------------------------------------------


def test_report_in_every_format(make_card: Callable[..., Any]) -> None:
    make_card("plain").save("a.json")
    make_card("hardened", breaks={"pgd": 0.1}).save("b.json")
    for names in (("a.json",), ("a.json", "b.json")):
        assert "plain" in rblite("report", *names).output
        assert rblite("report", *names, "--format", "markdown").output.startswith("#")
        assert rblite("report", *names, "--format", "html").output.startswith("<!doctype html>")
    written = rblite("report", "a.json", "--format", "html", "--out", "new/page.html", "--title", "Week 47")
    assert (written.exit_code, "new/page.html" in written.output) == (0, True)
    assert "Week 47" in Path("new/page.html").read_text()


def test_report_writes_several_files_of_cards_that_a_quoted_pattern_means(make_card: Callable[..., Any]) -> None:
    make_card("plain").save("cards/a.json")
    make_card("hardened").save("cards/deep/b.json")
    files = ("--html", "new/page.html", "--markdown", "new/page.md", "--csv", "new/rows.csv")
    result = rblite("report", "cards/**/*.json", "cards/a.json", *files)
    assert result.exit_code == 0, result.output
    told = [line.split() for line in result.output.splitlines()]
    assert told == [["Report", "new/page.html"], ["Summary", "new/page.md"], ["Table", "new/rows.csv"]]
    assert Path("new/page.html").read_text().startswith("<!doctype html>")
    assert Path("new/page.md").read_text().startswith("#")
    assert len(Path("new/rows.csv").read_text().splitlines()) == 401  # the card that is given twice counts once
    assert rblite("report", "cards/a.json", "--badge", "badge.svg").exit_code == 0
    assert Path("badge.svg").read_text().startswith("<svg")


def test_report_opens_its_page(make_card: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Path("browser").absolute()
    browser.write_text("#!/bin/sh\necho $1 > opened\n")
    browser.chmod(0o755)
    monkeypatch.setattr("webbrowser._tryorder", None)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    make_card().save("card.json")
    result = rblite("report", "card.json", "--open")
    [page] = Path(".robustbench").glob("report-*.html")
    assert str(page) in result.output
    assert Path("opened").read_text().strip() == page.absolute().as_uri()


def test_compare(make_card: Callable[..., Any]) -> None:
    make_card("plain").save("a.json")
    make_card("hardened", breaks={"pgd": 0.1}).save("b.json")
    result = rblite("compare", "a.json", "b.json", "--html", "page.html")
    assert result.exit_code == 0
    assert all(word in result.output for word in ("plain", "hardened", "McNemar", "page.html"))
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "McNemar" in Path("page.html").read_text()


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
        (("list", "attack"), ["attack", "suites"]),
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


# -- wrong input ---------------------------------------------------------------------------------------------------


def refused(folder: Path, arguments: Sequence[str], told: Sequence[str]) -> None:
    """It ends with a plain error that tells all this, and leaves no file behind."""
    held = files(folder)
    result = rblite(*arguments)
    assert result.exit_code == 2, result.output
    assert "Error: " in result.output
    assert "Traceback" not in result.output
    for word in told:
        assert word in result.output
    assert files(folder) == held


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


def test_a_recipe_tells_all_its_faults_at_once(here: Path) -> None:
    Path("bad.toml").write_text(
        'defense = "pgd_trainin"\nthreat = "Linf 0"\nsuite = "nope"\ncolour = "red"\n[schedule]\nepochs = 0\nlr = "x"\n'
    )
    told = ["pgd_training?", "threat", "suite", "colour", "schedule.epochs", "schedule.lr"]
    refused(here, (*HARDEN[:-3], "--recipe", "bad.toml", "--out", "out"), told)
    refused(here, (*HARDEN[:-3], "--recipe", "pgd_trainin", "--out", "out"), ["did you mean pgd_training?"])
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.pt", ["none.pt", "no such file"]),
        ("whole.pt", ["whole.pt", "refused", "run code", "state_dict"]),
        ("other.pt", ["other.pt", "missing: 1.weight", "unexpected: a", "architecture"]),
        ("shape.safetensors", ["1.weight", "(5, 16)", "(3, 16)"]),
        ("zoo.py", ["zoo.py", "state_dict"]),
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


# -- outputs that can't be written ---------------------------------------------------------------------------------


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the run had begun")

    monkeypatch.setattr(evaluation, "evaluate", never)


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("option", ["--json", "--html", "--markdown"])
@pytest.mark.parametrize("place", ["ok.npz/card", "ok.npz/deep/er/card", "folder"])
def test_an_output_that_cannot_be_written_is_found_before_the_run(here: Path, option: str, place: str) -> None:
    Path("folder").mkdir()
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, option, place), [place])


@pytest.mark.usefixtures("no_run")
def test_witnesses_that_cannot_be_written_are_found_before_the_run(here: Path) -> None:
    Path("out/card.witnesses.npz").mkdir(parents=True)
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--keep-witnesses"), ["card.witnesses.npz"])


@pytest.mark.usefixtures("no_run")
def test_two_outputs_do_not_share_a_file(here: Path) -> None:
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--html", "out/card.json"), ["out/card.json"])


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


@pytest.mark.parametrize("name", ["scorecard.html", "plain-training.json"])
def test_the_demo_finds_before_the_run_that_it_cannot_write(
    here: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the run had begun")

    monkeypatch.setattr(demo, "run_demo", never)
    Path("out", name).mkdir(parents=True)
    refused(here, ("demo", "--out", "out"), [name])
    refused(here, ("demo", "--out", "ok.npz"), ["ok.npz"])


def test_a_file_that_is_there_already_survives_wrong_input(here: Path) -> None:
    Path("empty.json").touch()  # as mktemp makes them
    Path("full.html").write_text("an older report")
    refused(here, ("evaluate", "zoo.py:raises", *EVALUATE[:4], "--json", "empty.json", "--html", "full.html"), ["tea"])
    assert Path("empty.json").exists()
    assert Path("full.html").read_text() == "an older report"


def test_a_device_is_no_file_of_ours_to_remove(here: Path) -> None:
    Path("null").symlink_to(os.devnull)  # stands in for /dev/null itself, which root could remove
    result = evaluate("zoo.py:raises", "--html", "null")
    assert result.exit_code == 2
    assert Path("null").is_symlink()
    evaluate("zoo.py:good", "--html", "null")
    assert stat.S_ISCHR(Path("null").stat().st_mode)


# -- the terminal --------------------------------------------------------------------------------------------------


def test_a_pipe_gets_no_colours_and_no_bars() -> None:
    done = shell("evaluate", "zoo.py:good", *EVALUATE)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "MEASURED" in done.stdout
    lines = done.stderr.splitlines()  # one an attack: no bars, and no warning of a library
    assert [re.sub(r"in \d:\d\d:\d\d$", "", line) for line in lines] == [
        f"{name} · Linf 0.1: 60/60 samples, 0 broken, " for name in ("fgsm", "pgd")
    ]


def on_a_terminal(*arguments: str, status: int = 0, **more: str) -> str:
    """What a run writes to a terminal of 80 columns."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(command(*arguments), stdout=theirs, stderr=theirs, env=environment(**more)) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            written += part
    os.close(ours)
    assert process.returncode == status, written.decode()
    return written.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|4[0-7]|9[0-7]|38|48)[;0-9]*m")


def test_a_terminal_gets_colours_as_far_as_it_wants_them(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    assert COLOUR.search(on_a_terminal("report", "card.json", TERM="xterm-256color"))
    assert not COLOUR.search(on_a_terminal("report", "card.json", TERM="xterm-256color", NO_COLOR="1"))
    assert "\x1b" not in on_a_terminal("report", "card.json", TERM="dumb")


def test_a_terminal_gets_bars_and_then_the_table() -> None:
    written = on_a_terminal("evaluate", "zoo.py:good", *EVALUATE, TERM="xterm")
    assert re.search(r"fgsm · Linf 0\.1.*60/60.*0 broken", written)
    assert re.search(r"pgd · Linf 0\.1.*60/60", written)
    assert written.rstrip().endswith("out/card.html")
    table = written[written.index("Adversarial robustness") :].replace("\r", "")
    assert max(len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line)) for line in table.split("\n")) <= 80


def test_a_page_is_not_poured_onto_a_terminal(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    told = on_a_terminal("report", "card.json", "--format", "html", status=2)
    assert "--out FILE" in told
    assert "<" not in told


def test_quiet_on_a_terminal_shows_no_bars() -> None:
    assert "\x1b" not in on_a_terminal("evaluate", "zoo.py:good", *EVALUATE, "--quiet", TERM="xterm")


def test_a_reader_that_leaves_early_is_no_error(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$@" | head -n 1 >/dev/null', "-", *command("report", "card.json")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


# -- what is the user's own ----------------------------------------------------------------------------------------

OWN_ATTACK = '''
from typing import NamedTuple
from pydantic.dataclasses import dataclass
from torch import Tensor
from robustbench_lite.attacking.interface import Attack

class State(NamedTuple):
    x: Tensor

@dataclass(frozen=True, kw_only=True)
class Mine(Attack):
    """Goes all the way at once."""
    @property
    def steps(self): return 1
    def init(self, problem): return State(problem.x)
    def step(self, problem, state, output): return State(output.x + output.grad.sign())
'''


def own_attacks(**entries: str) -> None:
    Path("attacks/suites").mkdir(parents=True)
    Path("attacks/__init__.py").write_text(f"CATALOGUE = {entries!r}\n")
    Path("attacks/mine.py").write_text(OWN_ATTACK)
    Path("attacks/suites/ours.toml").write_text('description = "Ours."\nthreats = ["Linf 0.5"]\nattacks = ["mine"]\n')


def test_own_attacks_suites_and_recipes_are_found_by_name() -> None:
    own_attacks(mine="mine:Mine")
    card = evaluated("zoo.py:good", "--suite", "ours")
    assert [result.name for result in card.attacks] == ["mine"]
    assert card.robust_accuracy.value == 0

    Path("defenses/recipes").mkdir(parents=True)
    Path("defenses/recipes/gentle.toml").write_text(
        RECIPE.replace("short.toml", "ours").replace("epochs = 20", "epochs = 1")
    )
    assert rblite(*HARDEN[:4], "--recipe", "gentle", "--out", "hard").exit_code == 0
    assert Scorecard.load("hard/after.json").suite.name == "ours"

    listed = rblite("list").output
    assert all(name in listed for name in ("mine", "ours", "gentle", "carlini_wagner_linf", "linf_standard"))


def test_own_attacks_stand_before_the_built_in_ones() -> None:
    own_attacks(pgd="mine:Mine")
    Path("attacks/suites/linf_quick.toml").write_text('threats = ["Linf 0.5"]\nattacks = ["pgd"]\n')
    card = evaluated("zoo.py:good", "--suite", "linf_quick")
    assert [result.name for result in card.attacks] == ["pgd"]
    assert card.attacks[0].params == {}  # theirs has none


def test_an_own_report_is_found_by_name(make_card: Callable[..., Any]) -> None:
    make_card("lenet5").save("card.json")
    own_report('return ",".join(card.target.name for card in cards)')
    assert rblite("report", "card.json", "--format", "mine").output == "lenet5\n"


@pytest.mark.parametrize(
    ("entry", "told"),
    [("ghost:Ghost", "ghost"), ("raises:Mine", "out of tea"), ("broken:Mine", "SyntaxError"), ("mine:Mime", "Mime")],
)
def test_an_own_attack_that_cannot_be_loaded(here: Path, entry: str, told: str) -> None:
    own_attacks(mine=entry)
    Path("attacks/raises.py").write_text('raise RuntimeError("out of tea")\n')
    Path("attacks/broken.py").write_text("def (\n")
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "ours"), [told, "attacks"])


def test_one_bad_entry_does_not_hide_the_others() -> None:
    own_attacks(mine="mine:Mine", ghost="ghost:Ghost")
    result = rblite("list", "attacks")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in ("mine", "ghost", "carlini_wagner"))


def test_one_bad_suite_does_not_hide_the_others() -> None:
    own_attacks(mine="mine:Mine")
    Path("attacks/suites/bad.toml").write_text("threats = [")
    result = rblite("list", "suites")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in ("ours", "bad", "linf_standard"))
