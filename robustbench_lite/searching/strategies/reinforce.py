"""A controller, trained by policy gradient: what a good trial had drawn becomes likelier.

References
----------
Zoph and Le, *Neural architecture search with reinforcement learning*, ICLR 2017. https://arxiv.org/abs/1611.01578
Williams, *Simple statistical gradient-following algorithms for connectionist reinforcement learning*, 1992.
https://doi.org/10.1007/BF00992696
"""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Any

from robustbench_lite.searching.strategies.interface import Strategy
from robustbench_lite.searching.strategies.proposals import Done, level, levels, proposing, untried

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from robustbench_lite.searching.space import Axis

_RATE = 0.7  # of the controller; the paper's is made for thousands of trials
_MEMORY = 0.8  # of the baseline, the moving mean of the rewards

Policy = dict[str, list[float]]
"""The probability of each level, by setting."""


def policy(found: tuple[Axis, ...], done: Done) -> Policy:
    """Train the controller anew on the trials so far, in their order: so nothing of it is lost by a kill.

    As there are tens of trials, an advantage counts in standard deviations of the rewards so far, whatever their scale.
    """
    logits = {axis.key: [0.0] * len(levels(axis)) for axis in found}
    baseline, spread = 0.0, 0.0
    for number, trial in enumerate(done):
        reward = float(trial.value or 0.0)
        baseline = baseline if number else reward
        advantage = reward - baseline
        spread += (advantage**2 - spread) / (number or 1)
        scaled = advantage / math.sqrt(spread) if spread else 0.0
        for axis in found:
            own, drawn = logits[axis.key], level(axis, trial.params[axis.key])
            # The gradient of the log-probability of a draw is its indicator less the probabilities.
            for place, share in enumerate(_softmax(own)):
                own[place] += _RATE * scaled * ((place == drawn) - share)
        baseline = _MEMORY * baseline + (1 - _MEMORY) * reward
    return {key: _softmax(own) for key, own in logits.items()}


def drawn_by(probabilities: Policy, found: tuple[Axis, ...], random: Random) -> dict[str, Any]:
    """Draw each setting by its probabilities."""
    return {axis.key: random.choices(levels(axis), probabilities[axis.key])[0] for axis in found}


def _softmax(logits: list[float]) -> list[float]:
    most = max(logits)
    weights = [math.exp(one - most) for one in logits]
    return [one / sum(weights) for one in weights]


def _propose(found: tuple[Axis, ...], done: Done, seed: int) -> dict[str, Any]:
    learnt = policy(found, done)
    return untried(done, seed, lambda random: drawn_by(learnt, found, random))


def _sampler(found: tuple[Axis, ...], seed: int) -> BaseSampler:
    return proposing(found, seed, lambda _, done, drawn: _propose(found, done, drawn))


REINFORCE = Strategy(make=_sampler, constrained=False)
