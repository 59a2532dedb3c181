"""One number of a scorecard changed: whatever follows from the rows is counted anew, and refused where it differs.

The checksum is taken off where that is tried: who changes a number on purpose can do so, too.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite import Scorecard
from robustbench_lite.core.errors import UserError

RECOUNTED = re.compile(
    r"schema_version|data\.samples|suite\.threats\.\*\.eps"
    r"|(clean_accuracy|robust_accuracy|(threats|attacks)\.\*\.(robust_accuracy|alone))\.\w+"
    r"|(threats|attacks)\.\*\.threat\.eps|attacks\.\*\.(attempted|broken|unmoved|distance_median)"
    r"|gates\.\*\.(value|low|high|passed|decided)|outcomes\.\*\.(label|prediction)"
)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*place, key))
    else:
        yield place, value


def unsealed(path: Path) -> dict[str, Any]:
    """What stands on a card, without its checksum."""
    found: dict[str, Any] = json.loads(path.read_text())
    del found["sha256"]
    return found


def changed(card: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(card)
    inner: Any = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return made


def others(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return [value * 1.01 + 1e-4, value * 0.98 - 1e-4] if isinstance(value, float) else []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("attacks", 0, "trace", "samples", 0), -1),
        (("attacks", 0, "trace", "broken", 0), -1),
        (("attacks", 0, "trace", "broken", 0), 10**6),
        (("attacks", 0, "trace", "zero_gradient", 0), 10**6),
        (("attacks", 0, "trace", "stood"), -1),
        (("attacks", 0, "trace", "flat"), 10**6),
        (("attacks", 0, "trace", "restarts_broke"), 10**6),
        (("attacks", 0, "trace", "restarted"), -1),
        (("attacks", 0, "finished"), False),
        (("outcomes", 0, "passes", "forward"), 10**9),
        (("outcomes", 0, "breaks", 0, "prediction"), -1),
        (("passes", "forward"), 0),
        (("seed",), -1),
        (("data", "limit"), -1),
    ],
)
def test_a_count_that_can_not_be_is_refused(make_card, tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    path = make_card(samples=20, breaks={"pgd": 1.0}).save(tmp_path / "card.json")
    written = unsealed(path)
    path.write_text(json.dumps(changed(written, place, value)))
    told = "of the rows" if place[-1] == "forward" else re.escape(place[0])
    with pytest.raises(UserError, match=told):
        Scorecard.load(path)


def test_every_number_that_can_be_counted_anew_is(make_card, tmp_path: Path) -> None:
    card = make_card(samples=20, breaks={"pgd": 0.4, "square": 0.2})
    path = card.save(tmp_path / "card.json")
    written = unsealed(path)
    tried = 0
    for place, value in leaves(written):
        name = ".".join("*" if isinstance(key, int) else key for key in place)
        if not RECOUNTED.fullmatch(name):
            continue
        for other in others(value):
            path.write_text(json.dumps(changed(written, place, other)))
            try:
                Scorecard.load(path)
            except UserError:
                tried += 1
            else:
                raise AssertionError(f"{name}: {other} was taken for {value}")
    assert tried > 100


def test_with_its_checksum_no_value_can_be_changed(make_card, tmp_path: Path) -> None:
    path = make_card(samples=3, breaks={"pgd": 0.9}).save(tmp_path / "card.json")
    written = json.loads(path.read_text())
    for place, value in leaves(written):
        for other in others(value) or [f"{value}."]:
            path.write_text(json.dumps(changed(written, place, other)))
            with pytest.raises(UserError):
                Scorecard.load(path)


def test_no_count_is_below_0(make_card, tmp_path: Path) -> None:
    path = make_card(samples=6).save(tmp_path / "card.json")
    written = unsealed(path)
    for place in (("target", "parameters"), ("batch_size",), ("environment", "threads"), ("attacks", 0, "strange")):
        path.write_text(json.dumps(changed(written, place, -7)))
        with pytest.raises(UserError, match="is -7: expected 0 or more"):
            Scorecard.load(path)


def test_a_witness_out_of_its_ball_or_of_the_right_class_is_none(make_card, tmp_path: Path) -> None:
    card = make_card(samples=20, breaks={"pgd": 0.9})
    path = card.save(tmp_path / "card.json")
    written = unsealed(path)
    [row, *_] = [place for place, one in enumerate(written["outcomes"]) if one["breaks"]]
    for key, value in (("distance", 0.31), ("prediction", written["outcomes"][row]["label"])):
        path.write_text(json.dumps(changed(written, ("outcomes", row, "breaks", 0, key), value)))
        with pytest.raises(UserError, match=rf"outcomes\.{row}: pgd broke it"):
            Scorecard.load(path)


def test_of_a_damaged_card_no_number_contradicts_its_rows_and_none_ends_in_a_traceback(
    make_card, tmp_path: Path
) -> None:
    path = make_card(samples=12).save(tmp_path / "baseline.json")
    content = json.dumps(unsealed(path), indent=1).encode()
    dice = random.Random(0)
    for _ in range(100):
        at, size = dice.randrange(len(content)), dice.choice((1, 1, 8, 64))
        middle = dice.choice((dice.randbytes(size), b"", content[at : at + size] * 2, bytes(size)))
        path.write_bytes(content[:at] + middle + content[at + size :])
        try:
            card = Scorecard.load(path)
        except UserError:
            continue
        assert card.robust_accuracy.count == sum(row.robust for row in card.outcomes)
        assert card.clean_accuracy.count == sum(row.correct for row in card.outcomes)
