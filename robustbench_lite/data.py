"""The data: samples in [0, 1] with their labels, read when they are needed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from robustbench_lite.errors import UserError

if TYPE_CHECKING:
    import numpy as np

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


def load_data(
    source: str,
    *,
    split: Split = "test",
    root: str | Path | None = None,
    download: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> Data:
    """Load data by name.

    Parameters
    ----------
    source
        - ``digits``: scikit-learn's 1797 images of 8x8 pixels, in a fixed stratified 70/30 split;
        - ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``imagenet``: from a folder in torchvision's layout;
        - ``imagefolder:DIR``: images of one size in a folder for each class; where DIR holds ``train`` and ``test``
          (or ``val``), these are the splits;
        - ``npz:FILE``: arrays ``x``, (N, C, H, W), float in [0, 1] or uint8, and ``y``, (N,), integers;
        - ``package.module:callable`` or ``path/to/file.py:callable``, called with ``split`` where it has such a
          parameter; it returns anything that `as_data` takes. This runs the code that is named.
    split
        ``test`` or ``train``.
    root
        Folder of the data sets that torchvision reads.
    download
        Whether a data set that isn't in `root` may be downloaded into it.
    limit
        Keep at most so many samples, stratified by class.
    seed
        Seed of that draw.

    Raises
    ------
    UserError
        For an unknown name, and for data that aren't there, can't be read, or aren't labelled samples of one shape.
    """
    if split not in ("train", "test"):
        raise UserError(f"split is {split!r}: expected train or test")
    from robustbench_lite.sources import read_source  # which makes its data with what is here

    data = read_source(source, split, Path(root).expanduser() if root is not None else None, download)
    return data if limit is None else data.stratified(limit, seed)


def as_data(data: Any, *, split: Split = "test", root: str | Path | None = None, download: bool = False) -> Data:
    """Take data in any of the forms that users have them in.

    Parameters
    ----------
    data
        A `Data`; a pair ``(x, y)`` of tensors or arrays; a torch ``Dataset`` of pairs, read as it is needed; a
        ``DataLoader``, whose data set is taken (an iterable one is read to its end); or a name, as in `load_data`.
    split, root, download
        As in `load_data`, for a name.

    Raises
    ------
    UserError
        For anything else, and for what `load_data` refuses.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, str):
        return load_data(data, split=split, root=root, download=download)
    if isinstance(data, tuple | list) and len(data) == 2:
        return from_arrays(data[0], data[1], "arrays")
    name = type(data).__name__
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            return _from_batches(_read_all(data, name), name)
        return from_dataset(data.dataset, type(data.dataset).__name__)
    if isinstance(data, IterableDataset):
        return _from_batches([_batch_of_one(item, name) for item in _read_all(data, name)], name)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, tuple | list | dict | Tensor):
        return from_dataset(data, name)
    raise UserError(
        f"data are of type {name}: expected a pair (x, y), a torch Dataset or DataLoader, a Data, or a source's name"
    )


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
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise UserError(
            f"{name}: {bad} of {len(x)} samples hold NaN or infinity; expected values in [0, 1]: clean them"
        )
    low, high = (float(end) for end in x.aminmax())
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return
    if low < -_TOLERANCE:
        guess = "they look normalised: undo the normalisation, and put it inside the model (mean and std of the target)"
    elif high > 1.5:
        guess = "they look like 0 to 255: divide by 255"
    else:
        guess = "scale or clip them"
    raise UserError(f"{name}: values range from {low:.6g} to {high:.6g}, expected [0, 1]; {guess}")


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
    cure = "they look counted from 1: subtract 1" if shifted else "take a model and data with the same classes"
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


def from_arrays(x: Any, y: Any, name: str, classes: Sequence[Any] = ()) -> Data:
    """Make data of samples and labels in memory; uint8 samples stay so, and become floats when they are fetched."""
    samples = _samples(x, name)

    def source(index: Tensor) -> Tensor:
        part = samples[index]
        return part.to(torch.float32) / 255 if part.dtype == torch.uint8 else part

    return _data(name, _labels(y, name), tuple(samples.shape[1:]), classes, source, len(samples))


def from_dataset(dataset: Any, name: str) -> Data:
    """Make data of a map-style data set, whose samples are read when they are fetched."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return from_arrays(dataset.tensors[0], dataset.tensors[1], name)
    if len(dataset) == 0:
        raise UserError(f"{name}: holds no samples")
    shape = tuple(_item(dataset, 0, name)[0].shape)
    labels = _dataset_labels(dataset, name)

    def source(index: Tensor) -> Tensor:
        samples = []
        for position in index.tolist():
            x, y = _item(dataset, position, name)
            if tuple(x.shape) != shape:
                raise UserError(
                    f"{name}: sample 0 has shape {shape}, sample {position} has {tuple(x.shape)}; expected one size: "
                    "resize them all, beforehand or in the transform of a data set of your own (file.py:callable)"
                )
            if y != labels[position]:
                raise UserError(
                    f"{name}: sample {position} had label {int(labels[position])} and now has {y}; "
                    "expected a data set that gives the same sample each time, with .targets in the same order"
                )
            samples.append(x)
        return torch.stack(samples)

    return _data(name, labels, shape, getattr(dataset, "classes", ()), source, len(dataset))


def _from_batches(batches: list[Any], name: str) -> Data:
    """Make data of all the batches of something that can only be read from its beginning to its end."""
    if not batches:
        raise UserError(f"{name}: gives no samples")
    pairs = [_pair(batch, f"{name}: a batch") for batch in batches]
    try:
        return from_arrays(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]), name)
    except (TypeError, RuntimeError) as fault:
        raise UserError(
            f"{name}: its batches can't be joined ({fault}); expected tensors of one sample shape"
        ) from None


def _read_all(iterable: Any, name: str) -> list[Any]:
    try:
        return list(iterable)
    except Exception as fault:  # whatever the user's data set raises
        raise UserError(f"{name}: can't be read to its end: {type(fault).__name__}: {fault}") from fault


def _batch_of_one(item: Any, name: str) -> tuple[Tensor, Tensor]:
    x, y = _float_item(item, f"{name}: a sample")
    return x[None], torch.tensor([y])


def _data(
    name: str,
    labels: Tensor,
    shape: tuple[int, ...],
    classes: Any,
    source: Callable[[Tensor], Tensor],
    samples: int,
) -> Data:
    if samples == 0:
        raise UserError(f"{name}: holds no samples")
    if len(labels) != samples:
        raise UserError(f"{name}: holds {samples} samples and {len(labels)} labels; expected one label a sample")
    entries = classes if isinstance(classes, Sequence) else ()
    names = tuple(
        str(entry[0] if isinstance(entry, tuple) and entry else entry) for entry in entries
    )  # ImageNet's are tuples
    return Data(name, labels, shape, names, source, torch.arange(samples))


def _samples(given: Any, name: str) -> Tensor:
    """Make samples float32 or uint8, on the CPU, (N, *shape)."""
    x = given.detach().cpu() if isinstance(given, Tensor) else _array_tensor(given, f"{name}: x")
    if x.ndim < 2:
        raise UserError(f"{name}: x has shape {tuple(x.shape)}; expected samples first, (N, C, H, W)")
    if 0 in x.shape[1:]:
        raise UserError(f"{name}: x has shape {tuple(x.shape)}, so samples hold no values; expected (N, C, H, W)")
    if x.is_floating_point():
        return x.to(torch.float32)
    if x.dtype == torch.uint8:
        return x
    raise UserError(
        f"{name}: x is {_dtype(x)}; expected float in [0, 1], or uint8, which is divided by 255: convert it"
    )


def _labels(given: Any, name: str) -> Tensor:
    """Make labels int64, on the CPU, (N,)."""
    y = given.detach().cpu() if isinstance(given, Tensor) else _array_tensor(given, f"{name}: labels")
    if y.ndim == 2 and y.shape[1] > 1:
        raise UserError(f"{name}: labels have shape {tuple(y.shape)}, as if one-hot; expected (N,): give y.argmax(1)")
    if y.ndim != 1:
        raise UserError(
            f"{name}: labels have shape {tuple(y.shape)}; expected one integer a sample, (N,): flatten them"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(
            f"{name}: labels are {_dtype(y)}; expected integers: convert them, with y.long() or y.astype(int)"
        )
    return y.to(torch.int64)


def _array_tensor(given: Any, what: str) -> Tensor:
    """Tensor of an array, or of what NumPy makes one of, whatever its byte order, strides and flags."""
    import numpy as np

    try:
        array: np.ndarray[Any, Any] = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as fault:
        raise UserError(f"{what}: can't be made an array ({fault}); expected a tensor or an array of numbers") from None
    if array.dtype.kind not in "biuf":
        raise UserError(f"{what}: has dtype {array.dtype}; expected a tensor or an array of numbers")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch has little use for the wider unsigned types
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
    return torch.from_numpy(array)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _item(dataset: Any, position: int, name: str) -> tuple[Tensor, int]:
    try:
        item = dataset[position]
    except UserError:
        raise
    except Exception as fault:  # whatever the user's data set, or the decoder of a damaged image, raises
        raise UserError(f"{name}: sample {position} can't be read: {type(fault).__name__}: {fault}") from fault
    return _float_item(item, f"{name}: sample {position}")


def _float_item(item: Any, what: str) -> tuple[Tensor, int]:
    """Check one sample and its label, as a data set of the user's gives them."""
    x, y = _pair(item, what)
    if type(x).__module__ == "numpy":
        x = _array_tensor(x, what)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = _dtype(x) if isinstance(x, Tensor) else type(x).__name__
        cure = "v2.ToDtype(torch.float32, scale=True)" if isinstance(x, Tensor) else "ToTensor()"
        raise UserError(
            f"{what} is of type {found}; expected a float tensor in [0, 1], (C, H, W): "
            f"add torchvision.transforms.{cure} as the last transform"
        )
    try:
        label = operator.index(y)
    except TypeError:
        raise UserError(f"{what} has a label of type {type(y).__name__}; expected one integer") from None
    return x.detach().to("cpu", torch.float32), label


def _pair(given: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(given, tuple | list) or len(given) < 2:
        raise UserError(f"{what} is of type {type(given).__name__}; expected a pair, (x, label)")
    return given[0], given[1]


def _dataset_labels(dataset: Any, name: str) -> Tensor:
    """Labels of a data set: from ``.targets`` where it tells them, else by reading every sample once."""
    if isinstance(dataset, Subset):
        return _dataset_labels(dataset.dataset, name)[_rows(dataset.indices)]
    targets = getattr(dataset, "targets", None)
    # `.targets` are the labels before a target_transform, and needn't be of this length in a user's own data set.
    if targets is None or getattr(dataset, "target_transform", None) is not None or len(targets) != len(dataset):
        targets = [_item(dataset, position, name)[1] for position in range(len(dataset))]
    return _labels(targets, name)
