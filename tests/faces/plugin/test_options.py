"""What may be said on the command line, and who it belongs to."""

from __future__ import annotations

import pytest

ASKED = ("--target", "models.py:plain", "--data", "digits", "--collect-only", "-q")


@pytest.mark.parametrize("prefix", ["--", "--robustness-"])
@pytest.mark.parametrize("joint", [" ", "="])
def test_short_and_long_names(run, prefix, joint):
    said = [f"{prefix}target{joint}models.py:plain", f"{prefix}data{joint}digits", f"{prefix}threat{joint}L2 0.5"]
    done = run(
        "robustness.toml", *(part for text in said for part in text.split(joint, 1 if joint == " " else 0)), "--co"
    )
    assert done.ret == 0
    done.stdout.fnmatch_lines(
        ["*<SuiteFile robustness.toml>*", "*<TargetNode models.py:plain>*", "*<ThreatNode L2-0.5>*"]
    )


def test_an_option_of_the_users_own_stays_theirs(project, run):
    project.makeconftest(
        """
        def pytest_addoption(parser):
            parser.addoption("--data", default="theirs")
            parser.addoption("--target", default="theirs")
        """
    )
    project.makepyfile(
        test_mine="""
        def test_mine(request):
            assert request.config.getoption("--data") == "mine"
            assert request.config.getoption("--target") == "theirs"
            assert request.config.getoption("--robustness-data") is None
        """
    )
    assert run("test_mine.py", "--data", "mine").ret == 0
    long = ("--robustness-target", "models.py:plain", "--robustness-data", "digits")
    run("robustness.toml", *long, "--limit", "5", "--collect-only", "-q").stdout.fnmatch_lines(["*::validity"])


def test_what_follows_two_dashes_is_no_option(run):
    assert run("--collect-only", "--", "--target").ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["--limit", "0"], "expected a number of samples, 1 or more"),
        (["--threat", "Linf"], "threat model 'Linf': expected 'NORM EPS"),
        (["--robustness-allow-invalid", " "], "expected the reason why, in words"),
        (["--robustness-save", "../x"], "expected letters, digits"),
        (["--robustness-html", "."], "is a folder: expected the name of a file"),
        (["--robustness-json", "models.py/x.json"], "can't be written"),
        (["--weights", "w.pt"], "--weights: for one target, and there are 0"),
        (["--weights", "w.pt", "--target", "a:b", "--target", "c:d"], "for one target, and there are 2"),
    ],
)
def test_what_is_said_wrongly_is_told_at_once(run, said, told):
    done = run("robustness.toml", *said)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert told in " ".join((done.stderr.str() + done.stdout.str()).split())


def test_help_shows_them(run):
    done = run("--help")
    done.stdout.fnmatch_lines(["adversarial robustness (robustbench_lite):", "*--robustness-target=MODEL*"])
    assert "Short: --target." in " ".join(done.stdout.str().split())


def test_the_marker_is_known(run):
    run("--markers", "--strict-markers").stdout.fnmatch_lines(["@pytest.mark.robustness(threat=*"])


def test_from_a_folder_below_the_project_names_are_meant_from_there(project, run, monkeypatch):
    (project.path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n", encoding="utf-8")
    below = project.mkdir("below")
    (project.path / "models.py").rename(below / "models.py")
    monkeypatch.chdir(below)
    done = run("../robustness.toml", *ASKED[:4], "--limit", "20")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["MEASURED*robustness.toml::models.py:plain*"])


def test_what_is_evaluated_and_how_is_said_again_and_where_it_is_written_is_not() -> None:
    from robustbench_lite.faces.plugin.options import again

    given = ["tests", "-x", "--target", "m.py:a", "--data=digits", "--robustness-json", "a.json", "--robustness-adapt"]
    more = ["--robustness-limit", "9", "-k", "one", "--html", "x", "--", "--limit", "3"]
    assert list(again([*given, *more])) == [
        *("--target", "m.py:a", "--data=digits", "--robustness-adapt", "--robustness-limit", "9")
    ]
