"""A run that is killed in mid-suite goes on where it stopped: same scorecard, and no batch asked twice but the last."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustbench_lite import Scorecard, load_data
from tests.forked import HERE, Forked

SAMPLES, BATCH = 96, 16
STEPS = 12
"""Of the attack that takes most."""

MODEL = """
import os
import time
from pathlib import Path

import torch
from torch import nn


def network():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))


class Counted(nn.Module):
    '''Writes down how many samples went through it, where a kill can't undo it.'''

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x):
        with open(os.environ["COUNTS"], "a") as counts:
            counts.write(f"{len(x)}\\n")
        time.sleep(float(os.environ["PAUSE"]))
        return self.network(x)


def build():
    model = Counted()
    model.network.load_state_dict(torch.load(Path(__file__).with_name("weights.pt"), weights_only=True))
    return model
"""
SUITE = f"""
threats = ["Linf 0.08"]

[[attacks]]
attack = "fgsm"

[[attacks]]
attack = "pgd"
params = {{ steps = 8, restarts = 2 }}

[[attacks]]
name = "pgd-margin"
attack = "pgd"
params = {{ steps = {STEPS}, loss = "margin", restarts = 2 }}
"""
RUN = f"""
import sys
from robustbench_lite import evaluate, load_target

card = evaluate(
    load_target("model.py:build"), "digits", "suite.toml", limit={SAMPLES}, batch_size={BATCH}, keep_witnesses=True,
    cache=sys.argv[1],
)
card.save(sys.argv[2])
"""


@dataclass(frozen=True)
class Repo:
    """A user's folder, with a model that counts."""

    folder: Path

    def start(self, cache: str, out: str, pause: float = 0.0) -> Forked:
        """Evaluate in a process of its own."""
        told = {**os.environ, "COUNTS": str(self.folder / f"{out}.counts"), "PAUSE": str(pause), "OMP_NUM_THREADS": "1"}
        return Forked(HERE + RUN, cache, f"{out}.json", variables=told, folder=self.folder)

    def run(self, cache: str, out: str) -> Scorecard:
        """Evaluate to the end, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("COUNTS", str(self.folder / f"{out}.counts"))
            patch.setenv("PAUSE", "0")
            patch.setattr(sys, "argv", ["-c", cache, f"{out}.json"])
            exec(RUN, {})
        return Scorecard.load(self.folder / f"{out}.json")

    def passed(self, out: str) -> int:
        """How many samples went forward through the model of a run."""
        counts = self.folder / f"{out}.counts"
        return sum(map(int, counts.read_text(encoding="utf-8").split())) if counts.is_file() else 0

    def journals(self, cache: str) -> dict[str, int]:
        """Lines of each journal, by the attack's name."""
        return {
            path.stem.rpartition("-")[0]: path.read_bytes().count(b"\n")
            for path in self.folder.glob(f"{cache}/*/*.jsonl")
        }


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("repo")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "suite.toml").write_text(SUITE, encoding="utf-8")
    names: dict[str, Any] = {"__file__": str(folder / "model.py")}
    exec(MODEL, names)
    train = load_data("digits", split="train")
    x, y = train.fetch(range(len(train))), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = names["network"]()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
    torch.save(network.state_dict(), folder / "weights.pt")
    return Repo(folder)


@pytest.fixture(scope="module")
def undisturbed(repo: Repo) -> Scorecard:
    return repo.run("undisturbed", "undisturbed")


def difference(one: Any, other: Any, place: str = "card") -> str | None:
    """Where two dumped scorecards differ by more than rounding, time apart; None where they don't."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        keys = (key for key in one if key not in ("seconds", "created"))
        return next(filter(None, (difference(one[key], other[key], f"{place}.{key}") for key in keys)), None)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (difference(*pair, f"{place}[{at}]") for at, pair in pairs)), None)
    if isinstance(one, float) and isinstance(other, float):
        return None if one == pytest.approx(other, rel=1e-4, abs=1e-6) else f"{place}: {one} and {other}"
    return None if one == other else f"{place}: {one} and {other}"


def expect_same(card: Scorecard, other: Scorecard) -> None:
    # This process may have loaded libraries of other tests, whose versions are told.
    mine, theirs = (one.model_dump(exclude={"gallery": True, "environment": {"packages"}}) for one in (card, other))
    assert difference(mine, theirs) is None
    assert [(one.index, one.attack, one.adversarial_prediction) for one in card.gallery] == [
        (one.index, one.attack, one.adversarial_prediction) for one in other.gallery
    ]
    assert card.witnesses is not None
    assert other.witnesses is not None
    assert card.witnesses.index.tolist() == other.witnesses.index.tolist()
    assert abs(card.witnesses.x - other.witnesses.x).max() < 1e-5


def kill(repo: Repo, cache: str, attack: str, lines: int) -> int:
    """Start a run and kill it once an attack has written so many lines; its exit status."""
    process = repo.start(cache, cache, pause=0.02)
    process.wait_for(lambda: repo.journals(cache).get(attack, 0) >= lines)
    process.kill()
    return process.wait()


def test_the_undisturbed_run_is_worth_disturbing(repo: Repo, undisturbed: Scorecard) -> None:
    assert undisturbed.verdict == "MEASURED"
    assert all(attack.broken > 2 for attack in undisturbed.attacks[:2])
    assert undisturbed.robust_accuracy.count > 2
    assert repo.passed("undisturbed") == undisturbed.passes.forward
    assert repo.journals("undisturbed") == {}


@pytest.fixture(scope="module")
def killed(repo: Repo) -> str:
    """Cache of a run that was killed in its second attack of three."""
    assert kill(repo, "killed", "pgd", 2) == -signal.SIGKILL
    return "killed"


def expect_little_again(repo: Repo, first: str, second: str, undisturbed: Scorecard) -> None:
    asked_twice = repo.passed(first) + repo.passed(second) - undisturbed.passes.forward
    clean_pass = SAMPLES + BATCH + 2
    in_flight = 2 * BATCH * (STEPS + 2)  # a batch under attack, and as many that wait for a last look
    assert 0 < asked_twice <= clean_pass + in_flight
    assert repo.passed(second) < undisturbed.passes.forward


def test_a_run_that_was_killed_goes_on(repo: Repo, undisturbed: Scorecard, killed: str) -> None:
    assert repo.journals(killed)["pgd"] >= 2
    assert not list(repo.folder.glob(f"{killed}/*/scorecard.json"))
    shutil.copytree(repo.folder / killed, repo.folder / "goes-on")
    expect_same(repo.run("goes-on", "goes-on"), undisturbed)
    expect_little_again(repo, killed, "goes-on", undisturbed)
    assert repo.journals("goes-on") == {}


def test_a_line_that_the_kill_tore_is_asked_again(repo: Repo, undisturbed: Scorecard, killed: str) -> None:
    shutil.copytree(repo.folder / killed, repo.folder / "torn")
    [path] = repo.folder.glob("torn/*/pgd-????????.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    expect_same(repo.run("torn", "torn"), undisturbed)


def test_a_run_that_was_killed_near_its_end_goes_on(repo: Repo, undisturbed: Scorecard) -> None:
    assert kill(repo, "late", "pgd-margin", 3) == -signal.SIGKILL
    assert repo.journals("late")["pgd-margin"] >= 3
    expect_same(repo.run("late", "late-again"), undisturbed)
    expect_little_again(repo, "late", "late-again", undisturbed)


def test_two_that_ask_the_same_at_once_evaluate_once(repo: Repo, undisturbed: Scorecard) -> None:
    process = repo.start("both", "both-one", pause=0.005)
    process.wait_for(lambda: repo.passed("both-one") > 0)
    other = repo.run("both", "both-other")
    assert repo.passed("both-other") == 0
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert repo.passed("both-one") == undisturbed.passes.forward
    one = Scorecard.load(repo.folder / "both-one.json")
    assert one == other
    expect_same(one, undisturbed)
