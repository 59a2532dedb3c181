"""Errors: what a user can put right, what a model raised, memory that ran out; and the text of a file's faults."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHOW_THE_INPUT = ("value_error", "extra_forbidden")  # their messages, or their keys, show the input already

_MEANT = {"fast": "quick", "full": "exhaustive", "thorough": "exhaustive", "default": "standard"}
"""Words that people use in names for those of ours."""


class UserError(ValueError):
    """Something given was wrong. The message says what was given, what was expected, and what to do.

    A `ValueError`, so Python callers catch what they would expect; the CLI shows the message alone and exits with 2.
    """


class ModelError(Exception):
    """The model's own code raised something. The message says what, where, and on which batch.

    Parameters
    ----------
    message
        As above.
    fatal
        Whether the code meant to end the program (``sys.exit``), so that asking again makes no sense.
    """

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


def out_of_memory(fault: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    text = str(fault).lower()
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(fault).__mro__)  # torch's, which isn't loaded here
    return named or isinstance(fault, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def faults(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """All faults of a file, one a line, each with its key; what a misspelt key may have meant, by the file's model."""
    lines = []
    told = error.errors()
    places = [fault["loc"] for fault in told]
    for fault in told:
        place = fault["loc"]
        if fault["type"] == "too_short" and any(one != place and one[: len(place)] == place for one in places):
            continue  # its entries are faulty, not too few
        key = ".".join(str(part) for part in place)
        if fault["type"] == "extra_forbidden" and (known := _keys(model, place[:-1])):
            message = unknown("key", str(place[-1]), known)
        else:
            message = in_our_words(fault)
        given = fault["input"]
        # Of what fits into a line; Python refuses to write a number of thousands of digits.
        short = given.bit_length() <= 64 if isinstance(given, int) else isinstance(given, str | float | None)
        if short and fault["type"] not in _SHOW_THE_INPUT:
            message += f" (given: {reprlib.repr(given)})"
        lines.append(f"  {key}: {message}" if key else f"  {message}")
    return "\n".join(lines)


def _keys(model: Any, place: Sequence[str | int]) -> list[str]:
    """Keys that a table of a file may hold; none where no model says so."""
    for part in place:
        if isinstance(part, str) and model is not None:
            field = model.model_fields.get(part)
            model = None if field is None else next(_models(field.annotation), None)
    return [] if model is None else list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in a type, such as that in ``tuple[Step, ...] | None``."""
    if isinstance(annotation, type) and not get_args(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation
    else:
        for part in get_args(annotation):
            yield from _models(part)


def in_our_words(fault: ErrorDetails) -> str:
    """What pydantic says of a fault, as a user reads it."""
    if fault["type"] == "extra_forbidden":
        return "unknown key; take it out"
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] == "too_short":
        return f"has {fault['ctx']['actual_length']} entries; expected at least {fault['ctx']['min_length']}"
    message = fault["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "expected", 1) if message.startswith("Input should be") else message


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Text of the error for an unknown name: the nearest ones, or all there are."""
    known = list(known)
    lowered = {one.lower(): one for one in known}
    meant = "_".join(_MEANT.get(part, part) for part in name.lower().split("_"))
    near = [meant] if meant in lowered else difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    family = name.lower().partition("_")[0] + "_"  # of "linf_quik" those of Linf alone
    near = [one for one in near if one.startswith(family)] or near
    near = [lowered[one] for one in near] or [one for key, one in lowered.items() if name and name.lower() in key][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known) or '(none)'}"
    return f"unknown {kind} {name!r}: {hint}"


def why(fault: Exception) -> str:
    """What went wrong with a folder or a file, in words; without the number of the error and the path."""
    if isinstance(fault, FileExistsError | NotADirectoryError):
        return "there is a file of that name"
    return (fault.strerror if isinstance(fault, OSError) else None) or str(fault)
