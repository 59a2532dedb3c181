"""A search as one HTML file: its course, its front, what mattered, and what became of each trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.search import SearchResult

from . import _board, _cell, _search
from .html import environment


def render(
    found: Sequence[Any], *, title: str | None = None, story: Sequence[str] = (), card: str | None = None
) -> str:
    """Show a search on a page.

    Parameters
    ----------
    found
        One `SearchResult`.
    title
        Heading; by default made of the recipe's, the model's and the data's names.
    story
        Paragraphs to show above.
    card
        Where the winner's own page is, as a link leads there from this one.

    Returns
    -------
    str
        One HTML document without script. All that comes from the search is escaped.

    Raises
    ------
    UserError
        For scorecards: this page is about a search.
    """
    if len(found) != 1 or not isinstance(found[0], SearchResult):
        raise UserError("search_page shows a search, not scorecards: rblite report DIR --html FILE, of 'rblite tune'")
    [search] = found
    kind, word, sentence = _search.verdict(search)
    written = _search.network(search)
    page = environment().get_template("search.html")
    return page.render(
        title=title or _search.headline(search),
        story=story,
        search=search,
        card=card,
        kind=kind,
        word=word,
        sentence=sentence,
        tally=_search.tally(search),
        course=_search.course(search),
        fronts=_search.fronts(search),
        front=[one.name for one in search.front] if len(search.objectives) > 1 else (),
        sought=_search.sought(search),
        by_proxy=_search.by_proxy(search),
        parallel=_search.parallel(search),
        reasons=_search.reasons(search),
        told=_search.settings,
        written=written,
        cell=_cell.picture(written),
        board=_board,
    )
