"""Data by any means: a source by name, or what the user holds in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.convert import Reading, convert
from robustbench_lite.data.dataset import Data, Split
from robustbench_lite.data.items import Keys
from robustbench_lite.data.label_map import LabelMap, relabelled
from robustbench_lite.data.sizes import Size, view_of
from robustbench_lite.data.sources import read_source


def load_data(
    source: str,
    *,
    split: Split = "test",
    root: str | Path | None = None,
    download: bool = False,
    limit: int | None = None,
    seed: int = 0,
    resize: Size | None = None,
    crop: Size | None = None,
    label_map: LabelMap | None = None,
) -> Data:
    """Load data by name.

    Parameters
    ----------
    source
        - ``digits``: scikit-learn's 1797 images of 8x8 pixels, in a fixed stratified 70/30 split;
        - ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``imagenet``: from a folder in torchvision's layout;
        - ``imagefolder:DIR``: images in a folder for each class; where DIR holds ``train``, and ``test`` or ``val``,
          with such folders, these are the splits, and the name of the data says which one was read;
        - ``npz:FILE``: arrays ``x``, (N, C, H, W), float in [0, 1] or uint8, and ``y``, (N,), integers;
        - ``csv:FILE`` or ``csv:FILE@COLUMN``: a table of numbers with a column of labels, see `tables.read_table`;
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
    resize, crop, label_map
        As in `as_data`.

    Raises
    ------
    UserError
        For an unknown name, and for data that aren't there, can't be read, or aren't labelled samples of one shape.
    """
    if split not in ("train", "test"):
        raise UserError(f"split is {split!r}: expected train or test")
    reading = Reading(view=view_of(resize, crop))
    data = read_source(source, split, Path(root).expanduser() if root is not None else None, download, reading)
    data = relabelled(data, label_map)
    return data if limit is None else data.stratified(limit, seed)


def as_data(
    data: Any,
    *,
    split: Split = "test",
    root: str | Path | None = None,
    download: bool = False,
    keys: Keys | None = None,
    resize: Size | None = None,
    crop: Size | None = None,
    label_map: LabelMap | None = None,
) -> Data:
    """Take data in any of the forms that users have them in.

    Parameters
    ----------
    data
        A `Data`; a pair ``(x, y)`` of tensors or arrays; a torch ``Dataset`` of pairs or dicts, read as it is needed; a
        ``DataLoader``: of its data set the samples that its sampler draws, as its collate function makes them; or a
        name, as in `load_data`.
    split, root, download
        As in `load_data`, for a name.
    keys
        Keys, or positions, of sample and label in an item, such as ``("image", "fine_label")``; by default a pair is
        taken as it is, and the entries of a dict are found by their names.
    resize
        Pixels of the shorter side, or height and width, (H, W) or ``"HxW"``: bilinear with antialiasing, as
        `torchvision.transforms.v2.Resize`. It comes before the crop.
    crop
        Height and width of the centre that is kept, N or (H, W).
    label_map
        Which of the model's classes each label is, such as ``{0: 3, 1: 5}``; see `relabelled`.

    Raises
    ------
    UserError
        For anything else, and for what `load_data` refuses.
    """
    if isinstance(data, str):
        return load_data(data, split=split, root=root, download=download, resize=resize, crop=crop, label_map=label_map)
    return relabelled(convert(data, Reading(keys=keys, view=view_of(resize, crop))), label_map)
