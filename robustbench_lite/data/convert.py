"""The forms that users have data in: arrays, tensors, data sets and loaders; each made a `Data`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data

if TYPE_CHECKING:
    import numpy as np


def convert(data: Any) -> Data:
    """Make a `Data` of what a user holds in memory.

    Parameters
    ----------
    data
        A `Data`; a pair ``(x, y)`` of tensors or arrays; a torch ``Dataset`` of pairs, read as it is needed; a
        ``DataLoader``, whose data set is taken (an iterable one is read to its end).

    Raises
    ------
    UserError
        For anything else.
    """
    if isinstance(data, Data):
        return data
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
        return _dataset_labels(dataset.dataset, name)[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    targets = getattr(dataset, "targets", None)
    # `.targets` are the labels before a target_transform, and needn't be of this length in a user's own data set.
    if targets is None or getattr(dataset, "target_transform", None) is not None or len(targets) != len(dataset):
        targets = [_item(dataset, position, name)[1] for position in range(len(dataset))]
    return _labels(targets, name)
