"""The log of a hardening, as curves."""

from __future__ import annotations

import json
import math
import re

import pytest
from click.testing import CliRunner

from robustbench_lite.faces.cli import main
from robustbench_lite.reports import _training, html


def line(epoch, stage="model", **changes):
    accuracies = {"clean": 0.5 + epoch / 100, "robust": 0.2 + epoch / 50, "one_step": None}
    rest = {"loss": 2.0 / epoch, "lr": 0.1, "seconds": 1.5, "note": ""}
    return {"step": "pgd", "stage": stage, "epoch": epoch, **accuracies, **rest, **changes}


def test_each_network_has_its_curves():
    first, second = _training.trainings([line(1), line(2), line(3), line(1, "teacher", one_step=0.4)])
    assert (first.name, first.epochs) == ("pgd", 3)
    assert [one.kind for one in first.lines] == ["clean", "robust"]
    assert first.lines[0].curve.paths == ("0.00,49.00 50.00,48.00 100.00,47.00",)
    assert (first.loss.first, first.loss.last) == (2.0, 2 / 3)
    assert (second.name, [one.kind for one in second.lines]) == ("pgd, teacher", ["clean", "robust", "step"])
    assert _training.trainings([]) == []


def test_the_epoch_that_was_kept_is_marked(make_card):
    log = [line(epoch, kept=min(epoch, 2)) for epoch in (1, 2, 3)]
    [one] = _training.trainings(log)
    assert (one.kept, one.kept_at) == (2, 50.0)
    text = html.render([make_card(), make_card("b")], log=log)
    assert "epoch 2 was kept</title>" in text
    assert ">kept: epoch 2</text>" in text
    for unknown in (0, 4, None, "2"):
        [one] = _training.trainings([line(1), line(2, kept=unknown)])
        assert one.kept is None


def test_a_log_of_anything_is_drawn_or_left_out(make_card):
    hostile = "<script>alert(1)</script>\x1b"
    log = [
        line(1, loss=math.nan, note=hostile),
        line(2, hostile, clean=None, loss="x"),
        {},
        {"epoch": 4, "step": hostile},
    ]
    text = html.render([make_card(), make_card("b")], log=log)
    assert text.count("<script>") == 1
    assert "\x1b" not in text
    assert "epoch 1: &lt;script&gt;" in text
    assert not re.search(r'points="[^"]*nan', text)


def test_the_page_of_a_hardened_folder_has_them(make_card, tmp_path):
    for name in ("before", "after-prune", "after"):
        make_card("net", seed=len(name)).save(tmp_path / f"{name}.json")
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line(epoch)) for epoch in (1, 2)) + "\n")
    page = tmp_path / "page.html"
    seen = CliRunner().invoke(main, ["report", str(tmp_path), "--html", str(page)])
    assert seen.exit_code == 0, seen.output
    text = page.read_text(encoding="utf-8")
    assert text.index("net (before)") < text.index("net (after-prune)") < text.index("net (after)")
    assert "How the training went" in text
    assert "right, and standing against a short attack: 22.0% → 24.0%" in text
    assert CliRunner().invoke(main, ["report", str(tmp_path)]).exit_code == 0


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, "3"])
def test_a_damaged_log_is_told(make_card, tmp_path, content):
    make_card().save(tmp_path / "before.json")
    (tmp_path / "log.jsonl").write_text(content)
    seen = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert seen.exit_code == 2
    assert "log.jsonl: expected a JSON object a line" in seen.output


def test_a_folder_without_cards_is_told(tmp_path):
    seen = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert (seen.exit_code, "holds no before.json" in seen.output) == (2, True)
