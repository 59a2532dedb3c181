"""With xdist: no evaluation twice, one report."""

from __future__ import annotations

import json

import pytest

from robustbench_lite.faces.plugin.scheduling import scope

from .conftest import SLOW, asked

LIVE = """
import pytest
from slow import Slow

pytestmark = pytest.mark.robustness(suite=["fgsm", "pgd"], threat="Linf 0.05", limit=40)

@pytest.fixture(scope="module")
def robust_target(): return Slow()

@pytest.fixture
def robust_data(): return "digits"

@pytest.mark.parametrize("number", range(4))
def test_it(number, robustness): pass
"""

SUITE = ("robustness.toml", "--data", "digits", "--limit", "40")
BOTH = (*SUITE, "--target", "models.py:plain", "--target", "models.py:weak")


def told(done):
    """Verdict of each evaluation, in the order of the summary."""
    lines = (line.split() for line in done.stdout.lines if line.startswith(("PASS ", "MEASURED ", "FAIL ", "INVALID ")))
    return [(verdict, name.partition("::")[2]) for verdict, name, *_ in lines]


@pytest.mark.slow
def test_each_evaluation_is_run_once_and_told_once(project, run, built):
    project.makepyfile(
        slow=SLOW,
        test_it="""
        import pytest

        pytestmark = pytest.mark.robustness(suite=["fgsm"], limit=40)

        @pytest.fixture
        def robust_target(): return "models.py:plain"

        @pytest.fixture
        def robust_data(): return "digits"

        @pytest.mark.parametrize("number", range(6))
        def test_it(number): pass
        """,
        test_live=LIVE,
    )
    project.makeini("[pytest]\npythonpath = .\n")
    files = ("--robustness-json", "out", "--robustness-sarif", "scan.sarif")
    done = run(*BOTH, "test_it.py", "test_live.py", "-n", "2", *files)
    done.assert_outcomes(passed=20)
    assert sorted(built()) == ["plain", "plain", "weak"]
    assert len(asked(project)) == 1, "live objects, too, are evaluated by one worker"
    cards = sorted(path.name for path in (project.path / "out").iterdir())
    assert cards[:2] == ["robustness-models-py-plain.json", "robustness-models-py-weak.json"]
    assert [name.partition("-test_")[0] for name in cards[2:]] == ["test_it", "test_live"]
    evaluated = told(done)
    assert evaluated[:2] == [("MEASURED", "models.py:plain"), ("MEASURED", "models.py:weak")]
    assert [verdict for verdict, _ in evaluated[2:]] == ["MEASURED", "MEASURED"]
    assert json.loads((project.path / "scan.sarif").read_text(encoding="utf-8"))["version"] == "2.1.0"


@pytest.mark.slow
def test_nor_is_it_where_its_items_are_parted(run, built):
    # By scope an evaluation's threat models go to one worker and the rest to another.
    models = ("--target", "models.py:plain", "--target", "models.py:broken")
    done = run(*SUITE, *models, "-n", "2", "--dist", "loadscope", "-q")
    done.assert_outcomes(passed=5, failed=5)
    assert sorted(built()) == ["broken", "plain"]
    assert told(done) == [("MEASURED", "models.py:plain")]


def test_wrong_marker_arguments_fail_the_test(project, run):
    project.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture
        def robust_target(): return None

        @pytest.fixture
        def robust_data(): return None

        @pytest.mark.robustness(threats=1)
        def test_it(): pass

        def test_other(): pass
        """
    )
    done = run("-n", "1")
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines(["@pytest.mark.robustness: unknown argument 'threats': did you mean threat?"])


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
