"""The evidence of one evaluation: survivors are asked, witnesses audited, and what broke survivors added."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_lite.core.cost import Stop
from robustbench_lite.core.suite import EVIDENCE, REPLAY, adversary
from robustbench_lite.core.threat import NORMS, ThreatModel
from robustbench_lite.core.usercode import no_exit
from robustbench_lite.evaluating import evidence, validity
from robustbench_lite.evaluating.attack_run import AttackRun
from robustbench_lite.evaluating.clean_pass import Checked
from robustbench_lite.evaluating.corpus import Replay
from robustbench_lite.evaluating.evidence.apparent import apparent
from robustbench_lite.evaluating.plan import Plan, PlannedAttack
from robustbench_lite.evaluating.run_suite import SuiteResult, attempt, samples_under
from robustbench_lite.results.scorecard import Audit, Finding

SATURATED = "RB125"
_log = logging.getLogger(__name__)


class Evidence(NamedTuple):
    """The runs of the attacks, and what speaks for or against them."""

    rows: NDArray[np.int64]
    """Positions of the samples that were attacked, in rising order."""
    runs: list[AttackRun]
    """Those of the suite, and what broke survivors afterwards."""
    findings: tuple[Finding, ...]
    audit: Audit | None
    stopped: str | None
    """Why it didn't come to its end."""
    processors: Mapping[str, int] = MappingProxyType({})
    """How many of the samples each kind of processor attacked."""

    @classmethod
    def none(cls, samples: int) -> Evidence:
        """Where no attack is run, as the evaluation is INVALID already."""
        return cls(np.arange(samples), [], (), None, "invalid")


def collect_evidence(plan: Plan, checked: Checked, attacked: SuiteResult) -> Evidence:
    """Ask a few survivors, and round witnesses to images. Whatever fails here, what the attacks found stays."""
    findings: list[Finding] = []
    broken: dict[ThreatModel, dict[int, NDArray[np.float32]]] = {}
    stopped: str | None = None
    images = rounded = 0
    runs = attacked.runs
    interrupted = any(run.result.stopped == "interrupt" for run in runs)
    try:
        least = evidence.SUSPECT if plan.suspect else evidence.LEAST
        # What is INVALID already needs no further evidence.
        groups = _survivor_groups(plan, checked, attacked) if checked.trusted and not interrupted else ()
        with no_exit():
            for found in evidence.ask_survivors(checked.model, groups, plan.batch_size, least):
                # One by one: what was found stays found where the next can't be asked.
                if isinstance(found, Finding):
                    findings.append(found)
                else:
                    broken.setdefault(found.threat, {}).update(found.witnesses)
            if not interrupted:
                findings += _apparent(plan, checked, attacked)
            if not interrupted:
                keys = checked.clean.sample_keys
                images, rounded = evidence.as_images(checked.model, runs, keys, everything=plan.keep_witnesses)
    except Stop as stop:
        stopped = str(stop)
    except KeyboardInterrupt:
        stopped = "interrupt"
    except Exception as fault:
        _log.info("%s failed when it was asked again", plan.target.name, exc_info=True)
        findings.append(validity.unasked(fault))
    if stopped is None:
        runs = _with_broken_survivors(plan, checked, broken, runs)
    audit = evidence.audit(runs, plan.data.index, checked.float64_model is not None)
    if audit is not None:
        audit = audit.model_copy(update={"images": images, "rounded": rounded})
    findings += validity.denied(audit)
    if not plan.target.predictor.opaque:  # a function may well count its calls
        findings += validity.changed(checked.target.weights_sha256, plan.target.weights_sha256())
    return Evidence(attacked.rows, runs, tuple(findings), audit, stopped, attacked.processors)


def _apparent(plan: Plan, checked: Checked, attacked: SuiteResult) -> Iterator[Finding]:
    """How robust a saturated network looks, under the largest ball of each norm and goal."""
    saturated = any(finding.code == SATURATED for finding in checked.findings)
    if not saturated or any(run.result.stopped for run in attacked.runs):
        return
    clean = checked.clean
    right = attacked.rows[clean.correct[attacked.rows]]
    asked = right[np.argsort(clean.sample_keys[right], kind="stable")]
    for threat in _largest(plan):
        standing = clean.correct.copy()
        for run in attacked.runs:
            if adversary(run.threat) == adversary(threat):
                standing &= ~run.result.broken
        samples = samples_under(plan, threat, clean)
        with plan.target.attacking(), plan.budget.quietly():
            told = apparent(checked.model, samples, threat, asked, standing, plan.batch_size)
        if told is not None:
            yield told


def _largest(plan: Plan) -> Iterable[ThreatModel]:
    """The largest ball of each norm and goal."""
    by_size = sorted(plan.suite.threats, key=lambda threat: threat.eps)
    return {adversary(threat): threat for threat in by_size}.values()


def _with_broken_survivors(
    plan: Plan,
    checked: Checked,
    broken: Mapping[ThreatModel, Mapping[int, NDArray[np.float32]]],
    runs: list[AttackRun],
) -> list[AttackRun]:
    """Add what broke survivors while they were asked. It counts, once it is confirmed as every witness is."""
    keep = range(len(plan.data)) if plan.keep_witnesses or plan.corpus is not None else ()
    found = list(runs)
    for threat, witnesses in broken.items():
        known = {int(checked.clean.sample_keys[row]): x for row, x in witnesses.items()}
        replay = PlannedAttack(EVIDENCE, REPLAY, Replay(known=known))
        samples, rows = samples_under(plan, threat, checked.clean), np.array(sorted(witnesses))
        with plan.budget.quietly():
            run = attempt(plan, replay, samples, rows, threat, keep=keep, float64_model=checked.float64_model)
        # What a probe found is no claim of an attack: where it isn't confirmed, that tells nothing.
        found.append(AttackRun(*replay, threat, rows, replace(run, denial_reasons={})))
    return sorted(found, key=lambda run: plan.suite.threats.index(run.threat))


def _survivor_groups(plan: Plan, checked: Checked, attacked: SuiteResult) -> Iterator[evidence.SurvivorGroup]:
    """Survivors of the largest ball of each norm and goal, in an order of their own, with what they survived."""
    clean, runs = checked.clean, attacked.runs
    if any(run.result.stopped for run in runs):
        return
    for threat in _largest(plan):
        finished = [run for run in runs if run.threat == threat and run.result.fault is None]
        finished = [run for run in finished if not isinstance(run.attack, Replay)]
        if threat.norm not in NORMS or plan.target.access != "gradients" or not finished:
            continue
        standing = clean.correct.copy()
        for run in runs:
            if adversary(run.threat) == adversary(threat):
                standing &= ~run.result.broken
        rows = attacked.rows[standing[attacked.rows]]
        yield evidence.SurvivorGroup(
            threat=threat,
            samples=samples_under(plan, threat, clean),
            attacks=tuple(
                evidence.AttackRecord(run.name, run.attack, np.flatnonzero(run.result.broken)) for run in finished
            ),
            survivors=torch.from_numpy(rows[np.argsort(clean.sample_keys[rows], kind="stable")]),
        )
