"""Whether model and data fit: labels, normalisation, channel order, by what makes the clean accuracy clearly better."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.core.cost import Stop
from robustbench_lite.evaluating.preflight.check import Check, CountedModel, check, found, some
from robustbench_lite.model.normalisation import NORMALISATIONS
from robustbench_lite.results.paired import mcnemar_loss
from robustbench_lite.results.scorecard import Finding
from robustbench_lite.results.statistics import clopper_pearson

_log = logging.getLogger(__name__)

_SURE = 1e-3
"""Error of the paired tests, all candidates together."""


class _Way(NamedTuple):
    """Another way to feed the model: ``(x - mean) / std``, and perhaps the channels the other way round."""

    name: str
    cure: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    flip: bool = False


def fit(model: CountedModel, known: Tensor, prediction: Tensor, sample: Tensor) -> Iterator[Check]:
    """Whether the accuracy would be far better under other labels, another normalisation or channel order.

    ``prediction`` is of the rows ``known``; other ways to feed the model are tried on the rows ``sample``.
    """
    labels = model.data.labels[known]
    right = int((prediction == labels).sum())
    accuracy = f"{right} of {len(labels)} samples right"
    classes = model.target.classes or 1 + int(max(prediction.max(), labels.max()))
    guess = dict(zip(known.tolist(), prediction.tolist(), strict=True))
    before = torch.tensor([guess[row] for row in sample.tolist()]) == model.data.labels[sample]
    renamed = _label_map(prediction, labels, classes, model.seed)
    other, tried = _other_way(model, sample, before)
    if renamed and other:  # a mixed-up input can look a little like mixed-up labels, and the reverse
        renamed, other = (renamed, None) if renamed.share >= other.share else (None, other)
    yield check("labels are the model's classes", accuracy, renamed and renamed.finding)
    yield check("inputs are as the model expects them", tried, other and other.finding)
    chance = None if renamed or other else _at_chance(right, labels, classes)
    yield check("accuracy is above chance", accuracy, chance)


class _Told(NamedTuple):
    """What would explain the predictions, and the share of them that would be right."""

    finding: Finding
    share: float


def _label_map(prediction: Tensor, labels: Tensor, classes: int, seed: int) -> _Told | None:
    """Another numbering of the classes that one half of the samples suggests, and the other half confirms."""
    wrong = prediction != labels
    if int(wrong.sum()) < max(20, 0.3 * len(labels)):
        return None
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    # What a constant answer would reach, or one that is always wrong, renamed.
    least = max(int(torch.bincount(labels[second]).max()) / len(second), 1 / (classes - 1) if classes > 2 else 0.0)
    for told, mapping in _maps(prediction[first], labels[first], classes):
        mapped = mapping[prediction[second]] == labels[second]
        now = ~wrong[second]
        gained, lost = int((mapped & ~now).sum()), int((now & ~mapped).sum())
        share = int(mapped.sum()) / len(second)
        sure = mcnemar_loss(gained, lost) < _SURE / 2
        if sure and gained - lost >= 0.3 * len(second) and share >= max(0.5, least + 0.3):
            finding = found(
                "RB113",
                "error",
                f"the labels are numbered otherwise than the model's classes: {int(now.sum())} of {len(second)} "
                f"predictions are right, and {int(mapped.sum())} if {told}",
                "give the data the labels that the model was trained with (the order of its classes, the first number)",
            )
            return _Told(finding, share)
    return None


def _maps(prediction: Tensor, labels: Tensor, classes: int) -> Iterator[tuple[str, Tensor]]:
    counts = torch.bincount((labels - prediction) % classes, minlength=classes)
    counts[0] = 0
    shift = int(counts.argmax())
    by = shift if shift <= classes // 2 else shift - classes
    told = "the two classes change places" if classes == 2 else f"the label is the prediction {by:+d}"
    yield told, (torch.arange(classes) + shift) % classes
    if classes > len(labels):  # fewer samples than classes say nothing about each class
        return
    from scipy.optimize import linear_sum_assignment

    confusion = torch.bincount(prediction * classes + labels, minlength=classes**2).reshape(classes, classes)
    _, assigned = linear_sum_assignment(confusion.numpy(), maximize=True)
    mapping = torch.from_numpy(np.asarray(assigned, np.int64))
    moved = (mapping != torch.arange(classes)).nonzero()[:, 0].tolist()
    yield f"the classes are renamed: {some([f'{one} is {int(mapping[one])}' for one in moved])}", mapping


def _other_way(model: CountedModel, sample: Tensor, before: Tensor) -> tuple[_Told | None, str]:
    """Look for a normalisation or channel order under which the model is clearly better, by a paired test.

    A quarter of the sample chooses, the rest decides.
    """
    first, rest = slice(0, len(sample) // 4), slice(len(sample) // 4, None)
    wrong = int((~before[rest]).sum())
    if wrong < max(0.1 * len(before[rest]), -math.log2(_SURE)):  # not even if all of them were mended
        return None, "so many are right that others can't be better"
    x = model.inputs(sample)
    ways = list(_ways(model, x))
    hoped = sorted(((_gain(model, way, sample[first], x[first], before[first]), way) for way in ways), key=_net)[::-1]
    chosen = [way for gain, way in hoped[:3] if gain.net >= 3]
    tried = f"{len(ways)} other ways tried"
    if not chosen:
        return None, f"{tried}, none better"
    gain, way = max(((_gain(model, way, sample[rest], x[rest], before[rest]), way) for way in chosen), key=_net)
    if mcnemar_loss(gain.mended, gain.spoilt) * len(chosen) > _SURE or gain.net < 0.1 * len(before[rest]):
        return None, f"{tried}, none clearly better"
    right = int(before[rest].sum())
    finding = found(
        "RB112" if way.flip and way.mean == model.target.mean else "RB111",
        "error" if gain.net >= wrong / 3 else "warning",
        f"the model is not fed as it was trained: {right} of {len(before[rest])} samples are right, and "
        f"{right + gain.net} with {way.name}",
        way.cure,
    )
    return _Told(finding, (right + gain.net) / len(before[rest])), tried


def _ways(model: CountedModel, x: Tensor) -> Iterator[_Way]:
    """Other ways to feed the model than the present one."""
    mean, std = model.target.mean, model.target.std
    known = _statistics(x)
    affine = [] if mean is None else [_Way("no normalisation around it", "--normalize none", None, None)]
    if not model.function or model.thorough:  # a function was promised inputs in [0, 1]
        affine += [_once(name, *stats) for name, stats in known.items()]
        if mean is None or std is None:
            affine += [_undone(name, *stats) for name, stats in known.items() if name != _BYTES]
        else:
            twice = tuple(m + m * s for m, s in zip(mean, std, strict=True)), tuple(s * s for s in std)
            affine.append(_Way("its normalisation applied twice", _option(*twice), *twice))
    yield from affine
    if x.shape[1] == 3:
        yield _Way("the channels in reverse (BGR, not RGB)", _ORDER, mean, std, flip=True)
    if model.thorough and x.shape[1] == 3:
        yield from (
            way._replace(name=f"{way.name} and the channels in reverse", cure=f"{way.cure}; {_ORDER}", flip=True)
            for way in affine
        )
    if model.thorough and mean is None:
        pairs = ((had, wants) for had in known for wants in known if had != wants and _BYTES not in (had, wants))
        yield from (_instead(had, wants, known[had], known[wants]) for had, wants in pairs)


_ORDER = "give the channels in the order of the training data (x.flip(1) in front of the model)"
_BYTES = "scaled to 0..255"
_Stats = tuple[tuple[float, ...], tuple[float, ...]]


def _statistics(x: Tensor) -> dict[str, _Stats]:
    """Mean and standard deviation, those of the data included, by what they make of the inputs."""
    found: dict[str, _Stats] = {"scaled to [-1, 1]": ((0.5,), (0.5,)), _BYTES: ((0.0,), (1 / 255,))}
    for name, (mean, std) in NORMALISATIONS.items():
        if mean is not None and std is not None and len(mean) == x.shape[1]:
            found[f"normalised as for {name}"] = mean, std
    axes = [axis for axis in range(x.ndim) if axis != 1]
    deviation = x.std(axes)
    deviation = torch.where(deviation < 1e-3, 1.0, deviation)  # what is constant is only shifted
    found["normalised by the data's own mean and std"] = tuple(x.mean(axes).tolist()), tuple(deviation.tolist())
    return found


def _once(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> _Way:
    return _Way(f"inputs {name}", f"do so inside the model, or with {_option(mean, std)}", mean, std)


def _undone(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> _Way:
    inverse = tuple(-m / s for m, s in zip(mean, std, strict=True)), tuple(1 / s for s in std)
    cure = "inputs come in [0, 1] and are to be normalised once: take one normalisation out of the model"
    return _Way(f"the inverse in front, as if they were {name} twice", cure, *inverse)


def _instead(had: str, wants: str, old: _Stats, new: _Stats) -> _Way:
    (old_mean, old_std), (new_mean, new_std) = _wide(old, new), _wide(new, old)
    mean = tuple(n - o * s / t for n, o, s, t in zip(new_mean, old_mean, new_std, old_std, strict=True))
    std = tuple(s / t for s, t in zip(new_std, old_std, strict=True))
    name = f"inputs {wants}, not {had} as inside the model"
    return _Way(name, "put the right statistics into the model's normalisation", mean, std)


def _wide(stats: _Stats, other: _Stats) -> _Stats:
    """One value a channel, where the other has so many."""
    size = max(len(stats[0]), len(other[0]))
    return stats if len(stats[0]) == size else (stats[0] * size, stats[1] * size)


def _option(mean: Sequence[float], std: Sequence[float]) -> str:
    """Say it as an option of the command line."""
    if len(mean) > 3:
        return "Target(model, mean=..., std=...)"
    for name, stats in NORMALISATIONS.items():
        if stats == (tuple(mean), tuple(std)):
            return f"--normalize {name}"
    return f"--normalize {','.join(f'{m:.4g}' for m in mean)}/{','.join(f'{s:.4g}' for s in std)}"


class _Gain(NamedTuple):
    """Samples that become right, and wrong."""

    mended: int
    spoilt: int

    @property
    def net(self) -> int:
        return self.mended - self.spoilt


def _net(found: tuple[_Gain, _Way]) -> int:
    return found[0].net


def _gain(model: CountedModel, way: _Way, rows: Tensor, x: Tensor, before: Tensor) -> _Gain:
    """What becomes of samples when the model is fed another way."""
    fed = model.target.fed(mean=way.mean, std=way.std)
    try:
        logits = model.logits(rows, x.flip(1) if way.flip else x, fed)
    except Stop:
        raise
    except Exception:  # it may refuse what is out of [0, 1]
        _log.debug("%s refuses %s", model.target.name, way.name, exc_info=True)
        return _Gain(0, len(rows))
    after = logits.argmax(1).cpu() == model.data.labels[rows]
    return _Gain(int((after & ~before).sum()), int((before & ~after).sum()))


def _at_chance(right: int, labels: Tensor, classes: int) -> Finding | None:
    """No better than a constant answer, as far as the samples tell, and far from good."""
    total = len(labels)
    common = int(torch.bincount(labels).max())
    chance = max(1 / classes, common / total)
    low, high = clopper_pearson(right, total, 0.95)
    if total < 20 or low > chance or high > (1 + chance) / 2 or common == total:
        return None
    return found(
        "RB114",
        "error",
        f"the model is no better than guessing: {right} of {total} samples are right, and {chance:.1%} would be by "
        "always saying the same",
        "check that the weights are loaded (--weights), and that model and data have the same classes and shape",
    )
