"""The one exception for what a user can put right, and the text of a file's faults."""

from __future__ import annotations

from pydantic import ValidationError


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
        lines.append(f"  {key}: {message}" if key else f"  {message}")
    return "\n".join(lines)
