"""What our own strategies share: a sampler that proposes from the trials so far, and the values of a setting."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from robustbench_lite.searching.space import Axis

_LEVELS = 9  # of a range without end
_TRIES = 50  # to find settings that were not tried yet

Done = Sequence["FrozenTrial"]
"""The trials that came to their end, in the order of their numbers."""

Propose = Callable[["Study", Done, int], dict[str, Any]]
"""Settings as Optuna names them, from the study, its trials so far and a seed."""


def proposing(found: tuple[Axis, ...], seed: int, propose: Propose) -> BaseSampler:
    """Make a sampler of Optuna's that proposes all settings of a trial at once."""
    from optuna.samplers import BaseSampler, RandomSampler
    from optuna.trial import TrialState

    class Proposing(BaseSampler):
        """It is told all the trials that came to their end, and asked for one more."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {axis.key: axis.distribution for axis in found}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return propose(study, study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), seed)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    return Proposing()


def levels(axis: Axis) -> list[Any]:
    """The values of a setting, in order, as Optuna names them; of a range with many of them nine, evenly apart."""
    points = axis.grid()
    if points is not None and (axis.values.choices is not None or len(points) <= _LEVELS):
        return points
    low, high = float(axis.values.low or 0), float(axis.values.high or 0)
    places = [place / (_LEVELS - 1) for place in range(_LEVELS)]
    if axis.values.log:
        spread = [low * (high / low) ** place for place in places]
    else:
        spread = [low + (high - low) * place for place in places]
    if points is None:
        return [min(max(one, low), high) for one in spread]
    return list(dict.fromkeys(min(points, key=lambda point: abs(point - one)) for one in spread))


def level(axis: Axis, named: Any) -> int:
    """The place of a value among the `levels`; of one between two that of the nearer."""
    known = levels(axis)
    if axis.values.choices is not None:
        return known.index(named)
    if axis.values.log:
        return min(range(len(known)), key=lambda place: abs(math.log(known[place] / named)))
    return min(range(len(known)), key=lambda place: abs(known[place] - named))


def untried(done: Done, seed: int, draw: Callable[[Random], dict[str, Any]]) -> dict[str, Any]:
    """Draw settings until they are none of those that were tried, or there seem to be no others."""
    random = Random(zlib.crc32(f"proposal|{seed}".encode()))
    tried = [one.params for one in done]
    proposed = draw(random)
    for _ in range(_TRIES):
        if proposed not in tried:
            break
        proposed = draw(random)
    return proposed


def at_random(found: tuple[Axis, ...], random: Random) -> dict[str, Any]:
    """Settings, each of its levels as likely as any other."""
    return {axis.key: random.choice(levels(axis)) for axis in found}
