"""A search for a terminal of 80 columns: its course, its trials in order, what mattered, and the winner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.scorecard import Interval
from robustbench_lite.results.search import RECIPE, ProxyResult, SearchResult, Trial

from . import _board, _search
from ._format import count, interval, percent, plain

_SHOWN = 20  # trials in the table; the file has all
_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH = 60  # columns of a course or a bar


def render(
    found: Sequence[Any], *, title: str | None = None, story: Sequence[str] = (), quiet: bool = False
) -> RenderableType:
    """Show a search.

    Parameters
    ----------
    found
        One `SearchResult`.
    title
        Heading; by default made of the recipe's, the model's and the data's names.
    story
        Paragraphs to show above.
    quiet
        Whether only the winner is shown.

    Raises
    ------
    UserError
        For scorecards: this is about a search.
    """
    if len(found) != 1 or not isinstance(found[0], SearchResult):
        raise UserError("search shows a search, not scorecards: rblite report DIR, of 'rblite tune'")
    [search] = found
    parts: list[RenderableType] = [] if quiet else [Text(title or _search.headline(search), style="bold"), Text()]
    parts += [Text(paragraph) for paragraph in story]
    if not quiet:
        parts += _trials(search)
        parts += _course(search)
        parts += _importance(search)
        parts += _rivals(search)
    return Group(*parts, *(Text(line) for line in _outcome(search)))


def _trials(found: SearchResult) -> Iterator[RenderableType]:
    where = "on the validation samples"
    if found.finals:
        yield _table(found, found.finals)
        yield Text(f"\nIn full, {where}.\n", style="dim")
    yield _table(found, found.trials[:_SHOWN])
    left = len(found.trials) - _SHOWN
    more = f"; {left} more are in the file" if left > 0 else ""
    head = f"By the proxy, {where}" if found.proxy else where.capitalize()
    yield Text(f"\n{head}{more}. Choosing the best of them makes its number too good.\n", style="dim")


def _table(found: SearchResult, trials: Sequence[Trial]) -> Table:
    drawn = Table(box=None, pad_edge=False, show_edge=False)
    for head in ("", "trial", "settings", "robust", "clean", "passes"):
        drawn.add_column(head, overflow="fold", no_wrap=head in ("", "trial"))
    for place, one in enumerate(trials, 1):
        told = _search.settings(one).replace("|+|", "|\n+|").replace("|, ", "|\n")  # a line for each node of a cell
        if one.can_not_win:
            what = "can't win" if one.state == "done" else one.state
            told += f"\n{what}: {plain(one.can_not_win)}"
        if others := _search.numbers(found, one):
            told += f"\n{others}"
        passes = "-" if one.training_passes is None else f"{one.training_passes:,.0f}"
        cells = (str(place), one.name, told, _share(one.robust), _share(one.clean), passes)
        drawn.add_row(*map(Text, cells), style="" if one.can_win else "dim")
    return drawn


def _course(found: SearchResult) -> Iterator[RenderableType]:
    """The best so far as a line of blocks, from the first trial to the last."""
    best = _search.best_so_far(found.in_order)
    if len(best) < 2:
        return
    thin = best if len(best) <= _WIDTH else [best[place * (len(best) - 1) // (_WIDTH - 1)] for place in range(_WIDTH)]
    blocks = "".join(" " if one is None else _LEVELS[min(7, int(8 * one))] for one in thin)
    last = "none can win" if best[-1] is None else f"{percent(best[-1])} robust"
    yield Text(f"Best so far {blocks} {last}")
    if len(found.front) > 1:
        both = " both" if len(found.sought) == 2 else ""
        yield Text(
            f"Front       {', '.join(one.name for one in found.front)}: none beats them in "
            f"{_search.sought(found)}{both}"
        )
    for why, names in _search.reasons(found):
        told = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        yield Text(f"Out         {told}: {plain(why)}")
    yield Text()


def _importance(found: SearchResult) -> Iterator[RenderableType]:
    for evaluator, shares in found.importance.items():
        drawn = Table.grid(padding=(0, 1))
        for name, share in shares.items():
            drawn.add_row(Text(plain(name)), Text("█" * round(30 * share) or "▏"), Text(percent(share)))
        yield Text(f"Importance by {plain(evaluator)}; of few trials a hint and no more", style="dim")
        yield drawn
        yield Text()


def _rivals(found: SearchResult) -> Iterator[RenderableType]:
    """The board of ``rblite auto``."""
    if not found.board:
        return
    drawn = Table(box=None, pad_edge=False, show_edge=False)
    for head in ("", "model", "robust", "clean"):
        drawn.add_column(head, overflow="fold")
    for place, one in enumerate(found.board, 1):
        who = f"{plain(one.name)}\n{plain(_board.told(found, one))}".rstrip()
        cells = (str(place), who, _share(one.robust), _share(one.clean))
        drawn.add_row(*map(Text, cells), style="" if one.robust else "dim")
    yield drawn
    yield Text(f"\n{_board.note(found)}\n", style="dim")


def _outcome(found: SearchResult) -> Iterator[str]:
    if found.beforehand is not None:
        told = found.beforehand
        yield f"Beforehand {plain(told.told)}; {count(told.passes)} passes of training"
    if found.proxy is not None:
        yield _proxy(found.proxy)
    if found.fresh is None or found.fall is None:
        yield _search.verdict(found)[2]
        return
    fresh, fall = found.fresh, found.fall
    yield (
        f"Winner     {found.winner}: on fresh samples, by {plain(fresh.suite)}, {fresh.robust} robust and "
        f"{fresh.clean} clean"
    )
    if (written := _search.network(found)) is not None:
        yield f"Network    {plain(written)}"
    yield (
        f"Fall       {100 * fall.by:z.1f} points [{100 * fall.low:z.1f}, {100 * fall.high:z.1f}] from validation "
        f"({fall.validation}) to fresh samples ({fall.fresh}), under the search's own attack"
    )
    if found.passed_over:
        yield f"Left out   {', '.join(found.passed_over)}: the evaluation on fresh samples can't be trusted"
    yield f"Recipe     {_against(found)}"


def _against(found: SearchResult) -> str:
    if found.winner == RECIPE:
        return "the recipe as it is wins: the search found nothing better"
    if found.against_recipe is None:
        return "the recipe as it is failed, so there is nothing to compare with"
    what = "better than" if found.found_better else "not shown to be better than"
    return f"{what} the recipe as it is, on the same samples: {plain(found.against_recipe.why)}"


def _proxy(found: ProxyResult) -> str:
    order = "too few finalists to tell whether it tells the order of full runs"
    if found.correlation is not None:
        order = (
            f"Spearman's rank correlation of its order with that of {len(found.pairs)} full runs is "
            f"{found.correlation:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
        )
    saved = "" if found.passes_in_full is None else f" in the place of about {count(found.passes_in_full)}"
    return f"Proxy      {plain(found.told)}; {order}; {count(found.passes)} passes of training{saved}"


def _share(value: Interval | None) -> str:
    return "-" if value is None else f"{percent(value.value)}\n{interval(value)}"
