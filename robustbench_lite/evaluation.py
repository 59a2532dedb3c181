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
from robustbench_lite import corpus as witness_corpus
from robustbench_lite import evidence, tally, validity
from robustbench_lite.adapt.again import adaptively, advised
from robustbench_lite.black_box import BlackBox
from robustbench_lite.cache import code_sha256, slot
from robustbench_lite.clean import Clean, checks, clean_pass, keys_of
from robustbench_lite.data import as_data
from robustbench_lite.errors import UserError
from robustbench_lite.exact import Ask
from robustbench_lite.fight import attempt, fight, remember_witnesses, samples_under
from robustbench_lite.gates import Counts, Gates, decide
from robustbench_lite.meter import Meter, Progress, Stop
from robustbench_lite.question import Job, Planned, fitting, resolve
from robustbench_lite.scorecard import Audit, Finding, Scorecard, Verdict
from robustbench_lite.suite import EVIDENCE, REPLAY, Budget, Suite, adversary, load_suite
from robustbench_lite.tally import Bout
from robustbench_lite.target import Target, as_target
from robustbench_lite.threat import NORMS, ThreatModel

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
    job = Job(
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
        meter=Meter(asked.budget, on_progress),
    )

    def judged(job: Job) -> Scorecard:
        return _judged(_answer(job) if cache is None else _remembered(job, cache), demands)

    card = judged(job)
    if adapt:
        card = adaptively(job, card, judged, lambda: Meter(asked.budget, on_progress))
        return card if keep_witnesses else card.with_witnesses(None)
    return advised(card, target)


def _remembered(job: Job, folder: str | Path) -> Scorecard:
    """Answer from the cache, or run and keep the answer."""
    question = _question(job)
    if not question["weights"]:
        _log.warning("%s: what it holds can't be read, so nothing is answered from the cache", job.target.name)
        return _answer(job)
    with slot(folder, question) as here:
        card = here.card()
        if card is None or here.corpus_then() != _corpus_now(job):
            card = _answer(replace(job, slot=here))
            here.close(card, _corpus_now(job))
        return card


def _corpus_now(job: Job) -> str:
    return "" if job.corpus is None else witness_corpus.digest(job.corpus)


def _question(job: Job) -> dict[str, Any]:
    """What the answer depends on, and nothing else: not the batch size, the gates or the budget."""
    return {
        "version": robustbench_lite.__version__,
        "torch": torch.__version__,
        "target": job.target.name,
        "device": job.target.device.type,
        "weights": job.target.weights_sha256(),
        "access": job.target.access,
        "code": code_sha256(job.target.module),
        "preprocessing": code_sha256((job.target.preprocessing,)),
        "earlier": sum(map(len, job.earlier.values())),  # which ones follows from the rest
        "suspect": job.suspect,
        "data": job.data.name,
        "samples": hashlib.sha256(keys_of(job.data, job.size).tobytes()).hexdigest(),
        "limit": job.limit,
        "suite": job.suite.model_dump(mode="json", exclude={"budget"}),
        "attacks": [code_sha256(planned.attack) for planned in job.attacks],
        "seed": job.seed,
        "keep_witnesses": job.keep_witnesses,
        "until": repr(job.until),
    }


def _answer(job: Job) -> Scorecard:
    """Run the job."""
    job.meter.batch_limit = min(job.meter.batch_limit, job.size)
    before = job.target.info()
    clean = clean_pass(job)
    checked = checks(job, clean)
    clean = clean._replace(forward=clean.forward + checked.forward, backward=checked.backward)
    look = evidence.Look(job.target, job.data, job.seed, job.meter, gradients=True, thorough=False)
    exact = _exact(look, clean)
    seen, bouts = fight(job, clean, exact)
    # What is INVALID already needs no further evidence.
    trusted = not any(finding.severity == "error" for finding in checked.findings)
    asked = _asked_again(job, look, exact, clean, seen, bouts, trusted)
    bouts = asked.bouts
    clean = clean._replace(forward=clean.forward + look.forward, backward=clean.backward + look.backward)
    if job.corpus is not None:
        remember_witnesses(job.corpus, clean, bouts)
    return tally.scorecard(
        target=before,
        data=job.data.take(torch.from_numpy(seen)),
        planned=len(job.data) if job.until else None,
        limit=job.limit,
        clean=clean.take(seen),
        suite=job.suite,
        skipped=job.skipped,
        bouts=[bout.take(seen) for bout in bouts],
        audited=asked.audit,
        stopped=asked.stopped,
        checks=checked.passes + look.passes,
        found=(*checked.findings, *asked.findings, *_changed(job.target, before.weights_sha256)),
        seed=job.seed,
        batch_size=job.size,
        keep_witnesses=job.keep_witnesses,
        meter=job.meter,
    )


def _changed(target: Target, before: str) -> Iterator[Finding]:
    if not isinstance(target.module, BlackBox):  # a function may well count its calls
        yield from validity.changed(before, target.weights_sha256())


def _exact(look: evidence.Look, clean: Clean) -> Ask | None:
    """Return what asks the target in float64; None where it can't be, or is another model there."""
    right = clean.correct.nonzero()[0]
    if look.function or not len(right):
        return None
    rows = right[np.argsort(clean.keys[right], kind="stable")][:_TRIED]
    try:
        with look.target.attacking():
            return evidence.exact(look, torch.from_numpy(rows))
    except Stop:
        pass  # the first attack finds the budget spent, too, and says so
    except KeyboardInterrupt:
        look.meter.interrupted = True
    except Exception:  # the attacks will trip over it, and tell
        _log.info("%s failed when it was asked in float64", look.target.name, exc_info=True)
    return None


class _Asked(NamedTuple):
    """What came of asking about survivors and witnesses again."""

    bouts: list[Bout]
    """With what the evidence broke."""
    audit: Audit | None
    findings: tuple[Finding, ...]
    stopped: str | None
    """Why it didn't come to its end."""


def _asked_again(
    job: Job,
    look: evidence.Look,
    exact: Ask | None,
    clean: Clean,
    seen: NDArray[np.int64],
    bouts: list[Bout],
    trusted: bool,
) -> _Asked:
    """Gather evidence on the survivors and audit the witnesses; whatever fails there, what the attacks found stays."""
    findings: list[Finding] = []
    fallen: dict[ThreatModel, dict[int, NDArray[np.float32]]] = {}
    stopped: str | None = None
    images = rounded = 0
    cut = any(bout.run.stopped == "interrupt" for bout in bouts)
    try:
        least = evidence.SUSPECT if job.suspect else evidence.LEAST
        fronts = _fronts(job, clean, seen, bouts) if trusted and not cut else ()
        for told in evidence.gather(look, fronts, job.size, least):
            # One by one: what was found stays found where the next can't be asked.
            if isinstance(told, Finding):
                findings.append(told)
            else:
                fallen.setdefault(told.threat, {}).update(told.witnesses)
        if not cut:
            images, rounded = evidence.as_images(look, bouts, clean.keys, everything=job.keep_witnesses)
    except Stop as stop:
        stopped = str(stop)
    except KeyboardInterrupt:
        stopped = "interrupt"
    except Exception as fault:
        _log.info("%s failed when it was asked again", job.target.name, exc_info=True)
        findings.append(validity.unasked(fault))
    if stopped is None:
        bouts = _with_evidence(job, clean, fallen, exact, bouts)
    audit = evidence.audit(bouts, job.data.index, exact is not None)
    if audit is not None:
        audit = audit.model_copy(update={"images": images, "rounded": rounded})
    return _Asked(bouts, audit, (*findings, *validity.denied(audit)), stopped)


def _with_evidence(
    job: Job,
    clean: Clean,
    fallen: Mapping[ThreatModel, Mapping[int, NDArray[np.float32]]],
    exact: Ask | None,
    bouts: list[Bout],
) -> list[Bout]:
    """Add what broke survivors while they were asked, confirmed as every witness is: it counts."""
    everything = range(len(job.data)) if job.keep_witnesses or job.corpus is not None else ()
    found = list(bouts)
    for threat, witnesses in fallen.items():
        known = {int(clean.keys[row]): x for row, x in witnesses.items()}
        replay = Planned(EVIDENCE, REPLAY, witness_corpus.Replay(known=known))
        rows = np.array(sorted(witnesses))
        with job.meter.quietly():
            run = attempt(job, replay, samples_under(job, threat, clean), rows, threat, everything, exact)
        # What a probe saw is no claim of an attack: where it isn't confirmed, that tells nothing.
        found.append(Bout(*replay, threat, rows, replace(run, denied={})))
    return sorted(found, key=lambda bout: job.suite.threats.index(bout.threat))


def _fronts(job: Job, clean: Clean, seen: NDArray[np.int64], bouts: list[Bout]) -> Iterator[evidence.Front]:
    """Survivors of the largest ball of each norm and goal, in an order of their own, with what they survived."""
    if any(bout.run.stopped for bout in bouts):
        return
    largest = {adversary(threat): threat for threat in sorted(job.suite.threats, key=lambda threat: threat.eps)}
    for threat in largest.values():
        fought = [bout for bout in bouts if bout.threat == threat and bout.run.fault is None]
        fought = [bout for bout in fought if not isinstance(bout.attack, witness_corpus.Replay)]
        if threat.norm not in NORMS or job.target.access != "gradients" or not fought:
            continue
        standing = clean.correct.copy()
        for bout in bouts:
            if adversary(bout.threat) == adversary(threat):
                standing &= ~bout.run.broken
        rows = seen[standing[seen]]
        yield evidence.Front(
            threat=threat,
            samples=samples_under(job, threat, clean),
            attacks=tuple(evidence.Fought(bout.name, bout.attack, np.flatnonzero(bout.run.broken)) for bout in fought),
            survivors=torch.from_numpy(rows[np.argsort(clean.keys[rows], kind="stable")]),
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
