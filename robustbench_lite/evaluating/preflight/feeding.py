"""Whether the model is fed as it was trained: other normalisations and channel orders, by what they make better."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.core.cost import Stop
from robustbench_lite.evaluating.preflight.check import CountedModel, found
from robustbench_lite.model.normalisation import NORMALISATIONS
from robustbench_lite.model.wrapping import bare
from robustbench_lite.results.paired import mcnemar_loss
from robustbench_lite.results.scorecard import Finding

_log = logging.getLogger(__name__)

SURE = 1e-3
"""Error of the paired tests, all candidates together."""
_HINT = 0.05
"""Error of a test that is told as a hint alone."""
_MORE = 512
"""Samples that decide, where there are so many besides those that choose."""
_DECIDES = 128
"""Samples from which on a way that makes a tenth of them right would be found."""


class _Way(NamedTuple):
    """Another way to feed the model: ``(x - mean) / std``, and perhaps the channels the other way round."""

    name: str
    cure: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    flip: bool = False


class Told(NamedTuple):
    """What would explain the predictions, and the share of them that would be right."""

    finding: Finding
    share: float


class Fed(NamedTuple):
    """What came of the search for another way to feed the model."""

    better: Told | None
    hint: Finding | None
    """What might be better, where the samples are too few to tell."""
    tried: str
    """What was done, in words."""
    settled: bool
    """Whether the search would have found a way that is clearly better."""


def other_way(model: CountedModel, sample: Tensor, known: dict[int, int]) -> Fed:
    """Look for a normalisation or channel order under which the model is clearly better, by a paired test.

    The sample chooses, and other samples decide; where there are fewer of these, a quarter of the sample chooses, and
    the rest decides. What is better, but not surely so, is told as a hint.

    Parameters
    ----------
    sample
        Rows on which other ways are tried.
    known
        Predictions that were made before, by row.
    """
    wrong = int((~_right(model, sample, known)).sum())
    if wrong < max(0.1 * len(sample), -math.log2(SURE)):  # not even if all of them were mended
        if wrong >= 0.1 * len(sample):
            return Fed(None, None, f"can't be told from {len(sample)} samples", settled=False)
        return Fed(None, None, "so many are right that others can't be better", settled=True)
    others = _others(model, sample)
    quarter = len(sample) // 4
    first, rest = (sample, others) if len(others) >= len(sample) else (sample[:quarter], sample[quarter:])
    before, x, asked = _right(model, first, known), model.inputs(first), len(rest)
    ways = list(_ways(model, model.inputs(sample)))
    hoped = sorted(((_gain(model, way, first, x, before), way) for way in ways), key=_net)[::-1]
    chosen = [way for gain, way in hoped[:3] if gain.net >= max(1, min(3, len(sample) // 40))]
    tried = f"{len(ways)} other ways tried"
    if not chosen:
        return Fed(None, None, _none(f"{tried}, none better", asked), settled=asked >= _DECIDES)
    before, x = _right(model, rest, known), model.inputs(rest)
    gain, way = max(((_gain(model, way, rest, x, before), way) for way in chosen), key=_net)
    chance = mcnemar_loss(gain.mended, gain.spoilt) * len(chosen)
    right, wrong = int(before.sum()), int((~before).sum())
    seen = f"{right} of {asked} samples are right, and {right + gain.net} with {way.name}"
    large = gain.net >= min(0.1 * asked, wrong / 3)
    if chance <= SURE and large:
        finding = found(
            _code(model, way),
            "error" if gain.net >= wrong / 3 else "warning",
            f"the model seems not to be fed as it was trained: {seen}",
            way.cure,
        )
        return Fed(Told(finding, (right + gain.net) / asked), None, tried, settled=True)
    if chance > _HINT or not large:
        return Fed(None, None, _none(f"{tried}, none clearly better", asked), settled=asked >= _DECIDES)
    hint = found(
        "RB115",
        "info",
        f"perhaps the model is not fed as it was trained: {seen}; {asked} samples are too few to tell "
        f"(p = {chance:.2g})",
        f"look at it with more samples (rblite doctor, --limit), or try it: {way.cure}",
    )
    return Fed(None, hint, tried, settled=False)


def _none(tried: str, asked: int) -> str:
    return tried if asked >= _DECIDES else f"{tried}; {asked} samples are few to tell"


def _code(model: CountedModel, way: _Way) -> str:
    return "RB112" if way.flip and way.mean == bare(model.target).mean else "RB111"


def _right(model: CountedModel, rows: Tensor, known: dict[int, int]) -> Tensor:
    """Whether the predictions of these rows are right; those that aren't known are asked for."""
    missing = torch.tensor([row for row in rows.tolist() if row not in known], dtype=torch.int64)
    if len(missing):
        asked = model.logits(missing, model.inputs(missing)).argmax(1).tolist()
        known = known | dict(zip(missing.tolist(), asked, strict=True))
    return torch.tensor([known[row] for row in rows.tolist()]) == model.data.labels[rows]


def _others(model: CountedModel, sample: Tensor) -> Tensor:
    """Rows that aren't in the sample, drawn at random."""
    rest = torch.ones(len(model.data), dtype=torch.bool)
    rest[sample] = False
    rows = rest.nonzero()[:, 0]
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(model.seed))[:_MORE]]


def _ways(model: CountedModel, x: Tensor) -> Iterator[_Way]:
    """Other ways to feed the model than the present one."""
    mean, std = bare(model.target).mean, bare(model.target).std
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
