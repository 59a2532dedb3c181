"""Evaluate: a target, data and a suite in, a scorecard out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import robustbench_lite
from robustbench_lite import corpus as witness_corpus
from robustbench_lite import registry, tally, validity
from robustbench_lite.cache import Slot, code_sha256, slot
from robustbench_lite.data import Data, as_data, check_inputs, check_labels
from robustbench_lite.engine import Look, Run, Samples, run
from robustbench_lite.errors import UserError
from robustbench_lite.files import atomic_file
from robustbench_lite.gates import Counts, Gates, decide, settled
from robustbench_lite.meter import Meter, Progress
from robustbench_lite.noise import Noise
from robustbench_lite.scorecard import NPZ_FAULTS, Scorecard, Verdict
from robustbench_lite.stepper import Attack
from robustbench_lite.suite import Budget, Suite, load_suite, once_each
from robustbench_lite.tally import Bout, Clean
from robustbench_lite.target import Target, as_target
from robustbench_lite.threat import ThreatModel

_log = logging.getLogger(__name__)
_BATCH = {"cpu": 128, "cuda": 512}
_GALLERY_BYTES = 1 << 26
_ON_ROBUST_ACCURACY = ("min_robust_accuracy", "max_drop", "max_regression")
_LOOK_EVERY = 128  # samples between two looks at the gates: when a sequential run may end, on whatever machine
_CLEAN_FILE = "clean.npz"


def evaluate(
    model: nn.Module | Target,
    data: Any,
    suite: str | Path | Suite | list[str] = "linf_standard",
    threat: str | ThreatModel | list[str | ThreatModel] | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    independent: bool | None = None,
    keep_witnesses: bool = False,
    gates: Gates | Mapping[str, float] | None = None,
    budget: Budget | None = None,
    sequential: bool = False,
    cache: str | Path | None = None,
    corpus: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Scorecard:
    """Attack a model with a suite and say how much of its accuracy survives.

    Parameters
    ----------
    model
        A module, or a `Target`: inputs in [0, 1], shape (N, C, H, W); logits out, shape (N, K).
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
        Whether each attack sees every sample, or (False) only those that the attacks before it left; by default as
        the suite says.
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
    asked = _resolve(load_suite(suite), threat, independent, budget)
    target, samples = as_target(model, device), as_data(data)
    if limit is not None:
        samples = samples.stratified(limit, seed)
    size = _BATCH.get(target.device.type, 512) if batch_size is None else batch_size
    if size < 1:
        raise UserError(f"batch size is {size}: expected at least 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}: expected a number from 0 to 2^63 - 1")
    _check_ball(asked, samples)
    if corpus is not None:
        witness_corpus.claim(corpus)
    job = _Job(
        target=target,
        data=samples,
        limit=limit,
        suite=asked,
        attacks=_built(asked),
        seed=seed,
        size=size,
        keep_witnesses=keep_witnesses,
        until=demands if sequential else None,
        corpus=None if corpus is None else Path(corpus),
        meter=Meter(asked.budget, on_progress),
    )
    return _judged(job.answer() if cache is None else _remembered(job, cache), demands)


class _Planned(NamedTuple):
    """An attack of the suite, ready to run."""

    name: str
    algorithm: str
    attack: Attack


class _Round(NamedTuple):
    """What is run under one threat model."""

    threat: ThreatModel
    samples: Samples
    attacks: tuple[_Planned, ...]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What was asked, checked and resolved."""

    target: Target
    data: Data
    limit: int | None
    suite: Suite
    attacks: tuple[_Planned, ...]
    seed: int
    size: int
    keep_witnesses: bool
    until: Gates | None
    corpus: Path | None
    meter: Meter
    slot: Slot | None = None

    def answer(self) -> Scorecard:
        """Run it."""
        before = self.target.weights_sha256()
        clean = _remembered_clean_pass(self)
        seen, bouts = _fight(self, clean)
        if self.corpus is not None:
            _remember_witnesses(self.corpus, clean, bouts)
        return tally.scorecard(
            target=self.target.info(),
            data=self.data.take(torch.from_numpy(seen)),
            planned=len(self.data) if self.until else None,
            limit=self.limit,
            clean=clean.take(seen),
            suite=self.suite,
            bouts=[bout.take(seen) for bout in bouts],
            changed=tuple(validity.changed(before, self.target.weights_sha256())),
            seed=self.seed,
            batch_size=self.size,
            keep_witnesses=self.keep_witnesses,
            meter=self.meter,
        )

    def question(self) -> dict[str, Any]:
        """What the answer depends on, and nothing else: not the batch size, the gates or the budget."""
        return {
            "version": robustbench_lite.__version__,
            "torch": torch.__version__,
            "target": self.target.name,
            "device": self.target.device.type,
            "weights": self.target.weights_sha256(),
            "code": code_sha256(self.target.module),
            "data": self.data.name,
            "samples": hashlib.sha256(_keys(self.data, self.size).tobytes()).hexdigest(),
            "limit": self.limit,
            "suite": self.suite.model_dump(mode="json", exclude={"budget"}),
            "attacks": [code_sha256(planned.attack) for planned in self.attacks],
            "seed": self.seed,
            "keep_witnesses": self.keep_witnesses,
            "until": repr(self.until),
        }


def _remembered(job: _Job, folder: str | Path) -> Scorecard:
    """Answer from the cache, or run and keep the answer."""
    with slot(folder, job.question()) as here:
        card = here.card()
        if card is None or here.corpus_then() != _corpus_now(job):
            card = replace(job, slot=here).answer()
            here.close(card, _corpus_now(job))
        return card


def _corpus_now(job: _Job) -> str:
    return "" if job.corpus is None else witness_corpus.digest(job.corpus)


def _resolve(suite: Suite, threat: Any, independent: bool | None, budget: Budget | None) -> Suite:
    """Put what the caller asked for in place of what the suite says."""
    threats = suite.threats
    if threat is not None:
        given = threat if isinstance(threat, list | tuple) else [threat]
        threats = once_each(tuple(ThreatModel.parse(one) for one in given))
        if not threats:
            raise UserError("no threat model was given: expected at least one, such as 'Linf 8/255'")
    return suite.model_copy(
        update={
            "threats": threats,
            "independent": suite.independent if independent is None else independent,
            "budget": budget or suite.budget,
        }
    )


def _built(suite: Suite) -> tuple[_Planned, ...]:
    """Make the attacks, and refuse those that don't do the norms that are asked for."""
    attacks = tuple(
        _Planned(spec.name, spec.attack, registry.build("attacks", spec.attack, spec.params)) for spec in suite.attacks
    )
    if wrong := [name for name, _, attack in attacks if not isinstance(attack, Attack)]:
        raise UserError(f"{', '.join(wrong)}: expected a subclass of robustbench_lite.stepper.Attack")
    faults = [
        f"  {name} can't be run under {threat}: it does {', '.join(attack.norms)}"
        for threat in suite.threats
        for name, _, attack in attacks
        if threat.norm not in attack.norms
    ]
    if faults:
        raise UserError("\n".join([f"suite {suite.name!r} doesn't fit the threat model:", *faults]))
    return attacks


def _check_ball(suite: Suite, data: Data) -> None:
    widest = float(np.prod(data.shape)) ** 0.5
    for threat in suite.threats:
        if threat.norm == "L2" and threat.eps >= widest:
            raise UserError(
                f"eps is {threat.eps_text}: no two inputs of shape {data.shape} in [0, 1] are farther apart than "
                f"{widest:.3g} in L2; expected less"
            )


def _clean_pass(job: _Job) -> Clean:
    """Ask for the clean predictions, check inputs, labels and logits, and give each sample its key."""
    target, data = job.target, job.data
    first = data.fetch(torch.arange(min(2, len(data))))
    check_inputs(first, data.name)
    classes = target.probe(first)
    check_labels(data.labels, classes)
    look = Look(target, "margin", False, job.meter, job.size)
    prediction, least = [], []
    keys: list[int] = []
    again = torch.empty(0, dtype=torch.int64)
    with target.attacking():
        for rows, x in _batches(data, job.size):
            labels = data.labels[rows].to(target.device)
            logits = look(x.to(target.device), labels, gradient=False).logits.cpu()
            if not logits.isfinite().all():
                bad = rows[~logits.isfinite().all(1)].tolist()
                raise UserError(
                    f"the model's logits are NaN or infinite for {len(bad)} clean samples (the first is number "
                    f"{bad[0]}): expected finite logits; check its weights and its normalisation"
                )
            job.meter.spend(len(rows), 0)
            prediction.append(logits.argmax(1))
            least.append(logits.scatter(1, data.labels[rows][:, None], torch.inf).argmin(1))
            keys += _key_list(x, data.labels[rows])
            if not len(again):
                # The same samples once more, in two parts: the answers must depend neither on the call nor the batch.
                parts = zip(x.to(target.device).chunk(2), labels.chunk(2), strict=True)
                again = torch.cat([look(part, of, gradient=False).logits.argmax(1).cpu() for part, of in parts])
                job.meter.spend(len(rows), 0)
    predicted = torch.cat(prediction)
    forward = np.ones(len(data), np.int64)
    forward[: len(first)] += 1  # the probe
    forward[: len(again)] += 1
    job.meter.spend(len(first), 0)
    return Clean(
        prediction=predicted.numpy(),
        keys=np.array(keys, np.int64),
        least_likely=torch.cat(least),
        labels=data.labels.numpy(),
        classes=classes,
        forward=forward,
        asked=len(again),
        changed=int((again != predicted[: len(again)]).sum()),
    )


def _remembered_clean_pass(job: _Job) -> Clean:
    """Take up the clean pass of a run that was killed, or make it and keep it."""
    if job.slot is None:
        return _clean_pass(job)
    path = job.slot.folder / _CLEAN_FILE
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            plain = {name: stored[name] for name in ("prediction", "keys", "least_likely", "forward")}
            classes, asked, changed = stored["counts"].tolist()
    except NPZ_FAULTS:
        clean = _clean_pass(job)
        with atomic_file(path) as new:
            np.savez(
                new,
                prediction=clean.prediction,
                keys=clean.keys,
                least_likely=clean.least_likely.numpy(),
                forward=clean.forward,
                counts=np.array([clean.classes, clean.asked, clean.changed]),
            )
        return clean
    plain["least_likely"] = torch.from_numpy(plain["least_likely"])
    job.meter.spend(int(plain["forward"].sum()), 0)
    return Clean(**plain, labels=job.data.labels.numpy(), classes=classes, asked=asked, changed=changed)


def _batches(data: Data, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions and checked inputs, a batch at a time."""
    for at in range(0, len(data), size):
        rows = torch.arange(at, min(at + size, len(data)))
        x = data.fetch(rows)
        check_inputs(x, data.name)
        yield rows, x


def _keys(data: Data, size: int) -> NDArray[np.int64]:
    return np.array([key for rows, x in _batches(data, size) for key in _key_list(x, data.labels[rows])], np.int64)


def _key_list(x: Tensor, labels: Tensor) -> list[int]:
    """Hash each input with its label."""
    digests = (
        hashlib.blake2b(sample.tobytes() + label.to_bytes(8, "little"), digest_size=8).digest()
        for sample, label in zip(x.numpy(), labels.tolist(), strict=True)
    )
    return [int.from_bytes(digest, "little", signed=True) for digest in digests]


def _aims(job: _Job, threat: ThreatModel, clean: Clean) -> Tensor:
    """Return the class that the goal is about, for each sample."""
    labels = job.data.labels
    if threat.goal == "untargeted":
        return labels
    if threat.target_class == "least_likely":
        return clean.least_likely
    if threat.target_class == "next":
        return (labels + 1) % clean.classes
    draws = Noise(torch.from_numpy(clean.keys)).at(job.seed).uniform(())
    others = (draws * (clean.classes - 1)).long().clamp_max(clean.classes - 2)
    return (labels + 1 + others) % clean.classes


def _fight(job: _Job, clean: Clean) -> tuple[NDArray[np.int64], list[Bout]]:
    """Run every attack under every threat model; return the positions of the samples seen, and what came out.

    All samples at once, or some at a time until the gates are settled; early where an attack was stopped.
    """
    bouts: dict[tuple[ThreatModel, str], Bout] = {}
    standing = clean.correct
    seen = np.empty(0, np.int64)
    rounds = list(_rounds(job, clean))
    everything = job.keep_witnesses or job.corpus is not None
    keep = range(len(job.data)) if everything else frozenset(_shown(job.data, clean))
    for part in _parts(job, clean):
        seen = np.concatenate([seen, part])
        stopped = False
        for bout in _fight_part(job, clean, rounds, keep, part):
            known = bouts.get((bout.threat, bout.name))
            bouts[bout.threat, bout.name] = bout if known is None else known.merge(bout)
            standing &= ~bout.run.broken
            stopped = bout.run.stopped is not None
        if stopped or (
            job.until is not None and settled(job.until, _counts(job, clean, standing, seen), len(job.data))
        ):
            break
    return np.sort(seen), list(bouts.values())


def _parts(job: _Job, clean: Clean) -> list[NDArray[np.int64]]:
    """Positions of the samples that are attacked together; where gates may settle early, in a random order."""
    everything = np.arange(len(job.data))
    if job.until is None:
        return [everything]
    draws = Noise(torch.from_numpy(clean.keys)).at(job.seed).uniform(()).numpy()
    order = np.lexsort((clean.keys, draws))
    return np.split(order, range(_LOOK_EVERY, len(order), _LOOK_EVERY))


def _counts(job: _Job, clean: Clean, standing: NDArray[np.bool_], seen: NDArray[np.int64]) -> Counts:
    return Counts(
        seen=len(seen),
        right=int(clean.correct[seen].sum()),
        robust=int(standing[seen].sum()),
        passes=job.meter.passes.total,
        seconds=job.meter.seconds,
    )


def _rounds(job: _Job, clean: Clean) -> Iterator[_Round]:
    """Make ready, once for all parts of the samples, what each threat model takes."""
    for threat in job.suite.threats:
        samples = Samples(job.data, torch.from_numpy(clean.keys), _aims(job, threat, clean))
        yield _Round(threat, samples, (*_replayed(job, threat, clean), *job.attacks))


def _fight_part(
    job: _Job, clean: Clean, rounds: list[_Round], keep: Container[int], part: NDArray[np.int64]
) -> Iterator[Bout]:
    """Run the suite on some samples."""
    right = part[clean.correct[part]]
    for threat, samples, attacks in rounds:
        standing = right
        for planned in attacks:
            rows = right if job.suite.independent else standing
            if isinstance(planned.attack, witness_corpus.Replay):
                rows = rows[np.isin(clean.keys[rows], list(planned.attack.known))]
            try:
                result = run(
                    planned.attack,
                    job.target,
                    samples,
                    rows,
                    threat,
                    name=planned.name,
                    seed=job.seed,
                    batch_size=job.size,
                    keep=keep,
                    meter=job.meter,
                    journal=None if job.slot is None else job.slot.journal(planned.name, str(threat)),
                )
            except Exception as fault:  # whatever an attack, or the model under it, trips over: the others still count
                _log.info("%s failed under %s", planned.name, threat, exc_info=True)
                result = replace(
                    Run.empty(len(job.data), planned.attack.steps), fault=f"{type(fault).__name__}: {fault}"
                )
            yield Bout(planned.name, planned.algorithm, planned.attack, threat, rows, result)
            if result.stopped:
                return
            standing = standing[~result.broken[standing]]


def _replayed(job: _Job, threat: ThreatModel, clean: Clean) -> Iterator[_Planned]:
    """Put what the corpus knows against these samples before the suite."""
    if job.corpus is None:
        return
    present = set(clean.keys.tolist())
    known = {key: x for key, x in witness_corpus.load(job.corpus, threat).items() if key in present}
    if known:
        yield _Planned(witness_corpus.REPLAY, witness_corpus.REPLAY, witness_corpus.Replay(known=known))


def _remember_witnesses(folder: Path, clean: Clean, bouts: list[Bout]) -> None:
    for threat in dict.fromkeys(bout.threat for bout in bouts):
        found = {
            int(clean.keys[row]): x
            for bout in bouts
            if bout.threat == threat
            for row, x in sorted(bout.run.witnesses.items())
        }
        witness_corpus.keep(folder, threat, found)


def _shown(data: Data, clean: Clean) -> list[int]:
    """Samples whose witness may be shown: a fixed draw, as many as a little memory holds."""
    right = clean.correct.nonzero()[0]
    most = min(1024, max(32, _GALLERY_BYTES // (4 * int(np.prod(data.shape)))))
    drawn: list[int] = right[np.argsort(clean.keys[right], kind="stable")][:most].tolist()
    return drawn


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
