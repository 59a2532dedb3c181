"""`rblite report` and `rblite compare`: every format, from saved scorecards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import own_report, rblite

pytestmark = pytest.mark.usefixtures("here")


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


def test_report_for_other_tools(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    files = {"--sarif": "a.sarif", "--mlbom": "bom.json", "--huggingface": "results.yaml"}
    result = rblite("report", "card.json", *(word for pair in files.items() for word in pair))
    assert [line.split() for line in result.output.splitlines()] == [
        ["SARIF", "a.sarif"],
        ["ML-BOM", "bom.json"],
        ["Results", "results.yaml"],
    ]
    assert '"specVersion": "1.7"' in Path("bom.json").read_text()
    assert Path("results.yaml").read_text().startswith("---\n")
    entry = rblite("report", "card.json", "--format", "huggingface", "--benchmark", "org/robust:linf")
    assert entry.output.startswith("- dataset:")
    refused = rblite("report", "card.json", "--benchmark", "org/robust:linf")
    assert (refused.exit_code, "--huggingface FILE" in refused.output) == (2, True)


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


def test_report_of_a_folder_of_recipes_ranks_them(make_card: Callable[..., Any]) -> None:
    make_card("net", breaks={"pgd": 0.9}).save("several/before.json")
    for name, broken in (("pgd_training", 0.2), ("trades", 0.5)):
        make_card("net", breaks={"pgd": broken}).save(f"several/{name}/after.json")
    Path("several/recipes.json").write_text("{}")
    result = rblite("report", "several")
    assert result.exit_code == 0, result.output
    assert "pgd_training has the best robust accuracy" in result.output
    assert all(name in result.output for name in ("before", "trades"))


def test_compare(make_card: Callable[..., Any]) -> None:
    make_card("plain").save("a.json")
    make_card("hardened", breaks={"pgd": 0.1}).save("b.json")
    result = rblite("compare", "a.json", "b.json", "--html", "page.html")
    assert result.exit_code == 0
    assert all(word in result.output for word in ("plain", "hardened", "McNemar", "page.html"))
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "McNemar" in Path("page.html").read_text()


def test_an_own_report_is_found_by_name(make_card: Callable[..., Any]) -> None:
    make_card("lenet5").save("card.json")
    own_report('return ",".join(card.target.name for card in cards)')
    assert rblite("report", "card.json", "--format", "mine").output == "lenet5\n"


def test_without_a_scorecard_it_says_which_there_are(
    make_card: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    none = rblite("report")
    assert none.exit_code == 2
    assert "there is none in .robustbench yet; make one by 'rblite evaluate MODEL --data D'" in none.output
    for place, name in enumerate(("old", "new")):
        os.utime(make_card(name).save(tmp_path / ".robustbench" / f"{name}.json"), (place, place))
    some = rblite("report")
    assert some.exit_code == 2
    assert "the newest is shown by 'rblite report .robustbench/new.json' (2 are in .robustbench)" in some.output
