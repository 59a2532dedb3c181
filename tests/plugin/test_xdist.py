"""With xdist: no evaluation twice, one report."""

from __future__ import annotations

import json

import pytest

from robustbench_lite.plugin.scheduling import scope

SUITE = ("robustness.toml", "--data", "digits", "--limit", "40", "-p", "no:hypothesispytest")
BOTH = (*SUITE, "--target", "models.py:plain", "--target", "models.py:weak")


@pytest.mark.parametrize(
    "how", [[], ["--dist", "loadscope"], ["--dist", "worksteal"]], ids=["load", "loadscope", "worksteal"]
)
def test_each_evaluation_is_run_once_and_told_once(project, built, how):
    done = project.runpytest_subprocess(
        *BOTH, "-n", "2", *how, "--robustness-json", "out", "--robustness-sarif", "scan.sarif"
    )
    done.assert_outcomes(passed=10)
    assert sorted(built()) == ["plain", "weak"]
    assert sorted(path.name for path in (project.path / "out").iterdir()) == [
        "robustness-models-py-plain.json",
        "robustness-models-py-weak.json",
    ]
    lines = [line.split()[1] for line in done.stdout.lines if line.startswith("PASS")]
    assert lines == ["robustness.toml::models.py:plain", "robustness.toml::models.py:weak"]
    assert json.loads((project.path / "scan.sarif").read_text(encoding="utf-8"))["version"] == "2.1.0"


def test_what_fails_in_one_worker_is_not_tried_in_another(project, built):
    done = project.runpytest_subprocess(*SUITE, "--target", "models.py:broken", "-n", "2", "--dist", "loadscope")
    done.assert_outcomes(failed=5)
    assert built() == ["broken"]


def test_wrong_marker_arguments(project):
    project.makepyfile(test_it="import pytest\n@pytest.mark.robustness(threats=1)\ndef test_it(): pass\n")
    done = project.runpytest_subprocess("-n", "1", "-p", "no:hypothesispytest")
    assert done.ret != 0
    assert "unknown argument 'threats': did you mean threat?" in done.stdout.str() + done.stderr.str()


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        ("a/robustness.toml::resnet18::Linf-8/255::pgd", "a/robustness.toml::resnet18"),
        ("robustness.toml::resnet18::validity", "robustness.toml::resnet18"),
        ("pyproject.toml::linf_quick::resnet18::validity", "pyproject.toml::linf_quick::resnet18"),
        ("test_a.py::test_b[x::y]", "test_a.py::test_b[x::y]"),
    ],
)
def test_scope(nodeid, expected):
    assert scope(nodeid) == expected
