"""The one exception for what a user can put right, and the text of a file's faults."""

from __future__ import annotations

import reprlib

from pydantic import ValidationError

_TELL_WHAT_WAS_GIVEN = ("value_error", "extra_forbidden")  # of themselves, or by the key


class UserError(ValueError):
    """Something given was wrong. The message says what was given, what was expected, and what to do.

    A `ValueError`, so Python callers catch what they would expect; the CLI shows the message alone and exits with 2.
    """


def faults(error: ValidationError) -> str:
    """All faults of a file, one a line, each with its key."""
    lines = []
    told = error.errors()
    places = [fault["loc"] for fault in told]
    for fault in told:
        place = fault["loc"]
        if fault["type"] == "too_short" and any(one != place and one[: len(place)] == place for one in places):
            continue  # its entries are faulty, not too few
        key = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        given = fault["input"]
        # Of what fits into a line; Python refuses to write a number of thousands of digits.
        short = given.bit_length() <= 64 if isinstance(given, int) else isinstance(given, str | float | None)
        if short and fault["type"] not in _TELL_WHAT_WAS_GIVEN:
            message += f" (given: {reprlib.repr(given)})"
        lines.append(f"  {key}: {message}" if key else f"  {message}")
    return "\n".join(lines)
