"""The forms that users have data in: arrays, tensors, data sets and loaders; each made a `Data`.

What is judged is what the user's own code would have been given: the samples that a loader's sampler draws, what its
collate function makes of them. Where that is no fixed set of samples, it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from robustbench_lite.core.errors import UserError
from robustbench_lite.data import loader as loaders
from robustbench_lite.data.arrays import array_tensor, dtype_name
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.items import Form, Keys, entries, form_of, sample_and_label
from robustbench_lite.data.labels import as_labels
from robustbench_lite.data.sizes import View, viewed


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the samples are read."""

    keys: Keys | None = None
    """Where an item holds its sample and its label; None where that is to be found out."""
    view: View = field(default_factory=View)
    """What is done to each picture."""


def convert(data: Any, reading: Reading | None = None) -> Data:
    """Make a `Data` of what a user holds in memory.

    Parameters
    ----------
    data
        A `Data`; a pair ``(x, y)`` of tensors or arrays; a torch ``Dataset`` of pairs or dicts, read as it is needed; a
        ``DataLoader``: of its data set the samples that its sampler draws. One that makes its batches in a way of its
        own, and an iterable one, is read to its end.
    reading
        Keys and size.

    Raises
    ------
    UserError
        For anything else; for a loader whose sampler draws other samples at each pass.
    """
    reading = reading or Reading()
    if isinstance(data, Data):
        return viewed(data, reading.view)
    if isinstance(data, tuple | list) and len(data) == 2:
        return viewed(from_arrays(data[0], data[1], "arrays"), reading.view)
    name = type(data).__name__
    if isinstance(data, DataLoader):
        return _from_loader(data, name, reading)
    if isinstance(data, IterableDataset):
        return _from_items(data, name, reading)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, tuple | list | dict | Tensor):
        return from_dataset(data, name, reading)
    raise UserError(
        f"data are of type {name}: expected a pair (x, y), a torch Dataset or DataLoader, a Data, or a source's name"
    )


def from_arrays(x: Any, y: Any, name: str, classes: Sequence[Any] = (), notes: tuple[str, ...] = ()) -> Data:
    """Make data of samples and labels in memory; uint8 samples stay so, and become floats when they are fetched."""
    samples = _samples(x, name)
    labels, note = as_labels(y, name)

    def source(index: Tensor) -> Tensor:
        part = samples[index]
        return part.to(torch.float32) / 255 if part.dtype == torch.uint8 else part

    return _data(name, labels, tuple(samples.shape[1:]), classes, source, len(samples), (*notes, note))


def from_dataset(dataset: Any, name: str, reading: Reading | None = None, positions: list[int] | None = None) -> Data:
    """Make data of a map-style data set, whose samples are read when they are fetched.

    ``positions`` says which of its samples, in which order; by default all.
    """
    reading = reading or Reading()
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2 and reading.keys is None:
        data = from_arrays(dataset.tensors[0], dataset.tensors[1], name)
        return viewed(data if positions is None else _renumbered(data, positions, len(dataset)), reading.view)
    total = len(dataset)
    places = list(range(total)) if positions is None else positions
    if not places:
        raise UserError(f"{name}: holds no samples")
    read = _Reader(dataset, name, reading)
    first, _, note = read(places[0])
    shape = tuple(first.shape)
    labels = _dataset_labels(dataset, read, positions)

    def source(index: Tensor) -> Tensor:
        samples = []
        for row in index.tolist():
            x, y, _ = read(places[row])
            if tuple(x.shape) != shape:
                raise UserError(
                    f"{name}: sample {places[0]} has shape {shape}, sample {places[row]} has {tuple(x.shape)}; "
                    f"expected one size: {_ONE_SIZE}"
                )
            if y != labels[row]:
                raise UserError(
                    f"{name}: sample {places[row]} had label {int(labels[row])} and now has {y}; "
                    "expected a data set that gives the same sample each time, with .targets in the same order"
                )
            samples.append(x)
        return torch.stack(samples)

    notes = (read.form.note if read.form else "", note, _part(places, total) if positions is not None else "")
    return _data(name, labels, shape, getattr(dataset, "classes", ()), source, len(places), notes)


_ONE_SIZE = "--resize HxW, or --resize N and --crop N, make them so (resize=, crop= in Python)"


class _Reader:
    """Reads samples of a map-style data set, each as a float tensor with its class; the first one tells the form."""

    def __init__(self, dataset: Any, name: str, reading: Reading) -> None:
        self.dataset, self.name, self.reading = dataset, name, reading
        self.form: Form | None = None

    def __call__(self, position: int) -> tuple[Tensor, int, str]:
        what = f"{self.name}: sample {position}"
        item = self._item(position, what)
        if self.form is None:
            self.form = form_of(item, self.reading.keys, what)
        x, y, note = sample_and_label(item, self.form.keys, what)
        return self.reading.view(x, what), y, note

    def _item(self, position: int, what: str) -> Any:
        try:
            return self.dataset[position]
        except UserError:
            raise
        except Exception as fault:  # whatever the user's data set, or the decoder of a damaged image, raises
            raise UserError(f"{what} can't be read: {type(fault).__name__}: {fault}") from fault


def _from_loader(loader: DataLoader[Any], name: str, reading: Reading) -> Data:
    if isinstance(loader.dataset, IterableDataset):
        return _from_batches(loader, name, reading)
    if not loaders.is_plain(loader):
        data = _from_batches(loader, name, reading)
        return data if loaders.is_steady(loader) else replace(data, steady=False)
    dataset: Any = loader.dataset
    return from_dataset(dataset, type(dataset).__name__, reading, loaders.positions(loader, len(dataset)))


def _from_batches(loader: DataLoader[Any], name: str, reading: Reading) -> Data:
    """Make data of all the batches of a loader, read from its beginning to its end."""
    batches = loaders.read_all(loader, name)
    if not batches:
        raise UserError(f"{name}: gives no samples")
    form = form_of(batches[0], reading.keys, f"{name}: a batch")
    pairs = [entries(batch, form.keys, f"{name}: a batch") for batch in batches]
    labels = [as_labels(y, name) for _, y in pairs]
    return viewed(_joined([x for x, _ in pairs], labels, name, form.note), reading.view)


def _from_items(items: IterableDataset[Any], name: str, reading: Reading) -> Data:
    """Make data of an iterable data set, sample by sample."""
    read = loaders.read_all(items, name)
    if not read:
        raise UserError(f"{name}: gives no samples")
    form = form_of(read[0], reading.keys, f"{name}: a sample")
    found = [sample_and_label(item, form.keys, f"{name}: sample {place}") for place, item in enumerate(read)]
    samples = [reading.view(x, f"{name}: sample {place}")[None] for place, (x, _, _) in enumerate(found)]
    return _joined(samples, [(torch.tensor([y]), note) for _, y, note in found], name, form.note)


def _joined(samples: list[Any], labels: list[tuple[Tensor, str]], name: str, note: str) -> Data:
    try:
        parts = [x if isinstance(x, Tensor) else array_tensor(x, f"{name}: x") for x in samples]
        x, y = torch.cat(parts), torch.cat([one for one, _ in labels])
    except (TypeError, RuntimeError) as fault:
        raise UserError(
            f"{name}: its batches can't be joined ({fault}); expected tensors of one sample shape: {_ONE_SIZE}"
        ) from None
    return from_arrays(x, y, name, notes=(note, labels[0][1]))


def _renumbered(data: Data, positions: list[int], total: int) -> Data:
    """The samples at these positions, counted anew."""
    place = torch.tensor(positions)
    notes = (*data.notes, *filter(None, [_part(positions, total)]))
    return Data(
        data.name,
        data.labels[place],
        data.shape,
        data.classes,
        lambda index: data.source(place[index]),
        torch.arange(len(place)),
        notes,
    )


def _part(positions: Sequence[int], total: int) -> str:
    """What to tell of a sampler that draws a part of the data set; nothing of one that draws it all."""
    different = len(set(positions))
    if len(positions) == different == total:
        return ""
    repeated = f", {len(positions) - different} times one that it drew before" if different < len(positions) else ""
    return f"its sampler draws {different:,} of the {total:,} samples of its data set{repeated}"


def _data(
    name: str,
    labels: Tensor,
    shape: tuple[int, ...],
    classes: Any,
    source: Callable[[Tensor], Tensor],
    samples: int,
    notes: Sequence[str],
) -> Data:
    if samples == 0:
        raise UserError(f"{name}: holds no samples")
    if len(labels) != samples:
        raise UserError(f"{name}: holds {samples} samples and {len(labels)} labels; expected one label a sample")
    given = classes if isinstance(classes, Sequence) else ()
    names = tuple(
        str(entry[0] if isinstance(entry, tuple) and entry else entry) for entry in given
    )  # ImageNet's are tuples
    told = tuple(dict.fromkeys(note for note in notes if note))
    return Data(name, labels, shape, names, source, torch.arange(samples), told)


def _samples(given: Any, name: str) -> Tensor:
    """Make samples float32 or uint8, on the CPU, (N, *shape)."""
    x = given.detach().cpu() if isinstance(given, Tensor) else array_tensor(given, f"{name}: x")
    if x.ndim < 2:
        raise UserError(f"{name}: x has shape {tuple(x.shape)}; expected samples first, (N, C, H, W)")
    if 0 in x.shape[1:]:
        raise UserError(f"{name}: x has shape {tuple(x.shape)}, so samples hold no values; expected (N, C, H, W)")
    if x.is_floating_point():
        return x.to(torch.float32)
    if x.dtype == torch.uint8:
        return x
    raise UserError(
        f"{name}: x is {dtype_name(x)}; expected float in [0, 1], or uint8, which is divided by 255: convert it"
    )


def _dataset_labels(dataset: Any, read: _Reader, positions: list[int] | None) -> Tensor:
    """Labels of a data set: from ``.targets`` where it tells them, else by reading every sample once."""
    targets = _targets(dataset, read.name)
    if targets is not None:
        return targets if positions is None else targets[torch.tensor(positions)]
    places = range(len(dataset)) if positions is None else positions
    return torch.tensor([read(position)[1] for position in places])


def _targets(dataset: Any, name: str) -> Tensor | None:
    if isinstance(dataset, Subset):
        whole = _targets(dataset.dataset, name)
        return None if whole is None else whole[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    targets = getattr(dataset, "targets", None)
    # `.targets` are the labels before a target_transform, and needn't be of this length in a user's own data set.
    if targets is None or getattr(dataset, "target_transform", None) is not None or len(targets) != len(dataset):
        return None
    return as_labels(targets, name)[0]
