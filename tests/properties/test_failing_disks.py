"""Every single write of an evaluation fails in turn: no result is lost, and none that is wrong is served.

The layer that fails is Python's own: an audit hook sees each file that is opened to be written, renamed, removed or
made, before it happens, and may refuse it.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from robustbench_lite import Scorecard, evaluate
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating import corpus
from tests.support import Linear

THREAT = "Linf 0.3"
THOROUGH = os.environ.get("ROBUSTBENCH_LITE_THOROUGH") == "1"


@dataclass
class FailingDisk:
    """Counts the writes below a folder; refuses one of them, or all from one on."""

    folder: Path
    refused: range = range(0)
    writes: int = 0
    done: list[str] = field(default_factory=list)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.truncate", "os.rmdir"):
            path, writing = given[0], True
        else:
            return
        if not writing or not isinstance(path, str | Path) or not str(path).startswith(str(self.folder)):
            return
        self.writes += 1
        self.done.append(f"{event} {path}")
        if self.writes - 1 in self.refused:
            raise OSError(errno.ENOSPC, "No space left on device")


ACTIVE: list[FailingDisk] = []


def hook(event: str, given: tuple[Any, ...]) -> None:
    for disk in ACTIVE:
        disk(event, given)


sys.addaudithook(hook)  # for good: a hook can't be taken away, and without a disk it does nothing


@contextmanager
def disk(folder: Path, refused: range = range(0)) -> Iterator[FailingDisk]:
    made = FailingDisk(folder, refused)
    ACTIVE.append(made)
    try:
        yield made
    finally:
        ACTIVE.remove(made)


PASSED: list[int] = []


class Net(Linear):
    """A linear model that counts what goes through it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        PASSED.append(len(x))
        return super().forward(x)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, Net()(x).argmax(1)


def ask(folder: Path, **options: Any) -> Scorecard:
    given = {"cache": folder / "cache", "corpus": folder / "corpus", "keep_witnesses": True} | options
    samples = data()
    PASSED.clear()
    return evaluate(Net(), samples, ["fgsm"], THREAT, **given)


def plain(card: Scorecard) -> dict[str, Any]:
    """A card without time."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(one) for key, one in value.items() if key not in ("seconds", "created")}
        return [stripped(one) for one in value] if isinstance(value, list | tuple) else value

    found: dict[str, Any] = stripped(card.model_dump())
    return found


def add_to_corpus(folder: Path) -> None:
    """Add a witness of a sample that is not among the data: another corpus, which the answer must have replayed."""
    corpus.keep(folder / "corpus", ThreatModel.parse(THREAT), {7: np.full((1, 4, 4), 0.5, np.float32)})


@pytest.mark.parametrize("full", [False, True], ids=["one write", "all writes from one on"])
def test_wherever_a_write_fails_no_result_is_lost_and_none_is_served_that_is_wrong(
    full: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = plain(ask(tmp_path / "right"))
    shutil.rmtree(tmp_path / "right/cache")
    replayed = plain(ask(tmp_path / "right"))
    assert first != replayed
    place = 0
    while True:
        folder = tmp_path / f"{place}"
        folder.mkdir()
        caplog.clear()
        card = refused = None
        with disk(folder, range(place, 10**6 if full else place + 1)) as failing:
            try:
                card = ask(folder)
            except UserError as fault:
                refused = fault
        if refused is not None:  # told before anything ran: nothing is lost
            assert PASSED == [], failing.done[place]
            assert str(folder) in str(refused)
        else:
            assert plain(card) == first, failing.done[place : place + 1]
        told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        assert sum("without a cache" in message for message in told) <= 1
        assert plain(ask(folder)) in (first, replayed), failing.done[place : place + 1]
        shutil.rmtree(folder)
        if failing.writes <= place:
            break
        place += 1
    assert place > 10, "too few writes were seen to say anything"


def test_a_failure_between_two_writes_never_serves_the_old_answer_for_the_new_corpus(tmp_path: Path) -> None:
    place, answered = 0, tmp_path / "answered"
    old = plain(ask(answered))
    assert plain(ask(answered)) == old
    assert PASSED == []
    add_to_corpus(answered)
    while True:
        folder = tmp_path / f"{place}"
        shutil.copytree(answered, folder)
        with disk(folder, range(place, 10**6)) as failing:
            new = plain(ask(folder))
        assert new != old
        assert plain(ask(folder)) == new, failing.done[place : place + 1]
        shutil.rmtree(folder)
        if failing.writes <= place:
            break
        place += 1
    assert place > 3


def test_cache_trouble_is_told_once_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    right = plain(ask(tmp_path / "right"))
    (tmp_path / "corpus").mkdir()
    with disk(tmp_path / "cache", range(10**6)):
        assert plain(ask(tmp_path)) == right
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [
        f"cache folder {tmp_path / 'cache'} can't be written: No space left on device; "
        "the evaluation goes on without a cache"
    ]


# Hardening

MODEL = "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"


def harden(*more: str) -> Result:
    from robustbench_lite.faces.cli.group import main

    words = ("--data", "npz:data.npz", "--recipe", "standard", "--epochs", "1", "--suite", "suite.toml", "--out", "out")
    return CliRunner().invoke(main, ["harden", "net.py:net", *words, "-q", *more])


def after(folder: Path) -> Scorecard:
    return Scorecard.load(folder / "out/after.json")


def test_whenever_the_disk_fills_a_hardening_says_what_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("net.py").write_text(MODEL)
    Path("suite.toml").write_text(f'threats = ["{THREAT}"]\n[[attacks]]\nattack = "fgsm"\n')
    dice = np.random.default_rng(0)
    np.savez("data.npz", x=dice.random((60, 1, 4, 4), np.float32), y=np.arange(60) % 3)
    out = tmp_path / "out"
    with disk(out) as whole:
        done = harden()
    assert done.exit_code == 0, done.output
    right = after(tmp_path)
    assert right.command
    shutil.rmtree(out)
    # The cards are written as the run goes, and once more with the command; `after.json` is the first then.
    [_, again] = [at for at, one in enumerate(whole.done) if one.startswith(f"open {out}/.after.json")]
    for place in range(len(whole.done)) if THOROUGH else (again // 2, again):
        with disk(out, range(place, 10**6)):
            done = harden()
        assert "Traceback" not in done.output, whole.done[place]
        assert "No space left on device" in done.output
        if done.exit_code:  # it says that it can go on, and it can
            assert place < again
            assert done.exit_code == 2, done.output
            done = harden("--resume")
            assert done.exit_code == 0, done.output
        elif place == again:
            assert "out: the run is done and its scorecards are written" in done.output
        assert after(tmp_path).outcomes == right.outcomes
        shutil.rmtree(out)


# Links


def answer_folder(folder: Path) -> Path:
    [path] = (folder / "cache").glob("*/answer.json")
    return path.parent


@pytest.mark.parametrize("name", ["scorecard.json", "scorecard.witnesses.npz", "answer.json", "question.json"])
def test_a_link_in_the_cache_is_neither_followed_nor_written_through(name: str, tmp_path: Path) -> None:
    right = plain(ask(tmp_path, corpus=None))
    outside = tmp_path / "outside"
    here = answer_folder(tmp_path)
    if name == "scorecard.json":  # what a link leads to is not served
        shutil.copy(here / name, outside)
    else:
        outside.write_bytes(b"precious")
    before = outside.read_bytes()
    (here / name).unlink()
    (here / name).symlink_to(outside)
    assert plain(ask(tmp_path, corpus=None)) == right
    assert sum(PASSED) > 0
    assert outside.read_bytes() == before


def test_a_journal_that_is_a_link_is_neither_read_nor_written(tmp_path: Path) -> None:
    from robustbench_lite.evaluating.cache import slot

    outside = tmp_path / "outside"
    outside.write_bytes(b"precious\n")
    with slot(tmp_path / "cache", {"target": "net"}) as here:
        assert here.folder is not None
        journal = here.journal("fgsm", THREAT)
        assert journal is not None
        journal._path.symlink_to(outside)
        assert list(journal.entries()) == []
        assert here.folder is None, "the cache gives up"
    assert outside.read_bytes() == b"precious\n"


def test_a_slot_that_is_a_link_is_not_entered(tmp_path: Path) -> None:
    right = plain(ask(tmp_path, corpus=None))
    here = answer_folder(tmp_path)
    outside = tmp_path / "outside"
    here.rename(outside)
    here.symlink_to(outside)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    assert plain(ask(tmp_path, corpus=None)) == right
    assert sum(PASSED) > 0
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before


# A disk that is really full, and one that may not be written

REAL = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.properties import test_failing_disks as these
for folder in sys.argv[1:]:
    card = these.ask(Path(folder))
    print(card.verdict, card.robust_accuracy, flush=True)
"""


def in_a_namespace(mounts: dict[Path, str]) -> subprocess.CompletedProcess[str]:
    """Evaluate in folders whose cache is on a file system of its own, with these options, which nobody else sees."""
    tried = (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    )
    if tried is None or tried.returncode:
        pytest.skip("no mount namespace of its own is allowed here (unshare -m)")
    code = REAL.format(root=str(Path(__file__).parents[2]))
    mounted = " && ".join(f"mount -t tmpfs -o {options} tmpfs {folder / 'cache'}" for folder, options in mounts.items())
    script = f'{mounted} && exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code, *map(str, mounts)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_real_disk_that_is_full_or_read_only_costs_the_cache_alone(tmp_path: Path) -> None:
    right = ask(tmp_path / "right")
    full, read_only = tmp_path / "full", tmp_path / "read-only"
    for folder in (full, read_only):
        (folder / "cache").mkdir(parents=True)
    done = in_a_namespace({full: "size=16k", read_only: "ro"})
    if "mount:" in done.stderr and not done.stdout:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.stdout == f"{right.verdict} {right.robust_accuracy}\n" * 2, done.stderr
    told = [line for line in done.stderr.splitlines() if "goes on without a cache" in line]
    assert len(told) == 2
    assert str(full) in told[0]
    assert "No space left on device" in told[0]
    assert str(read_only) in told[1]
    assert "Read-only file system" in told[1]
