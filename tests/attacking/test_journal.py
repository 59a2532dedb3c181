"""The journal: what is written comes back, and what a kill or a bad disk left of it is cut off."""

from __future__ import annotations

import json
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustbench_lite.attacking.journal import Entry, Journal
from robustbench_lite.core.files import sealed_line

INTS = st.integers(0, 2**62)
FLOATS = st.floats(allow_nan=False)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    size, steps = draw(st.integers(0, 5)), draw(st.integers(1, 4))

    def column(kind: type, elements: st.SearchStrategy, length: int = size) -> np.ndarray:
        return draw(arrays.arrays(kind, length, elements=elements))

    images = arrays.arrays(np.float32, (1, 2, 3), elements=st.floats(0, 1, width=32))
    return Entry(
        rows=column(np.int64, INTS),
        restart=column(np.int64, INTS),
        another_start=column(np.bool_, st.booleans()),
        broken=column(np.bool_, st.booleans()),
        never_rose=column(np.bool_, st.booleans()),
        late_rise=column(np.float64, st.floats(0, 1)),
        denial_reasons=column(np.int64, st.integers(-1, 2)),
        non_finite=column(np.bool_, st.booleans()),
        prediction=column(np.int64, st.integers(-1, 9)),
        distance=column(np.float64, FLOATS),
        forward=column(np.int64, INTS),
        backward=column(np.int64, INTS),
        samples=column(np.int64, INTS, steps),
        loss=column(np.float64, FLOATS, steps),
        newly_broken=column(np.int64, INTS, steps),
        zero_gradients=column(np.int64, INTS, steps),
        seconds=draw(st.floats(0, 1e6)),
        witnesses=draw(st.dictionaries(st.integers(0, 99), images, max_size=3)),
    )


def same(one: Entry, other: Entry) -> bool:
    for item in fields(Entry):
        mine, theirs = getattr(one, item.name), getattr(other, item.name)
        if isinstance(mine, np.ndarray):
            if mine.dtype != theirs.dtype or not np.array_equal(mine, theirs):
                return False
        elif item.name == "witnesses":
            if mine.keys() != theirs.keys() or any(not np.array_equal(x, theirs[row]) for row, x in mine.items()):
                return False
        elif mine != theirs:
            return False
    return True


def made(rows: list[int]) -> Entry:
    size = len(rows)
    return Entry(
        rows=np.array(rows, np.int64),
        restart=np.zeros(size, np.int64),
        another_start=np.zeros(size, np.bool_),
        broken=np.ones(size, np.bool_),
        denial_reasons=np.full(size, -1),
        non_finite=np.zeros(size, np.bool_),
        prediction=np.full(size, 3),
        distance=np.full(size, 0.1),
        forward=np.full(size, 2),
        backward=np.full(size, 1),
        never_rose=np.zeros(size, np.bool_),
        late_rise=np.full(size, 0.25),
        samples=np.array([size, 0]),
        loss=np.array([0.5, 0.0]),
        newly_broken=np.array([size, 0]),
        zero_gradients=np.array([0, 0]),
        seconds=0.25,
        witnesses={row: np.full((1, 2, 2), row / 10, np.float32) for row in rows},
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # it is, on a machine that does other work
@given(entries())
def test_an_entry_comes_back_as_it_was_written(entry: Entry) -> None:
    line = entry.to_line()
    assert "\n" not in line
    assert same(Entry.from_line(line), entry)


def test_a_distance_without_an_example_stays_infinite() -> None:
    entry = replace(made([4]), distance=np.array([np.inf]))
    assert Entry.from_line(entry.to_line()).distance.tolist() == [np.inf]


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_wherever_a_kill_cuts_it_off_the_whole_lines_stay(cut: int) -> None:
    lines = [made([0, 1]).to_line(), made([2]).to_line(), made([3, 4, 5]).to_line()]
    text = "".join(f"{line}\n" for line in lines).encode()
    left = text[: cut % (len(text) + 1)]
    rows = [[0, 1], [2], [3, 4, 5]][: left.count(b"\n")]
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "pgd.jsonl")
        (Path(folder) / "pgd.jsonl").write_bytes(left)
        assert [entry.rows.tolist() for entry in journal.entries()] == rows
        journal.add(made([9]))
        assert [entry.rows.tolist() for entry in journal.entries()] == [*rows, [9]]


def damaged(**changes: object) -> str:
    plain = json.loads(made([1, 2]).to_line())
    del plain["sha256"]
    return sealed_line(json.dumps({**plain, **changes}))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        "null",
        "\x00\x00\x00",
        "[" * 100_000,
        damaged(rows=[1]),
        damaged(rows=[[1], [2]]),
        damaged(rows=[1, 2**70]),
        damaged(loss=[0.5]),
        damaged(seconds="soon"),
        damaged(seconds=None),
        damaged(witnesses=[]),
        damaged(witnesses={"1": [[1, 2, 2], "no base64"]}),
        damaged(witnesses={"1": [[1, 2, 3], "AAAAAA=="]}),
        damaged(witnesses={"1": 7}),
    ],
)
def test_a_damaged_line_and_what_follows_it_are_cut_off(line: str, tmp_path: Path) -> None:
    path = tmp_path / "pgd.jsonl"
    first = made([0]).to_line() + "\n"
    path.write_text(first + line + "\n" + made([5]).to_line() + "\n", encoding="utf-8")
    assert [entry.rows.tolist() for entry in Journal(path).entries()] == [[0]]
    assert path.read_text(encoding="utf-8") == first


def test_a_whole_journal_is_read_without_being_touched(tmp_path: Path) -> None:
    path = tmp_path / "pgd.jsonl"
    journal = Journal(path)
    journal.add(made([0]))
    before = path.stat().st_mtime_ns
    assert len(list(journal.entries())) == 1
    assert path.stat().st_mtime_ns == before


def test_there_is_nothing_in_a_journal_that_was_never_written(tmp_path: Path) -> None:
    assert list(Journal(tmp_path / "none.jsonl").entries()) == []
    assert list(tmp_path.iterdir()) == []
