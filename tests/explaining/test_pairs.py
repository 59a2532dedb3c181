"""Which samples are explained, and what is refused: another model, other data, a card with nothing to explain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import robustbench_lite as rl
from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.explaining.pairs import broken_pairs, check_answers, check_same, rows_of
from robustbench_lite.results.scorecard import Scorecard, Witnesses

from .conftest import Left, random_model, samples


def test_pairs_are_broken_samples_with_a_witness_in_the_ball(card: Scorecard, data: Data) -> None:
    pairs = broken_pairs(card, data, 5)
    assert len(pairs) == 5
    assert all(one.breaks and one.correct for one in pairs.outcomes)
    assert ((pairs.x - pairs.adversarial).abs().flatten(1).amax(1) <= 0.1 + 1e-6).all()
    assert torch.equal(pairs.x, data.fetch([one.index for one in pairs.outcomes]))
    keys = [one.key for one in pairs.outcomes]
    assert keys == sorted(keys)
    assert [one.key for one in broken_pairs(card, data, 3).outcomes] == keys[:3]


def test_a_card_of_a_part_is_found_in_the_whole(data: Data) -> None:
    part = rl.evaluate(Left(), data, ["fgsm"], "Linf 0.1", limit=20, keep_witnesses=True)
    pairs = broken_pairs(part, data, 3)
    assert torch.equal(pairs.x, data.fetch([one.index for one in pairs.outcomes]))
    check_same(part, rl.Target(Left()), data, 7)


def test_a_card_without_witnesses_is_refused(card: Scorecard, data: Data) -> None:
    for bare in (card.with_witnesses(None), card.with_witnesses(_cut(card, 0))):
        with pytest.raises(UserError, match="no adversarial examples: evaluate with --keep-witnesses"):
            broken_pairs(bare, data, 5)


def test_a_card_on_which_nothing_broke_is_refused(data: Data) -> None:
    card = rl.evaluate(Left(), data, ["fgsm"], "Linf 1e-6", keep_witnesses=True)
    with pytest.raises(UserError, match="nothing failed, so there is nothing to explain"):
        broken_pairs(card, data, 5)


def test_witnesses_of_another_card_are_refused(card: Scorecard, data: Data) -> None:
    kept = card.witnesses
    assert kept is not None
    strange = card.with_witnesses(replace(kept, index=kept.index + 1000))
    with pytest.raises(UserError, match="none of the card's witnesses is of a sample"):
        broken_pairs(strange, data, 5)
    small = card.with_witnesses(replace(kept, x=kept.x[..., :4]))
    with pytest.raises(UserError, match=r"of shape \(1, 8, 4\), the data's samples of \(1, 8, 8\)"):
        broken_pairs(small, data, 5)


def test_another_model_is_refused(card: Scorecard, data: Data) -> None:
    check_same(card, rl.Target(Left()), data, 7)
    with pytest.raises(UserError, match="is not the model of the card"):
        check_same(card, rl.Target(random_model()), data, 7)
    with pytest.raises(UserError, match="is not the model of the card"):
        check_same(card, rl.Target(Left(), mean=[0.5], std=[0.5]), data, 7)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x[:10], y[:10]), "has 10 samples, and none is number 10"),
        (lambda x, y: (x.flip(-1), y), "60 of 60 samples are others"),
        (lambda x, y: (x, torch.cat([1 - y[:3], y[3:]])), "3 of 60 samples are others"),
    ],
)
def test_other_data_are_refused(card: Scorecard, change: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_same(card, rl.Target(Left()), as_data(change(*samples())), 7)


def test_answers_stand_in_for_a_fingerprint(card: Scorecard) -> None:
    told = {one.index: one.prediction for one in card.outcomes}
    check_answers(card, told)
    with pytest.raises(UserError, match="the model answers 60 of 60 clean samples otherwise"):
        check_answers(card, {index: 1 - label for index, label in told.items()})


def test_rows_are_those_of_the_index(card: Scorecard, data: Data) -> None:
    turned = data.take(list(range(59, -1, -1)))
    assert rows_of(card, turned) == {index: 59 - index for index in range(60)}


def _cut(card: Scorecard, count: int) -> Witnesses:
    kept = card.witnesses
    assert kept is not None
    return Witnesses(kept.index[:count], kept.attack[:count], kept.threat[:count], np.asarray(kept.x[:count]))
