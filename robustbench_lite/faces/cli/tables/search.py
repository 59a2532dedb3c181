"""What ``rblite tune`` prints: the trials in order, and the winner on fresh samples."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustbench_lite.results.scorecard import Interval
from robustbench_lite.results.search import ProxyResult
from robustbench_lite.searching.judgement import Judged
from robustbench_lite.searching.trials import Tried

OF_TRIALS = "On the validation samples"

_SHOWN = 20  # trials in the table; the file has all


def table(trials: Sequence[Tried], told: str = OF_TRIALS) -> RenderableType:
    """The trials, the best on the validation samples first, for a terminal of 80 columns."""
    drawn = Table(box=None, pad_edge=False, show_edge=False)
    for head in ("", "trial", "settings", "robust", "clean", "passes"):
        drawn.add_column(head, overflow="fold", no_wrap=head in ("", "trial"))
    for place, one in enumerate(trials[:_SHOWN], 1):
        settings = ", ".join(f"{key} {_value(value)}" for key, value in one.values.items()) or "the recipe as it is"
        if one.out:
            settings += f"\n{one.state}: {one.out}" if one.state != "done" else f"\ncan't win: {one.out}"
        passes = "-" if one.passes is None else f"{one.passes:,.0f}"
        cells = (str(place), one.name, settings, _share(one.robust), _share(one.clean), passes)
        drawn.add_row(*map(Text, cells), style="" if one.can_win else "dim")
    left = len(trials) - _SHOWN
    note = told + (f"; {left} more are in the file" if left > 0 else "")
    return Group(drawn, Text(f"\n{note}. Choosing the best of them makes its number too good.\n", style="dim"))


def by_proxy(found: ProxyResult) -> RenderableType:
    """How well the cheap runs told the order of the full ones."""
    if found.correlation is None or found.low is None or found.high is None:
        order = "too few finalists to tell whether it tells the order of full runs"
    else:
        order = (
            f"its order and that of {len(found.pairs)} full runs: Spearman's rank correlation "
            f"{found.correlation:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
        )
    cost = f"{found.passes:,.0f} passes of training"
    if found.passes_in_full is not None:
        cost += f" in the place of about {found.passes_in_full:,.0f}"
    return Text(f"Proxy      {found.told}; {order}; {cost}\n")


def judgement(judged: Judged | None) -> RenderableType:
    """The winner on samples that the search never saw."""
    if judged is None:
        return Text("No trial can win: none came to its end, can be trusted, and keeps the floor of clean accuracy.")
    card, fall = judged.card, judged.fall
    lines = [
        f"Winner     {judged.winner.name}: on fresh samples, by {card.suite.name}, {card.robust_accuracy} robust and "
        f"{card.clean_accuracy} clean",
        f"Fall       {fall.by:+.1%} [{fall.low:+.1%}, {fall.high:+.1%}] from validation ({fall.validation}) to fresh "
        f"samples ({fall.fresh}), under the search's own attack",
    ]
    if judged.passed_over:
        lines.append(f"Left out   {', '.join(judged.passed_over)}: the evaluation on fresh samples can't be trusted")
    lines.append("Recipe     " + _against(judged))
    return Group(*(Text(line) for line in lines))


def _against(judged: Judged) -> str:
    if judged.winner.name == "recipe":
        return "the recipe as it is wins: the search found nothing better"
    if judged.gain is None:
        return "the recipe as it is failed, so there is nothing to compare with"
    found = "better than" if judged.found_better else "not shown to be better than"
    return f"{found} the recipe as it is, on the same samples: {judged.gain.why}"


def _share(value: Interval | None) -> str:
    return "-" if value is None else f"{value.value:.1%}\n[{value.low:.1%}, {value.high:.1%}]"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
