"""What turns an item green or red, and how often the model is asked."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from robustbench_lite import Scorecard

SUITE = ("robustness.toml", "--data", "digits", "--limit", "40")
PLAIN = (*SUITE, "--target", "models.py:plain")


def gates(**demands: float) -> str:
    return "[tool.robustbench_lite.gates]\n" + "".join(f"{name} = {value}\n" for name, value in demands.items())


def failed(done):
    return {line.split()[1].split("::", 2)[2] for line in done.stdout.lines if line.startswith("FAILED")}


def test_without_gates_all_is_green_and_says_that_nothing_was_demanded(run, built):
    done = run(*PLAIN)
    done.assert_outcomes(passed=5)
    done.stdout.fnmatch_lines(["*= robustness =*", "MEASURED  robustness.toml::models.py:plain*", "*no gate was set*"])
    assert built() == ["plain"]


def test_gates_turn_the_items_red_that_are_about_them(run, built):
    done = run(*PLAIN, "-rf", table=gates(min_clean_accuracy=0.5, min_robust_accuracy=0.99, max_drop=0.001))
    assert failed(done) == {"Linf-0.05::fgsm", "Linf-0.05::worst-case", "max-drop"} | failed(done)
    assert failed(done) >= {"Linf-0.05::worst-case", "max-drop"}
    assert not failed(done) & {"clean-accuracy", "validity"}
    done.stdout.fnmatch_lines(
        [
            "*robust accuracy under Linf 0.05 is *% [[]*%, *%[]] on 40 samples: at least 99.0% is demanded, and the "
            "whole 95% interval is below it (min_robust_accuracy)",
            "models.py:plain on 40 samples of digits/test, suite robustness,*",
            "*after fgsm under Linf 0.05: broke * of *",
            "*drop is *at most 0.1% is demanded*",
        ]
    )
    assert built() == ["plain"]


def test_a_gate_near_its_threshold_passes_and_says_so(run):
    done = run(*PLAIN, table=gates(min_clean_accuracy=0.9))
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*min_clean_accuracy 0.9: undecided with 40 samples, * more needed"])


def test_each_of_several_threat_models_is_held_against_the_gate(run):
    threats = ("--threat", "Linf 0.001", "--threat", "Linf 0.3")
    done = run(*PLAIN, *threats, "-rf", table=gates(min_robust_accuracy=0.5))
    assert {"Linf-0.3::worst-case", "worst-case"} <= failed(done)
    assert "Linf-0.001::worst-case" not in failed(done)


def test_invalid_is_red_says_why_and_how_to_cure_it(run):
    done = run(*SUITE, "--target", "models.py:moody")
    done.stdout.fnmatch_lines(
        ["INVALID: the evaluation can't be trusted", "  RB101: *", "    cure: make the forward pass deterministic*"]
    )
    done.assert_outcomes(failed=3, skipped=2)  # its two attacks are not run
    assert done.ret == pytest.ExitCode.TESTS_FAILED


def test_invalid_is_let_through_for_a_reason(project, run):
    done = run(
        *SUITE,
        "--target",
        "models.py:moody",
        "--robustness-allow-invalid",
        "until #12 is closed",
        "--robustness-json",
        "card.json",
    )
    done.assert_outcomes(passed=5)
    done.stdout.fnmatch_lines(["INVALID  robustness.toml*", "*let through: until #12 is closed*"])
    assert "until #12 is closed" in (project.path / "card.json").read_text(encoding="utf-8")


def test_the_first_item_tells_why_nothing_was_evaluated_and_the_others_refer_to_it(run, built):
    done = run(*SUITE, "--target", "models.py:broken")
    done.assert_outcomes(failed=5)
    assert built() == ["broken"]
    told = [
        line for line in done.stdout.lines if line.startswith("robustness.toml::models.py:broken was not evaluated: ")
    ]
    assert len(told) == 4
    assert all("RuntimeError: no weights today (" in line and "the first of its tests" in line for line in told)
    done.stdout.fnmatch_lines(["models.py:broken: RuntimeError: no weights today (*models.py:*)"])


def test_fail_fast_and_last_failed(run, built):
    demanded = gates(min_clean_accuracy=1.0, min_robust_accuracy=0.99)
    run(*PLAIN, "-x", table=demanded).assert_outcomes(failed=1)
    done = run(*PLAIN, "--lf", "-q")
    done.assert_outcomes(failed=1)
    assert built() == ["plain", "plain"]


def test_a_user_who_interrupts_ends_the_session(run, built):
    done = run(
        *SUITE, "--target", "models.py:interrupted", "--target", "models.py:plain", "--robustness-json", "cards/"
    )
    assert done.ret == pytest.ExitCode.INTERRUPTED
    assert built() == ["interrupted"]
    done.stdout.fnmatch_lines(["INVALID  *models.py:interrupted*"])


def test_attacks_that_a_budget_left_out_are_skipped(project, run):
    suite = project.path / "robustness.toml"
    suite.write_text(suite.read_text(encoding="utf-8") + "[budget]\npasses = 100\n", encoding="utf-8")
    done = run(*PLAIN, "-rs")
    assert done.parseoutcomes()["skipped"] >= 1
    done.stdout.fnmatch_lines(["SKIPPED*not run: the evaluation ended before this attack (passes)"])


def test_junit_properties(project, run):
    run(*PLAIN, "--junitxml", "junit.xml", table=gates(min_clean_accuracy=0.5))
    cases = ElementTree.parse(project.path / "junit.xml").getroot().iter("testcase")
    found = [{one.get("name"): one.get("value") for one in case.iter("property")} for case in cases]
    assert len(found) == 5
    for properties in found:
        assert properties["robustness.verdict"] == "PASS"
        assert properties["robustness.min_clean_accuracy"] == "met"
        low, value, high = (float(properties[f"robustness.robust_accuracy{end}"]) for end in ("_low", "", "_high"))
        assert 0 < low < value < high < 1
        assert int(properties["robustness.passes"]) > 40


@pytest.mark.parametrize("said", [["-q"], ["-qq"], ["-v"], ["--color=yes"], ["--no-summary"], ["-p", "no:terminal"]])
def test_the_summary_fits_how_pytest_was_asked(run, said):
    done = run(*PLAIN, *said)
    assert done.ret == 0
    text = done.stdout.str()
    assert ("MEASURED" in text) == (said[0] not in ("--no-summary", "-p"))
    assert ("\x1b[" in text) == (said == ["--color=yes"])
    assert ("Clean" in text or "clean accuracy" in text) == (said == ["-v"])


def test_before_a_run_of_minutes_its_length_is_told(run, monkeypatch):
    monkeypatch.setattr("robustbench_lite.faces.progress._LONG", 0.0)
    run(*PLAIN).stdout.fnmatch_lines(["Ahead: * at most * passes. *"])
    assert "Ahead" not in run(*PLAIN, "-q").stdout.str()


def test_workers_share_the_samples_of_an_evaluation(project, run):
    done = run(*PLAIN, "--robustness-no-cache", "--robustness-workers", "2", "--robustness-json", "card.json")
    done.assert_outcomes(passed=5)
    card = Scorecard.load(project.path / "card.json")
    assert (card.environment.workers, len(card.outcomes)) == (2, 40)
