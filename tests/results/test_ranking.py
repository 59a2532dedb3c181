"""Ranking scorecards: the order, Holm's correction, and who can't win."""

from __future__ import annotations

import json

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.ranking import as_json, holm, rank
from robustbench_lite.results.scorecard import Measured


def test_the_best_stands_first_and_the_others_are_compared_with_it(make_card):
    cards = [make_card("weak", breaks={"pgd": 0.9}), make_card("near", breaks={"pgd": 0.12})]
    cards += [make_card("strong", breaks={"pgd": 0.1})]
    found = rank(cards)
    best, others = found.ranks[0], found.ranks[1:]
    assert found.best is best
    assert best.card is max(cards, key=lambda card: card.robust_accuracy.value)
    assert best.against is None
    shares = [one.card.robust_accuracy.value for one in found.ranks]
    assert shares == sorted(shares, reverse=True)
    for one in others:
        assert one.against is not None
        assert one.against.robust.before == best.card.robust_accuracy
        assert one.against.p_robust >= one.against.robust.p_value
    assert [one.card.target.name for one in found.ranks if one.against and one.against.told_apart] == ["weak"]
    assert len(found.level) == 1


def test_of_equals_the_better_clean_accuracy_and_then_the_first_given_stands_first(make_card):
    card = make_card()
    assert [one.position for one in rank([card, card, card]).ranks] == [0, 1, 2]


@pytest.mark.parametrize("change", [{"verdict": "INVALID"}, {"interrupted": "seconds"}])
def test_who_can_not_be_trusted_can_not_win(make_card, change):
    cards = [make_card("too good", breaks={"pgd": 0.0}, **change), make_card("honest", breaks={"pgd": 0.8})]
    found = rank(cards)
    assert found.best is not None
    assert found.best.card.target.name == "honest"
    assert found.ranks[1].out
    assert found.ranks[1].against is None
    assert rank(cards[:1]).best is None


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1; never falling.
    assert holm([0.02, 0.04, 0.01]) == pytest.approx([0.04, 0.04, 0.03])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_other_threat_models_and_other_data_have_no_order(make_card):
    with pytest.raises(UserError, match="different threat models"):
        rank([make_card(), make_card(threats=["Linf 0.2"])])
    with pytest.raises(UserError, match="no sample in common"):
        rank([make_card(samples=5), make_card(samples=5, first=5)])


def test_as_json_tells_all(make_card):
    cost = Measured(name="training_passes", value=500.0, unit="passes", better="lower", definition="passes")
    cards = [make_card("a", breaks={"pgd": 0.9}, measures=(cost,)), make_card("b", breaks={"pgd": 0.1})]
    told = json.loads(json.dumps(as_json(rank(cards), ["first", "second"])))
    assert told["best"] == "second"
    assert told["not_told_apart"] == []
    assert [one["name"] for one in told["ranks"]] == ["second", "first"]
    assert [one["training_passes"] for one in told["ranks"]] == [None, 500.0]
    assert told["ranks"][1]["p_robust"] < 0.001
