"""Geometry of a cell's picture: four nodes in a row, and an arc for each edge that is there."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SHORT = {
    "skip_connect": "skip",
    "nor_conv_1x1": "conv 1x1",
    "nor_conv_3x3": "conv 3x3",
    "avg_pool_3x3": "pool 3x3",
}
_APART = 150  # pixels from node to node
_LEFT, _LINE = 30, 120  # of the first node
_RISE = 44  # of an arc, for each node that it goes over
_OUT = "none"


@dataclass(frozen=True)
class Arc:
    """An edge of the cell."""

    path: str
    """As SVG draws it."""
    x: float
    """Of its label, as ``y``."""
    y: float
    label: str


@dataclass(frozen=True)
class Picture:
    """A cell."""

    nodes: tuple[tuple[int, str], ...]
    """Where each stands, and what it is called."""
    arcs: tuple[Arc, ...]
    line: int = _LINE
    width: int = 2 * _LEFT + 3 * _APART
    height: int = _LINE + 30


def picture(words: str | None) -> Picture | None:
    """Draw a cell that is written as NAS-Bench-201 writes it; None for anything else."""
    ends = (words or "").split("+")
    if len(ends) != 3 or not all(re.fullmatch(r"\|(?:\w+~\d\|)+", one) for one in ends):
        return None
    arcs = []
    for end, edges in enumerate(ends, 1):
        for name, start in re.findall(r"(\w+)~(\d)", edges):
            if name != _OUT:
                arcs.append(_arc(int(start), end, _SHORT.get(name, name)))
    named = ((_LEFT, "in"), (_LEFT + _APART, "1"), (_LEFT + 2 * _APART, "2"), (_LEFT + 3 * _APART, "out"))
    return Picture(named, tuple(arcs))


def _arc(start: int, end: int, label: str) -> Arc:
    """One between neighbours is a line, the others rise with what they go over."""
    left, right = _LEFT + start * _APART, _LEFT + end * _APART
    middle, rise = (left + right) / 2, (end - start - 1) * _RISE
    # A quadratic curve is half as high as its middle point.
    return Arc(f"M{left} {_LINE}Q{middle:g} {_LINE - 2 * rise} {right} {_LINE}", middle, _LINE - rise - 6, label)
