"""How long a training and a judgement take here, measured on a few samples: by it a budget of time is divided."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.hardening.preparation import Plan
from robustbench_lite.hardening.training import train

_FEW_TRAIN, _FEW_TEST = 256, (12, 48, 192)
_MEASURING = 0.01  # of the time: what a judgement may take for one of four times as many samples to be measured, too
_ROBUST = 2.0  # times as long as the judgement of a network that has learnt for one epoch
_LARGER = 1.5  # times as long as the first network's trainings, on average, as the search tries larger ones
_LEAST_TRAIN, _LEAST_TEST = 100, 100  # samples: with fewer, no number is worth its time
_TRAININGS, _JUDGEMENTS = 0.15, 0.15  # of the time: a training at most, and a judgement


@dataclass(frozen=True)
class Pace:
    """Seconds."""

    train: float
    """Of a sample, in a whole training."""
    judge: float
    """Of a sample, in a judgement by the suite."""
    checks: float
    """Of a judgement, however many samples there are."""


@dataclass(frozen=True)
class Shares:
    """How a budget is divided."""

    limit_train: int | None
    """Samples to learn from; None: all."""
    limit: int | None
    """Samples that judge; None: all."""
    training: float
    """Seconds that a training takes, as far as is known."""
    judgement: float
    """Seconds that judging a model takes."""

    @property
    def at_the_end(self) -> float:
        """Seconds to keep for the trial that is under way when the time is over, and for what is judged then."""
        return _LARGER * self.training + 2.5 * self.judgement


def measure(plan: Plan, seconds: float) -> Pace:
    """Train for an epoch on a few samples, and judge what came out on a few.

    Parameters
    ----------
    plan
        What is trained, how, and what judges it; of the recipe the last step counts.
    seconds
        The time that there is.
    """
    few, recipe = plan.known.stratified(_FEW_TRAIN, 0), plan.recipe
    spec = recipe.chain[-1]
    schedule = (spec.schedule or recipe.schedule).model_copy(update={"epochs": 1})
    learn, probe = few.split(schedule.held_out, 0)
    defense = registry.build("defenses", spec.name, spec.params)
    epochs = (spec.schedule or recipe.schedule).epochs
    for _ in range(2):  # the first one is slower than all that follow
        started = time.perf_counter()
        trained = train(plan.target, defense, schedule, recipe.threat, learn, probe).target
        took = time.perf_counter() - started
    times: list[float] = []
    # The checks look at some dozens of samples: only past these a sample costs what each of thousands does.
    for size in _FEW_TEST:
        if len(times) > 1 and (times[-1] > _MEASURING * seconds or size > len(plan.test)):
            break
        started = time.perf_counter()
        evaluate(trained, plan.test.stratified(size, 0), plan.suite, recipe.threat)
        times.append(time.perf_counter() - started)
    return Pace(took * epochs / len(few), *by_size(times))


def by_size(times: Sequence[float]) -> tuple[float, float]:
    """Seconds of a sample and of the checks in a judgement, by the two largest that were measured."""
    (fewer, some), (more, all_) = list(zip(_FEW_TEST, times, strict=False))[-2:]
    each = max(0.0, all_ - some) / (more - fewer)
    return _ROBUST * each, max(0.0, some - fewer * each)


def divide(seconds: float, pace: Pace, learnt: int, judged: int, chosen: tuple[int | None, int | None]) -> Shares:
    """Divide a budget: as many samples as it has time for.

    Parameters
    ----------
    seconds
        Of the search, its judgements included.
    learnt, judged
        Samples that there are to learn from, and to judge by.
    chosen
        How many of both the caller wants; None: as many as the time allows.

    Raises
    ------
    UserError
        Where the time isn't enough for the recipe as it is and one trial.
    """
    wanted = min(learnt, chosen[0] or learnt), min(judged, chosen[1] or judged)
    fit = (int(_TRAININGS * seconds / pace.train), int((_JUDGEMENTS * seconds - pace.checks) / max(pace.judge, 1e-6)))
    trained, tested = (
        want if given is not None else min(want, max(least, able))
        for want, given, least, able in zip(wanted, chosen, (_LEAST_TRAIN, _LEAST_TEST), fit, strict=True)
    )
    shares = Shares(
        limit_train=trained if trained < learnt else None,
        limit=tested if tested < judged else None,
        training=pace.train * trained,
        judgement=pace.checks + pace.judge * tested,
    )
    needed = shares.training + shares.at_the_end
    if needed > seconds:
        raise UserError(
            f"budget: {seconds:.0f} s are too short for one trial: to train the recipe as it is and a trial takes "
            f"about {(1 + _LARGER) * shares.training:.0f} s on {trained} samples, and to judge both about "
            f"{2.5 * shares.judgement:.0f} s on {tested}; give {needed / 60 + 0.5:.0f}m or more"
            + ("" if chosen == (None, None) else ", or smaller --limit-train and --limit")
        )
    return shares
