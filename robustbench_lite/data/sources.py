"""Data by name: the known data sets, the forms of files, and users' callables."""

from __future__ import annotations

import importlib.metadata
import inspect
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import NPZ_LIMIT, unpacked_size
from robustbench_lite.core.usercode import import_object, users_code
from robustbench_lite.data.convert import Reading, convert, from_arrays, from_dataset
from robustbench_lite.data.dataset import Data, Split
from robustbench_lite.data.sizes import viewed
from robustbench_lite.data.tables import Roles, read_table, roles_of


class Asked(NamedTuple):
    """What is to be read, and how."""

    source: str
    """The name, or, of a form, what stands after the colon."""
    split: Split
    root: Path | None
    download: bool
    reading: Reading


def read_source(source: str, split: Split, root: Path | None, download: bool, reading: Reading | None = None) -> Data:
    """Read all the data of a source, with names and errors as in `load_data`."""
    kind, colon, rest = source.partition(":")
    reading = reading or Reading()
    asked = Asked(source, split, root, download, reading)
    if kind in _FORMS and rest:
        data = _FORMS[kind](asked._replace(source=str(Path(rest).expanduser())))
    elif source in _BUILT_IN:
        data = replace(_BUILT_IN[source](asked), name=f"{source}/{split}")
    elif colon and rest:
        data = _call(asked)
    else:
        forms = [f"{form}:{source if Path(source).exists() else 'PATH'}" for form in _FORMS]
        raise UserError(
            registry.unknown("data source", source, [*_BUILT_IN, *forms, "module:callable", "file.py:callable"])
        )
    told = (*data.notes, f"each picture is {reading.view}") if reading.view else data.notes
    return replace(data, notes=tuple(dict.fromkeys(told)))


def _call(asked: Asked) -> Data:
    """Call the user's code that makes the data."""
    source = asked.source
    with users_code(source):
        found = import_object(source, prefixes=_FORMS)
        if callable(found) and not isinstance(found, Dataset):
            try:
                takes_split = "split" in inspect.signature(found).parameters
            except (ValueError, TypeError):  # some builtins tell no signature
                takes_split = False
            found = found(split=asked.split) if takes_split else found()
    if isinstance(found, str):
        return replace(read_source(found, asked.split, None, False, asked.reading), name=source)
    try:
        data = convert(found, asked.reading)
    except UserError as fault:
        raise UserError(f"{source}: {fault}") from fault
    return data if isinstance(found, Data) else replace(data, name=source)


def _in_memory(asked: Asked, x: Any, y: Any, classes: Sequence[Any] = ()) -> Data:
    return viewed(from_arrays(x, y, asked.source, classes), asked.reading.view)


def _digits(asked: Asked) -> Data:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn brings along."""
    import numpy as np

    # To import scikit-learn for one file would take longer than a small evaluation.
    path = importlib.metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(path), delimiter=",", dtype=np.uint8)  # 64 values from 0 to 16, and the digit
    x = (rows[:, :-1] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train, test = _in_memory(asked, x, rows[:, -1].astype(int), [str(digit) for digit in range(10)]).split(0.3, seed=0)
    return test if asked.split == "test" else train


def _mnist(asked: Asked) -> Data:
    """MNIST: handwritten digits, 28 x 28 grey; packed (.gz) or unpacked below the data root."""
    from torchvision import datasets

    return _mnist_like(datasets.MNIST, asked)


def _fashion_mnist(asked: Asked) -> Data:
    """Fashion-MNIST: clothes, 28 x 28 grey; packed (.gz) or unpacked below the data root."""
    from torchvision import datasets

    return _mnist_like(datasets.FashionMNIST, asked)


def _mnist_like(maker: Any, asked: Asked) -> Data:
    with _torchvision_root(asked) as folder, tempfile.TemporaryDirectory() as unpacked:
        download = asked.download
        if _unpack_mnist(maker, folder, Path(unpacked)):
            folder, download = Path(unpacked), False
        dataset = maker(folder, train=asked.split == "train", download=download)
    return _in_memory(asked, dataset.data[:, None], dataset.targets, dataset.classes)


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


def _cifar10(asked: Asked) -> Data:
    """CIFAR-10: photographs of 10 classes, 32 x 32 RGB."""
    from torchvision import datasets

    return _cifar(datasets.CIFAR10, asked)


def _cifar100(asked: Asked) -> Data:
    """CIFAR-100: photographs of 100 classes, 32 x 32 RGB."""
    from torchvision import datasets

    return _cifar(datasets.CIFAR100, asked)


def _cifar(maker: Any, asked: Asked) -> Data:
    with _torchvision_root(asked) as folder:
        dataset = maker(folder, train=asked.split == "train", download=asked.download)
    return _in_memory(asked, dataset.data.transpose(0, 3, 1, 2), dataset.targets, dataset.classes)


def _imagenet(asked: Asked) -> Data:
    """ImageNet 2012: resized to 256, centre crop of 224, unless --resize and --crop say otherwise."""
    from torchvision import datasets, transforms

    if asked.download:
        raise UserError(
            "imagenet can't be downloaded freely: get it from image-net.org, and give its folder as --data-root"
        )
    usual = [] if asked.reading.view else [transforms.Resize(256), transforms.CenterCrop(224)]
    view = transforms.Compose([*usual, transforms.ToTensor()])
    with _torchvision_root(asked) as folder:
        dataset = datasets.ImageNet(folder, split="train" if asked.split == "train" else "val", transform=view)
    return from_dataset(dataset, asked.source, asked.reading)


@contextmanager
def _torchvision_root(asked: Asked) -> Iterator[Path]:
    """Read one of torchvision's data sets inside.

    Raises
    ------
    UserError
        Without a root, and for whatever torchvision raises.
    """
    source, root = asked.source, asked.root
    cure = "give the folder that holds it in torchvision's layout as root (--data-root)"
    if source != "imagenet":
        cure += ", or let it be downloaded there (download=True, --download); nothing is downloaded unless you ask"
    if root is None:
        raise UserError(f"{source}: is read from a folder, and none was given; {cure}")
    try:
        yield root
    except Exception as fault:  # several kinds, for missing files and for damaged ones
        raise UserError(f"{source}: can't be read from {root}: {type(fault).__name__}: {fault}\n{cure}") from fault


def _image_folder(asked: Asked) -> Data:
    """Images in one folder a class, read when they are used; train/ and test/ or val/ where there."""
    from torchvision import datasets, transforms

    whole = Path(asked.source)
    if not whole.is_dir():
        raise UserError(
            f"imagefolder:{whole}: no such folder; expected one that holds a folder of images for each class"
        )
    folder = split_folder(whole, asked.split)
    name = f"imagefolder:{folder}"
    try:
        dataset = datasets.ImageFolder(folder, transform=transforms.ToTensor(), loader=_picture)
    except (OSError, ValueError) as fault:
        raise UserError(f"{name}: {str(fault).rstrip('.')}; expected a folder of images for each class") from None
    data = from_dataset(dataset, name, asked.reading)
    return replace(data, files=tuple(Path(path).relative_to(folder).as_posix() for path, _ in dataset.samples))


SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
"""What folders that hold a split are called; the first that is there is taken."""


def split_folder(folder: Path, split: Split) -> Path:
    """Folder with the images of a split: one within that is called so and holds folders of classes, or all of it.

    A folder called ``train`` that holds images is a class, such as one of vehicles.

    Raises
    ------
    UserError
        Where there is another split, and not this one.
    """
    within = {one.name.lower(): one for one in sorted(folder.iterdir()) if one.is_dir()}
    there = {
        part: next((within[name] for name in names if name in within and _holds_classes(within[name])), None)
        for part, names in SPLITS.items()
    }
    wanted, other = there[split], there["train" if split == "test" else "test"]
    if wanted is None and other is not None:
        raise UserError(
            f"imagefolder:{folder}: holds {other.name}/ and no {' or '.join(f'{one}/' for one in SPLITS[split])} with "
            f"a folder of images for each class, and the {split} images were asked for; to use those of {other.name}/ "
            f"all the same, give imagefolder:{other}"
        )
    return wanted or folder


def _holds_classes(folder: Path) -> bool:
    entries = list(folder.iterdir())
    return any(one.is_dir() for one in entries) and not any(one.suffix.lower() in _IMAGES for one in entries)


_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _picture(path: str) -> Any:
    """Read an image as RGB; one that claims more pixels than Pillow trusts is an error, and not only a warning."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except OSError as fault:
            if str(path) in str(fault):
                raise
            raise OSError(f"{fault} ({path})") from fault  # of a file that is cut off Pillow doesn't tell which


def _npz(asked: Asked) -> Data:
    """Arrays x (NCHW, in [0, 1] or uint8) and y of one npz file."""
    import numpy as np

    path = Path(asked.source)
    name = f"npz:{path}"
    if not path.is_file():
        raise UserError(f"{name}: no such file; expected what numpy.savez(FILE, x=x, y=y) writes")
    try:
        size = unpacked_size(path)
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
            if not all(isinstance(one, np.ndarray) for one in (x, y)):  # numpy hands over as bytes what is no array
                raise ValueError("x and y are no arrays")
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
    return _in_memory(asked._replace(source=name), x, y)


def _csv(asked: Asked) -> Data:
    """Numbers and a column of labels (csv:FILE, or csv:FILE@COLUMN), the first line names them; a fixed 70/30 split."""
    path, roles = roles_of(asked.source)
    if asked.reading.view:
        raise UserError(f"csv:{path}: holds no pictures; leave --resize and --crop away")
    data = read_table(path, asked.split, roles)
    told = data.columns is not None or roles.scale != Roles.scale  # by its name the same samples are found again
    return data if not told else replace(data, name=f"csv:{asked.source}/{asked.split}")


_BUILT_IN: dict[str, Callable[[Asked], Data]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imagenet": _imagenet,
}
_FORMS: dict[str, Callable[[Asked], Data]] = {"imagefolder": _image_folder, "npz": _npz, "csv": _csv}


def described() -> dict[str, str]:
    """What there is by name, and a line on each."""
    known = {**_BUILT_IN, **{f"{form}:PATH": read for form, read in _FORMS.items()}}
    lines = {name: (inspect.getdoc(read) or "").splitlines()[0] for name, read in known.items()}
    return {**lines, "module:callable": "What a function of yours returns: arrays, a Dataset, a DataLoader."}
