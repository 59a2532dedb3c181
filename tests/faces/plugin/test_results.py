"""What a run leaves behind for CI."""

from __future__ import annotations

import json

import pytest

from robustbench_lite import Scorecard

SUITE = ("robustness.toml", "--data", "digits", "--limit", "40")
PLAIN = (*SUITE, "--target", "models.py:plain")
BOTH = (*PLAIN, "--target", "models.py:weak")
GATE = "[tool.robustbench_lite.gates]\nmin_clean_accuracy = 0.9\n"


def test_one_evaluation_is_one_scorecard(project, run):
    run(*PLAIN, "--robustness-json", "out/card.json").stdout.fnmatch_lines(["scorecard *card.json"])
    card = Scorecard.load(project.path / "out" / "card.json")
    assert (card.target.name, card.data.samples) == ("models.py:plain", 40)
    assert card.command == ("pytest", "robustness.toml::models.py:plain", "--data", "digits", *PLAIN[3:])


@pytest.mark.parametrize(("path", "before"), [("out/card.json", "card-"), ("out", "")])
def test_several_evaluations_are_several_scorecards(project, run, path, before):
    run(*BOTH, "--robustness-json", path)
    names = sorted(found.name for found in (project.path / "out").iterdir())
    assert names == [f"{before}robustness-models-py-{name}.json" for name in ("plain", "weak")]
    assert [Scorecard.load(project.path / "out" / name).target.name for name in names] == [
        "models.py:plain",
        "models.py:weak",
    ]


def test_pages_for_people_and_for_code_scanning(project, run):
    done = run(*BOTH, "--robustness-html", "page.html", "--robustness-sarif", "scan.sarif", table=GATE)
    done.stdout.fnmatch_lines(["report *page.html", "SARIF *scan.sarif"])
    page = (project.path / "page.html").read_text(encoding="utf-8")
    assert "models.py:plain" in page
    assert "models.py:weak" in page
    [scan] = json.loads((project.path / "scan.sarif").read_text(encoding="utf-8"))["runs"]
    red = [result for result in scan["results"] if result.get("level") == "error"]
    assert [result["ruleId"] for result in red] == ["min_clean_accuracy"]
    [location] = red[0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "robustness.toml"


def test_github(project, run, monkeypatch):
    summary = project.path / "summary.md"
    summary.write_text("# Before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = run(*BOTH, table=GATE)
    told = [line for line in done.stdout.lines if line.startswith("::")]
    assert any(line.startswith("::error file=robustness.toml,title=") and "models.py%3Aweak" in line for line in told)
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("# Before\n\n## Adversarial robustness\n")
    assert "| models.py:weak | ❌ FAIL |" in text
    quiet = run(*BOTH, "-p", "no:terminal")
    assert [line for line in quiet.stdout.lines if line.startswith("::")] == told


def test_marked_tests_are_told_with_their_line(project, run, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.robustness(suite=["fgsm"], min_clean_accuracy=1.0, limit=40)
        def test_it(): pass
        """
    )
    done = run("test_it.py", *PLAIN[1:])
    done.stdout.fnmatch_lines(["::error file=test_it.py,line=3,title=*"])


def test_nothing_is_written_where_nothing_was_evaluated(project, run):
    done = run(*PLAIN, "-k", "nothing", "--robustness-json", "card.json", "--robustness-sarif", "scan.sarif")
    done.stdout.fnmatch_lines(["no evaluation was run: nothing was written for --robustness-json, --robustness-sarif"])
    assert not (project.path / "card.json").exists()


def test_what_can_not_be_written_at_the_end_turns_the_session_red(project, run):
    project.makepyfile(
        conftest="import pathlib\ndef pytest_runtest_teardown(): pathlib.Path('page.html').mkdir(exist_ok=True)\n"
    )
    done = run(*PLAIN, "--robustness-html", "page.html", "--robustness-json", "card.json")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["scorecard *card.json", "report not written: *"])
