"""Broken samples with their witnesses, read from a scorecard; whether target and data are those of the card."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.keys import key_text, keys_of
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Break, Outcome, Scorecard

_AGREE = 0.99  # of the clean predictions, where there is no fingerprint to compare


@dataclass(frozen=True, eq=False)
class Pairs:
    """Broken samples, each with one witness."""

    outcomes: tuple[Outcome, ...]
    breaks: tuple[Break, ...]
    x: Tensor
    """The samples, (N, *shape)."""
    adversarial: Tensor
    """Their witnesses, (N, *shape)."""

    def __len__(self) -> int:
        return len(self.outcomes)


def broken_pairs(card: Scorecard, data: Data, limit: int) -> Pairs:
    """Choose broken samples, in the order of their keys, each with the witness that was found first.

    Parameters
    ----------
    card
        A scorecard with its witnesses.
    data
        The card's data, or more.
    limit
        Most samples.

    Raises
    ------
    UserError
        For a card without witnesses or broken samples, and for witnesses of another shape than the data's.
    """
    if card.robust_accuracy.count == card.clean_accuracy.count:
        raise UserError("the card has no broken sample: nothing failed, so there is nothing to explain")
    kept = card.witnesses
    if kept is None or not len(kept):
        raise UserError(
            "the card has no adversarial examples: evaluate with --keep-witnesses, and leave CARD.witnesses.npz beside "
            "CARD.json"
        )
    if kept.x.shape[1:] != tuple(data.shape):
        raise UserError(f"the witnesses are of shape {kept.x.shape[1:]}, the data's samples of {tuple(data.shape)}")
    places = {key: place for place, key in enumerate(zip(kept.index.tolist(), kept.attack, kept.threat, strict=True))}
    found: list[tuple[Outcome, Break, int]] = []
    for outcome in sorted(card.outcomes, key=lambda one: one.key):
        known = [one for one in outcome.breaks if (outcome.index, one.attack, one.threat) in places]
        if known and len(found) < limit:
            found.append((outcome, known[0], places[outcome.index, known[0].attack, known[0].threat]))
    if not found:
        raise UserError("none of the card's witnesses is of a sample that it tells of; save the card anew")
    rows = rows_of(card, data)
    outcomes, breaks, chosen = zip(*found, strict=True)
    return Pairs(
        outcomes=outcomes,
        breaks=breaks,
        x=data.fetch([rows[one.index] for one in outcomes]),
        adversarial=torch.from_numpy(kept.x[list(chosen)]).float(),
    )


def rows_of(card: Scorecard, data: Data) -> dict[int, int]:
    """By position in the source, the row in the data of each of the card's samples.

    Raises
    ------
    UserError
        Where the data lack a sample of the card.
    """
    rows = {index: row for row, index in enumerate(data.index.tolist())}
    lacking = [one.index for one in card.outcomes if one.index not in rows]
    if lacking:
        raise UserError(
            f"{data.name}: has {len(data)} samples, and none is number {lacking[0]}, which the card tells of; give the "
            f"data that it was made with ({card.data.name})"
        )
    return {one.index: rows[one.index] for one in card.outcomes}


def check_same(card: Scorecard, target: Target, data: Data, batch_size: int) -> None:
    """Refuse a model and data that the card was not made with.

    Raises
    ------
    UserError
        Where their fingerprints differ from the card's.
    """
    rows = rows_of(card, data)
    keys = keys_of(data.take([rows[one.index] for one in card.outcomes]), batch_size).tolist()
    other = sum(key_text(key) != one.key for key, one in zip(keys, card.outcomes, strict=True))
    if other:
        raise UserError(
            f"{data.name}: {other} of {len(keys)} samples are others than those of the card, or have another label; "
            f"give the data that it was made with ({card.data.name}), with the same --resize, --crop and --label-map"
        )
    found = target.weights_sha256()
    if found and card.target.weights_sha256 and found != card.target.weights_sha256:
        raise UserError(
            f"{target.name}: is not the model of the card ({card.target.name}): its weights have the sha256 "
            f"{found[:12]}..., the card's {card.target.weights_sha256[:12]}...; give the same weights and normalisation"
        )


def check_answers(card: Scorecard, predicted: dict[int, int]) -> None:
    """Refuse a model that answers otherwise than the card says; for those that have no fingerprint.

    Parameters
    ----------
    card
        The scorecard.
    predicted
        By position in the source, the clean prediction of some samples.

    Raises
    ------
    UserError
        Where more than one in a hundred differs.
    """
    told = {one.index: one.prediction for one in card.outcomes}
    other = sum(told[index] != label for index, label in predicted.items())
    if other > (1 - _AGREE) * len(predicted):
        raise UserError(
            f"the model answers {other} of {len(predicted)} clean samples otherwise than the card says: it is not the "
            f"model of the card ({card.target.name}), or its answers are random"
        )
