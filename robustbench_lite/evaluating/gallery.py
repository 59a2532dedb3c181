"""Adversarial examples for the scorecard: all that were kept, and a few as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from robustbench_lite.data.arrays import png
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.attack_run import AttackRun
from robustbench_lite.evaluating.clean_pass import CleanPass
from robustbench_lite.results.scorecard import Example, Witnesses

_PICTURES = 12


def kept_witnesses(data: Data, runs: Sequence[AttackRun]) -> Witnesses:
    """All adversarial examples that are in memory."""
    found = [(run.name, str(run.threat), row, x) for run in runs for row, x in sorted(run.result.witnesses.items())]
    return Witnesses(
        index=data.index.numpy()[[row for _, _, row, _ in found]] if found else np.empty(0, np.int64),
        attack=np.array([name for name, _, _, _ in found], dtype=np.str_),
        threat=np.array([threat for _, threat, _, _ in found], dtype=np.str_),
        x=np.stack([x for _, _, _, x in found]) if found else np.empty((0, *data.shape), np.float32),
    )


def gallery(data: Data, clean: CleanPass, runs: Sequence[AttackRun]) -> Iterator[Example]:
    """Up to a dozen witnesses, taken in turn from the attacks, each sample once."""
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
                yield _example(data, clean, run, row)


def _example(data: Data, clean: CleanPass, run: AttackRun, row: int) -> Example:
    original, adversarial = data.fetch(torch.tensor([row]))[0].numpy(), run.result.witnesses[row]
    change = adversarial - original
    return Example(
        index=int(data.index[row]),
        label=int(clean.labels[row]),
        prediction=int(clean.prediction[row]),
        attack=run.name,
        threat=str(run.threat),
        adversarial_prediction=int(run.result.prediction[row]),
        distance=float(run.result.distance[row]),
        original=png(original),
        perturbation=png(0.5 + 0.5 * change / max(float(np.abs(change).max()), 1e-12)),
        adversarial=png(adversarial),
    )
