"""What was found in data themselves, as one HTML file: the samples that are told of, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.data_quality import DataQuality, Fault, Suspect

from ._png import Picture, picture
from .html import environment

_NAMED = 200  # samples of a fault that stand on the page


@dataclass(frozen=True)
class Exhibit:
    """A sample, with its picture and that of the one it resembles, where they can be shown."""

    suspect: Suspect
    picture: Picture | None
    other: Picture | None


@dataclass(frozen=True)
class Section:
    """A fault and its samples."""

    fault: Fault
    shown: list[Exhibit]
    """Those with a picture."""
    named: list[Suspect]
    """Those without."""
    hidden: int
    """Samples that are left out."""


def render(found: Sequence[Any], *, title: str | None = None, story: Sequence[str] = ()) -> str:
    """Show what was found in data on a page.

    Parameters
    ----------
    found
        One `DataQuality`.
    title
        Heading; by default made of the data's name.
    story
        Paragraphs to show above.

    Returns
    -------
    str
        One HTML document without script. All that comes from the data is escaped, and pictures are checked to be some.

    Raises
    ------
    UserError
        For scorecards: this page is about data.
    """
    if len(found) != 1 or not isinstance(found[0], DataQuality):
        raise UserError("contact_sheet shows data, not scorecards: rblite doctor --data D --html FILE")
    [quality] = found
    return (
        environment()
        .get_template("contact_sheet.html")
        .render(
            title=title or f"Data: {quality.data}",
            story=story,
            quality=quality,
            sections=[_section(fault) for fault in quality.faults],
        )
    )


def _section(fault: Fault) -> Section:
    exhibits = [Exhibit(one, picture(one.picture), picture(one.other)) for one in fault.suspects[:_NAMED]]
    return Section(
        fault,
        [one for one in exhibits if one.picture],
        [one.suspect for one in exhibits if not one.picture],
        max(0, len(fault.suspects) - _NAMED),
    )
