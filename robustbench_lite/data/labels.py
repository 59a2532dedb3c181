"""Labels in the forms that users have them in, made class numbers; what is ambiguous is refused."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.arrays import array_tensor, dtype_name


def as_labels(given: Any, name: str) -> tuple[Tensor, str]:
    """Make labels class numbers.

    Parameters
    ----------
    given
        Integers of any width, booleans, or floats that are whole numbers, (N,) or (N, 1); or one-hot rows, (N, K). A
        tensor, an array, or what NumPy makes one of.
    name
        What the error calls the data.

    Returns
    -------
    tuple[Tensor, str]
        Labels, (N,), int64, on the CPU; and what was done to them, empty where nothing was.

    Raises
    ------
    UserError
        For soft labels, several classes a sample, NaN, fractions, and what are no numbers.
    """
    y = given.detach().cpu() if isinstance(given, Tensor) else array_tensor(given, f"{name}: labels")
    return _class_numbers(y, name)


def as_label(given: Any, what: str) -> tuple[int, str]:
    """Make the label of one sample a class number, as `as_labels` does; ``what`` names the sample."""
    try:
        return operator.index(given), ""
    except (TypeError, RuntimeError):  # no integer
        pass
    if isinstance(given, str | bytes | dict) or given is None:
        raise UserError(f"{what} has a label of type {type(given).__name__}; expected the number of its class")
    label = given.detach().cpu() if isinstance(given, Tensor) else array_tensor(given, f"{what}: its label")
    if label.ndim > 1:
        raise UserError(f"{what} has a label of shape {tuple(label.shape)}; expected the number of its class")
    numbers, note = _class_numbers(label[None], what)
    return int(numbers[0]), note


def _class_numbers(y: Tensor, name: str) -> tuple[Tensor, str]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.is_complex() or y.ndim not in (1, 2):
        raise UserError(
            f"{name}: labels are {dtype_name(y)} of shape {tuple(y.shape)}; expected one integer a sample, (N,)"
        )
    if y.is_floating_point() and not y.isfinite().all():
        bad = (~y.isfinite()).nonzero()[0, 0]
        raise UserError(
            f"{name}: labels hold NaN or infinity (the first at row {int(bad)}); expected the number of a class for "
            "each sample: label these samples, or leave them out"
        )
    if y.ndim == 2:
        return _of_rows(y, name), "one-hot labels are read as the class of their 1"
    if y.dtype == torch.bool:
        return y.to(torch.int64), "labels are bool: False is class 0 and True is class 1"
    if not y.is_floating_point():
        return y.to(torch.int64), ""
    if (y != y.round()).any():
        row = int((y != y.round()).nonzero()[0, 0])
        chances = ": where they are probabilities of the second of two classes, give (y > 0.5)"
        raise UserError(
            f"{name}: labels hold fractions (row {row} has {float(y[row]):.6g}); expected the number of a class for "
            f"each sample{chances if 0 <= y.min() <= y.max() <= 1 else ''}"
        )
    return y.to(torch.int64), f"labels are {dtype_name(y)} and whole, and read as integers"


def _of_rows(y: Tensor, name: str) -> Tensor:
    """Classes of one-hot rows."""
    ones = y == 1
    if ((y == 0) | ones).all() and (ones.sum(1) == 1).all():
        return ones.to(torch.int64).argmax(1)
    shape = tuple(y.shape)
    if y.is_floating_point() and (y >= 0).all() and ((y.double().sum(1) - 1).abs() < 1e-3).all():
        row = int(((y > 0) & (y < 1)).any(1).nonzero()[0, 0])
        raise UserError(
            f"{name}: labels of shape {shape} are soft (row {row} gives no class all of it, but at most "
            f"{float(y[row].max()):.3g}); expected one class a sample: where the largest counts, give y.argmax(1)"
        )
    row = int((ones.sum(1) != 1).nonzero()[0, 0]) if bool(((y == 0) | ones).all()) else 0
    raise UserError(
        f"{name}: labels of shape {shape} are no one-hot rows (row {row} is {y[row].tolist()[:8]}); expected one class "
        "a sample, (N,), or one 1 among zeros: several classes a sample can't be judged here"
    )
