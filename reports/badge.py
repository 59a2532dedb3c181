"""A scorecard as a badge, for a README: an SVG image of its robust accuracy and verdict."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import escape

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.scorecard import Scorecard, Verdict

from ._format import percent, plain

_COLOURS: dict[Verdict, str] = {
    "PASS": "#006b50",
    "FAIL": "#a62c1b",
    "UNDECIDED": "#6f5200",
    "MEASURED": "#0b61a4",
    "INVALID": "#6f5200",
}
_WIDE, _NARROW = "mwMW%@≤", "fijlrtI1 .,:;/()|'"
_LONGEST = 60  # characters


def render(cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = ()) -> str:
    """Draw the badge of one scorecard. Of an INVALID one it shows no number.

    Parameters
    ----------
    cards
        One scorecard.
    title
        What stands on the left; by default ``robust accuracy``.
    story
        Not shown: a badge has no place for it.

    Returns
    -------
    str
        An SVG document, 20 pixels high.

    Raises
    ------
    ValueError
        For another number of scorecards.
    """
    if len(cards) != 1:
        raise UserError(f"a badge shows one scorecard, and {len(cards)} were given; make one for each")
    card = cards[0]
    label, value = _short(plain(title or "").strip() or "robust accuracy"), _short(_value(card))
    left, right = _width(label), _width(value)
    whole, told = left + right, escape(f"{label}: {value}")
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" role="img" aria-label="{told}">
<title>{told}</title>
<clipPath id="r"><rect width="{whole}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)">
<rect width="{left}" height="20" fill="#3c4349"/>
<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[card.verdict]}"/>
</g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{left / 2:g}" y="14" textLength="{left - 12}">{escape(label)}</text>
<text x="{left + right / 2:g}" y="14" textLength="{right - 12}">{escape(value)}</text>
</g>
</svg>
"""


def _value(card: Scorecard) -> str:
    if card.verdict == "INVALID":
        return "evaluation invalid"
    word = "" if card.verdict in ("PASS", "MEASURED") else f" ({card.verdict.lower()})"
    bound = "≤ " if card.interrupted else ""
    threats = ", ".join(plain(str(row.threat)) for row in card.threats)
    return f"{bound}{percent(card.robust_accuracy.value)} under {threats}{word}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _width(text: str) -> int:
    """Pixels that a text takes at 11 pixels, with its margins; the text is then set to this width."""
    return round(sum(4.2 if one in _NARROW else 10 if one in _WIDE else 6.9 for one in text)) + 12
