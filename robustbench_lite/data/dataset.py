"""The data: samples in [0, 1] with their labels, read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from robustbench_lite.core.columns import Columns
from robustbench_lite.core.errors import UserError

Split = Literal["train", "test"]

_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled samples with random access; the samples are made when they are fetched."""

    name: str
    labels: Tensor
    """Class of each sample, (N,), int64, on the CPU."""
    shape: tuple[int, ...]
    """Shape of one sample, (C, H, W) for images."""
    classes: tuple[str, ...]
    """Names of the classes, by label; may be empty."""
    source: Callable[[Tensor], Tensor]
    """Samples, (B, *shape), float32, on the CPU, from their positions in the source, (B,), int64."""
    index: Tensor
    """Position in the source of each sample, (N,), int64: a part keeps the positions of the whole."""
    notes: tuple[str, ...] = ()
    """What was done so that they could be read: which entries were taken, how labels were read, a change of size."""
    files: tuple[str, ...] = ()
    """File of each sample, by its position in the source; may be empty."""
    steady: bool = True
    """False where it was seen, when they were read, that another reading gives other samples."""
    columns: Columns | None = None
    """Of a table, what an adversary may do to them; None: it may change every value to any other."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Data({self.name!r}, samples={len(self)}, shape={self.shape})"

    def fetch(self, rows: Tensor | Sequence[int]) -> Tensor:
        """Read the samples at these rows of this `Data` (0 to N - 1): float32, (B, *shape), on the CPU."""
        return self.source(self.index[_rows(rows)])

    def take(self, rows: Tensor | Sequence[int]) -> Data:
        """Part of the data, in the order of the rows."""
        rows = _rows(rows)
        return replace(self, labels=self.labels[rows], index=self.index[rows])

    def stratified(self, limit: int, seed: int) -> Data:
        """Draw at most `limit` samples, from each class its share of them (largest remainder).

        No class is lost as long as `limit` allows one of each. The draw depends on the seed and the labels alone; rows
        keep their order; a smaller limit under the same seed mostly draws a part of what a larger one does.

        Raises
        ------
        UserError
            For a limit below 1.
        """
        if limit < 1:
            raise UserError(f"limit is {limit}: expected the number of samples to keep, 1 or more")
        return self if limit >= len(self) else self.take(_stratified_rows(self.labels, limit, seed))

    def split(self, share: float, seed: int) -> tuple[Data, Data]:
        """Hold out a share of the samples, stratified.

        Parameters
        ----------
        share
            Share to hold out, between 0 and 1, both excluded.
        seed
            Seed of the draw.

        Returns
        -------
        tuple[Data, Data]
            What stays, with at least one sample of each class where it can, and what is held out. Neither is empty.

        Raises
        ------
        UserError
            For a share out of range, and for fewer than two samples.
        """
        if not 0 < share < 1 or len(self) < 2:
            raise UserError(
                f"can't hold out a share of {share} of {len(self)} samples: expected a share between 0 and 1, "
                "both excluded, and two samples or more"
            )
        held = min(max(round(share * len(self)), 1), len(self) - 1)
        stays = _stratified_rows(self.labels, len(self) - held, seed)
        is_held = torch.ones(len(self), dtype=torch.bool)
        is_held[stays] = False
        return self.take(stays), self.take(is_held.nonzero().flatten())


def check_inputs(x: Tensor, name: str) -> None:
    """Refuse samples that aren't finite values in [0, 1].

    Parameters
    ----------
    x
        Samples, (B, *shape).
    name
        What the error calls the data.

    Raises
    ------
    UserError
        With the range that was found, and what it looks like.
    """
    low, high = (float(end) for end in x.aminmax())
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:  # which NaN, an end as soon as there is one, isn't
        return
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise UserError(
            f"{name}: NaN or infinity in {bad} of {len(x)} samples that were read; expected values in [0, 1]: "
            "clean them"
        )
    if low < -_TOLERANCE:
        guess = "they look normalised: undo the normalisation, and put it inside the model (mean and std of the target)"
    elif high > 1.5:
        guess = "they look like 0 to 255: divide by 255"
    else:
        guess = "scale or clip them"
    raise UserError(f"{name}: values range from {low:.6g} to {high:.6g}, expected [0, 1]; {guess}")


_READ_TWICE = 16


def change_seen(data: Data) -> str:
    """What was seen of data that give another picture each time a sample is read (a few are); empty of others."""
    rows = torch.arange(len(data))[:: max(1, len(data) // _READ_TWICE)][:_READ_TWICE]
    with torch.random.fork_rng(devices=[]):  # what a random transform draws here is not missing elsewhere
        first, second = data.fetch(rows), data.fetch(rows)
    away = (first - second).abs().flatten(1).amax(1)
    changed = int((~(away == 0)).sum()) if first.isfinite().all() else 0
    if changed:
        return f"{changed} of {len(rows)} samples that were read twice differ, by up to {float(away.max()):.2g}"
    return "" if data.steady else "the same samples were read twice and differ"


def check_steady(data: Data) -> None:
    """Refuse data that change from one reading to the next.

    Raises
    ------
    UserError
        With how many samples did, and by how much.
    """
    if seen := change_seen(data):
        raise UserError(
            f"{data.name}: the data change from one reading to the next ({seen}); "
            "expected the same picture each time. Take random transforms (crops, flips, jitter, as for training) out "
            "of their transform, or fix their draws by the sample's number"
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that the model has no logit for.

    Parameters
    ----------
    labels
        (N,), integers.
    classes
        Number of logits.

    Raises
    ------
    UserError
        With the first such label, its row, and what is expected.
    """
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if not len(wrong):
        return
    row = int(wrong[0])
    shifted = int(labels.min()) == 1 and int(labels.max()) == classes
    if shifted:
        cure = "they look counted from 1: subtract 1"
    elif classes == 2 and set(labels.tolist()) == {-1, 1}:
        cure = "they are -1 and 1: give (labels + 1) // 2"
    else:
        cure = "take a model and data with the same classes, or say which is which (--label-map, label_map=)"
    raise UserError(
        f"{len(wrong)} of {len(labels)} labels have no logit (row {row} has label {int(labels[row])}): "
        f"the model has {classes} logits, so labels are 0 to {classes - 1}; {cure}"
    )


def _rows(rows: Tensor | Sequence[int]) -> Tensor:
    return torch.as_tensor(rows, dtype=torch.int64).cpu()


def _stratified_rows(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Rows of a stratified draw of `limit` samples, ascending."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    present, counts = torch.unique(labels, return_counts=True)
    quotas = _quotas(counts.tolist(), limit)
    shuffled = labels[order]
    drawn = [order[shuffled == label][:quota] for label, quota in zip(present, quotas, strict=True)]
    return torch.cat(drawn).sort().values


def _quotas(counts: list[int], limit: int) -> list[int]:
    """Share `limit` among classes in proportion to their counts, by largest remainder, one for each where it allows."""
    total, least = sum(counts), int(limit >= len(counts))
    quotas = [max(limit * count // total, least) for count in counts]

    def owed(position: int) -> int:  # whole numbers, `total` times as large, so that no rounding decides a tie
        return limit * counts[position] - quotas[position] * total

    for _ in range(limit - sum(quotas)):
        quotas[max(range(len(counts)), key=owed)] += 1
    for _ in range(sum(quotas) - limit):  # the ones raised to `least` took too many
        quotas[min((position for position in range(len(counts)) if quotas[position] > least), key=owed)] -= 1
    return quotas
