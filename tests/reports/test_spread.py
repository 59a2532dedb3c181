"""Who broke what, and what broken samples are taken for."""

from __future__ import annotations

import pytest

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.reports import _spread
from robustbench_lite.results.scorecard import Break, Outcome


def row(place, label, prediction, *breaks):
    found = tuple(Break(attack=attack, threat=threat, prediction=to, distance=0.1) for attack, threat, to in breaks)
    return Outcome(index=place, key=str(place), label=label, prediction=prediction, breaks=found, passes=Passes())


@pytest.fixture
def card(make_card):
    """Four samples: one stands, one is wrong when clean, one falls to both attacks, one to fab alone."""
    card = make_card(threats=["Linf 0.3"], breaks={"pgd": 0.5, "fab": 0.5}, samples=4, classes=("cat", "dog"))
    rows = (
        row(0, 0, 0),
        row(1, 0, 1),
        row(2, 1, 1, ("pgd", "Linf 0.3", 0), ("fab", "Linf 0.3", 0)),
        row(3, 1, 1, ("fab", "Linf 0.3", 0)),
    )
    suite = card.suite.model_copy(update={"independent": True})
    return card.model_copy(update={"outcomes": rows, "suite": suite})


def test_every_sample_has_its_place(card):
    [fate] = _spread.fates(card)
    assert [(part.kind, part.label, part.size) for part in fate.parts] == [
        ("stands", "withstand all attacks", 1),
        ("broken", "pgd", 1),
        ("broken", "fab", 1),
        ("wrong", "wrong when clean", 1),
    ]
    assert [(part.start, part.width) for part in fate.parts] == [(0, 25), (25, 25), (50, 25), (75, 25)]


@pytest.mark.parametrize("threats", [["Linf 8/255", "Linf 4/255"], ["L2 1", "Linf 0.1", "L2 0.5"]])
def test_those_that_stand_are_those_that_the_card_counts(make_card, threats):
    card = make_card(threats=threats, samples=100)
    for fate in _spread.fates(card):
        assert sum(part.size for part in fate.parts) == 100
        assert sum(part.size for part in fate.parts if part.kind == "wrong") == 100 - card.clean_accuracy.count


def test_a_sample_that_breaks_in_a_small_ball_breaks_in_a_larger(card):
    rows = (row(0, 0, 0, ("pgd", "Linf 0.1", 1)),)
    threats = tuple(
        card.threats[0].model_copy(update={"threat": ThreatModel.parse(f"Linf {eps}")}) for eps in (0.1, 0.3)
    )
    small, large = _spread.fates(card.model_copy(update={"outcomes": rows, "threats": threats}))
    assert small.parts[0].label == large.parts[0].label == "pgd"


def test_overlap_of_attacks_that_saw_all_samples(card):
    [overlap] = _spread.overlaps(card)
    assert overlap.names == ("pgd", "fab")
    assert overlap.sizes == (1, 2)
    assert overlap.alone == (0, 1)
    assert overlap.both == ((1, 1), (1, 2))


def test_a_cascade_tells_of_no_overlap_between_its_attacks(card):
    cascade = card.model_copy(update={"suite": card.suite.model_copy(update={"independent": False})})
    assert _spread.overlaps(cascade) == []


def test_overlap_of_threat_models(make_card):
    card = make_card(threats=["Linf 0.3", "L2 1"])
    [overlap] = _spread.overlaps(card)
    assert (overlap.what, overlap.names) == ("threat model", ("Linf 0.3", "L2 1"))
    robust = {str(one.threat): one.robust_accuracy.count for one in card.threats}
    assert overlap.sizes == tuple(card.clean_accuracy.count - robust[name] for name in overlap.names)
    assert overlap.both[0][1] == overlap.both[1][0] <= min(overlap.sizes)


def test_confusion_counts_what_a_sample_is_taken_for(card):
    found = _spread.confusion(card)
    assert found.names == ("cat", "dog")
    assert found.cells == ((1, 1), (2, 0))
    assert found.totals == (2, 2)
    assert found.pairs == (("dog", "cat", 2), ("cat", "dog", 1))


def test_many_classes_are_told_by_their_commonest_mistakes(make_card):
    card = make_card(classes=[f"c{number}" for number in range(60)], samples=240)
    found = _spread.confusion(card)
    assert found.names == ()
    assert 6 < len(found.pairs) <= 12


def test_without_a_mistake_there_is_no_confusion(make_card):
    assert _spread.confusion(make_card(clean=1.0, breaks={"pgd": 0.0})) is None
    assert _spread.confusion(make_card(samples=0, attacks=())) is None
