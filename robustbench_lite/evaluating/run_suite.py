"""The run_suite: every attack of the suite under every threat model, on what still stands."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.engine import RunResult, Samples, run_attack
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.suite import adversary
from robustbench_lite.core.threat import NORMS, ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating import assemble
from robustbench_lite.evaluating import corpus as witness_corpus
from robustbench_lite.evaluating.assemble import AttackRun
from robustbench_lite.evaluating.clean_pass import Clean
from robustbench_lite.evaluating.plan import Plan, PlannedAttack
from robustbench_lite.model.float64 import Ask
from robustbench_lite.results.gates import Counts, settled

_log = logging.getLogger(__name__)
_GALLERY_BYTES = 1 << 26
_LOOK_EVERY = 128  # samples between two looks at the gates: when a sequential run may end, on whatever machine


class _Round(NamedTuple):
    """What is run under one threat model."""

    threat: ThreatModel
    samples: Samples
    attacks: tuple[PlannedAttack, ...]


def run_suite(plan: Plan, clean: Clean, float64_model: Ask | None) -> tuple[NDArray[np.int64], list[AttackRun]]:
    """Run every attack under every threat model; return the positions of the samples seen, and what came out.

    All samples at once, or some at a time until the gates are settled; early where an attack was stopped.
    """
    runs: dict[tuple[ThreatModel, str], AttackRun] = {}
    standing = clean.correct
    seen = np.empty(0, np.int64)
    rounds = list(_rounds(plan, clean))
    everything = plan.keep_witnesses or plan.corpus is not None
    keep = range(len(plan.data)) if everything else frozenset(_shown(plan.data, clean))
    for part in _parts(plan, clean):
        seen = np.concatenate([seen, part])
        stopped = False
        for run in _run_part(plan, clean, float64_model, rounds, keep, part):
            known = runs.get((run.threat, run.name))
            runs[run.threat, run.name] = run if known is None else known.merge(run)
            standing &= ~run.result.broken
            stopped = stopped or run.result.stopped is not None
        if stopped or (
            plan.until is not None and settled(plan.until, _counts(plan, clean, standing, seen), len(plan.data))
        ):
            break
    return np.sort(seen), sorted(runs.values(), key=lambda run: plan.suite.threats.index(run.threat))


def _parts(plan: Plan, clean: Clean) -> list[NDArray[np.int64]]:
    """Positions of the samples that are attacked together; where gates may settle early, in a random order."""
    everything = np.arange(len(plan.data))
    if plan.until is None:
        return [everything]
    draws = Noise(torch.from_numpy(clean.sample_keys)).at(plan.seed).uniform(()).numpy()
    order = np.lexsort((clean.sample_keys, draws))
    return np.split(order, range(_LOOK_EVERY, len(order), _LOOK_EVERY))


def _counts(plan: Plan, clean: Clean, standing: NDArray[np.bool_], seen: NDArray[np.int64]) -> Counts:
    return Counts(
        seen=len(seen),
        right=int(clean.correct[seen].sum()),
        robust=int(standing[seen].sum()),
        passes=plan.budget.passes.total,
        seconds=plan.budget.seconds,
    )


def _rounds(plan: Plan, clean: Clean) -> Iterator[_Round]:
    """Make ready, once for all parts of the samples, what each threat model takes: of one norm the smallest eps first.

    A witness at an eps is one at every larger eps, so what is broken there is not attacked again.
    """
    norms = [adversary(threat) for threat in plan.suite.threats]
    for threat in sorted(plan.suite.threats, key=lambda threat: (norms.index(adversary(threat)), threat.eps)):
        samples = samples_under(plan, threat, clean)
        left_out = {one.attack for one in plan.skipped if one.threat == str(threat)}
        attacks = (planned for planned in plan.attacks if planned.name not in left_out)
        yield _Round(threat, samples, (*_replayed(plan, threat, clean), *attacks))


def _run_part(
    plan: Plan,
    clean: Clean,
    float64_model: Ask | None,
    rounds: list[_Round],
    keep: Container[int],
    part: NDArray[np.int64],
) -> Iterator[AttackRun]:
    """Run the suite on some samples.

    Once an attack was stopped, what is known of the attacks that follow is still handed out: witnesses at a smaller
    eps.
    """
    right = part[clean.correct[part]]
    widest = {adversary(one.threat): one.threat for one in rounds}
    found: dict[tuple[str, str, str], dict[str, AttackRun]] = {}
    stopped: str | None = None
    for threat, samples, attacks in rounds:
        before = found.setdefault(adversary(threat), {})
        known = {name: run.at(threat) for name, run in before.items()}
        standing = right[~_broken(known, len(plan.data))[right]]
        for planned in attacks:
            earlier = known.get(planned.name)
            nearest = assemble.searched(plan.suite, planned.attack, threat)
            if stopped is not None or (nearest and earlier is not None):
                if earlier is not None:
                    yield earlier._replace(result=replace(earlier.result, stopped=stopped))
                continue
            rows = right if plan.suite.independent or nearest else standing
            if isinstance(planned.attack, witness_corpus.Replay):
                rows = rows[np.isin(clean.sample_keys[rows], list(planned.attack.known))]
            # The search for the nearest example doesn't depend on eps: one, for the largest, tells of all of them.
            limit = widest[adversary(threat)] if nearest else threat
            result = attempt(plan, planned, samples, rows, limit, keep, float64_model, early_stop=not nearest)
            run = AttackRun(planned.name, planned.algorithm, planned.attack, limit, rows, result)
            run = run if earlier is None else earlier.merge(run)
            if result.fault is None and (nearest or not plan.suite.independent):
                before[planned.name] = run.known(nearest)
            yield run.at(threat)
            stopped = result.stopped
            standing = standing[~run.at(threat).result.broken[standing]]


def samples_under(plan: Plan, threat: ThreatModel, clean: Clean) -> Samples:
    """Take all samples, with what is aimed at under a threat model."""
    return Samples(plan.data, torch.from_numpy(clean.sample_keys), _aims(plan, threat, clean))


def _aims(plan: Plan, threat: ThreatModel, clean: Clean) -> Tensor:
    """Return the class that the goal is about, for each sample."""
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
    keep: Container[int],
    float64_model: Ask | None,
    *,
    early_stop: bool = True,
) -> RunResult:
    """Run one attack; whatever it, or the model under it, trips over: the others still count."""
    try:
        return run_attack(
            planned.attack,
            plan.target,
            samples,
            rows,
            threat,
            name=planned.name,
            seed=plan.seed,
            batch_size=plan.size,
            early_stop=early_stop,
            keep=keep,
            float64_model=float64_model,
            budget=plan.budget,
            journal=None if plan.slot is None else plan.slot.journal(planned.name, str(threat)),
        )
    except Exception as fault:
        _log.info("%s failed under %s", planned.name, threat, exc_info=True)
        return replace(RunResult.empty(len(plan.data), planned.attack.steps), fault=f"{type(fault).__name__}: {fault}")


def _broken(runs: Mapping[str, AttackRun], size: int) -> NDArray[np.bool_]:
    """Whether any of the attacks broke each sample."""
    broken = np.zeros(size, np.bool_)
    for run in runs.values():
        broken |= run.result.broken
    return broken


def _replayed(plan: Plan, threat: ThreatModel, clean: Clean) -> Iterator[PlannedAttack]:
    """Put what the corpus, or an evaluation before this one, knows against these samples before the suite."""
    if threat.norm not in NORMS:
        return
    present = set(clean.sample_keys.tolist())
    kept = {} if plan.corpus is None else witness_corpus.load(plan.corpus, threat)
    known = {key: x for key, x in {**kept, **plan.earlier.get(str(threat), {})}.items() if key in present}
    if known:
        yield PlannedAttack(witness_corpus.REPLAY, witness_corpus.REPLAY, witness_corpus.Replay(known=known))


def remember_witnesses(folder: Path, clean: Clean, runs: list[AttackRun]) -> None:
    """Add what broke the samples to the corpus."""
    # What a smaller transformation can make is not told by a distance: a witness of one is none of another for sure.
    for threat in dict.fromkeys(run.threat for run in runs if run.threat.norm in NORMS):
        found = {
            int(clean.sample_keys[row]): x
            for run in runs
            if run.threat == threat
            for row, x in sorted(run.result.witnesses.items())
        }
        witness_corpus.keep(folder, threat, found)


def _shown(data: Data, clean: Clean) -> list[int]:
    """Samples whose witness may be shown: a fixed draw, as many as a little memory holds."""
    right = clean.correct.nonzero()[0]
    most = min(1024, max(32, _GALLERY_BYTES // (4 * int(np.prod(data.shape)))))
    drawn: list[int] = right[np.argsort(clean.sample_keys[right], kind="stable")][:most].tolist()
    return drawn
