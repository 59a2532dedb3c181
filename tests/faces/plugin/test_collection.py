"""Suites as files, targets, threat models and items."""

from __future__ import annotations

import subprocess
import sys

import pytest

ONE = ("robustness.toml", "--target", "models.py:plain", "--data", "digits", "--co", "-q")
NAME = "robustness.toml::models.py:plain"


def listed(done):
    return [line for line in done.stdout.lines if "::" in line]


def test_items(run):
    assert listed(run(*ONE)) == [
        f"{NAME}::clean-accuracy",
        f"{NAME}::Linf-0.05::fgsm",
        f"{NAME}::Linf-0.05::pgd",
        f"{NAME}::Linf-0.05::worst-case",
        f"{NAME}::validity",
    ]


def test_items_of_several_threat_models_and_gates(run):
    gates = "[tool.robustbench_lite.gates]\nmin_robust_accuracy = 0.1\nmax_drop = 0.9\nmax_passes = 100\n"
    names = listed(run(*ONE, "--threat", "Linf 8/255", "--threat", "L2 0.5 targeted next", table=gates))
    assert [name.removeprefix(f"{NAME}::") for name in names] == [
        "clean-accuracy",
        *(f"Linf-8/255::{attack}" for attack in ("fgsm", "pgd", "worst-case")),
        *(f"L2-0.5-targeted-next::{attack}" for attack in ("fgsm", "pgd", "worst-case")),
        "worst-case",
        "max-drop",
        "max-passes",
        "validity",
    ]


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (["-k", "pgd"], 1),
        (["-k", "Linf-0.05"], 3),
        (["-k", "worst-case or validity"], 2),
        (["-m", "robustness"], 5),
        (["-m", "not robustness"], 0),
    ],
)
def test_items_are_chosen_as_any(run, chosen, count):
    assert len(listed(run(*ONE, *chosen))) == count


def test_one_is_run_by_its_id(run):
    done = run(f"{NAME}::Linf-0.05::pgd", "--target", "models.py:plain", "--data", "digits", "--limit", "20")
    done.assert_outcomes(passed=1)


def test_a_suite_with_a_name_stands_below_the_table(run):
    table = '[tool.robustbench_lite]\nsuites = "linf_quick"\ndata = "digits"\ntargets = { plain = "models.py:plain" }\n'
    names = listed(run("--co", "-q", table=table))
    assert "pyproject.toml::linf_quick::plain::Linf-8/255::sprints" in names
    again = run("pyproject.toml::linf_quick::plain::Linf-8/255::sprints", "--co", "-q")
    assert listed(again) == ["pyproject.toml::linf_quick::plain::Linf-8/255::sprints"]


def test_toml_files_of_others_are_left_alone(project, run):
    (project.path / "other.toml").write_text("a = 1\n", encoding="utf-8")
    project.makepyfile(test_plain="def test_plain(): pass")
    assert listed(run("--co", "-q")) == ["test_plain.py::test_plain"]
    assert run("other.toml", "--co", "-q").ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("suite", "said", "told"),
    [
        ("attacks = [", [], "can't be read as TOML"),
        ("attacks = []", [], "attacks: has 0 entries; expected at least 1"),
        ('attacks = ["pdg"]\nthreats = ["Linf 1/255"]', [], "attacks.0: unknown attack 'pdg': did you mean pgd?"),
        ('attacks = ["pgd"]\nthreats = ["Linf 1/255"]', ["--target", "a:b"], "no data to attack it on: give --data"),
        ('attacks = ["pgd"]\nthreats = ["Linf 1/255"]', ["--data", "digits"], "no target to attack: give --target"),
    ],
)
def test_what_can_not_be_collected_says_why(project, run, suite, said, told):
    (project.path / "odd.toml").write_text(suite, encoding="utf-8")
    done = run("odd.toml", *(said or ONE[1:5]))
    assert done.ret == pytest.ExitCode.INTERRUPTED
    done.stdout.fnmatch_lines([f"*{told.replace('[', '[[]')}*"])
    done.stdout.no_fnmatch_line("*Traceback*")


def test_listing_loads_no_model_and_no_torch(project):
    code = (
        "import sys, pytest; code = pytest.main(sys.argv[1:]);"
        "print('LOADED', *{'torch', 'numpy', 'scipy', 'sklearn', 'rich', 'jinja2'} & set(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-p", "no:hypothesispytest", *ONE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert f"{NAME}::Linf-0.05::pgd" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert not (project.path / "built.log").exists()
