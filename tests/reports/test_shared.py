"""What the formats share: how values read, the order of an overview, and files to run it again."""

from __future__ import annotations

import shlex
import tomllib

import pytest

from robustbench_lite.core import registry
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.suite import AttackSpec, Suite
from robustbench_lite.reports import _format, _repeat, _view
from robustbench_lite.results.scorecard import Adaptation, Countermeasure, Finding, Interval, Measured, Plot


@pytest.mark.parametrize("name", ["terminal", "html", "markdown"])
def test_every_format_is_found_by_name(name, make_card):
    cards = [make_card("a", samples=10), make_card("b", samples=10)]
    assert registry.find("reports", name)(cards, title="T", story=("S",))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0%"), (0.0001, "<0.1%"), (0.876, "87.6%"), (0.9995, ">99.9%"), (0.9994, "99.9%"), (1, "100.0%")],
)
def test_percent_never_rounds_to_all_or_nothing(share, text):
    assert _format.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.6, "1m 00s"), (200, "3m 20s"), (7500, "2h 05m")],
)
def test_seconds(seconds, text):
    assert _format.seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999_999, "999,999"), (1_540_000, "1.5M"), (98_765_432, "99M"), (2.5e9, "2.5G")]
)
def test_count(value, text):
    assert _format.count(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (float("nan"), "–"), (0.22531, "0.225"), (1e-7, "1e-07")])
def test_number(value, text):
    assert _format.number(value) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(0.906, "+90.6 points"), (-0.002, "−0.2 points"), (-0.0001, "0.0 points")]
)
def test_points(difference, text):
    assert _format.points(difference) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (11_173_962, "11,173,962 bytes"),
        (1234.56789, "1,234.57 bytes"),
        (1e300, "1e+300 bytes"),
        (float("inf"), "inf bytes"),
    ],
)
def test_measured(value, text):
    assert _format.measured(Measured(name="m", value=value, unit="bytes", better="lower", definition="d")) == text


def test_passes_of_nothing():
    assert _format.per_sample(Passes(forward=3), 0) == "–"


@pytest.mark.parametrize(
    ("created", "text"),
    [("2026-11-23T14:01:02+00:00", "23 November 2026, 14:01 UTC"), ("some day", "some day")],
)
def test_moment(created, text):
    assert _format.moment(created) == text


def test_stages_run_over_all_threats_and_attacks(make_card):
    cards = [make_card(breaks={"pgd": 0.3}), make_card(breaks={"fab": 0.3}, threats=["Linf 3/10", "L2 1"])]
    found = [(stage.label, str(stage.threat or ""), *map(bool, stage.accuracy)) for stage in _view.stages(cards)]
    assert found == [
        ("Clean", "", True, True),
        ("after pgd", "Linf 0.3", True, False),
        ("after fab", "Linf 0.3", False, True),
        ("Worst case", "Linf 0.3", True, True),
        ("after fab", "L2 1", False, True),
        ("Worst case", "L2 1", False, True),
        ("Worst case over all its threats", "", True, True),
    ]


def test_labels_tell_targets_of_one_name_apart(make_card):
    assert _view.labels([make_card("a"), make_card("b"), make_card("a")]) == ["a (1)", "b", "a (2)"]


def test_reasons_tell_an_undecided_gate(make_card, make_gate):
    card = make_card(gates=(make_gate("min_robust_accuracy", 0.5, 0.51, decided=False),))
    undecided = "Undecided: robust accuracy at least 50.0%, found 51.0% [49.0, 53.0]; more samples needed to tell."
    assert _view.reasons(card) == [undecided]
    met = make_gate("min_clean_accuracy", 0.5, 0.9)
    assert _view.reasons(make_card(gates=(met,))) == ["The gate is met."]
    assert _view.reasons(make_card(gates=(met, *card.gates))) == [undecided, "1 of 2 gates is met."]
    strict = make_card(gates=(make_gate("min_robust_accuracy", 0.5, 0.51, passed=False, decided=False),))
    assert _view.reasons(strict) == [f"{undecided} The gates are strict: undecided is missed."]
    assert _view.reasons(make_card(gates=())) == ["No gate was set: nothing was demanded of the model."]


def test_reservations_tell_what_was_cut_and_what_was_not_confirmed(make_card):
    card = make_card(breaks={"pgd": 0.5})
    result = card.attacks[0].model_copy(update={"finished": False, "unconfirmed": 2})
    first, second = _view.reservations(card.model_copy(update={"attacks": (result,)}))
    assert first.startswith("pgd stopped early")
    assert second.startswith("pgd: 2 claims of success not confirmed")
    assert _view.reservations(card) == []


def test_reservations_tell_what_an_adaptive_evaluation_did_and_what_was_found_without(make_card):
    card = make_card(robust_accuracy=Interval.of(24, 200), clean_accuracy=Interval.of(180, 200))
    without = Adaptation(
        measures=(Countermeasure(name="eot", setting="16 draws", reason="RB101, and the\nmargins"),),
        clean_accuracy=Interval.of(178, 200),
        robust_accuracy=Interval.of(170, 200),
        verdict="INVALID",
        validity=(),
    )
    assert _view.reservations(card.model_copy(update={"adaptation": without})) == [
        "Adapted (eot, 16 draws): clean 90.0%, robust 12.0%; without: clean 89.0%, robust 85.0% (INVALID).",
        "eot for RB101, and the margins.",
    ]


@pytest.mark.parametrize("form", ["markdown", "github", "sarif", "annotations"])
def test_where_nothing_is_drawn_a_plot_changes_nothing(form, make_card):
    finding = Finding(code="RB223", severity="error", message="m", cure="c", threat="Linf 0.3")
    plot = Plot(x="distance", y="margin", points=((0.0, 1.0), (1.0, 2.0)))
    render = registry.find("reports", form)
    plain = render([make_card(validity=(finding,))])
    assert render([make_card(validity=(finding.model_copy(update={"plot": plot}),))]) == plain


def test_the_suite_can_be_read_back():
    params = {"steps": 40, "loss": 'm"\\\n', "scale": 1e-5, "on": True, "sizes": [1, 2.5], "odd key": {"a": "é"}}
    suite = Suite(
        name="mine",
        description='With "quotes" and \\ and \x7f.',
        threats=("Linf 8/255", "L2 0.5 targeted next"),
        attacks=(AttackSpec(attack="pgd", name="strong", params=params), AttackSpec(attack="fgsm")),
        independent=True,
    )
    assert Suite.model_validate(tomllib.loads(_repeat.suite_toml(suite))) == suite


def test_a_parameter_of_none_is_left_to_its_default():
    suite = Suite(name="n", threats="L2 1", attacks=(AttackSpec(attack="pgd", params={"seed": None, "steps": 1}),))
    assert tomllib.loads(_repeat.suite_toml(suite))["attacks"][0]["params"] == {"steps": 1}


def test_cards_of_one_model_with_other_weights_are_told_apart(make_card) -> None:
    from robustbench_lite.reports import _view

    def labels(*models: str) -> list[str]:
        made = [("rblite", "evaluate", *shlex.split(model), "--data", "digits") if model else () for model in models]
        cards = [make_card(samples=2, command=words) for words in made]
        return [label.removeprefix(cards[0].target.name) for label in _view.labels(cards)]

    assert labels("m.py:net --weights a/old.pt", "m.py:net --weights a/new.pt") == [" (old.pt)", " (new.pt)"]
    assert labels("m.py:net --weights a/net.pt", "m.py:net --weights b/net.pt") == [" (a/net.pt)", " (b/net.pt)"]
    assert labels("runs/one/net", "runs/two/net") == [" (one/net)", " (two/net)"]
    assert labels("m.py:net", "m.py:net") == [" (1)", " (2)"]
    assert labels("m.py:net --weights a.pt", "") == [" (1)", " (2)"]
    assert labels("m.py:net --weights a.pt") == [""]
