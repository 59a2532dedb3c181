"""Data are examined without a model: what would make any number on them mean less, with the samples named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.core.cost import OnProgress, unheard
from robustbench_lite.core.errors import UserError
from robustbench_lite.data import resemblance
from robustbench_lite.data.arrays import png
from robustbench_lite.data.dataset import Data, change_seen, check_inputs
from robustbench_lite.data.suspect_labels import MOST, Doubts, doubted
from robustbench_lite.results.data_quality import DataQuality, Fault, Looked, Suspect
from robustbench_lite.results.scorecard import Finding, Severity
from robustbench_lite.results.statistics import clopper_pearson

_BATCH = 128
_NAMED, _SHOWN = 1000, 24  # samples of a fault that are named, and shown as pictures
_FLAT = 1e-3  # standard deviation of a picture below which it counts as constant
_DARK = 0.02  # no value above: divided by 255 twice
_UNEVEN, _LOPSIDED = 4, 10  # times as many samples in the largest class as in the smallest, from which on it is told
_LEAKED = 0.01  # share of the test samples that may be among the training samples before no number can be believed
_MOST_UNREADABLE = 0.1  # share from which on it isn't single samples that are damaged


def examine_data(
    data: Data, known: Data | None = None, *, seed: int = 0, on_progress: OnProgress = unheard
) -> DataQuality:
    """Look for what is wrong with data.

    Parameters
    ----------
    data
        The samples that models are judged on.
    known
        Those that they may have learnt from, where the source has them.
    seed
        Of the cross-validation.
    on_progress
        Told what is done, and how much of it, of how much: samples that are read, then checks.

    Returns
    -------
    DataQuality
        Every check with what it saw, its findings and their samples. Samples that can't be read take part in no other
        check.

    Raises
    ------
    UserError
        Where so many samples can't be read that it is not theirs to blame, with what was raised.
    """
    parts = [_read(data, "test", on_progress)] + ([] if known is None else [_read(known, "train", on_progress)])
    looks: tuple[Callable[[], Looked], ...] = (
        lambda: _readable(parts),
        lambda: _steady(data),
        lambda: _in_range(parts),
        lambda: _not_constant(parts),
        lambda: _balanced(parts),
        lambda: _apart(parts),
        lambda: _once(parts),
        lambda: _believable(parts, seed),
    )
    checks: list[Looked] = []
    for look in looks:
        on_progress("checks", len(checks), len(looks))
        checks.append(look())
    on_progress("checks", len(checks), len(looks))
    samples = {part.split: len(part.data) for part in parts}
    return DataQuality(data=data.name, samples=samples, classes=data.classes, checks=tuple(checks))


@dataclass
class _Part:
    """What was seen of one split, sample by sample; ``rows`` are those that could be read."""

    data: Data
    split: str
    rows: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    small: list[Tensor] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    flat: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)

    @property
    def vectors(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return torch.cat(self.small).numpy() if self.small else np.zeros((0, 1), np.float32)

    def label(self, row: int) -> int:
        return int(self.data.labels[row])

    def suspect(self, row: int, why: str, other: tuple[_Part, int] | None = None, shown: bool = True) -> Suspect:
        place = int(self.data.index[row])
        files = self.data.files
        return Suspect(
            split=self.split,
            index=place,
            label=_name(self.data, self.label(row)),
            why=why,
            file=files[place] if place < len(files) else "",
            picture=_picture(self.data, row) if shown else "",
            other=_picture(other[0].data, other[1]) if shown and other else "",
        )


def _read(data: Data, split: str, tell: OnProgress) -> _Part:
    part = _Part(data, split)
    for rows in torch.split(torch.arange(len(data)), _BATCH):
        try:
            _note(part, rows.tolist(), data.fetch(rows))
        except UserError:  # one of them is damaged: which?
            for row in rows.tolist():
                try:
                    x = data.fetch([row])
                except UserError as fault:
                    part.unreadable[row] = str(fault)
                    if len(part.unreadable) > max(2.0, _MOST_UNREADABLE * len(data)):
                        raise
                else:
                    _note(part, [row], x)
        tell(f"{split} samples", int(rows[-1]) + 1, len(data))
    return part


def _note(part: _Part, rows: list[int], x: Tensor) -> None:
    flat = x.flatten(1)
    finite = flat.isfinite().all(1)
    part.rows += rows
    part.hashes += [resemblance.fingerprint(sample) for sample in x.nan_to_num(-1.0)]
    part.small.append(resemblance.small(x.nan_to_num(0.0)))
    part.low += torch.where(finite, flat.amin(1), torch.nan).tolist()
    part.high += torch.where(finite, flat.amax(1), torch.nan).tolist()
    part.flat += [row for row, spread in zip(rows, flat.std(1).tolist(), strict=True) if spread < _FLAT]


def _readable(parts: Sequence[_Part]) -> Looked:
    bad = [(part, row, why) for part in parts for row, why in part.unreadable.items()]
    total = sum(len(part.data) for part in parts)
    fault = _fault(
        "RB157",
        "error",
        f"{len(bad)} of {total:,} samples can't be read",
        "get these files again, or take them out; what is of another size can be resized (--resize, --crop)",
        [(part, row, why.rpartition("can't be read: ")[2], None) for part, row, why in bad],
        shown=False,
    )
    return _looked("every sample can be read", f"{total:,} samples", fault if bad else None)


def _steady(data: Data) -> Looked:
    name = "each reading gives the same samples"
    try:
        seen = change_seen(data)
    except UserError:  # unreadable ones were told
        return Looked(name=name, saw="can't be told, as some can't be read", asked=False)
    if not seen:
        return _looked(name, "a few were read twice")
    cure = "take random transforms (crops, flips, jitter, as for training) out of their transform"
    return _looked(name, "", _fault("RB141", "error", f"the data change from one reading to the next: {seen}", cure))


def _in_range(parts: Sequence[_Part]) -> Looked:
    bad = [
        (part, row, f"values from {low:.3g} to {high:.3g}" if low == low else "NaN or infinity", None)
        for part in parts
        for row, low, high in zip(part.rows, part.low, part.high, strict=True)
        if not (low >= -1e-6 and high <= 1 + 1e-6)
    ]
    lows, highs = ([value for part in parts for value in values(part)] for values in (_lows, _highs))
    low, high = float(np.nanmin(lows, initial=np.inf)), float(np.nanmax(highs, initial=-np.inf))
    saw = f"from {low:.3g} to {high:.3g}"
    cure, message = "", ""
    try:
        check_inputs(torch.tensor([lows, highs]).T, parts[0].data.name)
    except UserError as error:
        message, _, cure = str(error).rpartition("; ") if "; " in str(error) else str(error).rpartition(": ")
        cure = cure.removeprefix("expected values in [0, 1]: ")
        message = f"{len(bad)} of {len(lows):,} samples hold values out of [0, 1]: {message.partition(': ')[2]}"
    if not bad and high < _DARK:
        message = f"no value of any sample is above {high:.3g}: they look divided by 255 twice"
        cure = "divide them once"
    fault = _fault("RB158", "error", message, cure, bad) if message else None
    return _looked("values are in [0, 1]", saw, fault)


def _lows(part: _Part) -> list[float]:
    return part.low


def _highs(part: _Part) -> list[float]:
    return part.high


def _not_constant(parts: Sequence[_Part]) -> Looked:
    bad = [(part, row, "all of one value", None) for part in parts for row in part.flat]
    total = sum(len(part.rows) for part in parts)
    fault = _fault(
        "RB156",
        "warning",
        f"{len(bad)} of {total:,} samples are constant: there is nothing to be seen in them",
        "take them out, or look at what made them (a failed download, a crop past the edge)",
        bad,
    )
    return _looked("no sample is constant", f"{total:,} samples", fault if bad else None)


def _balanced(parts: Sequence[_Part]) -> Looked:
    faults = []
    for part in parts:
        counts = torch.bincount(part.data.labels.clamp_min(0), minlength=len(part.data.classes))
        empty = [_name(part.data, label) for label in (counts == 0).nonzero()[:, 0].tolist()]
        there = counts[counts > 0]
        ratio = int(there.max()) / int(there.min())
        if empty and part.data.classes:
            told = f"{len(empty)} of {len(counts)} classes have no {part.split} sample ({', '.join(empty[:6])})"
            faults.append(_fault("RB155", "warning", told, "add samples of these, or leave the classes out"))
        elif ratio >= _UNEVEN:
            most, least = int(counts.argmax()), int(torch.where(counts > 0, counts, counts.max()).argmin())
            faults.append(
                _fault(
                    "RB155",
                    "warning" if ratio >= _LOPSIDED else "info",
                    f"of the {part.split} samples {int(counts[most]):,} are {_name(part.data, most)} and "
                    f"{int(counts[least]):,} {_name(part.data, least)}: always saying the first is right for "
                    f"{int(counts[most]) / len(part.data):.0%}",
                    "read the accuracy of each class, and not of all alone; or take as many of each",
                )
            )
    sizes = torch.bincount(parts[0].data.labels.clamp_min(0))
    saw = f"{int(sizes[sizes > 0].min()):,} to {int(sizes.max()):,} samples a class"
    return _looked("classes are balanced", saw, *faults)


def _apart(parts: Sequence[_Part]) -> Looked:
    name = "no test sample is among the training samples"
    if len(parts) < 2:
        return Looked(name=name, saw="not asked, as the data have one split", asked=False)
    test, train = parts
    exact = resemblance.same(test.hashes, train.hashes)
    found = {pair.row for pair in exact}
    near = [pair for pair in resemblance.near(test.vectors, train.vectors) if pair.row not in found]
    faults = [_known(code, test, train, pairs) for code, pairs in (("RB151", exact), ("RB152", near)) if pairs]
    return _looked(name, f"{len(test.rows):,} against {len(train.rows):,}, by hash and by correlation", *faults)


def _known(code: str, test: _Part, train: _Part, pairs: Sequence[resemblance.Pair]) -> Fault:
    exactly = code == "RB151"
    severe = exactly and clopper_pearson(len(pairs), len(test.rows), 0.95)[0] > _LEAKED
    how = "in the training set as they are" if exactly else "nearly the same as one of the training set"
    named: list[_Named] = [
        (test, test.rows[one.row], f"{'is' if exactly else 'nearly is'} {_place(train, one.other)}", (train, row))
        for one in pairs
        for row in [train.rows[one.other]]
    ]
    message = f"{len(pairs)} of {len(test.rows):,} test samples are {how}: a model may know them by heart"
    cure = "take them out of the training set and train again, or out of the test set"
    return _fault(code, "error" if severe else "warning", message, cure, named)


def _place(part: _Part, seen: int) -> str:
    row = part.rows[seen]
    return f"{part.split} {int(part.data.index[row])} ({_name(part.data, part.label(row))})"


def _once(parts: Sequence[_Part]) -> Looked:
    conflicts: list[_Named] = []
    repeats: list[_Named] = []
    for part in parts:
        for group in resemblance.repeated(part.hashes):
            rows = [part.rows[seen] for seen in group]
            told = conflicts if len({part.label(row) for row in rows}) > 1 else repeats
            told += [(part, row, f"is {_place(part, group[0])}", (part, rows[0])) for row in rows[1:]]
    faults = []
    if conflicts:
        message = f"{len(conflicts)} samples are there once more under another label: one of the two is wrong"
        faults.append(_fault("RB154", "warning", message, "look at them and keep the right label", conflicts))
    if repeats:
        message = f"{len(repeats)} samples are there more than once in their split: each of them counts"
        faults.append(_fault("RB153", "info", message, "keep one of each", repeats))
    return _looked("every sample is there once", f"{sum(len(part.rows) for part in parts):,} samples", *faults)


def _believable(parts: Sequence[_Part], seed: int) -> Looked:
    name = "labels can be believed"
    where = [(part, seen) for part in parts for seen in range(len(part.rows))]
    if len(where) > MOST:
        drawn = torch.randperm(len(where), generator=torch.Generator().manual_seed(seed))[:MOST].sort().values
        where = [where[place] for place in drawn.tolist()]
    vectors = {part.split: part.vectors for part in parts}
    if not where or len({vector.shape[1] for vector in vectors.values()}) > 1:
        return Looked(name=name, saw="can't be told: the splits differ in shape", asked=False)
    x = np.stack([vectors[part.split][seen] for part, seen in where])
    y = np.array([part.label(part.rows[seen]) for part, seen in where], np.int64)
    doubts = doubted(x, y, seed)
    if not doubts.skilled:
        return Looked(name=name, saw=_no_skill(doubts), asked=False)
    bad: list[_Named] = []
    for one in doubts.found:
        part, seen = where[one.row]
        why = f"looks like {_name(part.data, one.better)} (p = {one.probability:.2f})"
        bad.append((part, part.rows[seen], why, None))
    part_of = "" if len(where) < MOST else f" of {len(where):,} samples"
    severity: Severity = "warning" if len(bad) > 0.005 * len(where) else "info"
    message = (
        f"{len(bad)} labels{part_of} {'are probably' if severity == 'warning' else 'may be'} wrong: a classifier and "
        "the nearest neighbours, which haven't seen them, agree on another class"
    )
    fault = _fault("RB159", severity, message, "look at them, and mend the labels that are wrong", bad) if bad else None
    return _looked(name, f"{len(where):,} samples, by a classifier that is right for {doubts.accuracy:.0%}", fault)


def _no_skill(doubts: Doubts) -> str:
    if doubts.accuracy != doubts.accuracy:
        return "can't be told: too few samples of each class"
    return (
        f"can't be told from the pixels: a plain classifier is right for {doubts.accuracy:.0%} alone, "
        f"one who always says the commonest class for {doubts.commonest:.0%}"
    )


_Named = tuple[_Part, int, str, "tuple[_Part, int] | None"]
"""Split and row of a sample, what is wrong with it, and the sample it resembles."""


def _fault(
    code: str, severity: Severity, message: str, cure: str, named: Sequence[_Named] = (), shown: bool = True
) -> Fault:
    suspects = (
        part.suspect(row, why, other, shown=shown and place < _SHOWN)
        for place, (part, row, why, other) in enumerate(named[:_NAMED])
    )
    return Fault(finding=Finding(code=code, severity=severity, message=message, cure=cure), suspects=tuple(suspects))


def _looked(name: str, saw: str, *faults: Fault | None) -> Looked:
    return Looked(name=name, saw=saw, faults=tuple(fault for fault in faults if fault is not None))


def _name(data: Data, label: int) -> str:
    return data.classes[label] if 0 <= label < len(data.classes) else str(label)


def _picture(data: Data, row: int) -> str:
    """PNG of a sample; empty where it is no picture."""
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        return ""
    return png(data.fetch([row])[0].nan_to_num(0.0).numpy())


def other_split(data: Data, load: Callable[[], Data]) -> Data | None:
    """The samples to learn from, where the source has some of their own; None where it has not, or gives the same."""
    try:
        known = load()
    except UserError:
        return None
    same = len(known) == len(data) and torch.equal(known.labels, data.labels) and known.shape == data.shape
    few = range(0, len(data), max(1, len(data) // 16))
    return None if same and torch.equal(known.fetch(few), data.fetch(few)) else known
