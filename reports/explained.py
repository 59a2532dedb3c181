"""Why samples broke, as far as explanations tell, as one HTML file: pictures, numbers, and which ones break."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.explained import Exhibit, Explained, Heat, MethodResult, Term
from robustbench_lite.results.scorecard import Measured

from ._png import Picture, picture
from .html import environment

_PICTURES = 1_400_000  # bytes of pictures on a page, so that it stays under 2 MB
_CLASSES = 20  # more than that and those that break most are shown
_NUMBERS = {
    "attribution_spearman": "rank correlation",
    "attribution_overlap": "overlap of the largest tenth",
    "attribution_sensitivity": "Max-Sensitivity",
    "attribution_input_stability": "relative input stability",
}
"""Columns of the table, by measure."""


@dataclass(frozen=True)
class Shown:
    """A broken sample with its pictures, checked."""

    exhibit: Exhibit
    original: Picture | None
    adversarial: Picture | None
    heats: tuple[tuple[Heat, Picture | None, Picture | None], ...]


@dataclass(frozen=True)
class Line:
    """What the glass-box model adds to the log-odds of breaking, drawn in a box of 100 by 100."""

    line: str
    band: str
    zero: float
    """Where nothing is added, from the top."""
    low: float
    high: float
    start: float
    end: float


def render(found: Sequence[Any], *, title: str | None = None, story: Sequence[str] = ()) -> str:
    """Show what explanations tell on a page.

    Parameters
    ----------
    found
        One `Explained`.
    title
        Heading; by default made of the target's name.
    story
        Paragraphs to show above.

    Returns
    -------
    str
        One HTML document without script. All that comes from outside is escaped, and pictures are checked to be some.

    Raises
    ------
    UserError
        For scorecards: this page is about explanations.
    """
    if len(found) != 1 or not isinstance(found[0], Explained):
        raise UserError("explained shows explanations, not scorecards: rblite explain CARD --html FILE")
    [explained] = found
    shown = list(_shown(explained.exhibits))
    return (
        environment()
        .get_template("explained.html")
        .render(
            title=title or f"Why it failed: {explained.target}",
            story=story,
            found=explained,
            shown=shown,
            hidden=len(explained.exhibits) - len(shown),
            columns=list(_NUMBERS.values()),
            rows=[(one, _cells(one)) for one in explained.methods],
            definitions=_definitions(explained.methods),
            terms=[(one, _line(one)) for one in explained.reasons.terms],
            classes=_CLASSES,
        )
    )


def _shown(exhibits: Sequence[Exhibit]) -> Iterator[Shown]:
    """Exhibits as long as there is room for their pictures."""
    room = _PICTURES
    for one in exhibits:
        shown = Shown(
            one,
            picture(one.original),
            picture(one.adversarial),
            tuple((heat, picture(heat.clean), picture(heat.adversarial)) for heat in one.heats),
        )
        pictures = [shown.original, shown.adversarial, *(each for _, *pair in shown.heats for each in pair)]
        room -= sum(len(each.uri) for each in pictures if each)
        if room < 0:
            return
        yield shown


def _cells(method: MethodResult) -> list[Measured | None]:
    taken = {one.name: one for one in method.numbers}
    return [taken.get(name) for name in _NUMBERS]


def _definitions(methods: Sequence[MethodResult]) -> list[tuple[str, str]]:
    """What the numbers mean, by their column; of those that were taken."""
    told = {one.name: one.definition for method in methods for one in method.numbers}
    return [(called, told[name]) for name, called in _NUMBERS.items() if name in told]


def _line(term: Term) -> Line | None:
    """Draw what a property adds; each step as wide as any other, as each holds about as many samples."""
    steps = term.steps
    if not steps:
        return None
    low, high = min(0.0, *(one.low for one in steps)), max(0.0, *(one.high for one in steps))
    span = (high - low) or 1.0

    def stairs(values: Sequence[float]) -> list[str]:
        width = 100 / len(values)
        corners = [(place * width, (place + 1) * width, 100 * (high - one) / span) for place, one in enumerate(values)]
        return [f"{x:.2f},{y:.2f}" for left, right, y in corners for x in (left, right)]

    return Line(
        line=" ".join(stairs([one.score for one in steps])),
        band=" ".join([*stairs([one.high for one in steps]), *reversed(stairs([one.low for one in steps]))]),
        zero=round(100 * high / span, 2),
        low=low,
        high=high,
        start=steps[0].start,
        end=steps[-1].end,
    )
