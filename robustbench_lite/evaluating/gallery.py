"""Adversarial examples for the scorecard: all that were kept, and a few as pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.core.cost import Stop
from robustbench_lite.data.arrays import png
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.attack_run import AttackRun
from robustbench_lite.evaluating.clean_pass import CleanPass
from robustbench_lite.evaluating.preflight.check import CountedModel
from robustbench_lite.results.scorecard import Example, Witnesses

_log = logging.getLogger(__name__)
_PICTURES = 12
_ROUNDING = 1e-3  # by which probabilities of a narrow type may miss a sum of 1


def kept_witnesses(data: Data, runs: Sequence[AttackRun]) -> Witnesses:
    """All adversarial examples that are in memory."""
    found = [(run.name, str(run.threat), row, x) for run in runs for row, x in sorted(run.result.witnesses.items())]
    return Witnesses(
        index=data.index.numpy()[[row for _, _, row, _ in found]] if found else np.empty(0, np.int64),
        attack=np.array([name for name, _, _, _ in found], dtype=np.str_),
        threat=np.array([threat for _, threat, _, _ in found], dtype=np.str_),
        x=np.stack([x for _, _, _, x in found]) if found else np.empty((0, *data.shape), np.float32),
    )


class Shown(NamedTuple):
    """A witness of the gallery."""

    run: AttackRun
    row: int
    """Position in the data."""

    @property
    def adversarial(self) -> NDArray[np.float32]:
        return self.run.result.witnesses[self.row]


def chosen(data: Data, clean: CleanPass, runs: Sequence[AttackRun]) -> Iterator[Shown]:
    """Up to a dozen witnesses, taken in turn from the attacks, each sample once; none where samples are no images."""
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        return
    shown: set[int] = set()
    piles = [(run, iter(sorted(run.result.witnesses, key=lambda row: clean.sample_keys[row]))) for run in runs]
    while piles and len(shown) < _PICTURES:
        for run, pile in list(piles):
            row = next((row for row in pile if row not in shown), None)
            if row is None:
                piles.remove((run, pile))
            elif len(shown) < _PICTURES:
                shown.add(row)
                yield Shown(run, row)


def gallery(data: Data, clean: CleanPass, shown: Sequence[Shown], model: CountedModel) -> tuple[Example, ...]:
    """Witnesses as pictures, with how sure the model is of each: a pass for a sample, and one for its witness."""
    if not shown:
        return ()
    rows = torch.tensor([one.row for one in shown])
    originals = data.fetch(rows)
    witnesses = torch.from_numpy(np.stack([one.adversarial for one in shown]))
    said = [*clean.prediction[rows.numpy()].tolist(), *(int(one.run.result.prediction[one.row]) for one in shown)]
    x = torch.cat([originals, witnesses.to(originals.dtype)])
    sure = _confidences(model, rows.repeat(2), x, torch.tensor(said))
    pairs = zip(sure[: len(shown)], sure[len(shown) :], strict=True)
    return tuple(
        _example(data, clean, one, original.numpy(), pair)
        for one, original, pair in zip(shown, originals, pairs, strict=True)
    )


def _confidences(model: CountedModel, rows: Tensor, x: Tensor, said: Tensor) -> list[float | None]:
    """Probability that the model gives to what it said; None where it shows none, or can't be asked any more."""
    unknown: list[float | None] = [None] * len(x)
    if model.target.access == "labels":
        return unknown
    try:
        with model.target.attacking():
            scores = model.logits(rows, x.to(model.target.device)).double().cpu()
    except (Stop, KeyboardInterrupt):  # all is found by then
        return unknown
    except Exception:  # pictures with a number less cost no result
        _log.info("%s failed when it was asked for its confidence", model.target.name, exc_info=True)
        return unknown
    # What is a probability already is shown as it is.
    known = bool((scores >= 0).all()) and bool((scores.sum(1) - 1).abs().max() < _ROUNDING)
    sure = (scores if known else scores.softmax(1)).gather(1, said[:, None])[:, 0]
    return [round(one, 4) if math.isfinite(one) else None for one in sure.tolist()]


def _example(
    data: Data, clean: CleanPass, shown: Shown, original: NDArray[np.float32], sure: tuple[float | None, float | None]
) -> Example:
    run, row, adversarial = shown.run, shown.row, shown.adversarial
    change = adversarial - original
    return Example(
        index=int(data.index[row]),
        label=int(clean.labels[row]),
        prediction=int(clean.prediction[row]),
        attack=run.name,
        threat=str(run.threat),
        adversarial_prediction=int(run.result.prediction[row]),
        distance=float(run.result.distance[row]),
        confidence=sure[0],
        adversarial_confidence=sure[1],
        original=png(original),
        perturbation=png(0.5 + 0.5 * change / max(float(np.abs(change).max()), 1e-12)),
        adversarial=png(adversarial),
    )
