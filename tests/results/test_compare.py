"""Comparing two scorecards: pairs, counts, p-values, and what makes them unlike."""

from __future__ import annotations

import pytest

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.suite import AttackSpec, Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.compare import compare, differences, same_adversary
from robustbench_lite.results.paired import p_in_words
from robustbench_lite.results.scorecard import Outcome


def _row(index, key, *, correct=True, robust=True):
    breaks = (
        () if robust or not correct else ({"attack": "pgd", "threat": "Linf 0.3", "prediction": 1, "distance": 0.1},)
    )
    return Outcome(index=index, key=key, label=0, prediction=int(not correct), breaks=breaks, passes=Passes(forward=1))


def test_counts_by_hand(make_card):
    # robust:  a both, b only before, c and d only after, e neither (wrong from the start before, broken after)
    before = (_row(0, "a"), _row(1, "b"), _row(2, "c", robust=False), _row(3, "d", robust=False))
    before += (_row(4, "e", correct=False),)
    after = (_row(0, "a"), _row(1, "b", robust=False), _row(2, "c"), _row(3, "d"), _row(4, "e", robust=False))
    found = compare(make_card(outcomes=before), make_card(outcomes=after))

    assert (found.samples, found.unpaired_before, found.unpaired_after) == (5, 0, 0)
    assert (found.robust.both, found.robust.only_before, found.robust.only_after, found.robust.neither) == (1, 1, 2, 1)
    assert (found.robust.before.value, found.robust.after.value) == (0.4, 0.6)
    assert found.robust.difference == pytest.approx(0.2)
    assert found.robust.p_value == 1.0  # 1 against 2 is what a coin does
    assert (found.clean.only_before, found.clean.only_after) == (0, 1)
    assert found.differences == ()


@pytest.mark.parametrize(("value", "told"), [(1.0, "p = 1.000"), (0.0212, "p = 0.021"), (4e-9, "p < 0.001")])
def test_p_values_read_as_in_papers(value, told):
    assert p_in_words(value) == told


def test_p_value_is_exact(make_card):
    before = tuple(_row(index, f"{index}", robust=False) for index in range(10))
    after = tuple(_row(index, f"{index}") for index in range(10))
    assert compare(make_card(outcomes=before), make_card(outcomes=after)).robust.p_value == pytest.approx(2 / 2**10)


def test_pairs_by_content_whatever_the_order(make_card):
    before = make_card("a", samples=60)
    after = make_card("b", samples=60)
    moved = tuple(row.model_copy(update={"index": 59 - place}) for place, row in enumerate(reversed(after.outcomes)))
    there, back = compare(before, after), compare(before, after.model_copy(update={"outcomes": moved}))
    assert there == back


def test_samples_of_one_card_are_counted_and_told(make_card):
    found = compare(make_card(samples=50), make_card(samples=50, first=20))
    assert (found.samples, found.unpaired_before, found.unpaired_after) == (30, 20, 20)
    assert found.differences == (
        "Data differ: 30 samples are common, 20 are only before (digits), 20 only after (digits).",
    )


def test_duplicates_are_paired_as_often_as_both_have_them(make_card):
    before = make_card(outcomes=(_row(0, "a"), _row(1, "a"), _row(2, "a")))
    after = make_card(outcomes=(_row(5, "a", robust=False), _row(7, "b"), _row(9, "a")))
    found = compare(before, after)
    assert (found.samples, found.unpaired_before, found.unpaired_after) == (2, 1, 1)
    assert (found.robust.both, found.robust.only_before) == (1, 1)


def test_nothing_in_common_is_an_error(make_card):
    with pytest.raises(ValueError, match="no sample in common; evaluate both on the same samples"):
        compare(make_card(samples=5), make_card(samples=5, first=5))


def test_attacks_are_matched_by_name_and_adversary(make_card):
    before = make_card("a", threats=["Linf 0.3"], breaks={"pgd": 0.5, "square": 0.1})
    same = make_card("b", threats=["Linf 3/10"], breaks={"square": 0.1, "fab": 0.1})
    other = make_card("b", threats=["Linf 0.2"], breaks={"square": 0.1})
    assert [(row.before.name, row.after.name) for row in compare(before, same).attacks] == [("square", "square")]
    assert compare(before, other).attacks == ()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Linf 8/255", "linf 16/510", True),
        ("Linf 8/255", "L2 8/255", False),
        ("Linf 8/255", "Linf 8/255 targeted", False),
        ("Linf 0.3 targeted next", "Linf 0.3 targeted random", False),
    ],
)
def test_same_adversary(first, second, same):
    assert same_adversary(ThreatModel.parse(first), ThreatModel.parse(second)) is same


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"verdict": "INVALID"}, "The scorecard after is INVALID: its robust accuracy can't be trusted"),
        ({"interrupted": "seconds"}, "The evaluation after was stopped early (seconds)"),
        ({"threats_": ["Linf 0.1"]}, "Threat models differ: Linf 0.3 before, Linf 0.1 after."),
        ({"breaks": {"pgd": 0.3, "fab": 0.1}}, "Suites differ: square ran only before."),
        ({"seed_": 3}, "Seeds differ: 0 before, 3 after."),
        ({"version": "9.0"}, "Versions of robustbench_lite differ: 0.1.1 before, 9.0 after."),
    ],
)
def test_each_difference_is_told(make_card, changes, sentence):
    changes = {key.removesuffix("_"): value for key, value in changes.items()}
    before = make_card(breaks={"pgd": 0.3, "square": 0.1})
    after = make_card(**{"breaks": {"pgd": 0.3, "square": 0.1}, **changes})
    assert any(told.startswith(sentence) for told in differences(before, after))


def test_like_things_have_no_differences(make_card):
    assert differences(make_card("a"), make_card("b")) == ()


def test_an_attack_cut_short_is_told(make_card):
    card = make_card()
    cut = card.model_copy(update={"attacks": (card.attacks[0].model_copy(update={"finished": False}),)})
    assert differences(cut, card) == (
        "The evaluation before was stopped early in pgd: its robust accuracy is only an upper bound.",
    )


def test_changed_parameters_of_an_attack_are_told(make_card):
    def suite(independent=False, **params):
        spec = AttackSpec(attack="pgd", params=params)
        return make_card(suite=Suite(threats="Linf 0.3", attacks=(spec,), independent=independent))

    assert differences(suite(steps=40), suite(steps=100, restarts=2)) == (
        "Suites differ in pgd: steps 40 before, 100 after; restarts by default before, 2 after.",
    )
    assert differences(suite(), suite(independent=True)) == (
        "Suites differ: a cascade before, independent attacks after.",
    )
