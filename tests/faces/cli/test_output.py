"""Outputs that can't be written are found before the run, and no result is lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite.faces.cli import demo

from .conftest import EVALUATE, evaluate, refused

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_report_that_a_full_disk_refuses_goes_elsewhere_and_is_told(here: Path) -> None:
    (here / "out").mkdir()
    Path("out/page.html").symlink_to("/dev/full")
    result = evaluate("zoo.py:good", "--html", "out/page.html")
    assert result.exit_code == 0
    assert "out/page.html can't be written: No space left on device; it was written to" in result.output
    assert (here / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("no_run")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_that_takes_no_files_is_found_before_the_run(here: Path) -> None:
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE[:4], "--json", "/proc/x/y.json"), ["/proc/x/y.json"])


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("option", ["--json", "--html", "--markdown"])
@pytest.mark.parametrize("place", ["ok.npz/card", "ok.npz/deep/er/card", "folder"])
def test_an_output_that_cannot_be_written_is_found_before_the_run(here: Path, option: str, place: str) -> None:
    Path("folder").mkdir()
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, option, place), [place])


@pytest.mark.usefixtures("no_run")
def test_witnesses_that_cannot_be_written_are_found_before_the_run(here: Path) -> None:
    Path("out/card.witnesses.npz").mkdir(parents=True)
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--keep-witnesses"), ["card.witnesses.npz"])


@pytest.mark.usefixtures("no_run")
def test_two_outputs_do_not_share_a_file(here: Path) -> None:
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--html", "out/card.json"), ["out/card.json"])


@pytest.mark.parametrize("name", ["scorecard.html", "plain-training.json"])
def test_the_demo_finds_before_the_run_that_it_cannot_write(
    here: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the run had begun")

    monkeypatch.setattr(demo, "run_demo", never)
    Path("out", name).mkdir(parents=True)
    refused(here, ("demo", "--out", "out"), [name])
    refused(here, ("demo", "--out", "ok.npz"), ["ok.npz"])


def test_a_file_that_is_there_already_survives_wrong_input(here: Path) -> None:
    Path("empty.json").touch()  # as mktemp makes them
    Path("full.html").write_text("an older report")
    refused(here, ("evaluate", "zoo.py:raises", *EVALUATE[:4], "--json", "empty.json", "--html", "full.html"), ["tea"])
    assert Path("empty.json").exists()
    assert Path("full.html").read_text() == "an older report"


def test_a_device_is_no_file_of_ours_to_remove(here: Path) -> None:
    Path("null").symlink_to(os.devnull)  # stands in for /dev/null itself, which root could remove
    result = evaluate("zoo.py:raises", "--html", "null")
    assert result.exit_code == 2
    assert Path("null").is_symlink()
    evaluate("zoo.py:good", "--html", "null")
    assert stat.S_ISCHR(Path("null").stat().st_mode)
