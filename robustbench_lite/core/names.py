"""Words: names in lines of a terminal, broken after what parts their words where that can be; and nouns with counts."""

from __future__ import annotations

import re
from collections.abc import Callable

_WORDS = re.compile(r"[^\s:./_-]+[\s:./_-]*|[\s:./_-]+")


def plural(value: int, noun: str) -> str:
    """A count and its noun, such as ``1 sample`` or ``12 samples``."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def name_parts(text: str) -> list[str]:
    """Parts of a name that stay together: ``pkg.models:build`` is ``pkg.``, ``models:`` and ``build``."""
    return _WORDS.findall(text)


def name_lines(text: str, width: int, cells: Callable[[str], int] = len) -> list[str]:
    """Break a name into lines.

    Parameters
    ----------
    text
        The name.
    width
        Cells of a line, 1 or more. A part that is longer is cut.
    cells
        How many cells a text takes.
    """
    lines = [""]
    for part in name_parts(text):
        if lines[-1] and cells(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
        while cells(lines[-1].rstrip()) > width and len(lines[-1].rstrip()) > 1:
            fits = next(end for end in range(len(lines[-1]), 0, -1) if end == 1 or cells(lines[-1][:end]) <= width)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return [line.rstrip() for line in lines]
