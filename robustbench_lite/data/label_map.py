"""Labels that are numbered otherwise than the model's classes: which of its classes each of them is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data

LabelMap = Mapping[int | str, int | str] | str
"""Of the data's labels, by number or name, to the model's classes; or such a map as `parsed` takes it."""

_EXPECTED = "expected pairs LABEL=CLASS, such as '0=3,1=5' or 'cat=3,dog=5', or a file of them, one a line, or JSON"


def parsed(text: str) -> dict[str, str]:
    """Read a label map: ``0=3,1=5`` or ``cat=3,dog=5``, or the path of a file with a pair a line, or of a JSON object.

    Raises
    ------
    UserError
        For anything else.
    """
    source = ""
    if "=" not in text:
        path = Path(text).expanduser()
        try:
            source, text = f"{path}: ", path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as fault:
            raise UserError(f"label map {text!r}: can't be read ({fault}); {_EXPECTED}") from None
    if text.lstrip().startswith("{"):
        try:
            pairs = [(str(key), value) for key, value in json.loads(text).items()]
        except ValueError as fault:
            raise UserError(f"label map {source}is no JSON ({fault}); {_EXPECTED}") from None
        if wrong := [key for key, value in pairs if not isinstance(value, str | int) or isinstance(value, bool)]:
            raise UserError(f"label map {source}{wrong[0]!r} leads to no class; {_EXPECTED}")
        found = [(key, str(value)) for key, value in pairs]
    else:
        parts = [part.strip() for part in re.split(r"[,\n]", text) if part.strip() and not part.strip().startswith("#")]
        if wrong := [part for part in parts if "=" not in part]:
            raise UserError(f"label map {source}{wrong[0]!r} is no pair; {_EXPECTED}")
        split = [part.rpartition("=") for part in parts]
        found = [(label.strip(), number.strip()) for label, _, number in split]
    twice = {label for label, _ in found if sum(label == other for other, _ in found) > 1}
    if twice or not found:
        told = f"{', '.join(sorted(twice))} twice" if twice else "nothing"
        raise UserError(f"label map {source}names {told}; {_EXPECTED}")
    return dict(found)


def relabelled(data: Data, label_map: LabelMap | None, names: Sequence[str] = ()) -> Data:
    """The data with the labels that a model has for their classes.

    Parameters
    ----------
    data
        Its labels are named by number, or by the name of their class.
    label_map
        Of each label in the data, which of the model's classes it is; None leaves the data as they are. Several labels
        may be one class.
    names
        What the model calls its classes, by number, where it names them: a class may then be given by name.

    Raises
    ------
    UserError
        For a label that isn't in the data or not in the map, and for a class that is no number and no known name.
    """
    if label_map is None:
        return data
    given = parsed(label_map) if isinstance(label_map, str) else {str(one): str(to) for one, to in label_map.items()}
    known = {name: label for label, name in enumerate(data.classes)}
    present = sorted(set(data.labels.tolist()))
    numbers: dict[int, int] = {}
    for key, value in given.items():
        label = known.get(key, int(key) if re.fullmatch(r"-?\d+", key) else None)
        if label is None or (label not in present and label >= len(data.classes)):
            held = ", ".join(data.classes[:8] or map(str, present[:8]))
            raise UserError(f"label map: {data.name} has no label {key!r}; it has {held}")
        numbers[label] = _class(value, names)
    if missing := [label for label in present if label not in numbers]:
        called = ", ".join(data.classes[label] if label < len(data.classes) else str(label) for label in missing[:8])
        raise UserError(f"label map: says nothing of {len(missing)} labels of {data.name} ({called}); add them")
    table = torch.zeros(max(present) + 1 - min(0, *present, 0), dtype=torch.int64)
    for label in present:
        table[label] = numbers[label]  # a negative label counts from the end, where nothing else stands
    told = ", ".join(f"{label}={number}" for label, number in sorted(numbers.items())[:8])
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return replace(
        data,
        labels=table[data.labels],
        classes=tuple(names) or _named(data, numbers),
        notes=(*data.notes, f"labels are the model's classes by the map {told}{more}"),
    )


def _class(value: str, names: Sequence[str]) -> int:
    if value in names:
        return list(names).index(value)
    if value.isascii() and value.isdigit():
        return int(value)
    known = f"; the model's classes are {', '.join(names[:8])}" if names else ", as the model doesn't name its own"
    raise UserError(f"label map: {value!r} is no class of the model; expected its number, from 0{known}")


def _named(data: Data, numbers: Mapping[int, int]) -> tuple[str, ...]:
    """Names of the model's classes as far as the data know them; the numbers of the others."""
    if not data.classes:
        return ()
    names = list(map(str, range(max(numbers.values()) + 1)))
    for label, number in numbers.items():
        if label < len(data.classes):
            shared = names[number] != str(number)
            names[number] = f"{names[number]} or {data.classes[label]}" if shared else data.classes[label]
    return tuple(names)
