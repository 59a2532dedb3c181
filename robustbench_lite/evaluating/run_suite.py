"""Run the suite: every attack under every threat model, on the samples that still stand."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import RunResult, Samples
from robustbench_lite.core.allocation import keep_freed_memory
from robustbench_lite.core.cost import Progress
from robustbench_lite.core.errors import ModelError, UserError
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.suite import adversary
from robustbench_lite.core.threat import NORMS, ThreatModel
from robustbench_lite.core.usercode import no_exit
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating import corpus
from robustbench_lite.evaluating.attack_run import AttackRun, searches_nearest
from robustbench_lite.evaluating.clean_pass import Checked, CleanPass
from robustbench_lite.evaluating.environment import processor
from robustbench_lite.evaluating.plan import Plan, PlannedAttack
from robustbench_lite.model.float64 import Ask
from robustbench_lite.results.gates import Counts, settled
from robustbench_lite.workers import Lost

_log = logging.getLogger(__name__)
_SAMPLES_SHOWN = 8  # in a message
_GALLERY_BYTES = 1 << 26
_SHARES = 2  # parts for each worker at least, so that none waits long for the last one
_PART = 128  # samples of a part where gates may end the run: then it ends at the same sample on whatever machine


class SuiteResult(NamedTuple):
    """What the attacks of the suite found."""

    rows: NDArray[np.int64]
    """Positions of the samples that were attacked, in rising order."""
    runs: list[AttackRun]
    """In the order of the threat models."""
    processors: dict[str, int]
    """How many of the samples each kind of processor attacked."""


class _Part(NamedTuple):
    """What comes back from a part."""

    runs: list[AttackRun]
    processor: str


class _Round(NamedTuple):
    """What is run under one threat model."""

    threat: ThreatModel
    samples: Samples
    attacks: tuple[PlannedAttack, ...]


@dataclass(frozen=True)
class PartOfSuite:
    """The whole suite on a part of the samples: what an executor runs, here or in another process."""

    plan: Plan
    clean: CleanPass
    float64_model: Ask | None
    rounds: tuple[_Round, ...]
    keep: Container[int]
    """Positions whose witness is kept."""

    def __call__(self, part: NDArray[np.int64]) -> _Part:
        """Attack the samples at these positions."""
        keep_freed_memory()
        return _Part(list(_run_part(self, part)), processor(self.plan.target.device))


def run_suite(plan: Plan, checked: Checked) -> SuiteResult:
    """Run every attack under every threat model.

    All samples at once, shared out to the workers where there are several, or a part at a time until the gates are
    settled. It ends early where an attack was stopped.
    """
    runs: dict[tuple[ThreatModel, str], AttackRun] = {}
    standing = checked.clean.correct
    rows = np.empty(0, np.int64)
    rounds = list(_rounds(plan, checked.clean))
    everything = plan.keep_witnesses or plan.corpus is not None
    keep = range(len(plan.data)) if everything else frozenset(_shown(plan.data, checked.clean))
    parts = _parts(plan, checked.clean)
    function = PartOfSuite(
        replace(plan, measures={}, reference=None), checked.clean, checked.float64_model, tuple(rounds), keep
    )
    results = plan.executor.map(function, parts, plan.budget, until=_stopped)
    lost: list[NDArray[np.int64]] = []
    processors: Counter[str] = Counter()
    for part, found in zip(parts, results, strict=False):  # fewer results than parts where it was stopped
        if isinstance(found, Lost):
            lost.append(part)
            found_runs = list(_given_up(rounds, len(plan.data), part, found))
        else:
            found_runs = found.runs
            processors[found.processor] += len(part)
        rows = np.concatenate([rows, part])
        for run in found_runs:
            known = runs.get((run.threat, run.name))
            runs[run.threat, run.name] = run if known is None else known.merge(run)
            standing &= ~run.result.broken
        if plan.sequential and settled(plan.gates, _counts(plan, checked.clean, standing, rows), len(plan.data)):
            break
        _tell(plan, len(rows), standing, checked.clean)
    if not plan.sequential:  # where it was stopped, what no attack has seen is told with the rest
        rows = np.arange(len(plan.data))
    if lost:
        rows = np.setdiff1d(rows, np.concatenate(lost))
        if not len(rows):
            raise UserError(f"no sample could be attacked: {next(run.result.fault for run in runs.values())}")
    if plan.budget.interrupted and not any(run.result.stopped for run in runs.values()):  # between two parts
        runs = {key: run._replace(result=replace(run.result, stopped="interrupt")) for key, run in runs.items()}
    ordered = sorted(runs.values(), key=lambda run: plan.suite.threats.index(run.threat))
    return SuiteResult(np.sort(rows), ordered, dict(sorted(processors.items())))


def _parts(plan: Plan, clean: CleanPass) -> list[NDArray[np.int64]]:
    """Positions of the samples that are attacked together; where gates may settle early, in a random order."""
    everything, workers = np.arange(len(plan.data)), plan.executor.workers
    if not plan.sequential:
        size = min(_PART, -(-len(everything) // (_SHARES * workers))) if workers > 1 else len(everything)
        return np.split(everything, range(size, len(everything), size))
    draws = Noise(torch.from_numpy(clean.sample_keys)).at(plan.seed).uniform(()).numpy()
    order = np.lexsort((clean.sample_keys, draws))
    return np.split(order, range(_PART, len(order), _PART))


def _counts(plan: Plan, clean: CleanPass, standing: NDArray[np.bool_], rows: NDArray[np.int64]) -> Counts:
    return Counts(
        seen=len(rows),
        right=int(clean.correct[rows].sum()),
        robust=int(standing[rows].sum()),
        passes=plan.budget.passes.total,
        seconds=plan.budget.seconds,
    )


def _rounds(plan: Plan, clean: CleanPass) -> Iterator[_Round]:
    """Prepare what each threat model takes, once for all parts of the samples: of one norm the smallest eps first.

    A witness at an eps is one at every larger eps, so what is broken there is not attacked again.
    """
    norms = [adversary(threat) for threat in plan.suite.threats]
    for threat in sorted(plan.suite.threats, key=lambda threat: (norms.index(adversary(threat)), threat.eps)):
        samples = samples_under(plan, threat, clean)
        left_out = {one.attack for one in plan.skipped if one.threat == str(threat)}
        attacks = (planned for planned in plan.attacks if planned.name not in left_out)
        yield _Round(threat, samples, (*_replayed(plan, threat, clean), *attacks))


def _stopped(part: _Part) -> bool:
    """Whether an attack was stopped, by Ctrl-C or a spent budget."""
    return any(run.result.stopped is not None for run in part.runs)


def _given_up(rounds: list[_Round], size: int, part: NDArray[np.int64], lost: Lost) -> Iterator[AttackRun]:
    """In the place of results: every attack failed on the samples of a part."""
    shown = ", ".join(map(str, part[:_SAMPLES_SHOWN].tolist())) + (", ..." if len(part) > _SAMPLES_SHOWN else "")
    fault = f"{len(part)} samples were not attacked ({shown}): {lost.reason}"
    nothing = np.empty(0, np.int64)
    for threat, _, attacks in rounds:
        for planned in attacks:
            result = replace(RunResult.empty(size, planned.attack.steps), fault=fault)
            yield AttackRun(planned.name, planned.algorithm, planned.attack, threat, nothing, result)


def _tell(plan: Plan, done: int, standing: NDArray[np.bool_], clean: CleanPass) -> None:
    """Tell how far the workers are: what they do together is told by part, not by attack."""
    if plan.executor.workers > 1:
        threats = ", ".join(str(threat) for threat in plan.suite.threats)
        broken = int(clean.correct.sum() - standing.sum())
        name = f"{plan.executor.workers} workers"
        plan.budget.tell(Progress(name, threats, done, len(plan.data), broken, plan.budget.passes))


def _run_part(job: PartOfSuite, part: NDArray[np.int64]) -> Iterator[AttackRun]:
    """Run the suite on some samples.

    Once an attack was stopped, what is known of the attacks that follow is still handed out: witnesses at a smaller
    eps.
    """
    plan, clean = job.plan, job.clean
    if log := plan.slot.answers():
        plan.target.predictor.keep_answers(log)
    right = part[clean.correct[part]]
    widest = {adversary(one.threat): one.threat for one in job.rounds}
    found: dict[tuple[str, str, str], dict[str, AttackRun]] = {}
    stopped: str | None = None
    for threat, samples, attacks in job.rounds:
        before = found.setdefault(adversary(threat), {})
        known = {name: run.at(threat) for name, run in before.items()}
        standing = right[~_broken(known, len(plan.data))[right]]
        for planned in attacks:
            earlier = known.get(planned.name)
            nearest = searches_nearest(plan.suite, planned.attack, threat)
            if stopped is not None or (nearest and earlier is not None):
                if earlier is not None:
                    yield earlier._replace(result=replace(earlier.result, stopped=stopped))
                continue
            rows = right if plan.suite.independent or nearest else standing
            if isinstance(planned.attack, corpus.Replay):
                rows = rows[np.isin(clean.sample_keys[rows], list(planned.attack.known))]
            # The search for the nearest example doesn't depend on eps: one, for the largest, tells of all of them.
            limit = widest[adversary(threat)] if nearest else threat
            result = attempt(
                plan,
                planned,
                samples,
                rows,
                limit,
                keep=job.keep,
                float64_model=job.float64_model,
                early_stop=not nearest,
            )
            run = AttackRun(planned.name, planned.algorithm, planned.attack, limit, rows, result)
            run = run if earlier is None else earlier.merge(run)
            if result.fault is None and (nearest or not plan.suite.independent):
                before[planned.name] = run.known(nearest)
            yield run.at(threat)
            stopped = result.stopped
            standing = standing[~run.at(threat).result.broken[standing]]


def samples_under(plan: Plan, threat: ThreatModel, clean: CleanPass) -> Samples:
    """All samples, each with the class that a threat model's goal is about."""
    return Samples(plan.data, torch.from_numpy(clean.sample_keys), _target_classes(plan, threat, clean))


def _target_classes(plan: Plan, threat: ThreatModel, clean: CleanPass) -> Tensor:
    """The class that the goal is about, for each sample, shape (N,)."""
    labels = plan.data.labels
    if threat.goal == "untargeted":
        return labels
    if threat.target_class == "least_likely":
        return clean.least_likely
    if threat.target_class == "next":
        return (labels + 1) % clean.classes
    draws = Noise(torch.from_numpy(clean.sample_keys)).at(plan.seed).uniform(())
    others = (draws * (clean.classes - 1)).long().clamp_max(clean.classes - 2)
    return (labels + 1 + others) % clean.classes


def attempt(
    plan: Plan,
    planned: PlannedAttack,
    samples: Samples,
    rows: NDArray[np.int64],
    threat: ThreatModel,
    *,
    keep: Container[int],
    float64_model: Ask | None,
    early_stop: bool = True,
) -> RunResult:
    """Run one attack. Where it, or the model under it, fails, the fault is in the result: the others still count."""
    options = RunOptions(
        name=planned.name,
        seed=plan.seed,
        batch_size=plan.batch_size,
        early_stop=early_stop,
        keep=keep,
        float64_model=float64_model,
        budget=plan.budget,
        journal=plan.slot.journal(planned.name, str(threat)),
    )
    try:
        with no_exit():
            return run_attack(planned.attack, plan.target, samples, rows, threat, options)
    except Exception as fault:
        _log.info("%s failed under %s", planned.name, threat, exc_info=True)
        told = str(fault) if isinstance(fault, ModelError) else f"{type(fault).__name__}: {fault}"
        return replace(RunResult.empty(len(plan.data), planned.attack.steps), fault=told)


def _broken(runs: Mapping[str, AttackRun], size: int) -> NDArray[np.bool_]:
    """Whether any of the attacks broke each sample."""
    broken = np.zeros(size, np.bool_)
    for run in runs.values():
        broken |= run.result.broken
    return broken


def _replayed(plan: Plan, threat: ThreatModel, clean: CleanPass) -> Iterator[PlannedAttack]:
    """Plan a replay of what the corpus, or an evaluation before this one, knows against these samples."""
    if threat.norm not in NORMS:
        return
    present = set(clean.sample_keys.tolist())
    kept = {} if plan.corpus is None else corpus.load(plan.corpus, threat)
    known = {key: x for key, x in {**kept, **plan.earlier.get(str(threat), {})}.items() if key in present}
    if known:
        yield PlannedAttack(corpus.REPLAY, corpus.REPLAY, corpus.Replay(known=known))


def remember_witnesses(plan: Plan, checked: Checked, runs: list[AttackRun]) -> None:
    """Add what broke the samples to the corpus, where there is one."""
    if plan.corpus is None:
        return
    # What a smaller transformation can make is not told by a distance: a witness of one is none of another for sure.
    for threat in dict.fromkeys(run.threat for run in runs if run.threat.norm in NORMS):
        found = {
            int(checked.clean.sample_keys[row]): x
            for run in runs
            if run.threat == threat
            for row, x in sorted(run.result.witnesses.items())
        }
        try:
            corpus.keep(plan.corpus, threat, found)
        except UserError as fault:  # the results are there all the same
            _log.warning("%s; what broke the model is not kept there", fault)
            return


def _shown(data: Data, clean: CleanPass) -> list[int]:
    """Samples whose witness may be shown: a fixed draw, as many as a little memory holds."""
    right = clean.correct.nonzero()[0]
    most = min(1024, max(32, _GALLERY_BYTES // (4 * int(np.prod(data.shape)))))
    drawn: list[int] = right[np.argsort(clean.sample_keys[right], kind="stable")][:most].tolist()
    return drawn
