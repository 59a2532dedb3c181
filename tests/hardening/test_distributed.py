"""Two processes that train together, on the loopback address, as torchrun starts them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.faces.cli import main
from robustbench_lite.faces.cli.output import EXIT_CRASH
from robustbench_lite.hardening import loop
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE, LOG_FILE
from robustbench_lite.hardening.distributed import Team, together
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import Trained, train
from robustbench_lite.model.target import Target
from robustbench_lite.model.weights import WEIGHTS_FILE
from tests.forked import RBLITE, ROOT, Forked

PLAIN = {"epochs": 1, "batch_size": 13, "lr": 0.05, "decay": "constant", "held_out": 0.2}
LESSONS = {
    "pgd": ("pgd_training", {"steps": 2}, PLAIN | {"clip": 0.5}),
    "trades": ("trades", {"steps": 2}, PLAIN | {"average": 0.9, "label_smoothing": 0.1}),
    "awp": ("fgsm_rs", {}, PLAIN | {"awp": 0.01, "optimizer": "adam", "lr": 0.001}),
    "free": ("free", {"replays": 2}, PLAIN),
}
"""What each is a trial of: clipped gradients; a running mean, and what is done to whole batches; a move of the weights;
several steps on a batch. All have batches that two can't share evenly."""


class Net(nn.Sequential):
    """With batch statistics, and with a parameter that has no part in the answer and so gets no gradient."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )
        self.unused = nn.Parameter(torch.ones(2, 2))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def samples() -> Data:
    """Three classes, by which row is bright."""
    y = torch.arange(75) % 3
    x = torch.rand(75, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.6
    x[torch.arange(75), 0, y] += 0.4
    return as_data((x, y))


def learnt(name: str) -> Trained:
    defense, params, schedule = LESSONS[name]
    step = registry.build("defenses", defense, params)
    threat = ThreatModel.parse("Linf 0.05")
    return train(Target(network()), step, Schedule.model_validate(schedule), threat, *samples().split(0.2, 0))


def learn_all(folder: str) -> None:
    """Run in each of the processes."""
    with together(timeout=60) as team:
        for name in LESSONS:
            made = learnt(name)
            told = [line._replace(seconds=0.0) for line in made.log]
            torch.save((made.target.module.state_dict(), told), Path(folder) / f"{name}-{team.rank}.pt")


def started(code: str, *arguments: object, size: int = 2) -> list[Forked]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        Forked(code, *arguments, variables={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.hardening.test_distributed import learn_all"
    both = started(f"{code}; learn_all({str(tmp_path)!r})")
    for process in both:
        assert process.communicate() == ("", "")
        assert process.returncode == 0
    for name in LESSONS:
        alone = learnt(name)
        (mine, told), (other, _) = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1))
        for key, value in alone.target.module.state_dict().items():
            torch.testing.assert_close(mine[key], value, atol=1e-5, rtol=0)
            assert torch.equal(mine[key], other[key]), (name, key)
        for line, same in zip(told, alone.log, strict=True):
            assert line.passes == same.passes
            assert (line.clean, line.robust, line.one_step) == (same.clean, same.robust, same.one_step)
            assert line.loss == pytest.approx(same.loss, abs=1e-5)


RECIPE = """
defense = "standard"
threat = "Linf 0.05"
suite = "linf_quick"
[schedule]
epochs = 40
batch_size = 13
lr = 0.01
decay = "constant"
held_out = 0.2
keep = "last"
"""

NET = """
import os, sys
sys.path.insert(0, {root!r})
from tests.hardening.test_distributed import network


def build():
    return network()


def another():
    made = network()
    made.unused.data += int(os.environ["RANK"])
    return made
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Words of a command that hardens, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "net.py").write_text(NET.format(root=str(ROOT)), encoding="utf-8")
    data = samples()
    np.savez(tmp_path / "data.npz", x=data.fetch(range(len(data))).numpy(), y=data.labels.numpy())
    shared = ["--data", "npz:data.npz", "--recipe", "recipe.toml", "--limit", "9", "--timeout", "60"]
    return lambda model, *more: ["harden", f"net.py:{model}", *shared, *more]


def test_where_one_is_killed_the_other_tells_and_one_process_goes_on(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    first, second = started(RBLITE, *command("build", "--out", "out", "--quiet"))
    first.wait_for((tmp_path / "out" / CHECKPOINT_FILE).is_file)
    second.kill()
    out, told = first.communicate()
    assert first.returncode == EXIT_CRASH
    assert out == ""
    assert "another process of this training has ended" in told
    assert "goes on with --resume" in told
    epochs = len((tmp_path / "out" / LOG_FILE).read_text(encoding="utf-8").splitlines())
    assert 0 < epochs < 40
    resumed = CliRunner().invoke(main, command("build", "--out", "out", "--resume"))
    assert resumed.exit_code == 0, resumed.output
    whole = CliRunner().invoke(main, command("build", "--out", "whole"))
    assert whole.exit_code == 0, whole.output
    weights, expected = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("out", "whole"))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=1e-5)


def test_what_differs_is_told_once(command: Callable[..., list[str]], tmp_path: Path) -> None:
    both = [process.communicate() for process in started(RBLITE, *command("another", "--out", "out"))]
    assert [out for out, _ in both] == ["", ""]
    told = "".join(err for _, err in both)
    assert re.findall(r"^Error.*|^  .*", told, re.MULTILINE) == [
        "Error: the processes must train the same; these differ from what process 0 has:",
        *re.findall(r"^  weights: \w+; in process 1: \w+$", told, re.MULTILINE),
    ]
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class Seen(Team):
    """What other processes would say of themselves."""

    others: tuple[Any, ...] = ()

    def gather(self, value: Any) -> list[Any]:
        return [value, *((*self.others, *value[len(self.others) :]),) * (self.size - 1)]


def test_processes_that_can_not_train_together_are_told() -> None:
    gpu = torch.device("cuda:0")
    with pytest.raises(UserError, match="2 processes train on 1 GPUs"):
        Seen(size=2).check_same({}, gpu)
    with pytest.raises(UserError, match="data: ours; in process 1: theirs"):
        Seen(size=2, others=({"data": "theirs"},)).check_same({"data": "ours"}, gpu)
    with pytest.raises(UserError, match="some processes train on a GPU"):
        Seen(size=2, others=({}, "elsewhere", "cpu")).check_same({}, gpu)
    Seen(size=2, others=({}, "elsewhere")).check_same({}, gpu)


def test_more_processes_than_samples_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "team", lambda: Team(size=20))
    with pytest.raises(UserError, match="20 processes have to share batches of 12 samples"):
        learnt("pgd")
