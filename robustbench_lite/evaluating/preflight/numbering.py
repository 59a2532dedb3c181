"""Whether labels and outputs count the same classes in the same order: by their names, else by what is predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.evaluating.preflight.check import CountedModel, found, some
from robustbench_lite.evaluating.preflight.feeding import SURE, Told
from robustbench_lite.results.paired import mcnemar_loss
from robustbench_lite.results.statistics import clopper_pearson

_PER_LABEL = 2
"""Samples of each label, in the half that suggests a map, below which nothing is suggested."""
_TOLD = 3
"""Labels of which it is told what they are taken for."""
_MOST_PAIRS = 20
"""Labels up to which a map is written out in full."""


class Numbering(NamedTuple):
    """What is known of the labels against the outputs."""

    told: Told | None
    """Another numbering that explains the predictions, or that the names ask for."""
    saw: str
    """What was seen, in words."""
    settled: bool
    """Whether the labels are known to be the model's classes, or known not to be."""


def numbering(model: CountedModel, prediction: Tensor, labels: Tensor, above_chance: bool) -> Numbering:
    """Compare the labels with the outputs.

    Parameters
    ----------
    prediction, labels
        Of the samples that were asked about, (n,).
    above_chance
        Whether clearly more are right than by guessing.
    """
    classes = model.target.classes or 1 + int(max(prediction.max(), labels.max()))
    right = int((prediction == labels).sum())
    accuracy = f"{right} of {len(labels)} samples right"
    several = sorted(set(model.data.labels.tolist()))
    sizes = "" if len(several) == classes else f", {len(several)} classes among the labels and {classes} outputs"
    by_name = _by_name(model, several)
    if by_name is not None:
        told = _named(model, by_name, prediction, labels)
        matched = f"{accuracy}{sizes}; the names of the {len(by_name)} classes are the outputs' own"
        return Numbering(told, matched if told is None else accuracy, settled=True)
    told = _agreeing(model, prediction, labels, classes)
    if told is not None or above_chance:
        return Numbering(told, f"{accuracy}{sizes}", settled=True)
    taken = _taken_for(model, prediction, labels)
    saw = f"can't be told: {accuracy}{sizes}, and no other numbering is clearly better; {taken}"
    return Numbering(None, saw, settled=False)


def _taken_for(model: CountedModel, prediction: Tensor, labels: Tensor) -> str:
    """Of the first labels, the output that most of their samples get."""
    told = []
    for label in sorted(set(labels.tolist()))[:_TOLD]:
        of_it = prediction[labels == label]
        most = int(torch.bincount(of_it).argmax())
        share = int((of_it == most).sum()) / len(of_it)
        told.append(f"{_label(model, label)} gets {_output(model, most)} ({share:.0%})")
    return f"most often {', '.join(told)}"


def _by_name(model: CountedModel, labels: list[int]) -> dict[int, int] | None:
    """Output of each label by the names of both; None where not every label has an output of its name."""
    ours, theirs = model.data.classes, [_plain(name) for name in model.target.class_names]
    if not theirs or any(label >= len(ours) for label in labels):
        return None
    named = {label: _plain(ours[label]) for label in labels}
    if any(theirs.count(name) != 1 for name in named.values()):
        return None
    return {label: theirs.index(name) for label, name in named.items()}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _named(model: CountedModel, outputs: dict[int, int], prediction: Tensor, labels: Tensor) -> Told | None:
    if all(label == output for label, output in outputs.items()):
        return None
    table = _table(outputs, max(outputs) + 1)
    mapped = int((table[labels] == prediction).sum())
    return _finding(
        model,
        outputs,
        f"if they are taken by their names: {_pairs(model, outputs)}",
        int((prediction == labels).sum()),
        mapped,
        len(labels),
    )


def _agreeing(model: CountedModel, prediction: Tensor, labels: Tensor, classes: int) -> Told | None:
    """Another numbering of the classes that one half of the samples suggests, and the other half confirms."""
    wrong = prediction != labels
    if int(wrong.sum()) < max(20, 0.3 * len(labels)):
        return None
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(model.seed))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    # What a constant answer would reach, or one that is always wrong, renamed.
    least = max(int(torch.bincount(labels[second]).max()) / len(second), 1 / (classes - 1) if classes > 2 else 0.0)
    for how, outputs in _maps(prediction[first], labels[first], classes):
        mapped = _table(outputs, int(labels.max()) + 1)[labels[second]] == prediction[second]
        now = ~wrong[second]
        gained, lost = int((mapped & ~now).sum()), int((now & ~mapped).sum())
        share = int(mapped.sum()) / len(second)
        sure = mcnemar_loss(gained, lost) < SURE / 2
        above = clopper_pearson(int(mapped.sum()), len(second), 1 - 2 * SURE)[0] > least
        if sure and above and gained - lost >= 0.3 * len(second) and share >= max(0.5, least + 0.15):
            told = f"if {how or f'the classes are renamed: {_pairs(model, outputs)}'}"
            return _finding(model, outputs, told, int(now.sum()), int(mapped.sum()), len(second))
    return None


def _finding(model: CountedModel, outputs: Mapping[int, int], how: str, now: int, mapped: int, asked: int) -> Told:
    if len(outputs) <= _MOST_PAIRS:
        option = ",".join(f"{label}={output}" for label, output in sorted(outputs.items()))
        cure = f"say which label is which class, --label-map {option} (label_map= in Python), or renumber the labels"
    else:
        cure = "give the data the labels that the model was trained with, or a map in a file (--label-map FILE)"
    finding = found(
        "RB113",
        "error",
        f"the labels are numbered otherwise than the model's classes: {now} of {asked} predictions are right, and "
        f"{mapped} {how}",
        cure,
    )
    return Told(finding, mapped / asked)


def _maps(prediction: Tensor, labels: Tensor, classes: int) -> Iterator[tuple[str, dict[int, int]]]:
    """Candidates: the output of each label, and how this is told where it is no list of pairs."""
    counts = torch.bincount((labels - prediction) % classes, minlength=classes)
    counts[0] = 0
    shift = int(counts.argmax())
    by = shift if shift <= classes // 2 else shift - classes
    seen = sorted(set(labels.tolist()))
    told = "the two classes change places" if classes == 2 else f"the label is the prediction {by:+d}"
    yield told, {label: (label - shift) % classes for label in range(classes)}
    if len(labels) < _PER_LABEL * len(seen):  # so few say nothing about each class
        return
    from scipy.optimize import linear_sum_assignment

    place = {label: row for row, label in enumerate(seen)}
    rows = torch.tensor([place[label] for label in labels.tolist()])
    agreement = torch.bincount(rows * classes + prediction, minlength=len(seen) * classes).reshape(-1, classes)
    _, assigned = linear_sum_assignment(agreement.numpy(), maximize=True)
    yield "", dict(zip(seen, map(int, assigned), strict=True))


def _pairs(model: CountedModel, outputs: Mapping[int, int]) -> str:
    """Labels and their outputs, with the names that are known."""
    moved = [f"{_label(model, one)} is {_output(model, to)}" for one, to in sorted(outputs.items()) if one != to]
    return some(moved, 6)


def _label(model: CountedModel, number: int) -> str:
    names = model.data.classes
    return f"{names[number]} ({number})" if number < len(names) and names[number] != str(number) else str(number)


def _output(model: CountedModel, number: int) -> str:
    names = model.target.class_names
    return f"{number} ({names[number]})" if number < len(names) else str(number)


def _table(outputs: Mapping[int, int], size: int) -> Tensor:
    """Output by label; -1, which no prediction is, where there is none."""
    table = torch.full((max(size, *(label + 1 for label in outputs)),), -1, dtype=torch.int64)
    for label, output in outputs.items():
        table[label] = output
    return table
