"""Regularised evolution: the best of a few of the young has a child that differs in one setting.

References
----------
Real, Aggarwal, Huang and Le, *Regularized evolution for image classifier architecture search*, AAAI 2019.
https://arxiv.org/abs/1802.01548
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from robustbench_lite.searching.strategies.interface import Strategy
from robustbench_lite.searching.strategies.proposals import Done, at_random, level, levels, proposing, untried

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from robustbench_lite.searching.space import Axis

_POPULATION = 8  # of a search of tens of trials; the paper's 100 is made for thousands
_SAMPLE = 4  # of them that compete to be the parent


def propose(found: tuple[Axis, ...], done: Done, seed: int) -> dict[str, Any]:
    """Settings of the next child, or at random until there is a population.

    The population are the last trials: whoever is old dies, however good. One that was lucky once is so forgotten,
    unless its children are good as well.
    """

    def child(random: Random) -> dict[str, Any]:
        if len(done) < _POPULATION:
            return at_random(found, random)
        parent = max(random.sample(list(done[-_POPULATION:]), _SAMPLE), key=lambda one: float(one.value or 0.0))
        return _mutated(found, parent.params, random)

    return untried(done, seed, child)


def _mutated(found: tuple[Axis, ...], parent: dict[str, Any], random: Random) -> dict[str, Any]:
    """The parent with one setting changed: a choice to any other, a number to the next level below or above."""
    axis = random.choice(found)
    known, place = levels(axis), level(axis, parent[axis.key])
    if axis.values.choices is not None:
        others = [one for number, one in enumerate(known) if number != place]
    else:
        others = [known[near] for near in (place - 1, place + 1) if 0 <= near < len(known)]
    return parent | {axis.key: random.choice(others)}


def _sampler(found: tuple[Axis, ...], seed: int) -> BaseSampler:
    return proposing(found, seed, lambda _, done, drawn: propose(found, done, drawn))


EVOLUTION = Strategy(make=_sampler, constrained=False)
