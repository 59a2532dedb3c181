"""@pytest.mark.robustness and its fixtures."""

from __future__ import annotations

import pytest

OWN = """
import pytest
import models

@pytest.fixture({scope})
def robust_target():
    return models.{model}()

@pytest.fixture(scope="module")
def robust_data():
    return "digits"
"""


@pytest.fixture
def tests(project):
    """Write a test file that has a target of its own."""

    def write(body: str, model: str = "plain", scope: str = 'scope="module"') -> None:
        project.makepyfile(test_it=OWN.format(model=model, scope=scope) + body)
        project.makeconftest("import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))")

    return write


QUICK = 'threat="Linf 0.05", suite=["fgsm"], limit=40'


def test_gates_hold_though_nothing_is_asserted(run, tests):
    tests(
        f"""
@pytest.mark.robustness({QUICK}, min_robust_accuracy=0.1)
def test_met(): pass

@pytest.mark.robustness({QUICK}, min_robust_accuracy=0.99)
def test_missed(): pass

@pytest.mark.robustness({QUICK}, min_robust_accuracy=0.99)
def test_body_first(robustness):
    assert robustness.data.samples == 41
"""
    )
    done = run("-rf")
    done.assert_outcomes(passed=1, failed=2)
    done.stdout.fnmatch_lines(["*robust accuracy is *at least 99.0% is demanded*(min_robust_accuracy)"])
    done.stdout.fnmatch_lines(["*assert 40 == 41*"])
    done.stdout.no_fnmatch_line("*marker.py:*")


def test_it_says_whether_it_is_adaptive_before_the_command_line_does(run, tests):
    tests(
        f"""
@pytest.mark.robustness({QUICK.replace("40", "20")}, adapt=True)
def test_adapted(robustness):
    assert [one.name for one in robustness.adaptation.measures] == ["logits"]

@pytest.mark.robustness({QUICK.replace("40", "20")}, adapt=False, allow_invalid="as it is")
def test_plain(robustness):
    assert robustness.adaptation is None
    assert robustness.verdict == "INVALID"

@pytest.mark.robustness({QUICK.replace("40", "20")}, allow_invalid="as it is")
def test_as_the_session(robustness):
    assert robustness.adaptation is not None
""",
        model="soft",
    )
    run("--robustness-adapt").assert_outcomes(passed=3)
    run().assert_outcomes(passed=2, failed=1)


def test_one_evaluation_serves_all_that_ask_the_same(run, tests, built):
    tests(
        f"""
pytestmark = pytest.mark.robustness({QUICK})

class TestIt:
    def test_one(self, robustness):
        type(self).card = robustness

    def test_two(self, robustness):
        assert robustness is self.card

    @pytest.mark.robustness(limit=20)
    def test_less(self, robustness):
        assert robustness.data.samples == 20

def test_three(): pass
"""
    )
    done = run()
    done.assert_outcomes(passed=4)
    assert built() == ["plain"]
    assert done.stdout.str().count("MEASURED  ") == 2


def test_a_target_by_its_name_is_built_once(project, run, built):
    project.makepyfile(
        test_it=f"""
        import pytest

        pytestmark = pytest.mark.robustness({QUICK})

        @pytest.fixture
        def robust_target(): return "models.py:plain"

        @pytest.fixture
        def robust_data(): return "digits"

        def test_one(): pass
        def test_two(): pass
        """
    )
    run().assert_outcomes(passed=2)
    assert built() == ["plain"]


def test_a_model_that_changed_is_evaluated_again(run, tests):
    tests(
        f"""
@pytest.mark.robustness({QUICK})
def test_before(robustness, robust_target):
    robust_target.means.data.neg_()

@pytest.mark.robustness({QUICK}, allow_invalid="at chance on purpose")
def test_after(robustness):
    assert robustness.clean_accuracy.value < 0.5

@pytest.mark.robustness({QUICK}, min_clean_accuracy=0.9)
def test_gate(robustness): pass
"""
    )
    run().assert_outcomes(passed=2, failed=1)


def test_targets_that_are_parametrized(run, tests, built):
    tests(
        f"""
@pytest.fixture(params=["plain", "weak"])
def robust_target(request):
    return getattr(models, request.param)()

@pytest.mark.robustness({QUICK}, min_clean_accuracy=0.9)
def test_each(): pass
"""
    )
    done = run("-rf")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["FAILED test_it.py::test_each[[]weak[]]*"])
    assert built() == ["plain", "weak"]


def test_marked_by_a_parameter(run, tests):
    """The test of another parameter isn't marked, and so isn't evaluated."""
    tests(
        f"""
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.robustness({QUICK}, min_clean_accuracy=1.0))])
def test_it(n): pass
"""
    )
    done = run()
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["FAIL *test_it[[]2[]]*"])
    done.stdout.no_fnmatch_line("*test_it[[]1[]]*")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("threats='Linf 0.1'", "unknown argument 'threats': did you mean threat?"),
        ("min_robust_acuracy=0.4", "unknown argument 'min_robust_acuracy': did you mean min_robust_accuracy"),
        ("min_robust_accuracy=45", "min_robust_accuracy is 45: expected a share from 0 to 1"),
        ("threat='Linf'", "threat: expected 'NORM EPS"),
        ("limit=0", "limit: expected greater than or equal to 1"),
        ("suite=3", "suite: expected the name of a suite"),
        ("'Linf 0.1'", "takes no positional arguments, got 'Linf 0.1'"),
    ],
)
def test_wrong_arguments_fail_their_test_alone(run, tests, said, told):
    tests(f"@pytest.mark.robustness({said})\ndef test_it(): pass\ndef test_other(): pass\n")
    done = run()
    done.assert_outcomes(errors=1, passed=1)
    assert f"@pytest.mark.robustness: {told}" in done.stdout.str()
    done.stdout.no_fnmatch_line("*Traceback*")


def test_a_suite_may_be_a_dict(run, tests):
    suite = "{'attacks': [{'attack': 'pgd', 'params': {'steps': 2}}]}"
    tests(
        f"@pytest.mark.robustness(suite={suite}, threat='Linf 0.1', limit=20)\ndef test_it(robustness):\n"
        "    assert robustness.attacks[0].params['steps'] == 2\n"
    )
    run().assert_outcomes(passed=1)


def test_wrong_suite_fails_the_test_alone(run, tests):
    tests("@pytest.mark.robustness(suite='linf_quik', limit=20)\ndef test_it(): pass\ndef test_other(): pass\n")
    done = run()
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines(["*unknown suite 'linf_quik': did you mean linf_quick*"])
    done.stdout.no_fnmatch_line("*Traceback*")


def test_the_fixtures_fall_back_on_the_table(project, run):
    project.makepyfile(test_it="def test_it(robustness):\n    assert robustness.target.name == 'plain'\n")
    table = """
    [tool.robustbench_lite]
    data = "digits"
    limit = 20
    suites = "robustness.toml"
    targets = { plain = "models.py:plain" }
    """
    run("test_it.py", table=table).assert_outcomes(passed=1)


def test_without_a_target_the_test_says_what_to_do(project, run):
    project.makepyfile(test_it=f"import pytest\n@pytest.mark.robustness({QUICK})\ndef test_it(): pass\n")
    done = run()
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["no target: give --target package.module:callable, name targets in*"])


def test_invalid_fails_unless_a_reason_is_given(run, tests):
    tests(
        f"""
@pytest.mark.robustness({QUICK})
def test_red(): pass

@pytest.mark.robustness({QUICK}, allow_invalid="it is a forest of dice")
def test_let_through(): pass
""",
        model="moody",
    )
    done = run()
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["INVALID: the evaluation can't be trusted", "*let through: it is a forest of dice*"])
