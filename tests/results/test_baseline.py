"""Baselines: kept, told apart, refused where unlike, and compared sample by sample."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from robustbench_lite.core.cost import Budget, Passes
from robustbench_lite.core.suite import AttackSpec, Suite
from robustbench_lite.results import baseline
from robustbench_lite.results.paired import mcnemar_loss, paired_interval, visible_loss
from robustbench_lite.results.scorecard import Outcome, Witnesses


def _rows(*robust):
    """Outcomes of samples by whether they are robust; those that aren't are broken or wrong, in turn."""
    return tuple(
        Outcome(
            index=index,
            key=f"{index:016x}",
            label=0,
            prediction=int(not stands and index % 2),
            breaks=()
            if stands or index % 2
            else ({"attack": "pgd", "threat": "Linf 0.3", "prediction": 1, "distance": 0.1},),
            passes=Passes(forward=1),
        )
        for index, stands in enumerate(robust)
    )


@pytest.fixture
def pair(make_card):
    """Two cards on the same samples, of which so many are lost, gained, and robust in both."""

    def make(lost, gained, both, samples=200):
        rest = samples - lost - gained - both
        before = [True] * lost + [False] * gained + [True] * both + [False] * rest
        after = [False] * lost + [True] * gained + [True] * both + [False] * rest
        return make_card("after", outcomes=_rows(*after)), make_card("before", outcomes=_rows(*before))

    return make


# Kept in a folder


def test_what_is_saved_is_loaded(make_card, tmp_path):
    card = make_card()
    path = baseline.save(card, tmp_path / "new" / "folder", "main")
    assert path == tmp_path / "new" / "folder" / "main.json"
    assert baseline.load(tmp_path / "new" / "folder", "main") == card


def test_a_newer_one_takes_the_place_of_an_older(make_card, tmp_path):
    baseline.save(make_card("old"), tmp_path, "main")
    baseline.save(make_card("new"), tmp_path, "main")
    assert baseline.load(tmp_path, "main").target.name == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["main.json"]


def test_pictures_and_witnesses_stay_out_of_the_repo(make_card, tmp_path):
    one = np.zeros(1, np.int64), np.array(["pgd"]), np.array(["Linf 0.3"]), np.zeros((1, 1, 8, 8), np.float32)
    card = make_card(gallery=3).with_witnesses(Witnesses(*one))
    baseline.save(card, tmp_path, "main")
    assert [path.name for path in tmp_path.iterdir()] == ["main.json"]
    kept = baseline.load(tmp_path, "main")
    assert (kept.gallery, kept.witnesses) == ((), None)
    assert kept.outcomes == card.outcomes
    assert len(card.gallery) == 3
    assert card.witnesses is not None


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "../up", "a/b", "/etc/passwd", "a\\b", "C:x", "a\n", "a\0b", "-rf", "é", "x" * 101],
)
def test_a_name_that_could_lead_elsewhere_is_refused(make_card, tmp_path, name):
    folder = tmp_path / "baselines"
    for attempt in (lambda: baseline.save(make_card(), folder, name), lambda: baseline.load(folder, name)):
        with pytest.raises(ValueError, match=r"a baseline is named .*expected up to 100 letters"):
            attempt()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["main", "resnet18-linf_8.255", "0", "v1.2", "x" * 100])
def test_other_names_are_taken(make_card, tmp_path, name):
    assert baseline.save(make_card(), tmp_path, name).parent == tmp_path
    baseline.load(tmp_path, name)


def test_an_unknown_name_says_which_there_are(make_card, tmp_path):
    baseline.save(make_card(), tmp_path, "main")
    with pytest.raises(ValueError, match=r"unknown baseline 'mian': did you mean main\?"):
        baseline.load(tmp_path, "mian")
    with pytest.raises(ValueError, match=r"unknown baseline 'main': expected one of \(none\)"):
        baseline.load(tmp_path / "nowhere", "main")


@pytest.mark.parametrize(
    ("changes", "why"), [({"verdict": "INVALID"}, "is INVALID"), ({"interrupted": "seconds"}, "is stopped early")]
)
def test_what_can_not_be_trusted_is_not_kept(make_card, tmp_path, changes, why):
    with pytest.raises(ValueError, match=why):
        baseline.save(make_card(**changes), tmp_path, "main")
    assert list(tmp_path.iterdir()) == []


# Like and unlike


def _suite(*attacks, **changes):
    return Suite(threats="Linf 0.3", attacks=attacks or (AttackSpec(attack="pgd"),), **changes)


UNLIKE = {
    "data": ({}, {"first": 5}, "Data differ: 195 samples are common"),
    "threat": ({}, {"threats": ["Linf 0.2"]}, "Threat models differ: Linf 0.3 before, Linf 0.2 after."),
    "norm": ({}, {"threats": ["L2 0.3"]}, "Threat models differ"),
    "seed": ({}, {"seed": 1}, "Seeds differ: 0 before, 1 after."),
    "minor version": ({}, {"version": "0.2.0"}, "Versions of robustbench_lite differ: 0.1 before, 0.2 after."),
    "major version": ({}, {"version": "1.1.0"}, "Versions of robustbench_lite differ: 0.1 before, 1.1 after."),
    "attacks": ({}, {"breaks": {"pgd": 0.3}}, "Suites differ: apgd_dlr, square ran only before."),
    "cascade": (
        {"suite": _suite()},
        {"suite": _suite(independent=True)},
        "Suites differ: a cascade before, independent attacks after.",
    ),
    "seconds": (
        {"suite": _suite(budget=Budget(seconds=60))},
        {"suite": _suite(budget=Budget(seconds=90))},
        "Budgets of seconds differ: 60.0 before, 90.0 after.",
    ),
    "passes": (
        {"suite": _suite()},
        {"suite": _suite(budget=Budget(passes=10_000))},
        "Budgets of passes differ: none before, 10,000 after.",
    ),
}


def _with_data(card):
    """The card with the hash that an evaluation would give its data; made-up cards all have one."""
    sha = "".join(sorted(row.key for row in card.outcomes))
    return card.model_copy(update={"data": card.data.model_copy(update={"sha256": sha})})


@pytest.mark.parametrize("what", UNLIKE)
def test_unlike_things_are_refused_with_the_difference(make_card, what):
    first, second, sentence = UNLIKE[what]
    before, after = _with_data(make_card("a", **first)), _with_data(make_card("b", **second))
    assert baseline.identity(before) != baseline.identity(after)
    assert any(told.startswith(sentence) for told in baseline.unlike(after, before))
    with pytest.raises(ValueError, match="b can't be compared with the baseline of a; expected all but the model"):
        baseline.check(after, before)


def test_every_difference_is_told_at_once(make_card):
    before = make_card("a", breaks={"pgd": 0.3})
    after = make_card("b", breaks={"pgd": 0.3, "fab": 0.1}, seed=3, first=7, version="2.0.0")
    with pytest.raises(ValueError, match="can't be compared") as refused:
        baseline.check(after, before)
    for start in ("Data differ", "Suites differ", "Seeds differ", "Versions of robustbench_lite differ"):
        assert f"\n  {start}" in str(refused.value)


def test_a_default_that_changed_is_unlike_and_one_that_was_written_out_is_not(make_card):
    card = make_card(breaks={"pgd": 0.3})
    [result] = card.attacks
    stronger = result.model_copy(update={"params": {**result.params, "step_size": 0.02}})
    changed = card.model_copy(update={"attacks": (stronger,)})
    assert baseline.identity(changed) != baseline.identity(card)
    assert baseline.unlike(changed, card) == ("Suites differ in pgd: step_size 0.01 before, 0.02 after.",)

    spoken = card.model_copy(
        update={"suite": card.suite.model_copy(update={"attacks": (AttackSpec(attack="pgd", params=result.params),)})}
    )
    assert spoken.suite != card.suite
    assert baseline.identity(spoken) == baseline.identity(card)
    assert baseline.unlike(spoken, card) == ()


@pytest.mark.parametrize("changes", [{"verdict": "INVALID"}, {"interrupted": "seconds"}])
def test_what_can_not_be_trusted_is_refused(make_card, changes):
    for after, before in ((make_card(**changes), make_card()), (make_card(), make_card(**changes))):
        with pytest.raises(ValueError, match=r"INVALID|stopped early"):
            baseline.check(after, before)


def test_another_model_machine_and_patch_are_alike(make_card):
    before = make_card("a")
    target = before.target.model_copy(update={"weights_sha256": "0" * 64, "parameters": 1, "device": "cuda:0"})
    after = make_card("a", target=target, version="0.1.9", batch_size=7, created="2027", seconds=1.0)
    after = after.model_copy(update={"threats": before.threats, "outcomes": after.outcomes[::-1]})
    assert baseline.identity(after) == baseline.identity(before)
    assert baseline.unlike(after, before) == ()


def test_a_threat_model_is_the_same_however_it_is_written(make_card):
    before, after = make_card("a", threats=["Linf 0.3", "L2 1"]), make_card("a", threats=["L2 1.0", "Linf 3/10"])
    assert baseline.identity(after) == baseline.identity(before)
    assert baseline.unlike(after, before) == ()


def test_the_identity_stays_what_it_is(make_card):
    # Whoever keeps it in a file relies on it: it changes only with the format, never by accident.
    assert baseline.identity(make_card()) == baseline.identity(make_card("other"))
    assert len(baseline.identity(make_card())) == 64


# Compared


def test_counts_by_hand(pair):
    after, before = pair(lost=7, gained=2, both=100)
    found = baseline.check(after, before)
    assert (found.newly_broken, found.newly_withstood, found.gate.samples) == (7, 2, 200)
    assert found.gate.value == pytest.approx(0.025)
    assert found.p_value == pytest.approx(mcnemar_loss(7, 2))
    assert found.visible == visible_loss(2, 200)
    assert (found.gate.low, found.gate.high) == paired_interval(7, 2, 200)
    assert (found.gate.name, found.gate.kind, found.gate.threshold) == ("max_regression", "regression", 0.0)


@pytest.mark.parametrize(
    ("lost", "gained", "allowed", "verdict"),
    [
        (30, 2, 0.0, "failed"),
        (30, 2, 0.05, "failed"),
        (30, 2, 0.14, "undecided"),
        (30, 2, 0.3, "passed"),
        (5, 0, 0.0, "undecided"),
        (6, 0, 0.0, "failed"),
        (0, 0, 0.0, "undecided"),
        (0, 0, 0.05, "passed"),
        (2, 30, 0.0, "passed"),
        (20, 20, 0.0, "undecided"),
    ],
)
def test_the_verdict(pair, lost, gained, allowed, verdict):
    found = baseline.check(*pair(lost, gained, both=50), allowed)
    assert found.verdict == verdict
    assert str(found).startswith(verdict)
    assert found.gate.passed is (verdict != "failed")


def test_without_allowance_it_fails_where_mcnemar_does(pair):
    for lost in range(4, 30):
        found = baseline.check(*pair(lost, 4, both=50), 0.0)
        assert found.gate.passed is (found.p_value > 0.025)


def test_it_is_told_in_words(pair):
    found = baseline.check(*pair(7, 2, both=100), 0.0)
    low, high = paired_interval(7, 2, 200)
    assert str(found) == (
        f"undecided with 200 samples, {found.gate.more_needed} more needed: 7 newly broken and 2 newly withstood of "
        f"200 samples, so 2.50% [{low:.2%}, {high:.2%}] of robust accuracy are lost and 0.00% may be (95 % interval; "
        f"exact one-sided McNemar p = 0.09). So many samples show a regression of {visible_loss(2, 200):.2%} or more "
        "with a power of 80%."
    )
    assert "So many samples show no regression with" in str(baseline.check(*pair(0, 0, both=3, samples=5), 0.0))


def test_as_many_more_as_are_needed_tell(pair):
    more = baseline.check(*pair(7, 2, both=100)).gate.more_needed
    scale = (200 + more) / 200
    assert 1.3 < scale < 2.5
    assert paired_interval(round(7 * scale), round(2 * scale), 200 + more)[0] > 0
    assert baseline.check(*pair(7, 7, both=100)).gate.more_needed is None


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_allowance_that_is_no_share_is_refused(make_card, share):
    with pytest.raises(ValueError, match=f"max_regression is {share}: expected a share"):
        baseline.check(make_card(), make_card(), share)


# How often it is wrong


@cache
def _fails(lost, gained, samples, allowed):
    return paired_interval(lost, gained, samples)[0] > allowed


@pytest.mark.parametrize(("churn", "loss"), [(0.02, 0.0), (0.2, 0.0), (0.03, 0.02)])
def test_by_simulation_a_model_that_lost_what_it_may_fails_at_most_2_5_times_in_100(churn, loss):
    lost, gained = (churn + loss) / 2, (churn - loss) / 2
    draws = np.random.default_rng(3).multinomial(250, [lost, gained, 1 - churn], size=2000)
    failed = np.mean([_fails(int(first), int(second), 250, loss) for first, second, _ in draws])
    assert failed <= 0.025 + 3 * (0.025 / 2000) ** 0.5


def test_by_simulation_the_visible_regression_is_seen_four_times_in_five():
    loss, won = visible_loss(5, 250), 5 / 250
    draws = np.random.default_rng(4).multinomial(250, [won + loss, won, 1 - 2 * won - loss], size=2000)
    failed = np.mean([_fails(int(first), int(second), 250, 0.0) for first, second, _ in draws])
    assert failed == pytest.approx(0.8, abs=0.03)


def test_the_only_baseline_that_asks_the_same_is_found_under_another_name(make_card, tmp_path):
    card = make_card()
    baseline.save(card, tmp_path, "first")
    assert baseline.load_like(tmp_path, "second", card) == baseline.load(tmp_path, "first")
    baseline.save(card, tmp_path, "third")
    with pytest.raises(ValueError, match="unknown baseline 'second'"):
        baseline.load_like(tmp_path, "second", card)


def test_a_baseline_of_another_target_does_not_stand_in(make_card, tmp_path):
    card = make_card()
    baseline.save(
        card.model_copy(update={"target": card.target.model_copy(update={"name": "another"})}), tmp_path, "first"
    )
    with pytest.raises(ValueError, match="unknown baseline 'second'"):
        baseline.load_like(tmp_path, "second", card)
