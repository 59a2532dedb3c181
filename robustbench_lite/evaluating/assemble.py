"""Write down what came out of an evaluation: the runs of its attacks in, a scorecard out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray

import robustbench_lite
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.suite import REPLAY, Suite, adversary
from robustbench_lite.core.threat import NORMS
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.keys import key_text
from robustbench_lite.evaluating import validity
from robustbench_lite.evaluating.attack_run import AttackRun, searches_nearest
from robustbench_lite.evaluating.clean_pass import Checked, CleanPass
from robustbench_lite.evaluating.environment import environment
from robustbench_lite.evaluating.evidence.collect import Evidence
from robustbench_lite.evaluating.gallery import chosen, gallery, kept_witnesses
from robustbench_lite.evaluating.plan import Plan
from robustbench_lite.model.wrapping import wrapped
from robustbench_lite.results.scorecard import (
    NO_ANSWER,
    AttackResult,
    Break,
    DataInfo,
    Finding,
    Interval,
    Nearest,
    Outcome,
    Scorecard,
    ThreatResult,
    median,
    verdict_of,
)
from robustbench_lite.results.taxonomy import tags_of


def assemble(plan: Plan, checked: Checked, evidence: Evidence) -> Scorecard:
    """Write down what came out. Gates are applied later: the verdict here is MEASURED, or INVALID for a severe finding.

    Parameters
    ----------
    plan
        What was asked.
    checked
        What was known before the first attack.
    evidence
        The runs of the attacks, with the evidence on what stood against them.
    """
    rows = evidence.rows
    shown = tuple(chosen(plan.data, checked.clean, evidence.runs))
    examples = gallery(plan.data, checked.clean, shown, checked.model)  # before the passes are added up
    data = plan.data.take(torch.from_numpy(rows))
    clean = checked.clean.take(rows)
    clean = clean._replace(
        forward=clean.forward + checked.model.forward[rows], backward=clean.backward + checked.model.backward[rows]
    )
    runs = [run.take(rows) for run in evidence.runs]
    right = clean.correct
    results, threats = _results(runs, plan.suite, right)
    standing = right.copy()
    for run in runs:
        standing &= ~run.result.broken
    stopped = next((run.result.stopped for run in runs if run.result.stopped), evidence.stopped)
    told = (
        *checked.findings,
        *evidence.findings,
        *validity.check(results, plan.suite.independent),
        *_still_falling(plan.suite, runs),
        *validity.stopped(
            stopped,
            (result.name for result in results if result.finished and result.attack != REPLAY),
            len(plan.suite.attacks) * len(plan.suite.threats) - len(plan.skipped),
            int(standing.sum()),
        ),
    )
    findings = validity.without_echo(told)
    card = Scorecard(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=robustbench_lite.__version__,
        target=checked.target,
        data=_data_info(plan, data, clean),
        suite=plan.suite,
        seed=plan.seed,
        batch_size=plan.batch_size,
        environment=environment(plan.target.device, plan.executor.workers, evidence.processors),
        clean_accuracy=Interval.of(int(right.sum()), len(data)),
        robust_accuracy=Interval.of(int(standing.sum()), len(data)),
        threats=threats,
        attacks=results,
        skipped=plan.skipped,
        passes=plan.budget.passes,
        seconds=plan.budget.seconds,
        verdict=verdict_of(findings, ()),
        validity=findings,
        checks=checked.passes + checked.model.passes,
        audit=evidence.audit,
        interrupted=stopped,
        outcomes=_outcomes(data, clean, plan.suite, runs),
        gallery=examples,
    )
    return card.with_witnesses(kept_witnesses(data, runs)) if plan.keep_witnesses else card


def _data_info(plan: Plan, data: Data, clean: CleanPass) -> DataInfo:
    names = data.classes or tuple(str(label) for label in range(clean.classes))
    if any(one.wrapper.abstains for one in wrapped(plan.target)):
        names = (*names[: clean.classes - 1], NO_ANSWER)
    return DataInfo(
        name=data.name,
        samples=len(data),
        planned=len(plan.data) if plan.sequential else None,
        limit=plan.limit,
        shape=tuple(data.shape),
        classes=names,
        sha256=hashlib.sha256(np.sort(clean.sample_keys).tobytes()).hexdigest(),
    )


def _still_falling(suite: Suite, runs: Sequence[AttackRun]) -> Iterator[Finding]:
    """Finding if attacks were still breaking samples at the end of the passes that a survivor was given."""
    # Of attacks that see every sample, what one spends after another broke it tells nothing.
    for threat in () if suite.independent else suite.threats:
        attacked = [run for run in runs if run.threat == threat and run.algorithm != REPLAY]
        if any(":" in run.algorithm for run in attacked):
            continue  # another library's attack hands its examples over at its end: when they fell isn't known
        whole = all(run.result.stopped is None and run.result.fault is None for run in attacked)
        if attacked and whole and not any(searches_nearest(suite, run.attack, threat) for run in attacked):
            spent = np.sum([run.result.forward + run.result.backward for run in attacked], axis=0)
            broken = np.any([run.result.broken for run in attacked], axis=0)
            tried = np.any([np.isin(np.arange(len(broken)), run.attempted) for run in attacked], axis=0)
            yield from validity.still_falling(threat, spent[tried & broken], spent[tried & ~broken])


def _results(
    runs: Sequence[AttackRun], suite: Suite, right: NDArray[np.bool_]
) -> tuple[tuple[AttackResult, ...], tuple[ThreatResult, ...]]:
    results, threats = [], []
    for threat in suite.threats:
        standing = right.copy()
        for run in runs:  # a witness at an eps is one at every larger eps, where the attacks are independent, too
            if adversary(run.threat) == adversary(threat) and run.threat.eps < threat.eps:
                standing &= ~run.result.broken
        for run in (one for one in runs if one.threat == threat):
            standing &= ~run.result.broken
            results.append(_result(run, right, int(standing.sum())))
        worst = Interval.of(int(standing.sum()), len(right))
        threats.append(ThreatResult(threat=threat, robust_accuracy=worst))
    return tuple(results), tuple(threats)


def _result(run: AttackRun, right: NDArray[np.bool_], standing: int) -> AttackResult:
    broken = int(run.result.broken.sum())
    distances = run.result.distance[run.result.broken].tolist()
    finished = run.result.stopped is None and run.result.fault is None
    saw_all = finished and len(run.attempted) == int(right.sum())
    return AttackResult(
        name=run.name,
        attack=run.algorithm,
        threat=run.threat,
        params=run.attack.params(),
        gradients=run.attack.gradients,
        minimal=run.attack.minimal,
        attempted=len(run.attempted),
        broken=broken,
        unconfirmed=run.result.unconfirmed,
        strange=run.result.non_finite,
        unmoved=distances.count(0.0),
        robust_accuracy=Interval.of(standing, len(right)),
        alone=Interval.of(int(right.sum()) - broken, len(right)) if saw_all else None,
        distance_median=median(distances),
        passes=run.result.passes,
        seconds=run.result.seconds,
        finished=finished,
        fault=run.result.fault,
        tags=tags_of(run.threat, "gradients" if run.result.backward.any() else run.attack.access, run.attack.made_on),
        trace=run.result.trace,
    )


def _outcomes(data: Data, clean: CleanPass, suite: Suite, runs: Sequence[AttackRun]) -> tuple[Outcome, ...]:
    nearest = _nearest(suite, runs, len(data)) if suite.curve else {}
    forward = clean.forward + sum(run.result.forward for run in runs)
    backward = clean.backward + sum(run.result.backward for run in runs)
    return tuple(
        Outcome(
            index=int(data.index[row]),
            key=key_text(int(clean.sample_keys[row])),
            label=int(clean.labels[row]),
            prediction=int(clean.prediction[row]),
            breaks=tuple(
                Break(
                    attack=run.name,
                    threat=str(run.threat),
                    prediction=int(run.result.prediction[row]),
                    distance=float(run.result.distance[row]),
                )
                for run in runs
                if run.result.broken[row]
            ),
            nearest=tuple(nearest.get(row, ())),
            passes=Passes(forward=int(forward[row]), backward=int(backward[row])),
        )
        for row in range(len(data))
    )


def _nearest(suite: Suite, runs: Sequence[AttackRun], size: int) -> dict[int, list[Nearest]]:
    """By position and threat model, the nearest confirmed adversarial example under any eps of the norm and goal."""
    found: dict[int, list[Nearest]] = {}
    for threat in suite.threats:
        if threat.norm not in NORMS:
            continue
        least, name = np.full(size, np.inf), np.full(size, "", object)
        for run in runs:
            if adversary(run.threat) == adversary(threat):
                sure = searches_nearest(suite, run.attack, run.threat)
                distance = np.where(run.result.broken | sure, run.result.distance, np.inf)
                name[distance < least] = run.name
                least = np.minimum(least, distance)
        for row in np.isfinite(least).nonzero()[0].tolist():
            found.setdefault(row, []).append(Nearest(attack=name[row], threat=str(threat), distance=float(least[row])))
    return found
