"""Tables: a CSV file of numbers with a column of labels, as samples in [0, 1]."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.columns import MOST_WHOLE, Columns
from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.core.files import NPZ_LIMIT
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.dataset import Data, Split
from robustbench_lite.data.scaling import SCALES, WORDS, Scale, ends

if TYPE_CHECKING:
    import numpy as np

_LABELS = ("label", "class", "target", "y")  # what a column of labels may be called
_TEST_SHARE = 0.3
_DELIMITERS = ",;\t"
_OPTIONS = {"label": "COLUMN", "immutable": "COLUMN,COLUMN", "integer": "COLUMN,COLUMN", "scale": "std or range"}


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What the columns of a table are, by their names."""

    label: str = ""
    """Which holds the labels; by default one called ``label``, ``class``, ``target`` or ``y``, else the last."""
    immutable: tuple[str, ...] = ()
    """Those that an adversary can't change."""
    integer: tuple[str, ...] = ()
    """Those that hold whole numbers, also after the adversary's change."""
    scale: Scale = "std"
    """What an eps is a share of: standardised units, or each column's range."""


def roles_of(source: str) -> tuple[Path, Roles]:
    """Read ``FILE``, ``FILE@LABEL``, or ``FILE?label=LABEL&immutable=A,B&integer=C&scale=range``.

    Raises
    ------
    UserError
        For an unknown option or scale, and an option that is given twice or without a value.
    """
    name, asks, options = source.partition("?")
    if not asks or Path(source).is_file():
        path, at, label = source.rpartition("@")
        return (Path(path), Roles(label=label)) if at and not Path(source).is_file() else (Path(source), Roles())
    given: dict[str, Any] = {}
    for part in options.split("&"):
        key, _, value = part.partition("=")
        if key not in _OPTIONS:
            raise UserError(f"csv:{source}: {unknown('option', key, _OPTIONS)}")
        if key in given or not value:
            raise UserError(
                f"csv:{source}: the option {key} {'is there twice' if key in given else 'has no value'}: expected "
                f"{key}={_OPTIONS[key]}"
            )
        if key == "scale" and value not in SCALES:
            raise UserError(f"csv:{source}: {unknown('scale', value, SCALES)}")
        given[key] = value if key in ("label", "scale") else tuple(one.strip() for one in value.split(","))
    return Path(name), Roles(**given)


def read_table(path: Path, split: Split, roles: Roles = Roles()) -> Data:  # frozen
    """Read a split of a CSV file whose first line names the columns.

    The rows are split 70 to 30, stratified and always the same. Each feature goes to [0, 1] by its mean and standard
    deviation in the training part, so that eps is in standardised units, or by its range there (`scaling.ends`). What
    is beyond is cut off.

    Parameters
    ----------
    path
        The file; columns are parted by commas, semicolons or tabs.
    split
        ``train`` or ``test``.
    roles
        What the columns are.

    Returns
    -------
    Data
        Samples of shape (features,), in the order of the columns; classes are numbered in the order of their names.
        An attack keeps to what the roles allow.

    Raises
    ------
    UserError
        For a file that can't be read, and for cells that are no finite numbers, with line and column.
    """
    import numpy as np

    name = f"csv:{path}"
    head, rows = _read(path, name)
    place = _label_place(head, roles.label, name)
    features = [one for number, one in enumerate(head) if number != place]
    if not features:
        raise UserError(f"{name}: holds the column {head[place]!r} alone: expected features beside the labels")
    told = [row[place].strip() for _, row in rows]
    if (empty := next((line for (line, _), one in zip(rows, told, strict=True) if not one), None)) is not None:
        raise UserError(f"{name}, line {empty}: has no {head[place]!r}: give it a label, or leave the line out")
    classes = _in_order(set(told))
    if len(classes) < 2:
        raise UserError(f"{name}: all rows have the {head[place]} {classes[0]!r}: expected two classes or more")
    values = np.array([[*_numbers(line, row, head, place, name)] for line, row in rows])
    labels = np.array([classes.index(one) for one in told])
    train, test = from_arrays(values.astype(np.float32), labels, name).split(_TEST_SHARE, seed=0)
    low, span = ends(values[train.index.numpy()], roles.scale)
    scaled = (values - low) / span
    cut = int(((scaled < 0) | (scaled > 1)).any(axis=1).sum())
    columns, told_of_roles = _columns(values, low, span, features, roles, [line for line, _ in rows], name)
    notes = [f"{WORDS[roles.scale]}; the label is the column {head[place]!r}"]
    if cut:
        notes.append(f"{cut} of {len(rows)} rows hold values beyond that, which are cut off")
    notes += told_of_roles
    whole = from_arrays(np.clip(scaled, 0.0, 1.0).astype(np.float32), labels, f"{name}/{split}", classes, tuple(notes))
    return replace(whole.take((train if split == "train" else test).index), columns=columns)


def _columns(
    values: np.ndarray[Any, Any],
    low: np.ndarray[Any, Any],
    span: np.ndarray[Any, Any],
    features: Sequence[str],
    roles: Roles,
    lines: Sequence[int],
    name: str,
) -> tuple[Columns | None, list[str]]:
    """What an adversary may do to the features, and how that is told; None and nothing where it may do anything."""
    import torch

    for role, names in (("immutable", roles.immutable), ("integer", roles.integer)):
        for one in names:
            if one not in features:
                raise UserError(f"{name}, option {role}: {unknown('column', one, features)}")
    fixed, whole = ([one in names for one in features] for names in (roles.immutable, roles.integer))
    if all(fixed):
        raise UserError(f"{name}: all {len(fixed)} columns are immutable: expected one that an adversary can change")
    for number in (number for number, one in enumerate(whole) if one):
        broken = values[:, number] != values[:, number].round()
        if broken.any():
            row = int(broken.argmax())
            raise UserError(
                f"{name}, line {lines[row]}, column {features[number]!r}: holds {values[row, number]:g}: expected "
                "whole numbers, as the option integer says; leave it out there"
            )
        if span[number] > MOST_WHOLE:
            raise UserError(
                f"{name}, column {features[number]!r}: from 0 to 1 go {span[number]:,.0f} whole numbers, more "
                f"than {MOST_WHOLE:,}, which 32-bit numbers can't tell apart; leave it out of the option integer"
            )
    notes = []
    if any(fixed):
        notes.append(f"the adversary leaves {sum(fixed)} of {len(fixed)} columns as they are: {_few(roles.immutable)}")
    if any(whole):
        notes.append(f"{sum(whole)} of {len(whole)} columns take whole numbers alone: {_few(roles.integer)}")
    steps, shift = (torch.from_numpy(one) * torch.tensor(whole) for one in (span, low % 1))
    return (Columns(fixed=torch.tensor(fixed), whole=steps, shift=shift) if notes else None), notes


def _few(names: Sequence[str]) -> str:
    told = ", ".join(dict.fromkeys(names[:6]))
    return f"{told}, ..." if len(names) > 6 else told


def _read(path: Path, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows with the number of their line."""
    if not path.is_file():
        raise UserError(f"{name}: no such file; expected a CSV file whose first line names the columns")
    if path.stat().st_size > NPZ_LIMIT:
        raise UserError(f"{name}: is larger than {NPZ_LIMIT / 2**30:.0f} GiB; split it, or give a data set of your own")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(_DELIMITERS, key=first.count))
            lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as fault:
        raise UserError(f"{name}: can't be read as CSV ({fault}); expected text in UTF-8, a row a line") from None
    if len(lines) < 3:
        raise UserError(f"{name}: holds {max(0, len(lines) - 1)} rows: expected names of columns and two rows or more")
    head = [cell.strip() for cell in lines[0][1]]
    if any(map(_is_number, head)):
        raise UserError(f"{name}: its first line holds numbers ({lines[0][1][0]!r}, ...): expected names of columns")
    if twice := sorted({one for one in head if head.count(one) > 1}):
        raise UserError(f"{name}: has the column {twice[0]!r} twice: give one of the two another name")
    for line, row in lines[1:]:
        if len(row) != len(head):
            raise UserError(
                f"{name}, line {line}: has {len(row)} cells: expected {len(head)}, as many as the first line"
            )
    return head, lines[1:]


def _label_place(head: Sequence[str], column: str, name: str) -> int:
    if column:
        if column not in head:
            raise UserError(f"{name}: {unknown('column', column, head)}")
        return head.index(column)
    return next((head.index(one) for one in _LABELS if one in head), len(head) - 1)


def _numbers(line: int, row: Sequence[str], head: Sequence[str], place: int, name: str) -> Iterator[float]:
    """The features of a row."""
    for number, cell in enumerate(row):
        if number == place:
            continue
        if not _is_number(cell):
            what = f"holds {cell!r:.40}" if cell.strip() else "is empty"
            cure = "encode it as numbers" if cell.strip() else "fill it in, or leave the line out"
            raise UserError(f"{name}, line {line}, column {head[number]!r}: {what}: expected a number; {cure}")
        value = float(cell)
        if not math.isfinite(value) or abs(value) > 1e30:
            raise UserError(
                f"{name}, line {line}, column {head[number]!r}: holds {cell!r:.40}: expected a finite number"
            )
        yield value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _in_order(classes: set[str]) -> list[str]:
    """Names of the classes: as numbers where all are, else by the alphabet."""
    return sorted(classes, key=float) if all(map(_is_number, classes)) else sorted(classes)
