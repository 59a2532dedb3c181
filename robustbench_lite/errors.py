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
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"  {key}: {message}" if key else f"  {message}")
    return "\n".join(lines)
