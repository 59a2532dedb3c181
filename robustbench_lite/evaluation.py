"""Evaluate: a target, data and a suite in, a scorecard out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import robustbench_lite
from robustbench_lite import adapt as adaptive
from robustbench_lite import corpus as witness_corpus
from robustbench_lite import evidence, registry, tally, validity
from robustbench_lite.black_box import BlackBox
from robustbench_lite.cache import Slot, code_sha256, slot
from robustbench_lite.data import Data, as_data, check_inputs, check_labels
from robustbench_lite.engine import Look, Run, Samples, run
from robustbench_lite.errors import UserError
from robustbench_lite.files import atomic_file
from robustbench_lite.gates import Counts, Gates, decide, settled
from robustbench_lite.meter import Meter, Progress, Stop
from robustbench_lite.noise import Noise
from robustbench_lite.preflight import Preflight, preflight
from robustbench_lite.scorecard import (
    NPZ_FAULTS,
    Access,
    Adaptation,
    Audit,
    Finding,
    Measure,
    Scorecard,
    Skipped,
    Verdict,
)
from robustbench_lite.stepper import Attack
from robustbench_lite.suite import Budget, Suite, adversary, load_suite, once_each
from robustbench_lite.tally import Bout, Clean
from robustbench_lite.target import Target, as_target
from robustbench_lite.threat import NORMS, ThreatModel

_log = logging.getLogger(__name__)
_BATCH = {"cpu": 128, "cuda": 512}
_GALLERY_BYTES = 1 << 26
_ON_ROBUST_ACCURACY = ("min_robust_accuracy", "max_drop", "max_regression")
_LOOK_EVERY = 128  # samples between two looks at the gates: when a sequential run may end, on whatever machine
_ROUNDS = 2  # of an adaptive evaluation
_CLEAN_FILE, _CHECKS_FILE = "clean.npz", "checks.npz"


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
    asked = _resolve(load_suite(suite), threat, independent, curve, budget)
    target, samples = as_target(model, device), as_data(data)
    if limit is not None:
        samples = samples.stratified(limit, seed)
    size = _BATCH.get(target.device.type, 512) if batch_size is None else batch_size
    if size < 1:
        raise UserError(f"batch size is {size}: expected at least 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}: expected a number from 0 to 2^63 - 1")
    _check_ball(asked, samples)
    attacks = _built(asked)
    asked_before = _acquaint(target, samples)
    attacks, skipped = _fitting(attacks, target, asked, tuple(samples.shape))
    _check_curve(asked, attacks)
    if corpus is not None:
        witness_corpus.claim(corpus)
    job = _Job(
        target=target,
        asked_before=asked_before,
        data=samples,
        limit=limit,
        suite=asked,
        attacks=attacks,
        skipped=skipped,
        seed=seed,
        size=size,
        keep_witnesses=keep_witnesses or adapt,
        until=demands if sequential else None,
        corpus=None if corpus is None else Path(corpus),
        meter=Meter(asked.budget, on_progress),
    )

    def judged(job: _Job) -> Scorecard:
        return _judged(job.answer() if cache is None else _remembered(job, cache), demands)

    card = judged(job)
    if adapt:
        card = _adaptively(job, card, judged, lambda: Meter(asked.budget, on_progress))
        return card if keep_witnesses else card.with_witnesses(None)
    return _advised(card, target)


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
    asked_before: int
    """How often the first samples were asked about to find out what the target shows."""
    data: Data
    limit: int | None
    suite: Suite
    attacks: tuple[_Planned, ...]
    skipped: tuple[Skipped, ...]
    seed: int
    size: int
    keep_witnesses: bool
    until: Gates | None
    corpus: Path | None
    meter: Meter
    slot: Slot | None = None
    earlier: Mapping[str, Mapping[int, NDArray[np.float32]]] = field(default_factory=dict)
    """By threat model and sample key, witnesses of an evaluation before this one, to be tried first."""

    def answer(self) -> Scorecard:
        """Run it."""
        before = self.target.info()
        clean = _remembered_clean_pass(self)
        checked = _remembered_checks(self, clean)
        clean = clean._replace(forward=clean.forward + checked.forward, backward=checked.backward)
        seen, bouts = _fight(self, clean)
        look = evidence.Look(self.target, self.data, self.seed, self.meter, gradients=True, thorough=False)
        audited, bouts = _audited(self, look, clean, bouts)
        # What is INVALID already needs no further evidence.
        trusted = not any(finding.severity == "error" for finding in checked.findings)
        against = evidence.gather(look, _fronts(self, clean, seen, bouts), self.size) if trusted else ()
        clean = clean._replace(forward=clean.forward + look.forward, backward=clean.backward + look.backward)
        if self.corpus is not None:
            _remember_witnesses(self.corpus, clean, bouts)
        return tally.scorecard(
            target=before,
            data=self.data.take(torch.from_numpy(seen)),
            planned=len(self.data) if self.until else None,
            limit=self.limit,
            clean=clean.take(seen),
            suite=self.suite,
            skipped=self.skipped,
            bouts=[bout.take(seen) for bout in bouts],
            audited=audited,
            checks=checked.passes + look.passes,
            found=(*checked.findings, *against, *self._changed(before.weights_sha256)),
            seed=self.seed,
            batch_size=self.size,
            keep_witnesses=self.keep_witnesses,
            meter=self.meter,
        )

    def _changed(self, before: str) -> Iterator[Finding]:
        if not isinstance(self.target.module, BlackBox):  # a function may well count its calls
            yield from validity.changed(before, self.target.weights_sha256())

    def question(self) -> dict[str, Any]:
        """What the answer depends on, and nothing else: not the batch size, the gates or the budget."""
        return {
            "version": robustbench_lite.__version__,
            "torch": torch.__version__,
            "target": self.target.name,
            "device": self.target.device.type,
            "weights": self.target.weights_sha256(),
            "access": self.target.access,
            "code": code_sha256(self.target.module),
            "preprocessing": code_sha256((self.target.preprocessing,)),
            "earlier": sum(map(len, self.earlier.values())),  # which ones follows from the rest
            "data": self.data.name,
            "samples": hashlib.sha256(_keys(self.data, self.size).tobytes()).hexdigest(),
            "limit": self.limit,
            "suite": self.suite.model_dump(mode="json", exclude={"budget"}),
            "attacks": [code_sha256(planned.attack) for planned in self.attacks],
            "seed": self.seed,
            "keep_witnesses": self.keep_witnesses,
            "until": repr(self.until),
        }


def _adaptively(
    job: _Job, plain: Scorecard, judged: Callable[[_Job], Scorecard], meter: Callable[[], Meter]
) -> Scorecard:
    """Evaluate again what a finding of the plain evaluation kept attacks from, where it has a cure.

    What the second evaluation finds in turn (a masked gradient, say, of which a random target shows nothing) is cured
    with the rest, from the target itself, where that leads to other measures.
    """
    card, findings = plain, plain.validity
    taken: tuple[Measure, ...] = ()
    earlier = _witnesses_of(plain)
    for _ in range(_ROUNDS):
        if card.interrupted is not None:
            break
        spent = meter()
        try:
            found = adaptive.adapted(
                job.target, job.data, findings, job.suite.threats, seed=job.seed, batch_size=job.size, meter=spent
            )
        except Stop:
            break
        if found is None or [one.name for one in found.measures] == [one.name for one in taken]:
            break
        helper = _surrogate(job, found.target) if found.masked else None
        taken = found.measures
        told = taken if helper is None else (*taken, helper.measure)
        attacks = job.attacks if helper is None else (*job.attacks, helper.planned)
        card = judged(replace(job, target=found.target, attacks=attacks, meter=spent, earlier=earlier))
        card = card.model_copy(update={"target": plain.target, "adaptation": _adaptation(plain, told)})
        findings = (*findings, *card.validity)
    return card


class _Helper(NamedTuple):
    """An attack that needs no gradient of the target, against targets whose gradients were masked."""

    measure: Measure
    planned: _Planned


def _surrogate(job: _Job, target: Target) -> _Helper | None:
    """Train a surrogate and plan a transfer from it; None where no threat model takes one."""
    name = "transfer-surrogate"
    taken = {planned.name for planned in job.attacks}
    climbs = registry.build("attacks", "apgd", {}).norms
    if name in taken or any(threat.norm not in climbs or threat.goal == "targeted" for threat in job.suite.threats):
        return None
    other = adaptive.surrogate(target, job.data, job.suite.threats, seed=job.seed, size=job.size)
    attack = registry.build("attacks", "transfer", {"surrogate": other})
    why = "adversarial examples of a small network trained on the target's answers, as a check that needs no gradient"
    measure = Measure(name="surrogate", setting="transfer by apgd", reason=why)
    return _Helper(measure, _Planned(name, "transfer", attack))


def _witnesses_of(card: Scorecard) -> dict[str, dict[int, NDArray[np.float32]]]:
    """By threat model and sample key, what broke each sample."""
    found: dict[str, dict[int, NDArray[np.float32]]] = {}
    if card.witnesses is not None:
        keys = {row.index: int(np.uint64(int(row.key, 16)).astype(np.int64)) for row in card.outcomes}
        kept = card.witnesses
        for index, threat, x in zip(kept.index.tolist(), kept.threat.tolist(), kept.x, strict=True):
            found.setdefault(threat, {}).setdefault(keys[index], x)
    return found


def _adaptation(plain: Scorecard, measures: tuple[Measure, ...]) -> Adaptation:
    return Adaptation(
        measures=measures,
        clean_accuracy=plain.clean_accuracy,
        robust_accuracy=plain.robust_accuracy,
        verdict=plain.verdict,
        validity=plain.validity,
    )


def _advised(card: Scorecard, target: Target) -> Scorecard:
    """Say of each finding that an adaptive evaluation works around that it does."""
    told = tuple(
        one.model_copy(update={"cure": f"{one.cure}; or evaluate it adaptively (--adapt)"})
        if adaptive.curable(one, target)
        else one
        for one in card.validity
    )
    return card.model_copy(update={"validity": told})


def _remembered(job: _Job, folder: str | Path) -> Scorecard:
    """Answer from the cache, or run and keep the answer."""
    question = job.question()
    if not question["weights"]:
        _log.warning("%s: what it holds can't be read, so nothing is answered from the cache", job.target.name)
        return job.answer()
    with slot(folder, question) as here:
        card = here.card()
        if card is None or here.corpus_then() != _corpus_now(job):
            card = replace(job, slot=here).answer()
            here.close(card, _corpus_now(job))
        return card


def _corpus_now(job: _Job) -> str:
    return "" if job.corpus is None else witness_corpus.digest(job.corpus)


def _resolve(suite: Suite, threat: Any, independent: bool | None, curve: bool | None, budget: Budget | None) -> Suite:
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
            "curve": suite.curve if curve is None else curve,
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


def _acquaint(target: Target, data: Data) -> int:
    """Tell a function what the data know of its classes, and ask it what it shows; return how often it was asked."""
    if not isinstance(target.module, BlackBox):
        return 0
    target.module.expect(max(len(data.classes), int(data.labels.max()) + 1))
    if target.module.access is not None:
        return 0
    first = data.fetch(torch.arange(min(2, len(data))))
    check_inputs(first, data.name)
    target.probe(first)
    return 1


def _fitting(
    attacks: tuple[_Planned, ...], target: Target, suite: Suite, shape: tuple[int, ...]
) -> tuple[tuple[_Planned, ...], tuple[Skipped, ...]]:
    """Part the attacks in those that see enough of the target and can be run on its inputs, and those left out."""
    seeing = tuple(planned for planned in attacks if _enough(target.access, planned.attack.access))
    if not seeing:
        names = ", ".join(planned.name for planned in attacks)
        can = [name for name in registry.names("attacks") if _runs(name, target.access, suite)]
        ready = "the suite black_box, or " if "black_box" in registry.names("suites") else ""
        raise UserError(
            f"no attack of suite {suite.name!r} can run: of {target.name} only the {target.access} are seen, and "
            f"{names} need more; give {ready}attacks such as {', '.join(can) or 'your own'}"
        )
    skipped = []
    for threat in suite.threats:
        reasons = {
            planned.name: planned.attack.unfit(shape, threat) if planned in seeing else f"needs {planned.attack.access}"
            for planned in attacks
        }
        left_out = {name: reason for name, reason in reasons.items() if reason}
        if len(left_out) == len(attacks):
            told = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
            raise UserError(
                f"no attack of suite {suite.name!r} can run under {threat} on inputs of shape {shape}: {told}"
            )
        skipped += [Skipped(attack=name, threat=str(threat), reason=reason) for name, reason in left_out.items()]
    everywhere = {name for name in reasons if sum(one.attack == name for one in skipped) == len(suite.threats)}
    return tuple(planned for planned in attacks if planned.name not in everywhere), tuple(skipped)


def _enough(shown: Access, needed: Access) -> bool:
    order = get_args(Access)
    return bool(order.index(needed) <= order.index(shown))


def _runs(name: str, shown: Access, suite: Suite) -> bool:
    """Whether an attack of the catalogue sees enough of a target and does a norm that is asked for."""
    if ":" in name:  # another library's: any of many
        return False
    try:
        kind = registry.find("attacks", name)
    except UserError:
        return False
    if not (isinstance(kind, type) and issubclass(kind, Attack)):
        return False
    return _enough(shown, kind.access) and all(threat.norm in kind.norms for threat in suite.threats)


def _check_ball(suite: Suite, data: Data) -> None:
    values = int(np.prod(data.shape))
    widest = {"L2": values**0.5, "L1": values, "L0": values}
    for threat in suite.threats:
        if threat.norm in widest and threat.eps >= widest[threat.norm]:
            raise UserError(
                f"eps is {threat.eps_text}: no two inputs of shape {data.shape} in [0, 1] are farther apart than "
                f"{widest[threat.norm]:.6g} in {threat.norm}; expected less"
            )


def _check_curve(suite: Suite, attacks: tuple[_Planned, ...]) -> None:
    if suite.curve and not any(attack.minimal for _, _, attack in attacks):
        ready = [f"{threat.norm.lower()}_curve" for threat in suite.threats if threat.norm in NORMS]
        advice = f"as the suite {' or '.join(dict.fromkeys(ready))} has; or " if ready else "and here there is none; "
        raise UserError(
            f"no attack of suite {suite.name!r} that can run looks for the smallest perturbation: a curve needs one, "
            f"{advice}ask for several eps of one norm, without a curve"
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
    forward[: len(first)] += 1 + job.asked_before  # the probe
    forward[: len(again)] += 1
    job.meter.spend(len(first) * (1 + job.asked_before), 0)
    return Clean(
        prediction=predicted.numpy(),
        keys=np.array(keys, np.int64),
        least_likely=torch.cat(least),
        labels=data.labels.numpy(),
        classes=classes,
        forward=forward,
        backward=np.zeros_like(forward),
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
    plain["backward"] = np.zeros_like(plain["forward"])
    return Clean(**plain, labels=job.data.labels.numpy(), classes=classes, asked=asked, changed=changed)


def _checks(job: _Job, clean: Clean) -> Preflight:
    return preflight(
        job.target,
        job.data,
        seed=job.seed,
        prediction=clean.prediction,
        # Where nothing is right there is nothing to attack.
        gradients=bool(clean.correct.any()) and any(attack.access == "gradients" for _, _, attack in job.attacks),
        batch_size=job.size,
        meter=job.meter,
    )


def _remembered_checks(job: _Job, clean: Clean) -> Preflight:
    """Take up the checks of a run that was killed, or make them and keep them."""
    if job.slot is None:
        return _checks(job, clean)
    path = job.slot.folder / _CHECKS_FILE
    try:
        checked = Preflight.load(path)
    except NPZ_FAULTS:
        checked = _checks(job, clean)
        if checked.finished:
            checked.save(path)
        return checked
    job.meter.spend(int(checked.forward.sum()), int(checked.backward.sum()))
    return checked


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
            stopped = stopped or bout.run.stopped is not None
        if stopped or (
            job.until is not None and settled(job.until, _counts(job, clean, standing, seen), len(job.data))
        ):
            break
    return np.sort(seen), sorted(bouts.values(), key=lambda bout: job.suite.threats.index(bout.threat))


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
    """Make ready, once for all parts of the samples, what each threat model takes: of one norm the smallest eps first.

    A witness at an eps is one at every larger eps, so what is broken there is not attacked again.
    """
    norms = [adversary(threat) for threat in job.suite.threats]
    for threat in sorted(job.suite.threats, key=lambda threat: (norms.index(adversary(threat)), threat.eps)):
        samples = _samples(job, threat, clean)
        left_out = {one.attack for one in job.skipped if one.threat == str(threat)}
        attacks = (planned for planned in job.attacks if planned.name not in left_out)
        yield _Round(threat, samples, (*_replayed(job, threat, clean), *attacks))


def _fight_part(
    job: _Job, clean: Clean, rounds: list[_Round], keep: Container[int], part: NDArray[np.int64]
) -> Iterator[Bout]:
    """Run the suite on some samples.

    Once an attack was stopped, what is known of the attacks that follow is still handed out: witnesses at a smaller
    eps.
    """
    right = part[clean.correct[part]]
    widest = {adversary(one.threat): one.threat for one in rounds}
    found: dict[tuple[str, str, str], dict[str, Bout]] = {}
    stopped: str | None = None
    for threat, samples, attacks in rounds:
        before = found.setdefault(adversary(threat), {})
        known = {name: bout.at(threat) for name, bout in before.items()}
        standing = right[~_broken(known, len(job.data))[right]]
        for planned in attacks:
            earlier = known.get(planned.name)
            nearest = tally.searched(job.suite, planned.attack, threat)
            if stopped is not None or (nearest and earlier is not None):
                if earlier is not None:
                    yield earlier._replace(run=replace(earlier.run, stopped=stopped))
                continue
            rows = right if job.suite.independent or nearest else standing
            if isinstance(planned.attack, witness_corpus.Replay):
                rows = rows[np.isin(clean.keys[rows], list(planned.attack.known))]
            # The search for the nearest example doesn't depend on eps: one, for the largest, tells of all of them.
            limit = widest[adversary(threat)] if nearest else threat
            result = _attempt(job, planned, samples, rows, limit, keep, early_stop=not nearest)
            bout = Bout(planned.name, planned.algorithm, planned.attack, limit, rows, result)
            bout = bout if earlier is None else earlier.merge(bout)
            if result.fault is None and (nearest or not job.suite.independent):
                before[planned.name] = bout.known(nearest)
            yield bout.at(threat)
            stopped = result.stopped
            standing = standing[~bout.at(threat).run.broken[standing]]


def _audited(job: _Job, look: evidence.Look, clean: Clean, bouts: list[Bout]) -> tuple[Audit | None, list[Bout]]:
    """Ask about witnesses once more, and take those back that are denied."""
    kept = [
        evidence.Kept(bout.name, bout.threat, _samples(job, bout.threat, clean), bout.run)
        for bout in bouts
        if bout.run.stopped != "interrupt"
    ]
    if len(kept) < len(bouts):
        return None, bouts
    found, denied = evidence.audit(look, kept, everything=job.keep_witnesses)
    for place in {place for place, _ in denied}:
        rows = [row for at, row in denied if at == place]
        bouts[place] = bouts[place]._replace(run=bouts[place].run.without(rows))
    return found, bouts


def _samples(job: _Job, threat: ThreatModel, clean: Clean) -> Samples:
    return Samples(job.data, torch.from_numpy(clean.keys), _aims(job, threat, clean))


def _fronts(job: _Job, clean: Clean, seen: NDArray[np.int64], bouts: list[Bout]) -> Iterator[evidence.Front]:
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
            samples=_samples(job, threat, clean),
            attacks=tuple(evidence.Fought(bout.name, bout.attack, np.flatnonzero(bout.run.broken)) for bout in fought),
            survivors=torch.from_numpy(rows[np.argsort(clean.keys[rows], kind="stable")]),
        )


def _attempt(
    job: _Job,
    planned: _Planned,
    samples: Samples,
    rows: NDArray[np.int64],
    threat: ThreatModel,
    keep: Container[int],
    *,
    early_stop: bool,
) -> Run:
    """Run one attack; whatever it, or the model under it, trips over: the others still count."""
    try:
        return run(
            planned.attack,
            job.target,
            samples,
            rows,
            threat,
            name=planned.name,
            seed=job.seed,
            batch_size=job.size,
            early_stop=early_stop,
            keep=keep,
            meter=job.meter,
            journal=None if job.slot is None else job.slot.journal(planned.name, str(threat)),
        )
    except Exception as fault:
        _log.info("%s failed under %s", planned.name, threat, exc_info=True)
        return replace(Run.empty(len(job.data), planned.attack.steps), fault=f"{type(fault).__name__}: {fault}")


def _broken(bouts: Mapping[str, Bout], size: int) -> NDArray[np.bool_]:
    """Whether any of the attacks broke each sample."""
    broken = np.zeros(size, np.bool_)
    for bout in bouts.values():
        broken |= bout.run.broken
    return broken


def _replayed(job: _Job, threat: ThreatModel, clean: Clean) -> Iterator[_Planned]:
    """Put what the corpus, or an evaluation before this one, knows against these samples before the suite."""
    if threat.norm not in NORMS:
        return
    present = set(clean.keys.tolist())
    kept = {} if job.corpus is None else witness_corpus.load(job.corpus, threat)
    known = {key: x for key, x in {**kept, **job.earlier.get(str(threat), {})}.items() if key in present}
    if known:
        yield _Planned(witness_corpus.REPLAY, witness_corpus.REPLAY, witness_corpus.Replay(known=known))


def _remember_witnesses(folder: Path, clean: Clean, bouts: list[Bout]) -> None:
    # What a smaller transformation can make is not told by a distance: a witness of one is none of another for sure.
    for threat in dict.fromkeys(bout.threat for bout in bouts if bout.threat.norm in NORMS):
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
