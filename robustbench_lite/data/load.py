"""Data by any means: a source by name, or what the user holds in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.convert import convert
from robustbench_lite.data.dataset import Data, Split
from robustbench_lite.data.sources import read_source


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
    if isinstance(data, str):
        return load_data(data, split=split, root=root, download=download)
    return convert(data)
