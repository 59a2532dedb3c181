"""Baselines: kept under a name, and compared sample by sample."""

from __future__ import annotations

import pytest

TABLE = """
[tool.robustbench_lite]
data = "digits"
suites = "robustness.toml"
limit = 200

[tool.robustbench_lite.targets]
net = "models.py:{model}"
"""

SHORT = ("--limit", "20")


@pytest.fixture
def saved(project, run):
    done = run("--robustness-save", "main", table=TABLE.format(model="plain"))
    done.stdout.fnmatch_lines(["baseline *main*robustness-net.json"])
    assert (project.path / ".robustbench" / "baselines" / "main" / "robustness-net.json").is_file()


@pytest.mark.usefixtures("saved")
def test_the_same_model_passes_and_the_smallest_visible_regression_is_shown(run):
    done = run("--robustness-compare", "main")
    done.assert_outcomes(passed=6)
    text = " ".join(done.stdout.str().split())
    assert "0 newly broken and 0 newly withstood of 200 samples" in text
    assert "with a power of 80%" in text


@pytest.mark.usefixtures("saved")
def test_a_model_that_got_worse_fails(run):
    done = run("--robustness-compare", "main", "-rf", table=TABLE.format(model="weak"))
    done.stdout.fnmatch_lines(["FAILED robustness.toml::net::max-regression*"])
    done.assert_outcomes(failed=1, passed=5)


@pytest.mark.usefixtures("saved")
def test_unlike_things_are_refused(run):
    done = run("--robustness-compare", "main", "--limit", "100", "-rf")
    done.assert_outcomes(failed=1, passed=5)
    done.stdout.fnmatch_lines(["*can't be compared with the baseline*", "*Data differ:*"])


@pytest.mark.usefixtures("saved")
def test_the_table_names_one_and_saving_replaces_it(run):
    table = TABLE.format(model="weak").replace("limit", 'baseline = "main"\nlimit')
    table += "[tool.robustbench_lite.gates]\nmax_regression = 0.05\n"
    run(table=table).assert_outcomes(failed=1, passed=5)
    run("--robustness-save", "main").assert_outcomes(passed=5)
    run().assert_outcomes(passed=6)


@pytest.mark.parametrize(
    ("saved", "compared", "told"),
    [
        ("plain", "soft", "this one was adapted, the baseline was not"),
        ("soft", "plain", "the baseline was adapted, this one was not"),
        ("soft", "soft", None),
    ],
)
def test_adapted_and_plain_are_not_compared(run, saved, compared, told):
    adapted = [*SHORT, "--robustness-adapt"]
    assert run("--robustness-save", "main", *adapted, table=TABLE.format(model=saved)).ret == 0
    done = run("--robustness-compare", "main", *adapted, table=TABLE.format(model=compared))
    done.assert_outcomes(passed=5 if told else 6, failed=1 if told else 0)
    if told:
        done.stdout.fnmatch_lines([f"*net can't be compared with its baseline: {told} (--robustness-adapt*"])


def test_a_baseline_that_is_not_there(run):
    done = run("--robustness-compare", "mane", table=TABLE.format(model="plain"))
    done.assert_outcomes(failed=1, passed=5)
    done.stdout.fnmatch_lines(["*unknown baseline 'robustness-net'*"])


def test_an_invalid_evaluation_is_no_baseline(run):
    done = run("--robustness-save", "main", "--robustness-allow-invalid", "why", table=TABLE.format(model="moody"))
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["baseline not written: the scorecard of net is INVALID*"])
