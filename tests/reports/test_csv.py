"""The table: one row a sample, as the golden file has it, and no formula in a spreadsheet."""

from __future__ import annotations

import csv
from pathlib import Path

from robustbench_lite.reports import csv as table

GOLDEN = Path(__file__).parents[1] / "golden" / "card.csv"


def rows(text):
    return list(csv.DictReader(text.splitlines()))


def test_the_table_is_the_golden_one(make_card):
    card = make_card(threats=["L2 0.5", "Linf 8/255"], samples=12, curve=True)
    assert table.render([card, make_card("other", samples=2)]) == GOLDEN.read_text(encoding="utf-8")


def test_the_rows_say_what_the_card_says(make_card):
    card = make_card(samples=100)
    found = rows(table.render([card], title="T", story=["S"]))
    assert [int(row["sample"]) for row in found] == [row.index for row in card.outcomes]
    assert sum(int(row["correct"]) for row in found) == card.clean_accuracy.count
    assert sum(int(row["robust"]) for row in found) == card.robust_accuracy.count
    for row, outcome in zip(found, card.outcomes, strict=True):
        assert row["broken_by"] == row["broken_by Linf 0.3"] == (outcome.broken_by or "")
        assert row["distance"] == ("" if outcome.distance is None else str(outcome.distance))
        assert row["class"] == card.class_name(outcome.label)


def test_no_name_is_a_formula_or_breaks_a_row(make_card):
    for name in ("=1+1", "+1", "-1", "@x", " =1", '"; x,y\n\r\x00', "\t=1", "\u202e=1"):
        text = table.render([make_card(name, classes=[name, "b"], samples=4)])
        assert len(rows(text)) == 4
        for row in rows(text):
            assert row["target"][:1] in ("'", '"')
            assert not row["class"].lstrip().startswith(("=", "+", "-", "@"))
            assert not {"\n", "\r", "\x00", "\t", "\u202e"} & set("".join(row.values()))


def test_a_card_of_nothing_is_a_head_alone(make_card):
    assert table.render([make_card(samples=0, attacks=())]).count("\n") == 1
