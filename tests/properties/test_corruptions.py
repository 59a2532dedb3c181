"""Damaged files: of random corruptions none is served as what it was not, and none ends in a traceback.

Each kind of file is damaged a hundred times; with ROBUSTBENCH_LITE_THOROUGH=1 five hundred times.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from robustbench_lite import Scorecard, evaluate
from robustbench_lite.attacking.journal import Entry, Journal
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating import corpus
from robustbench_lite.evaluating.cache import Slot
from robustbench_lite.faces.cli.group import main
from robustbench_lite.results import baseline
from tests.support import Linear

THREAT = "Linf 0.3"
THOROUGH = os.environ.get("ROBUSTBENCH_LITE_THOROUGH") == "1"
EACH = 500 if THOROUGH else 100
"""Corruptions of each kind of file."""


def corruptions(content: bytes, seed: int, number: int = EACH) -> Iterator[bytes]:
    """What a bad disk, a bad cable or a careless hand makes of a file; never what it was."""
    dice = random.Random(seed)
    count = 0
    while count < number:
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


# Cards


@pytest.fixture
def card(make_card: Any) -> Scorecard:
    made: Scorecard = make_card(samples=20, breaks={"pgd": 0.4, "square": 0.2})
    return made


@pytest.mark.parametrize("kind", ["card", "baseline"])
def test_a_damaged_card_is_refused_or_says_what_it_said(kind: str, card: Scorecard, tmp_path: Path) -> None:
    path = card.save(tmp_path / "main.json") if kind == "card" else baseline.save(card, tmp_path, "main")
    content, right = path.read_bytes(), Scorecard.load(path)
    refused = 0
    for made in corruptions(content, 4):
        path.write_bytes(made)
        try:
            found = Scorecard.load(path) if kind == "card" else baseline.load(tmp_path, "main")
        except UserError:
            refused += 1
        else:
            assert found == right, made
    assert refused > EACH / 2


def test_damaged_witnesses_are_refused_or_hold_what_they_held(kept: Path, tmp_path: Path) -> None:
    for name in ("scorecard.json", "scorecard.witnesses.npz"):
        shutil.copy(answer(kept) / name, tmp_path)
    path = tmp_path / "scorecard.witnesses.npz"
    right = Scorecard.load(tmp_path / "scorecard.json").witnesses
    assert right is not None
    for made in corruptions(path.read_bytes(), 5):
        path.write_bytes(made)
        try:
            found = Scorecard.load(tmp_path / "scorecard.json").witnesses
        except UserError:
            continue
        assert found is not None
        assert all(np.array_equal(getattr(found, name), getattr(right, name)) for name in vars(right))


def test_commands_say_of_a_damaged_card_what_is_wrong_with_it(
    card: Scorecard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = card.save("card.json")
    card.save("whole.json")
    content = path.read_bytes()
    said = {}
    for name, words in {"report": ("card.json",), "compare": ("whole.json", "card.json")}.items():
        right = CliRunner().invoke(main, [name, *words])
        assert right.exit_code == 0, right.output
        said[name, *words] = right.output
    for made in corruptions(content, 6, EACH // 10):
        path.write_bytes(made)
        for words, right in said.items():
            found = CliRunner().invoke(main, words)
            assert "Traceback" not in found.output
            assert (found.exit_code, found.output) == (0, right) or (
                found.exit_code == 2 and "card.json" in found.output
            ), found.output


def test_a_card_in_another_layout_is_the_same_one_and_one_without_a_checksum_is_read(
    card: Scorecard, tmp_path: Path
) -> None:
    path = card.save(tmp_path / "card.json")
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written, indent=4, sort_keys=True))
    assert Scorecard.load(path) == card
    del written["sha256"]
    path.write_text(json.dumps(written | {"created": "2026-01-01T00:00:00+00:00"}))
    assert Scorecard.load(path).created == "2026-01-01T00:00:00+00:00"
    path.write_text(json.dumps(written | {"created": "2026-01-01T00:00:00+00:00", "sha256": "0" * 64}))
    with pytest.raises(UserError, match="changed by hand: its sha256 is not that of its content"):
        Scorecard.load(path)


# A run that goes on from a damaged journal

STOP = [0]
"""Forward passes until the model gives up, as at Ctrl-C; 0 for never."""


class Interrupted(Linear):
    """A linear model that is interrupted once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        STOP[0] -= 1
        if STOP[0] == 0:
            raise KeyboardInterrupt
        return super().forward(x)


def ask(cache: Path, stop: int = 0) -> Scorecard:
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = Interrupted()(x).argmax(1)
    STOP[0] = stop
    attack = {"attack": "pgd", "params": {"steps": 2, "restarts": 3}}
    suite = {"threats": ["Linf 0.06"], "attacks": [attack]}
    return evaluate(Interrupted(), (x, y), suite, cache=cache, batch_size=4, anyway=True)


def moved(content: bytes) -> Iterator[bytes]:
    """Whole lines lost, written twice, and in another order."""
    lines = content.splitlines(keepends=True)
    for at in range(len(lines)):
        yield b"".join(lines[:at] + lines[at + 1 :])
        yield b"".join(lines[: at + 1] + lines[at:])
    yield b"".join(reversed(lines))


def test_a_run_that_goes_on_from_a_damaged_journal_finds_the_same(tmp_path: Path) -> None:
    right = ask(tmp_path / "whole")
    forwards = -STOP[0] - 1  # the last one is of the gallery, when all is found
    assert ask(tmp_path / "cut", forwards).interrupted
    [path] = (tmp_path / "cut").glob("*/*.jsonl")
    content = path.read_bytes()
    assert len(content.splitlines()) >= 3
    made = [*moved(content), *corruptions(content, 7, 40)]
    for damaged in made if THOROUGH else random.Random(0).sample(made, 4):
        here = shutil.copytree(tmp_path / "cut", tmp_path / "again")
        (here / path.relative_to(tmp_path / "cut")).write_bytes(damaged)
        found = ask(here)
        assert found.outcomes == right.outcomes, damaged
        assert (found.verdict, found.passes) == (right.verdict, right.passes), damaged
        shutil.rmtree(here)
