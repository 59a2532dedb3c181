"""Damaged files: of 500 random corruptions none is served as what it was not, and none ends in a traceback."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite import evaluate
from robustbench_lite.attacking.journal import Entry, Journal
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating import corpus
from robustbench_lite.evaluating.cache import Slot

THREAT = "Linf 0.3"
EACH = 100
"""Corruptions of each kind of file; five kinds."""


def corruptions(content: bytes, seed: int) -> Iterator[bytes]:
    """What a bad disk, a bad cable or a careless hand makes of a file; never what it was."""
    dice = random.Random(seed)
    count = 0
    while count < EACH:
        at = dice.randrange(len(content))
        end = min(len(content), at + dice.choice((1, 1, 1, 8, 512)))
        flipped = bytes([content[at] ^ 1 << dice.randrange(8)])
        other = dice.randrange(len(content))
        made = dice.choice(
            (
                content[:at] + flipped + content[at + 1 :],
                content[:at] + flipped + content[at + 1 :],
                content[:at],
                content[:at] + bytes(end - at) + content[end:],
                content[:at] + dice.randbytes(end - at) + content[end:],
                content[:at] + content[end:],
                content[:at] + content[at:end] + content[at:],
                content[:at] + content[other : other + end - at] + content[end:],
            )
        )
        if made != content:
            count += 1
            yield made


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache and a corpus."""
    folder = tmp_path_factory.mktemp("kept")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        x = torch.rand(12, 1, 4, 4)
    y = net(x).argmax(1)
    evaluate(net, (x, y), ["fgsm"], THREAT, cache=folder / "cache", corpus=folder / "corpus", keep_witnesses=True)
    return folder


def answer(folder: Path) -> Path:
    [path] = (folder / "cache").glob("*/answer.json")
    return path.parent


@pytest.mark.parametrize("name", ["scorecard.json", "scorecard.witnesses.npz", "answer.json"])
def test_a_damaged_answer_is_not_served(name: str, kept: Path, tmp_path: Path) -> None:
    here = tmp_path / "slot"
    shutil.copytree(answer(kept), here)
    slot = Slot(here, with_witnesses=True)
    digest = corpus.digest(kept / "corpus")
    right = slot.answer(digest)
    assert right is not None
    for made in corruptions((here / name).read_bytes(), 0):
        (here / name).write_bytes(made)
        found = slot.answer(digest)
        assert found is None, made
    shutil.copy(answer(kept) / name, here / name)
    assert slot.answer(digest) == right


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.write("clean", b"what was found" * 9)
    path = tmp_path / "clean.part"
    for made in corruptions(path.read_bytes(), 1):
        path.write_bytes(made)
        assert slot.read("clean") is None


def lines(count: int) -> list[Entry]:
    dice = np.random.default_rng(0)
    return [
        Entry(
            rows=np.arange(2) + 2 * at,
            restart=np.zeros(2, np.int64),
            another_start=np.zeros(2, np.bool_),
            broken=np.ones(2, np.bool_),
            denial_reasons=np.full(2, -1),
            non_finite=np.zeros(2, np.bool_),
            prediction=np.full(2, 3),
            distance=dice.random(2),
            forward=np.full(2, 7),
            backward=np.full(2, 6),
            never_rose=np.zeros(2, np.bool_),
            late_rise=dice.random(2),
            samples=np.array([2, 0]),
            loss=dice.random(2),
            newly_broken=np.array([2, 0]),
            zero_gradients=np.array([0, 0]),
            seconds=0.25,
            witnesses={2 * at: dice.random((1, 2, 2)).astype(np.float32)},
        )
        for at in range(count)
    ]


def test_of_a_damaged_journal_only_whole_lines_count(tmp_path: Path) -> None:
    path = tmp_path / "pgd.jsonl"
    written = [entry.to_line() for entry in lines(5)]
    content = "".join(f"{line}\n" for line in written).encode()
    for made in corruptions(content, 2):
        path.write_bytes(made)
        # A line that stands twice is left to the run, which has no sample any more for the second one.
        found = list(dict.fromkeys(entry.to_line() for entry in Journal(path).entries()))
        assert set(found) <= set(written)
        assert made.startswith("".join(f"{line}\n" for line in found[:1]).encode())


def test_a_damaged_corpus_is_told_or_holds_what_it_held(kept: Path, tmp_path: Path) -> None:
    [path] = (kept / "corpus").glob("*.npz")
    threat = ThreatModel.parse(THREAT)
    right = corpus.load(kept / "corpus", threat)
    assert right
    for made in corruptions(path.read_bytes(), 3):
        (tmp_path / path.name).write_bytes(made)
        try:
            found = corpus.load(tmp_path, threat)
        except UserError:
            continue
        assert found.keys() == right.keys()
        assert all(np.array_equal(x, right[key]) for key, x in found.items())


def test_a_corpus_of_before_there_were_checksums_is_read(kept: Path, tmp_path: Path) -> None:
    [path] = (kept / "corpus").glob("*.npz")
    with np.load(path) as stored:
        np.savez_compressed(tmp_path / path.name, keys=stored["keys"], x=stored["x"])
    threat = ThreatModel.parse(THREAT)
    assert corpus.load(tmp_path, threat).keys() == corpus.load(kept / "corpus", threat).keys()
