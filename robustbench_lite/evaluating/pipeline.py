"""Evaluate: a target, data and a suite in, a scorecard out.

`evaluate` resolves what was asked; `evaluate_plan` is one evaluation from top to bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite.core.cost import Budget, BudgetTracker, Progress
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite, load_suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.core.usercode import no_exit
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating import corpus as witness_corpus
from robustbench_lite.evaluating import validity
from robustbench_lite.evaluating.adapt import curable
from robustbench_lite.evaluating.adapt.passed_over import along_other_ways
from robustbench_lite.evaluating.adapt.reevaluate import adaptively, advised
from robustbench_lite.evaluating.adapt.twin import with_twin
from robustbench_lite.evaluating.assemble import assemble
from robustbench_lite.evaluating.clean_pass import Checked, check_target
from robustbench_lite.evaluating.evidence.collect import Evidence, collect_evidence
from robustbench_lite.evaluating.forecast import forecast
from robustbench_lite.evaluating.measures.interface import Subject
from robustbench_lite.evaluating.measures.take import take_measures
from robustbench_lite.evaluating.plan import Options, Plan, make_plan, resolve
from robustbench_lite.evaluating.question import open_slot
from robustbench_lite.evaluating.run_suite import remember_witnesses, run_suite
from robustbench_lite.model.target import Target, as_target
from robustbench_lite.results.gates import Counts, Gates, decide
from robustbench_lite.results.scorecard import Scorecard, verdict_of
from robustbench_lite.workers import Executor

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
    anyway: bool = False,
    twin: nn.Module | Target | None = None,
    measures: Sequence[str] = (),
    reference: nn.Module | Target | Callable[..., Any] | None = None,
    workers: int | Executor = 1,
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
    anyway
        Whether the attacks are run also where the checks before the first of them make the evaluation INVALID. By
        default it ends there, with the clean accuracy: no attack could make it valid, but for what ``adapt`` cures.
    twin
        The model of floats that an artefact (quantised, exported, served) came from. The artefact is evaluated alone
        and then, again, with attacks that follow the twin's gradient; its own answers decide. The card is that of the
        second evaluation, as with ``adapt``.
    measures
        Names of further numbers to put on the card, from the catalogue ``measures``; those that a gate is about are
        taken without being named.
    reference
        Another model, that measures may compare this one with, as ``slowdown`` does.
    workers
        Processes that attack a part of the samples each, and share the processor's cores; or an executor, such as
        `workers.cluster.RayExecutor`. What breaks is the same for any number of them, but for rounding. The model and
        the data are sent to each once: both must be such that they can be pickled.
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
    options = Options(
        seed=seed,
        limit=limit,
        batch_size=batch_size,
        device=device,
        independent=independent,
        curve=curve,
        keep_witnesses=keep_witnesses,
        gates=gates if isinstance(gates, Gates) else Gates.of(gates or {}),
        budget=budget,
        sequential=sequential,
        cache=cache,
        corpus=corpus,
        adapt=adapt or twin is not None,
        anyway=anyway,
        measures=tuple(measures),
        reference=reference,
        workers=workers,
        on_progress=on_progress,
    )
    with no_exit():
        if twin is not None:
            card = _with_twin(model, data, suite, threat, options, as_target(twin))
            return card if keep_witnesses else card.with_witnesses(None)
        plan = make_plan(model, data, suite, threat, options)
        fresh = partial(BudgetTracker, plan.suite.budget, on_progress)
        card = along_other_ways(plan, evaluate_plan(plan), evaluate_plan, fresh)
        card = adaptively(plan, card, evaluate_plan, fresh) if adapt else advised(card, plan.target)
        return card if keep_witnesses else card.with_witnesses(None)


def _with_twin(model: Any, data: Any, suite: Any, threat: Any, options: Options, twin: Target) -> Scorecard:
    """Evaluate an artefact alone and with its twin; alone by the suite black_box where nothing of the suite fits."""
    asked, target, samples = (
        resolve(load_suite(suite), threat, options),
        as_target(model, options.device),
        as_data(data),
    )
    try:
        plan = make_plan(target, samples, asked, None, options)
    except UserError:
        alone = load_suite("black_box").attacks
        plan = make_plan(target, samples, asked.model_copy(update={"attacks": alone}), None, options)
    fresh = replace(plan, suite=asked, budget=BudgetTracker(asked.budget, options.on_progress))
    return with_twin(plan, twin, evaluate_plan(plan), evaluate_plan, fresh)


def evaluate_plan(plan: Plan) -> Scorecard:
    """Answer from the cache, or attack and keep the answer; then apply the gates."""
    with open_slot(plan) as slot:
        card = slot.answer(witness_corpus.digest(plan.corpus))
        if card is None:
            plan = replace(plan, slot=slot)
            checked = check_target(plan)
            evidence = Evidence.none(len(plan.data)) if _futile(plan, checked) else _attack(plan, checked)
            card = assemble(plan, checked, evidence)
            slot.close(card, witness_corpus.digest(plan.corpus))
    subject = Subject(card, plan.target, plan.data, plan.reference)
    card = take_measures(plan.measures, subject, plan.gates, plan.budget)
    return apply_gates(card, plan.gates)


def _attack(plan: Plan, checked: Checked) -> Evidence:
    plan.budget.forecast = forecast(plan, int(checked.clean.correct.sum()))
    attacked = run_suite(plan, checked)
    evidence = collect_evidence(plan, checked, attacked)
    remember_witnesses(plan, checked, evidence.runs)
    return evidence


def _futile(plan: Plan, checked: Checked) -> bool:
    """Whether the evaluation is INVALID already, and no evaluation after it would cure that."""
    errors = [finding for finding in checked.findings if finding.severity == "error"]
    cured = plan.adapt and all(curable(finding, plan.target) for finding in errors)
    return not (checked.trusted or plan.anyway or cured)


def apply_gates(card: Scorecard, gates: Gates) -> Scorecard:
    """Decide the gates of a card, and with them its verdict."""
    decided = decide(gates, Counts.of(card), total=card.data.planned, measures=card.measures)
    findings = card.validity
    if card.interrupted and any(gate.passed and gate.name in _ON_ROBUST_ACCURACY for gate in decided):
        # An upper bound can miss such a gate, but not meet it.
        findings = tuple(
            finding.model_copy(update={"severity": "error"}) if finding.code == validity.CUT_SHORT else finding
            for finding in findings
        )
    return card.model_copy(update={"gates": decided, "verdict": verdict_of(findings, decided), "validity": findings})
