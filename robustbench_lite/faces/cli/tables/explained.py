"""What explanations tell, in 80 columns, for ``rblite explain``."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from robustbench_lite.results.explained import Explained, MethodResult
from robustbench_lite.results.scorecard import Measured

_CALLED = 29  # columns of a number's name
_TERMS = 3  # properties that are told of


def report(found: Explained) -> RenderableType:
    """What broke, which samples break, and how stable each method is."""
    parts: list[RenderableType] = [
        Text(f"Why {found.target} failed", style="bold"),
        Text(
            f"{found.broken:,} samples broken, {len(found.exhibits)} explained; robust accuracy {found.robust_accuracy}"
        ),
        Text(),
        Text(found.reasons.words),
        *(Padding(Text(line), (0, 0, 0, 2), expand=False) for line in _terms(found)),
    ]
    for method in found.methods:
        parts += [Text(), Text(f"{method.name}  {_cost(method)}", style="bold")]
        parts += [Padding(Text(_number(one)), (0, 0, 0, 2), expand=False) for one in method.numbers]
        if method.left_out:
            parts.append(Padding(Text(method.left_out, style="dim"), (0, 0, 0, 2), expand=False))
    for one in found.left_out:
        parts += [Text(), Text(f"{one.name}  not run: it {one.reason}")]
    spent = f"{found.passes.forward:,} passes forward, {found.passes.backward:,} backward, {found.seconds:.0f}s"
    return Group(*parts, Text(), Text(spent, style="dim"))


def _terms(found: Explained) -> Iterator[str]:
    """How often the quarters break that lie farthest apart, of the properties that tell most."""
    if not found.reasons.found:
        return
    for term in found.reasons.terms[:_TERMS]:
        groups = sorted(term.groups, key=lambda group: group.broken.value)
        most, least = groups[-1], groups[0]
        yield (
            f"{term.name}: {most.label}: {most.broken.value:.0%} of {most.broken.total} broken; "
            f"{least.label}: {least.broken.value:.0%} of {least.broken.total}"
        )


def _cost(method: MethodResult) -> str:
    return f"({method.passes.forward:,} + {method.passes.backward:,} passes, {method.seconds:.1f}s)"


def _number(one: Measured) -> str:
    ends = f" [{one.low:.3g}, {one.high:.3g}]" if one.low is not None and one.high is not None else ""
    return f"{one.name:{_CALLED}}{f'{one.value:.3g}{ends}':24} {one.better} is better"
