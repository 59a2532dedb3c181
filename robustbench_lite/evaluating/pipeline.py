"""Evaluate: a target, data and a suite in, a scorecard out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import robustbench_lite
from robustbench_lite.core.cost import Budget, BudgetTracker, Progress, Stop
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import EVIDENCE, REPLAY, Suite, adversary, load_suite
from robustbench_lite.core.threat import NORMS, ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating import assemble, evidence, validity
from robustbench_lite.evaluating import corpus as witness_corpus
from robustbench_lite.evaluating.adapt.reevaluate import adaptively, advised
from robustbench_lite.evaluating.assemble import AttackRun
from robustbench_lite.evaluating.cache import code_sha256, slot
from robustbench_lite.evaluating.clean_pass import Clean, checks, clean_pass, keys_of
from robustbench_lite.evaluating.plan import Plan, PlannedAttack, fitting, resolve
from robustbench_lite.evaluating.run_suite import attempt, remember_witnesses, run_suite, samples_under
from robustbench_lite.model.black_box import BlackBox
from robustbench_lite.model.float64 import Ask
from robustbench_lite.model.target import Target, as_target
from robustbench_lite.results.gates import Counts, Gates, decide
from robustbench_lite.results.scorecard import Audit, Finding, Scorecard, Verdict

_log = logging.getLogger(__name__)
_BATCH = {"cpu": 128, "cuda": 512}
_TRIED = 4  # samples of which it is seen whether the target is the same model in float64
_ON_ROBUST_ACCURACY = ("min_robust_accuracy", "max_drop", "max_regression")


def evaluate(
    model: nn.Module | Target | Callable[..., Any],
    data: Any,
    suite: str | Path | Suite | list[str] = "linf_standard",
    threat: str | ThreatModel | list[str | ThreatModel] | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    independent: bool | None = None,
    curve: bool | None = None,
    keep_witnesses: bool = False,
    gates: Gates | Mapping[str, float] | None = None,
    budget: Budget | None = None,
    sequential: bool = False,
    cache: str | Path | None = None,
    corpus: str | Path | None = None,
    adapt: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Scorecard:
    """Attack a model with a suite and say how much of its accuracy survives.

    Parameters
    ----------
    model
        A module, or a `Target`: inputs in [0, 1], shape (N, C, H, W); logits out, shape (N, K). Or a function from a
        float32 array (N, C, H, W) to scores (N, K) or labels (N,), see `Target.from_callable`; attacks that need more
        than it shows are left out.
    data
        A pair (x, y) of tensors or arrays, a Dataset, a DataLoader, a `Data`, or the name of a source.
    suite
        Name of a suite, path of a TOML file, a `Suite`, or a list of attacks.
    threat
        One or more threat models, such as ``"Linf 8/255"``; by default the suite's own.
    seed
        Of every random draw, and of the sample that ``limit`` takes.
    limit
        Size of a class-stratified sample of the data.
    batch_size
        Most samples in flight; halved by itself where memory runs out.
    device
        Such as ``cpu`` or ``cuda:0``; by default where the model is.
    independent
        Whether each attack sees every sample, or (False) only those that the attacks before it left, under this
        threat model or under one of the same norm and goal with a smaller eps; by default as the suite says.
    curve
        Whether the attacks that look for the smallest perturbation go on to the nearest adversarial example of every
        sample, in the ball or out of it, so that ``Scorecard.curve`` tells the robust accuracy at every eps; by default
        as the suite says.
    keep_witnesses
        Whether the adversarial examples are kept on the card.
    gates
        Demands that decide between PASS and FAIL.
    budget
        Time or passes after which it ends early, with what it has; by default the suite's own.
    sequential
        Whether it ends as soon as every gate is settled, its error kept: samples are attacked in a random order, some
        at a time, each by the whole suite. The card then tells of the samples seen.
    cache
        Folder of evaluations by content: an unchanged question is answered from it, one that was killed goes on where
        it stopped. None keeps nothing.
    corpus
        Folder of witnesses that once broke a model: replayed before the suite, and added to.
    adapt
        Whether it is evaluated once more, adaptively, where a finding has a cure (`adapt`): random answers averaged,
        masked gradients replaced, saturated losses rescaled. The card is then that of the second evaluation, with what
        the first one found under ``Scorecard.adaptation``. A budget holds for each of them.
    on_progress
        Called now and then with a `Progress`.

    Returns
    -------
    Scorecard
        Also after Ctrl-C, with what was done until then and the verdict INVALID.

    Raises
    ------
    ValueError
        For whatever was given wrong, before the first attack runs.
    """
    demands = gates if isinstance(gates, Gates) else Gates.of(gates or {})
    asked = resolve(load_suite(suite), threat, independent, curve, budget)
    target, samples = as_target(model, device), as_data(data)
    if limit is not None:
        samples = samples.stratified(limit, seed)
    size = _BATCH.get(target.device.type, 512) if batch_size is None else batch_size
    if size < 1:
        raise UserError(f"batch size is {size}: expected at least 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}: expected a number from 0 to 2^63 - 1")
    fit = fitting(asked, target, samples)
    if corpus is not None:
        witness_corpus.claim(corpus)
    plan = Plan(
        target=target,
        asked_before=fit.asked,
        data=samples,
        limit=limit,
        suite=asked,
        attacks=fit.attacks,
        skipped=fit.skipped,
        seed=seed,
        size=size,
        keep_witnesses=keep_witnesses or adapt,
        until=demands if sequential else None,
        corpus=None if corpus is None else Path(corpus),
        budget=BudgetTracker(asked.budget, on_progress),
    )

    def judged(plan: Plan) -> Scorecard:
        return _judged(_answer(plan) if cache is None else _remembered(plan, cache), demands)

    card = judged(plan)
    if adapt:
        card = adaptively(plan, card, judged, lambda: BudgetTracker(asked.budget, on_progress))
        return card if keep_witnesses else card.with_witnesses(None)
    return advised(card, target)


def _remembered(plan: Plan, folder: str | Path) -> Scorecard:
    """Answer from the cache, or run and keep the answer."""
    question = _question(plan)
    if not question["weights"]:
        _log.warning("%s: what it holds can't be read, so nothing is answered from the cache", plan.target.name)
        return _answer(plan)
    with slot(folder, question) as here:
        card = here.card()
        if card is None or here.corpus_then() != _corpus_now(plan):
            card = _answer(replace(plan, slot=here))
            here.close(card, _corpus_now(plan))
        return card


def _corpus_now(plan: Plan) -> str:
    return "" if plan.corpus is None else witness_corpus.digest(plan.corpus)


def _question(plan: Plan) -> dict[str, Any]:
    """What the answer depends on, and nothing else: not the batch size, the gates or the budget."""
    return {
        "version": robustbench_lite.__version__,
        "torch": torch.__version__,
        "target": plan.target.name,
        "device": plan.target.device.type,
        "weights": plan.target.weights_sha256(),
        "access": plan.target.access,
        "code": code_sha256(plan.target.module),
        "preprocessing": code_sha256((plan.target.preprocessing,)),
        "earlier": sum(map(len, plan.earlier.values())),  # which ones follows from the rest
        "suspect": plan.suspect,
        "data": plan.data.name,
        "samples": hashlib.sha256(keys_of(plan.data, plan.size).tobytes()).hexdigest(),
        "limit": plan.limit,
        "suite": plan.suite.model_dump(mode="json", exclude={"budget"}),
        "attacks": [code_sha256(planned.attack) for planned in plan.attacks],
        "seed": plan.seed,
        "keep_witnesses": plan.keep_witnesses,
        "until": repr(plan.until),
    }


def _answer(plan: Plan) -> Scorecard:
    """Run the job."""
    plan.budget.batch_limit = min(plan.budget.batch_limit, plan.size)
    before = plan.target.info()
    clean = clean_pass(plan)
    checked = checks(plan, clean)
    clean = clean._replace(forward=clean.forward + checked.forward, backward=checked.backward)
    model = evidence.CountedModel(plan.target, plan.data, plan.seed, plan.budget, gradients=True, thorough=False)
    float64_model = _float64_model(model, clean)
    seen, runs = run_suite(plan, clean, float64_model)
    # What is INVALID already needs no further evidence.
    trusted = not any(finding.severity == "error" for finding in checked.findings)
    asked = _asked_again(plan, model, float64_model, clean, seen, runs, trusted)
    runs = asked.runs
    clean = clean._replace(forward=clean.forward + model.forward, backward=clean.backward + model.backward)
    if plan.corpus is not None:
        remember_witnesses(plan.corpus, clean, runs)
    return assemble.scorecard(
        target=before,
        data=plan.data.take(torch.from_numpy(seen)),
        planned=len(plan.data) if plan.until else None,
        limit=plan.limit,
        clean=clean.take(seen),
        suite=plan.suite,
        skipped=plan.skipped,
        runs=[run.take(seen) for run in runs],
        audited=asked.audit,
        stopped=asked.stopped,
        checks=checked.passes + model.passes,
        found=(*checked.findings, *asked.findings, *_changed(plan.target, before.weights_sha256)),
        seed=plan.seed,
        batch_size=plan.size,
        keep_witnesses=plan.keep_witnesses,
        budget=plan.budget,
    )


def _changed(target: Target, before: str) -> Iterator[Finding]:
    if not isinstance(target.module, BlackBox):  # a function may well count its calls
        yield from validity.changed(before, target.weights_sha256())


def _float64_model(model: evidence.CountedModel, clean: Clean) -> Ask | None:
    """Return what asks the target in float64; None where it can't be, or is another model there."""
    right = clean.correct.nonzero()[0]
    if model.function or not len(right):
        return None
    rows = right[np.argsort(clean.sample_keys[right], kind="stable")][:_TRIED]
    try:
        with model.target.attacking():
            return evidence.float64_model(model, torch.from_numpy(rows))
    except Stop:
        pass  # the first attack finds the budget spent, too, and says so
    except KeyboardInterrupt:
        model.budget.interrupted = True
    except Exception:  # the attacks will trip over it, and tell
        _log.info("%s failed when it was asked in float64", model.target.name, exc_info=True)
    return None


class _Asked(NamedTuple):
    """What came of asking about survivors and witnesses again."""

    runs: list[AttackRun]
    """With what the evidence broke."""
    audit: Audit | None
    findings: tuple[Finding, ...]
    stopped: str | None
    """Why it didn't come to its end."""


def _asked_again(
    plan: Plan,
    model: evidence.CountedModel,
    float64_model: Ask | None,
    clean: Clean,
    seen: NDArray[np.int64],
    runs: list[AttackRun],
    trusted: bool,
) -> _Asked:
    """Gather evidence on the survivors and audit the witnesses; whatever fails there, what the attacks found stays."""
    findings: list[Finding] = []
    fallen: dict[ThreatModel, dict[int, NDArray[np.float32]]] = {}
    stopped: str | None = None
    images = rounded = 0
    cut = any(run.result.stopped == "interrupt" for run in runs)
    try:
        least = evidence.SUSPECT if plan.suspect else evidence.LEAST
        fronts = _fronts(plan, clean, seen, runs) if trusted and not cut else ()
        for told in evidence.gather(model, fronts, plan.size, least):
            # One by one: what was found stays found where the next can't be asked.
            if isinstance(told, Finding):
                findings.append(told)
            else:
                fallen.setdefault(told.threat, {}).update(told.witnesses)
        if not cut:
            images, rounded = evidence.as_images(model, runs, clean.sample_keys, everything=plan.keep_witnesses)
    except Stop as stop:
        stopped = str(stop)
    except KeyboardInterrupt:
        stopped = "interrupt"
    except Exception as fault:
        _log.info("%s failed when it was asked again", plan.target.name, exc_info=True)
        findings.append(validity.unasked(fault))
    if stopped is None:
        runs = _with_evidence(plan, clean, fallen, float64_model, runs)
    audit = evidence.audit(runs, plan.data.index, float64_model is not None)
    if audit is not None:
        audit = audit.model_copy(update={"images": images, "rounded": rounded})
    return _Asked(runs, audit, (*findings, *validity.denied(audit)), stopped)


def _with_evidence(
    plan: Plan,
    clean: Clean,
    fallen: Mapping[ThreatModel, Mapping[int, NDArray[np.float32]]],
    float64_model: Ask | None,
    runs: list[AttackRun],
) -> list[AttackRun]:
    """Add what broke survivors while they were asked, confirmed as every witness is: it counts."""
    everything = range(len(plan.data)) if plan.keep_witnesses or plan.corpus is not None else ()
    found = list(runs)
    for threat, witnesses in fallen.items():
        known = {int(clean.sample_keys[row]): x for row, x in witnesses.items()}
        replay = PlannedAttack(EVIDENCE, REPLAY, witness_corpus.Replay(known=known))
        rows = np.array(sorted(witnesses))
        with plan.budget.quietly():
            run = attempt(plan, replay, samples_under(plan, threat, clean), rows, threat, everything, float64_model)
        # What a probe saw is no claim of an attack: where it isn't confirmed, that tells nothing.
        found.append(AttackRun(*replay, threat, rows, replace(run, denied={})))
    return sorted(found, key=lambda run: plan.suite.threats.index(run.threat))


def _fronts(plan: Plan, clean: Clean, seen: NDArray[np.int64], runs: list[AttackRun]) -> Iterator[evidence.Front]:
    """Survivors of the largest ball of each norm and goal, in an order of their own, with what they survived."""
    if any(run.result.stopped for run in runs):
        return
    largest = {adversary(threat): threat for threat in sorted(plan.suite.threats, key=lambda threat: threat.eps)}
    for threat in largest.values():
        fought = [run for run in runs if run.threat == threat and run.result.fault is None]
        fought = [run for run in fought if not isinstance(run.attack, witness_corpus.Replay)]
        if threat.norm not in NORMS or plan.target.access != "gradients" or not fought:
            continue
        standing = clean.correct.copy()
        for run in runs:
            if adversary(run.threat) == adversary(threat):
                standing &= ~run.result.broken
        rows = seen[standing[seen]]
        yield evidence.Front(
            threat=threat,
            samples=samples_under(plan, threat, clean),
            attacks=tuple(
                evidence.AttackRecord(run.name, run.attack, np.flatnonzero(run.result.broken)) for run in fought
            ),
            survivors=torch.from_numpy(rows[np.argsort(clean.sample_keys[rows], kind="stable")]),
        )


def _judged(card: Scorecard, demands: Gates) -> Scorecard:
    """Hold the card against the gates."""
    gates = decide(demands, Counts.of(card), total=card.data.planned)
    findings = card.validity
    if card.interrupted and any(gate.passed and gate.name in _ON_ROBUST_ACCURACY for gate in gates):
        # An upper bound can miss such a gate, but not meet it.
        findings = tuple(
            finding.model_copy(update={"severity": "error"}) if finding.code == validity.CUT_SHORT else finding
            for finding in findings
        )
    verdict: Verdict = "PASS" if all(gate.passed for gate in gates) else "FAIL"
    if any(finding.severity == "error" for finding in findings):
        verdict = "INVALID"
    return card.model_copy(update={"gates": gates, "verdict": verdict, "validity": findings})
