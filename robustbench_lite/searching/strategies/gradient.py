"""A supernet that holds all cells at once is trained against the adversary; its probabilities propose the trials.

Before the first trial the supernet is trained, by the recipe's own defense and schedule; that costs passes, which are
counted. The first trial is the likeliest cell, the further ones are drawn.

References
----------
Liu, Simonyan and Yang, *DARTS: differentiable architecture search*, ICLR 2019. https://arxiv.org/abs/1806.09055
Dong and Yang, *Searching for a robust neural architecture in four GPU hours* (GDAS), CVPR 2019.
https://arxiv.org/abs/1910.04465
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from robustbench_lite.searching.strategies.interface import BEFOREHAND, Strategy
from robustbench_lite.searching.strategies.proposals import Done, at_random, levels, proposing, untried

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

    from robustbench_lite.hardening.pipeline import Listeners
    from robustbench_lite.hardening.preparation import PlannedStep
    from robustbench_lite.searching.space import Axis
    from robustbench_lite.searching.trials import Job

FOLDER = "supernet"
"""Of its checkpoint and its log, in the folder of the search."""

_REACH = 3.0  # how far a logit may move in the whole training: e^3 is twenty times as likely
_HALF = 0.5


def _unfit(job: Job) -> str | None:
    from robustbench_lite.hardening.interface import Defense
    from robustbench_lite.model.architectures.cells import Cells

    if not isinstance(job.architecture, Cells):
        return "relaxes the operations of cells: give [architecture] space = 'cells', or another sampler"
    if not _options(job):
        return "has no edge to choose an operation for: search one, such as edge_0_1, or take another sampler"
    step = _training(job).step
    if not isinstance(step, Defense) or type(step).update is not Defense.update or len(step.stages) > 1:
        return "trains by a defense that learns once from a batch, such as pgd_training: the recipe has another"
    return None


def _beforehand(job: Job, listeners: Listeners, drawn: bool = False) -> Mapping[str, Any]:
    """Train the supernet, from its checkpoint where there is one."""
    import torch

    from robustbench_lite.hardening.checkpoint import Checkpoint
    from robustbench_lite.hardening.interface import Defense
    from robustbench_lite.hardening.mixture import Mixture
    from robustbench_lite.hardening.training import train
    from robustbench_lite.model.architectures.cells import Cells
    from robustbench_lite.model.architectures.supernet import Supernet
    from robustbench_lite.model.target import Target
    from robustbench_lite.searching.supernet import SupernetTraining

    plan, planned, seed = job.plan({}), _training(job), job.sampling.seed
    schedule = (planned.spec.schedule or plan.recipe.schedule).model_copy(
        update={"keep": "last", "average": 0.0, "awp": 0.0, "extra": "", "freeze": ()}
    )
    known, held_out = plan.split(planned)
    learn, choose = known.split(_HALF, seed)
    mixture = Mixture(own=learn, extra=choose, share=_HALF)
    rate = _REACH / (schedule.epochs * mixture.batches(schedule.batch_size))
    sizes, inner = job.architecture, planned.step
    assert isinstance(sizes, Cells)  # `_unfit` refuses others
    assert isinstance(inner, Defense)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Supernet(sizes, _options(job))
    start = Target(net, name=FOLDER, device=job.target.device).fed(mean=job.target.mean, std=job.target.std)
    folder = job.folder / FOLDER
    folder.mkdir(exist_ok=True)
    done = train(
        start,
        SupernetTraining(inner=inner, rate=rate, drawn=drawn, seed=seed),
        schedule,
        plan.recipe.threat,
        mixture,
        held_out,
        seed=seed,
        checkpoint=Checkpoint.open(folder, resume=True),
        on_progress=listeners.on_progress,
    )
    trained = done.target.module
    assert isinstance(trained, Supernet)
    return {
        "told": f"a supernet of the cells was trained for {schedule.epochs} epochs",
        "passes": float(sum(line.passes for line in done.log)),
        "seconds": sum(line.seconds for line in done.log),
        "probabilities": trained.choices.probabilities(),
    }


def _training(job: Job) -> PlannedStep:
    """The first step that trains, or the first of all."""
    steps = job.plan({}).steps
    return next((one for one in steps if one.step.trains), steps[0])


def _options(job: Job) -> dict[str, tuple[str, ...]]:
    """The operations of each edge that is searched."""
    return {
        axis.key.removeprefix("model."): tuple(map(str, axis.values.choices or ()))
        for axis in job.axes
        if axis.key.startswith("model.edge_")
    }


def propose(found: tuple[Axis, ...], study: Study, done: Done, seed: int) -> dict[str, Any]:
    """The likeliest cell, or one that is drawn; what the supernet knows nothing of is drawn evenly."""
    known: Mapping[str, list[float]] = study.user_attrs.get(BEFOREHAND, {}).get("probabilities", {})

    def likeliest(shares: list[float]) -> int:
        return max(range(len(shares)), key=lambda place: shares[place])

    def drawn(random: Random) -> dict[str, Any]:
        values = at_random(found, random)
        for axis in found:
            shares, names = known.get(axis.key.removeprefix("model.")), levels(axis)
            if shares is not None:
                values[axis.key] = random.choices(names, shares)[0] if begun else names[likeliest(shares)]
        return values

    begun = bool(study.get_trials(deepcopy=False)[:-1])  # the last is the one that is asked about
    return untried(done, seed, drawn)


def _sampler(found: tuple[Axis, ...], seed: int) -> BaseSampler:
    return proposing(found, seed, lambda study, done, drawn: propose(found, study, done, drawn))


GRADIENT = Strategy(make=_sampler, constrained=False, several=True, unfit=_unfit, beforehand=_beforehand)
"""As in DARTS: each edge is the weighted sum of all its operations."""
GDAS = dataclasses.replace(GRADIENT, beforehand=partial(_beforehand, drawn=True))
"""One operation of each edge is drawn for a batch, so that a pass costs as much as one of a trial's."""
