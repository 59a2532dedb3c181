"""Data by name: the known data sets, the forms of files, and users' callables."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import NPZ_LIMIT, unpacked_size
from robustbench_lite.core.usercode import import_object, users_code
from robustbench_lite.data.convert import convert, from_arrays, from_dataset
from robustbench_lite.data.dataset import Data, Split


def read_source(source: str, split: Split, root: Path | None, download: bool) -> Data:
    """Read all the data of a source, with names and errors as in `load_data`."""
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
        found = import_object(source, prefixes=_FORMS)
        if callable(found) and not isinstance(found, Dataset):
            try:
                takes_split = "split" in inspect.signature(found).parameters
            except (ValueError, TypeError):  # some builtins tell no signature
                takes_split = False
            found = found(split=split) if takes_split else found()
    data = read_source(found, split, None, False) if isinstance(found, str) else convert(found)
    return data if isinstance(found, Data) else replace(data, name=source)


def _digits(source: str, split: Split, root: Path | None, download: bool) -> Data:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn brings along."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[:, None]
    train, test = from_arrays(x, digits.target, source, [str(name) for name in digits.target_names]).split(0.3, seed=0)
    return test if split == "test" else train


def _mnist(source: str, split: Split, root: Path | None, download: bool) -> Data:
    """MNIST: handwritten digits, 28 x 28 grey; packed (.gz) or unpacked below the data root."""
    from torchvision import datasets

    return _mnist_like(datasets.MNIST, source, split, root, download)


def _fashion_mnist(source: str, split: Split, root: Path | None, download: bool) -> Data:
    """Fashion-MNIST: clothes, 28 x 28 grey; packed (.gz) or unpacked below the data root."""
    from torchvision import datasets

    return _mnist_like(datasets.FashionMNIST, source, split, root, download)


def _mnist_like(maker: Any, source: str, split: Split, root: Path | None, download: bool) -> Data:
    with _torchvision_root(source, root) as folder, tempfile.TemporaryDirectory() as unpacked:
        if _unpack_mnist(maker, folder, Path(unpacked)):
            folder, download = Path(unpacked), False
        dataset = maker(folder, train=split == "train", download=download)
    return from_arrays(dataset.data[:, None], dataset.targets, source, dataset.classes)


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


def _cifar10(source: str, split: Split, root: Path | None, download: bool) -> Data:
    """CIFAR-10: photographs of 10 classes, 32 x 32 RGB."""
    from torchvision import datasets

    return _cifar(datasets.CIFAR10, source, split, root, download)


def _cifar100(source: str, split: Split, root: Path | None, download: bool) -> Data:
    """CIFAR-100: photographs of 100 classes, 32 x 32 RGB."""
    from torchvision import datasets

    return _cifar(datasets.CIFAR100, source, split, root, download)


def _cifar(maker: Any, source: str, split: Split, root: Path | None, download: bool) -> Data:
    with _torchvision_root(source, root) as folder:
        dataset = maker(folder, train=split == "train", download=download)
    return from_arrays(dataset.data.transpose(0, 3, 1, 2), dataset.targets, source, dataset.classes)


def _imagenet(source: str, split: Split, root: Path | None, download: bool) -> Data:
    """ImageNet 2012: resized to 256, centre crop of 224."""
    from torchvision import datasets, transforms

    if download:
        raise UserError(
            "imagenet can't be downloaded freely: get it from image-net.org, and give its folder as --data-root"
        )
    view = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    with _torchvision_root(source, root) as folder:
        dataset = datasets.ImageNet(folder, split="train" if split == "train" else "val", transform=view)
    return from_dataset(dataset, source)


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
    """Images in one folder a class, read when they are used; train/ and test/ or val/ where there."""
    from torchvision import datasets, transforms

    name = f"imagefolder:{folder}"
    if not folder.is_dir():
        raise UserError(f"{name}: no such folder; expected one that holds a folder of images for each class")
    tests = [folder / part for part in ("test", "val") if (folder / part).is_dir()]
    if tests and (folder / "train").is_dir():
        folder = folder / "train" if split == "train" else tests[0]
    try:
        dataset = datasets.ImageFolder(folder, transform=transforms.ToTensor(), loader=_picture)
    except (OSError, ValueError) as fault:
        raise UserError(f"{name}: {fault}; expected a folder of images for each class") from None
    return from_dataset(dataset, name)


def _picture(path: str) -> Any:
    """Read an image as RGB; one that claims more pixels than Pillow trusts is an error, and not only a warning."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return image.convert("RGB")


def _npz(path: Path, split: Split) -> Data:
    """Arrays x (NCHW, in [0, 1] or uint8) and y of one npz file."""
    import numpy as np

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
    return from_arrays(x, y, name)


_BUILT_IN: dict[str, Callable[[str, Split, Path | None, bool], Data]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imagenet": _imagenet,
}
_FORMS: dict[str, Callable[[Path, Split], Data]] = {"imagefolder": _image_folder, "npz": _npz}


def described() -> dict[str, str]:
    """What there is by name, and a line on each."""
    known = {**_BUILT_IN, **{f"{form}:PATH": read for form, read in _FORMS.items()}}
    lines = {name: (inspect.getdoc(read) or "").splitlines()[0] for name, read in known.items()}
    return {**lines, "module:callable": "What a function of yours returns: arrays, a Dataset, a DataLoader."}
