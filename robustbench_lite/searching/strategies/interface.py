"""What a strategy is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.extras import library

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from robustbench_lite.hardening.pipeline import Listeners
    from robustbench_lite.searching.space import Axis
    from robustbench_lite.searching.trials import Job

BEFOREHAND = "beforehand"
"""Where a study keeps what a strategy did before the first trial."""

STARTUP = 5
"""Trials at random before a model of them is made: a search of trainings has tens, and libraries count on hundreds."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Proposes the settings of the next trial."""

    make: Callable[[tuple[Axis, ...], int], BaseSampler]
    """What makes Optuna's sampler of the settings and a seed."""
    needs: tuple[str, ...] = ()
    """Libraries beside Optuna."""
    extra: str = "tune"
    """The extra of this package that brings them."""
    constrained: bool = True
    """Whether it knows of constraints. To one that doesn't, a trial that can't win is told as one without any robust
    accuracy."""
    several: bool = False
    """Whether it can seek a front of several objectives."""
    in_order: bool = False
    """Whether all trials share one order of points, as those of a grid do."""
    unfit: Callable[[Job], str | None] | None = None
    """Says why it can't do a search, None where it can; asked before anything runs."""
    beforehand: Callable[[Job, Listeners], Mapping[str, Any]] | None = None
    """What it does once, before the first trial. What comes of it is kept on the study, as ``beforehand``; ``passes``
    and ``seconds`` in it are what it cost, and ``told`` what it was."""

    def sampler(self, found: tuple[Axis, ...], seed: int, number: int) -> BaseSampler:
        """Make the sampler for one trial.

        It is made anew each time, from the seed and the trial's number: so it proposes the same whether the search was
        killed before or not, and several processes don't propose the same.
        """
        return self.make(found, seed if self.in_order else zlib.crc32(f"{seed}|{number}".encode()))


def find_strategy(name: str) -> Strategy:
    """Find a strategy by its name.

    Raises
    ------
    UserError
        For an unknown name, and where a library is missing.
    """
    if name not in registry.names("strategies"):
        raise UserError(registry.unknown("sampler", name, registry.names("strategies")))
    who = f"a search with {name}"
    library("optuna", who, "pip install 'robustbench_lite[tune]'")
    found: Strategy = registry.find("strategies", name)
    for needed in found.needs:
        library(needed, who, f"pip install 'robustbench_lite[{found.extra}]'")
    return found
