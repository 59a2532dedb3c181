"""Whether model and data fit: labels, normalisation, channel order, by what makes the clean accuracy clearly better.

A check is good only where it was made and would have seen the fault; where the samples can't tell, this is said.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustbench_lite.core.names import plural
from robustbench_lite.evaluating.preflight.check import Check, CountedModel, check, found
from robustbench_lite.evaluating.preflight.feeding import other_way
from robustbench_lite.evaluating.preflight.numbering import Numbering, numbering
from robustbench_lite.results.scorecard import Finding
from robustbench_lite.results.statistics import clopper_pearson

_LEAST = 20  # samples of which it can be told whether they are right more often than by chance


def fit(model: CountedModel, known: Tensor, prediction: Tensor, sample: Tensor) -> Iterator[Check]:
    """Whether the accuracy would be far better under other labels, another normalisation or channel order.

    ``prediction`` is of the rows ``known``; other ways to feed the model are tried on the rows ``sample``.
    """
    labels = model.data.labels[known]
    right = int((prediction == labels).sum())
    classes = model.target.classes or 1 + int(max(prediction.max(), labels.max()))
    guess = dict(zip(known.tolist(), prediction.tolist(), strict=True))
    above, saw, chance = _against_chance(right, labels, classes)
    order, fed = numbering(model, prediction, labels, above), other_way(model, sample, guess)
    renamed, other = order.told, fed.better
    if renamed and other:  # a mixed-up input can look a little like mixed-up labels, and the reverse
        renamed, other = (renamed, None) if renamed.share >= other.share else (None, other)
    cause = renamed or other
    name = "labels are the model's classes"
    if renamed or (order.settled and not cause):
        yield check(name, order.saw, renamed and renamed.finding)
    else:
        yield Check(name, order.saw if not cause else f"not told, as {cause.finding.code} stands", asked=False)
    name = "inputs are as the model expects them"
    if other or fed.hint:
        yield check(name, fed.tried, other.finding if other else None, None if cause else fed.hint)
    else:
        yield Check(name, fed.tried, asked=fed.settled and not cause)
    name = "accuracy is above chance"
    if cause:
        yield Check(name, f"{saw}, as {cause.finding.code} tells", asked=above)
    elif above or chance:
        yield check(name, saw, chance)
    else:
        yield Check(name, f"can't be told: {saw}", (_too_few(len(labels), order),), asked=False)


def _too_few(total: int, order: Numbering) -> Finding:
    """What to tell where it is neither clearly better than guessing nor clearly at chance."""
    asked = "" if order.settled else ", and whether the labels are its classes"
    saw = order.saw.removeprefix("can't be told: ")
    return found(
        "RB116",
        "info",
        f"{plural(total, 'sample')} can't tell whether the model is better than guessing{asked}: {saw}",
        "look at it with more samples (rblite doctor, --limit)",
    )


def _against_chance(right: int, labels: Tensor, classes: int) -> tuple[bool, str, Finding | None]:
    """Whether it is clearly better than a constant answer, what was seen, and what is to be told where it isn't."""
    total = len(labels)
    common = int(torch.bincount(labels).max())
    chance = max(1 / classes, common / total)
    low, high = clopper_pearson(right, total, 0.95)
    saw = f"{right} of {total} samples right"
    if common == total:
        # Of one class alone a constant answer may be right for all; what it is worth isn't seen.
        return low > 1 / classes, f"{saw}, all of one class", None
    if low > chance:
        return True, saw, None
    saw += f", and {chance:.0%} by always saying the same"
    if total < _LEAST or high > (1 + chance) / 2:
        return False, saw, None
    finding = found(
        "RB114",
        "error",
        f"the model is no better than guessing: {right} of {total} samples are right, and {chance:.1%} would be by "
        "always saying the same",
        "check that the weights are loaded (--weights), that model and data have the same classes, in the same order "
        "(--classes NAMES, --label-map), and the same shape",
    )
    return False, saw, finding
