"""One sample or batch of a user's data set: a pair, or a dict that names both; and the tensor and label in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.arrays import array_tensor, dtype_name, is_picture, picture_tensor
from robustbench_lite.data.labels import as_label

Keys = tuple[Any, Any]
"""Under which keys, or at which positions, an item holds its sample and its label."""

_SAMPLES = ("image", "images", "img", "pixel_values", "pixels", "x", "input", "inputs", "data")
_LABELS = ("label", "labels", "y", "target", "targets", "class", "class_id")


class Form(NamedTuple):
    """Where the sample and the label stand in an item."""

    keys: Keys
    note: str
    """What is to be told of it; empty where there is nothing to tell."""


def form_of(item: Any, keys: Keys | None, what: str) -> Form:
    """Find where the sample and the label stand in an item.

    Parameters
    ----------
    item
        The first sample, or batch, of the data set.
    keys
        Where the user named them; by default a pair is taken as it is, and in a dict the entries are sought by name.
    what
        What the error calls the item.

    Raises
    ------
    UserError
        For what is neither a pair nor a dict, and for a dict in which it isn't clear which entries are meant.
    """
    if isinstance(item, Mapping):
        if keys is not None:
            _present(item, keys, what)
            return Form(keys, "")
        found = (_only(item, _SAMPLES, what, "sample"), _only(item, _LABELS, what, "label"))
        return Form(found, f"of each item {found[0]!r} is taken as the sample and {found[1]!r} as its label")
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UserError(
            f"{what} is of type {type(item).__name__}; expected a pair, (x, label), or a dict that names them"
        )
    if keys is not None:
        if not all(isinstance(key, int) and -len(item) <= key < len(item) for key in keys):
            raise UserError(
                f"{what} has {len(item)} entries, and none at {keys!r}; expected two positions, such as (0, 1)"
            )
        return Form(keys, "")
    more = f"of each item the first two of {len(item)} entries are taken" if len(item) > 2 else ""
    return Form((0, 1), more)


def entries(item: Any, keys: Keys, what: str) -> tuple[Any, Any]:
    """Take the sample and the label out of an item."""
    try:
        return item[keys[0]], item[keys[1]]
    except (KeyError, IndexError, TypeError):
        raise UserError(
            f"{what} is of type {type(item).__name__} and has no {keys[0]!r} and {keys[1]!r} as the first one has; "
            "expected items of one form"
        ) from None


def sample_and_label(item: Any, keys: Keys, what: str) -> tuple[Tensor, int, str]:
    """Float tensor and class number of one item, and what was done to the label."""
    x, y = entries(item, keys, what)
    label, note = as_label(y, what)
    return _sample(x, what), label, note


def _sample(x: Any, what: str) -> Tensor:
    if type(x).__module__ == "numpy":
        x = array_tensor(x, what)
    elif is_picture(x):
        x = picture_tensor(x, what)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = dtype_name(x) if isinstance(x, Tensor) else type(x).__name__
        cure = "v2.ToDtype(torch.float32, scale=True)" if isinstance(x, Tensor) else "ToTensor()"
        raise UserError(
            f"{what} is of type {found}; expected a float tensor in [0, 1], (C, H, W): "
            f"add torchvision.transforms.{cure} as the last transform"
        )
    return x.detach().to("cpu", torch.float32)


def _only(item: Mapping[Any, Any], names: tuple[str, ...], what: str, part: str) -> Any:
    there = [key for key in item if isinstance(key, str) and key.lower() in names]
    if len(there) == 1:
        return there[0]
    held = ", ".join(map(repr, list(item)[:8]))
    why = f"{' and '.join(map(repr, there))} could each be the {part}" if there else f"none is known as the {part}"
    raise UserError(
        f"{what} is a dict of {held}: {why}; name both, with "
        "robustbench_lite.data.as_data(data, keys=('image', 'label')), or give pairs"
    )


def _present(item: Mapping[Any, Any], keys: Keys, what: str) -> None:
    if missing := [key for key in keys if key not in item]:
        held = ", ".join(map(repr, list(item)[:8]))
        raise UserError(f"{what} is a dict of {held}: there is no {' and no '.join(map(repr, missing))} in it")
