"""The board of ``rblite auto`` in words."""

from __future__ import annotations

from robustbench_lite.results.search import RECIPE, Entrant, SearchResult


def told(found: SearchResult, one: Entrant) -> str:
    """What a model on the board is, and what stands against its numbers."""
    if not one.own:
        kind = one.fault or ""
    elif one.name == RECIPE:
        kind = "the recipe as it is, and the winner" if found.winner == RECIPE else "the recipe as it is"
    else:
        kind = "the winner"
    doubt = one.verdict if one.verdict == "INVALID" else ""
    return "; ".join(part for part in (kind, doubt) if part)


def note(found: SearchResult) -> str:
    """What the board's numbers are."""
    suite = next((one.suite for one in found.board if one.suite), "one suite")
    return f"All by {suite}, which sees scores alone: gradients, by which the winner is judged, find more."
