"""The data: samples in [0, 1] with their labels, read when they are needed, from wherever they are."""

from __future__ import annotations

import inspect
import operator
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from robustbench_lite import registry
from robustbench_lite.errors import UserError
from robustbench_lite.target import import_object, users_code

if TYPE_CHECKING:
    import numpy as np

Split = Literal["train", "test"]

NPZ_LIMIT = 8 * 2**30
"""Bytes that an npz file may unpack to; one that claims more isn't opened."""

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
    data = _load(source, split, Path(root).expanduser() if root is not None else None, download)
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
        return _from_arrays(data[0], data[1], "arrays")
    name = type(data).__name__
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            return _from_batches(_read_all(data, name), name)
        return _from_dataset(data.dataset, type(data.dataset).__name__)
    if isinstance(data, IterableDataset):
        return _from_batches([_batch_of_one(item, name) for item in _read_all(data, name)], name)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, tuple | list | dict | Tensor):
        return _from_dataset(data, name)
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


def _from_arrays(x: Any, y: Any, name: str, classes: Sequence[Any] = ()) -> Data:
    """Make data of samples and labels in memory; uint8 samples stay so, and become floats when they are fetched."""
    samples = _samples(x, name)
    return _data(
        name, _labels(y, name), tuple(samples.shape[1:]), classes, lambda index: _as_float(samples[index]), len(samples)
    )


def _from_dataset(dataset: Any, name: str) -> Data:
    """Make data of a map-style data set, whose samples are read when they are fetched."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return _from_arrays(dataset.tensors[0], dataset.tensors[1], name)
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
        return _from_arrays(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]), name)
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
    names = tuple(_class_name(entry) for entry in classes) if isinstance(classes, Sequence) else ()
    return Data(name, labels, shape, names, source, torch.arange(samples))


def _class_name(entry: Any) -> str:
    return str(entry[0] if isinstance(entry, tuple) and entry else entry)  # ImageNet's are tuples of synonyms


def _samples(given: Any, name: str) -> Tensor:
    """Make samples float32 or uint8, on the CPU, (N, *shape)."""
    x = given.detach().cpu() if isinstance(given, Tensor) else _array_tensor(given, f"{name}: x")
    if x.ndim < 2:
        raise UserError(f"{name}: x has shape {tuple(x.shape)}; expected samples first, (N, C, H, W)")
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


def _as_float(x: Tensor) -> Tensor:
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


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


def _load(source: str, split: Split, root: Path | None, download: bool) -> Data:
    kind, colon, rest = source.partition(":")
    if kind in _FORMS and rest:
        return replace(_FORMS[kind](Path(rest).expanduser(), split), name=source)
    if source in _BUILT_IN:
        return replace(_BUILT_IN[source](source, split, root, download), name=f"{source}/{split}")
    if colon and rest:
        return _call(source, split)
    forms = [f"{form}:{source if Path(source).exists() else 'PATH'}" for form in _FORMS]
    raise UserError(
        registry.unknown("data source", source, [*_BUILT_IN, *forms, "module:callable", "file.py:callable"])
    )


def _call(source: str, split: Split) -> Data:
    """Call the user's code that makes the data."""
    with users_code(source):
        found = import_object(source)
        if callable(found) and not isinstance(found, Dataset):
            try:
                takes_split = "split" in inspect.signature(found).parameters
            except (ValueError, TypeError):  # some builtins tell no signature
                takes_split = False
            found = found(split=split) if takes_split else found()
    data = as_data(found, split=split)
    return data if isinstance(found, Data) else replace(data, name=source)


def _digits(source: str, split: Split, root: Path | None, download: bool) -> Data:
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[:, None]
    train, test = _from_arrays(x, digits.target, source, [str(name) for name in digits.target_names]).split(0.3, seed=0)
    return test if split == "test" else train


def _mnist(source: str, split: Split, root: Path | None, download: bool) -> Data:
    from torchvision import datasets

    maker = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[source]
    with _torchvision_root(source, root) as folder, tempfile.TemporaryDirectory() as unpacked:
        if _unpack_mnist(maker, folder, Path(unpacked)):
            folder, download = Path(unpacked), False
        dataset = maker(folder, train=split == "train", download=download)
    return _from_arrays(dataset.data[:, None], dataset.targets, source, dataset.classes)


def _unpack_mnist(maker: Any, packed: Path, unpacked: Path) -> bool:
    """Unpack the official archives into a folder in torchvision's layout, where `packed` holds nothing but them."""
    from torchvision.datasets.utils import extract_archive

    raw = Path(maker.__name__, "raw")
    archives = [packed / raw / Path(url).name for url, _ in maker.resources]
    if all(path.with_suffix("").is_file() for path in archives) or not all(path.is_file() for path in archives):
        return False
    (unpacked / raw).mkdir(parents=True)
    for path in archives:
        extract_archive(path, unpacked / raw)
    return True


def _cifar(source: str, split: Split, root: Path | None, download: bool) -> Data:
    from torchvision import datasets

    maker = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[source]
    with _torchvision_root(source, root) as folder:
        dataset = maker(folder, train=split == "train", download=download)
    return _from_arrays(dataset.data.transpose(0, 3, 1, 2), dataset.targets, source, dataset.classes)


def _imagenet(source: str, split: Split, root: Path | None, download: bool) -> Data:
    from torchvision import datasets, transforms

    if download:
        raise UserError(
            "imagenet can't be downloaded freely: get it from image-net.org, and give its folder as --data-root"
        )
    view = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    with _torchvision_root(source, root) as folder:
        dataset = datasets.ImageNet(folder, split="train" if split == "train" else "val", transform=view)
    return _from_dataset(dataset, source)


@contextmanager
def _torchvision_root(source: str, root: Path | None) -> Iterator[Path]:
    """Read one of torchvision's data sets inside.

    Raises
    ------
    UserError
        Without a root, and for whatever torchvision raises.
    """
    cure = "give the folder that holds it in torchvision's layout as root (--data-root)"
    if source != "imagenet":
        cure += ", or let it be downloaded there (download=True, --download); nothing is downloaded unless you ask"
    if root is None:
        raise UserError(f"{source}: is read from a folder, and none was given; {cure}")
    try:
        yield root
    except Exception as fault:  # several kinds, for missing files and for damaged ones
        raise UserError(f"{source}: can't be read from {root}: {type(fault).__name__}: {fault}\n{cure}") from fault


def _image_folder(folder: Path, split: Split) -> Data:
    from torchvision import datasets, transforms

    name = f"imagefolder:{folder}"
    if not folder.is_dir():
        raise UserError(f"{name}: no such folder; expected one that holds a folder of images for each class")
    tests = [folder / part for part in ("test", "val") if (folder / part).is_dir()]
    if tests and (folder / "train").is_dir():
        folder = folder / "train" if split == "train" else tests[0]
    try:
        dataset = datasets.ImageFolder(folder, transform=transforms.ToTensor())
    except (OSError, ValueError) as fault:
        raise UserError(f"{name}: {fault}; expected a folder of images for each class") from None
    return _from_dataset(dataset, name)


def _npz(path: Path, split: Split) -> Data:
    import numpy as np

    name = f"npz:{path}"
    if not path.is_file():
        raise UserError(f"{name}: no such file; expected what numpy.savez(FILE, x=x, y=y) writes")
    try:
        with zipfile.ZipFile(path) as archive:  # its table of contents tells the sizes before anything is unpacked
            size = sum(member.file_size for member in archive.infolist())
        if size > NPZ_LIMIT:
            raise UserError(
                f"{name}: would unpack to {size / 2**30:.1f} GiB, more than {NPZ_LIMIT / 2**30:.1f} GiB; "
                "split it, or give a data set of your own (file.py:callable)"
            )
        with np.load(path, allow_pickle=False) as stored:
            if missing := {"x", "y"} - set(stored.files):
                raise UserError(
                    f"{name}: holds {', '.join(stored.files) or 'nothing'}, not {' and '.join(sorted(missing))}; "
                    "expected x, (N, C, H, W), and y, (N,): save it with numpy.savez(FILE, x=x, y=y)"
                )
            x, y = stored["x"], stored["y"]
    except UserError:
        raise
    except Exception as fault:  # a damaged archive can raise nearly anything
        objects = "Object arrays" in str(fault)
        cure = (
            "convert it to numbers and save it again" if objects else "expected what numpy.savez writes: save it again"
        )
        raise UserError(f"{name}: can't be read ({type(fault).__name__}: {fault}); {cure}") from None
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        raise UserError(
            f"{name}: x has shape {x.shape}, channels last; expected (N, C, H, W): save x.transpose(0, 3, 1, 2)"
        )
    return _from_arrays(x, y, name)


_BUILT_IN: dict[str, Callable[[str, Split, Path | None, bool], Data]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _mnist,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "imagenet": _imagenet,
}
_FORMS: dict[str, Callable[[Path, Split], Data]] = {"imagefolder": _image_folder, "npz": _npz}
