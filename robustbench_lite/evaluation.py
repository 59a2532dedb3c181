"""Evaluate: a target, data and a suite in, a scorecard out."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import robustbench_lite
from robustbench_lite import registry, validity
from robustbench_lite.data import Data, as_data, check_inputs, check_labels
from robustbench_lite.engine import Attack, Run, Samples, run
from robustbench_lite.errors import UserError
from robustbench_lite.meter import Meter, Progress
from robustbench_lite.noise import Noise
from robustbench_lite.scorecard import (
    AttackResult,
    Break,
    DataInfo,
    Environment,
    Example,
    Finding,
    Gate,
    Interval,
    Outcome,
    Passes,
    Scorecard,
    ThreatResult,
    Verdict,
    Witnesses,
    median,
)
from robustbench_lite.suite import Budget, Suite, load_suite
from robustbench_lite.target import Target, as_target
from robustbench_lite.threat import ThreatModel

_BATCH = {"cpu": 128, "cuda": 512}
_GALLERY = 12
_GALLERY_BYTES = 1 << 26
_PACKAGES = ("robustbench_lite", "torch", "torchvision", "numpy", "foolbox", "adversarial-robustness-toolbox")


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What is demanded of a model; each a share of samples in [0, 1].

    A gate is decided on the 95 % interval: it fails only where the whole interval is on the wrong side.

    Raises
    ------
    ValueError
        For a share outside [0, 1].
    """

    min_clean_accuracy: float | None = None
    min_robust_accuracy: float | None = None
    max_drop: float | None = None
    """Largest share of samples that are right when clean and broken under attack."""

    def __post_init__(self) -> None:
        for item in fields(self):
            share = getattr(self, item.name)
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"{item.name} is {share}: expected a share from 0 to 1, such as 0.45 for 45 %")


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
    demands = gates if isinstance(gates, Gates) else Gates(**(gates or {}))
    asked = _resolve(load_suite(suite), threat, independent, budget)
    attacks = [(spec.name, spec.attack, registry.build("attacks", spec.attack, spec.params)) for spec in asked.attacks]
    _check_norms(asked, attacks)
    target, samples = as_target(model, device), as_data(data)
    if limit is not None:
        samples = samples.stratified(limit, seed)
    size = batch_size or _BATCH.get(target.device.type, 512)
    if size < 1:
        raise UserError(f"batch size is {size}: expected at least 1")
    _check_ball(asked, samples)

    meter = Meter(asked.budget, on_progress)
    before = target.weights_sha256()
    clean = _clean_pass(target, samples, size, meter)
    bouts = list(_fight(target, samples, clean, asked, attacks, seed, size, keep_witnesses, meter))
    return _card(target, before, samples, clean, asked, bouts, demands, seed, size, limit, keep_witnesses, meter)


class _Clean(NamedTuple):
    """What the clean pass found, one a sample."""

    prediction: NDArray[np.int64]
    keys: NDArray[np.int64]
    least_likely: Tensor
    labels: NDArray[np.int64]
    classes: int
    forward: NDArray[np.int64]
    findings: tuple[Finding, ...]

    @property
    def correct(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = self.prediction == self.labels
        return right


class _Bout(NamedTuple):
    """One attack under one threat model, and what came of it."""

    name: str
    algorithm: str
    attack: Attack
    threat: ThreatModel
    attempted: NDArray[np.int64]
    run: Run


def _resolve(suite: Suite, threat: Any, independent: bool | None, budget: Budget | None) -> Suite:
    """Put what the caller asked for in place of what the suite says."""
    threats = suite.threats
    if threat is not None:
        given = [threat] if isinstance(threat, str | ThreatModel) else threat
        threats = tuple(dict.fromkeys(ThreatModel.parse(one) for one in given))
        if not threats:
            raise UserError("no threat model was given: expected at least one, such as 'Linf 8/255'")
    return suite.model_copy(
        update={
            "threats": threats,
            "independent": suite.independent if independent is None else independent,
            "budget": budget or suite.budget,
        }
    )


def _check_norms(suite: Suite, attacks: list[tuple[str, str, Attack]]) -> None:
    faults = [
        f"  {name} can't be run under {threat}: it does {', '.join(attack.norms)}"
        for threat in suite.threats
        for name, _, attack in attacks
        if threat.norm not in attack.norms
    ]
    if faults:
        raise UserError("\n".join([f"suite {suite.name!r} doesn't fit the threat model:", *faults]))


def _check_ball(suite: Suite, data: Data) -> None:
    widest = float(np.prod(data.shape)) ** 0.5
    for threat in suite.threats:
        if threat.norm == "L2" and threat.eps > widest:
            raise UserError(
                f"eps is {threat.eps_text}: no two inputs of shape {data.shape} in [0, 1] are farther apart than "
                f"{widest:.3g} in L2; expected less"
            )


def _clean_pass(target: Target, data: Data, size: int, meter: Meter) -> _Clean:
    """Ask for the clean predictions, check inputs, labels and logits, and give each sample its key."""
    first = data.fetch(torch.arange(min(2, len(data))))
    check_inputs(first, data.name)
    classes = target.probe(first)
    check_labels(data.labels, classes)
    prediction, keys, least = [], [], []
    again = torch.empty(0, dtype=torch.int64)
    with target.attacking(), torch.no_grad():
        for at in range(0, len(data), size):
            rows = torch.arange(at, min(at + size, len(data)))
            x = data.fetch(rows)
            check_inputs(x, data.name)
            logits = target(x.to(target.device)).cpu()
            if not logits.isfinite().all():
                bad = rows[~logits.isfinite().all(1)].tolist()
                raise UserError(
                    f"the model's logits are NaN or infinite for {len(bad)} clean samples (the first is number "
                    f"{bad[0]}): expected finite logits; check its weights and its normalisation"
                )
            meter.spend(len(rows), 0)
            prediction.append(logits.argmax(1))
            least.append(logits.scatter(1, data.labels[rows][:, None], torch.inf).argmin(1))
            keys += [_key(sample, label) for sample, label in zip(x.numpy(), data.labels[rows].tolist(), strict=True)]
            if at == 0:
                # The same samples once more, in two parts: the answers must depend neither on the call nor the batch.
                again = torch.cat([target(part.to(target.device)).cpu().argmax(1) for part in x.chunk(2)])
                meter.spend(len(rows), 0)
    predicted = torch.cat(prediction)
    forward = np.ones(len(data), np.int64)
    forward[: len(again)] += 1
    return _Clean(
        prediction=predicted.numpy(),
        keys=np.array(keys, np.int64),
        least_likely=torch.cat(least),
        labels=data.labels.numpy(),
        classes=classes,
        forward=forward,
        findings=tuple(validity.unstable(int((again != predicted[: len(again)]).sum()), len(again))),
    )


def _key(sample: NDArray[np.float32], label: int) -> int:
    digest = hashlib.blake2b(sample.tobytes() + label.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _aims(threat: ThreatModel, clean: _Clean, labels: Tensor, seed: int) -> Tensor:
    """Return the class that the goal is about, for each sample."""
    if threat.goal == "untargeted":
        return labels
    if threat.target_class == "least_likely":
        return clean.least_likely
    if threat.target_class == "next":
        return (labels + 1) % clean.classes
    draws = Noise(torch.from_numpy(clean.keys)).at(seed).uniform(())
    others = (draws * (clean.classes - 1)).long().clamp_max(clean.classes - 2)
    return (labels + 1 + others) % clean.classes


def _fight(
    target: Target,
    data: Data,
    clean: _Clean,
    suite: Suite,
    attacks: list[tuple[str, str, Attack]],
    seed: int,
    size: int,
    keep_witnesses: bool,
    meter: Meter,
) -> Iterator[_Bout]:
    """Run every attack under every threat model; end early where one was stopped."""
    right = clean.correct.nonzero()[0]
    keep = range(len(data)) if keep_witnesses else frozenset(_shown(data, right, clean.keys))
    for threat in suite.threats:
        samples = Samples(data, torch.from_numpy(clean.keys), _aims(threat, clean, data.labels, seed))
        standing = clean.correct
        for name, algorithm, attack in attacks:
            rows = right if suite.independent else standing.nonzero()[0]
            result = run(
                attack, target, samples, rows, threat, name=name, seed=seed, batch_size=size, keep=keep, meter=meter
            )
            yield _Bout(name, algorithm, attack, threat, rows, result)
            if result.stopped:
                return
            standing = standing & ~result.broken


def _shown(data: Data, right: NDArray[np.int64], keys: NDArray[np.int64]) -> list[int]:
    """Samples whose witness may be shown: a fixed draw, as many as a little memory holds."""
    most = min(1024, max(32, _GALLERY_BYTES // (4 * int(np.prod(data.shape)))))
    drawn: list[int] = right[np.argsort(keys[right], kind="stable")][:most].tolist()
    return drawn


def _card(
    target: Target,
    before: str,
    data: Data,
    clean: _Clean,
    suite: Suite,
    bouts: list[_Bout],
    demands: Gates,
    seed: int,
    size: int,
    limit: int | None,
    keep_witnesses: bool,
    meter: Meter,
) -> Scorecard:
    """Write down what came out."""
    total, right = len(data), clean.correct
    results, threats = _results(bouts, suite, right)
    standing = right.copy()
    for bout in bouts:
        standing &= ~bout.run.broken
    clean_accuracy = Interval.of(int(right.sum()), total)
    robust_accuracy = Interval.of(int(standing.sum()), total)
    stopped = bouts[-1].run.stopped if bouts else None
    findings = (
        *clean.findings,
        *validity.judge(results),
        *validity.changed(before, target.weights_sha256()),
        *validity.stopped(
            stopped,
            (result.name for result in results if result.finished),
            len(suite.attacks) * len(suite.threats),
            int(standing.sum()),
        ),
    )
    gates = tuple(_gates(demands, clean_accuracy, robust_accuracy))
    card = Scorecard(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=robustbench_lite.__version__,
        target=target.info(),
        data=DataInfo(
            name=data.name,
            samples=total,
            limit=limit,
            shape=tuple(data.shape),
            classes=data.classes or tuple(str(label) for label in range(clean.classes)),
            sha256=hashlib.sha256(np.sort(clean.keys).tobytes()).hexdigest(),
        ),
        suite=suite,
        seed=seed,
        batch_size=size,
        environment=_environment(),
        clean_accuracy=clean_accuracy,
        robust_accuracy=robust_accuracy,
        threats=threats,
        attacks=results,
        passes=meter.passes,
        seconds=meter.seconds,
        verdict=_verdict(findings, gates),
        validity=findings,
        gates=gates,
        interrupted=stopped,
        outcomes=_outcomes(data, clean, bouts),
        gallery=tuple(_gallery(data, clean, bouts)),
    )
    return card.with_witnesses(_witnesses(data, bouts)) if keep_witnesses else card


def _results(
    bouts: list[_Bout], suite: Suite, right: NDArray[np.bool_]
) -> tuple[tuple[AttackResult, ...], tuple[ThreatResult, ...]]:
    results, threats = [], []
    for threat in suite.threats:
        standing = right.copy()
        for bout in (one for one in bouts if one.threat == threat):
            standing &= ~bout.run.broken
            results.append(_result(bout, right, int(standing.sum())))
        worst = Interval.of(int(standing.sum()), len(right))
        threats.append(ThreatResult(threat=threat, robust_accuracy=worst))
    return tuple(results), tuple(threats)


def _result(bout: _Bout, right: NDArray[np.bool_], standing: int) -> AttackResult:
    broken = int(bout.run.broken.sum())
    distances = bout.run.distance[bout.run.broken].tolist()
    saw_all = len(bout.attempted) == int(right.sum()) and not bout.run.stopped
    return AttackResult(
        name=bout.name,
        attack=bout.algorithm,
        threat=bout.threat,
        params=bout.attack.params(),
        gradients=bout.attack.gradients,
        attempted=len(bout.attempted),
        broken=broken,
        unconfirmed=bout.run.unconfirmed,
        robust_accuracy=Interval.of(standing, len(right)),
        alone=Interval.of(int(right.sum()) - broken, len(right)) if saw_all else None,
        distance_min=min(distances, default=None),
        distance_median=median(distances),
        passes=bout.run.passes,
        seconds=bout.run.seconds,
        finished=bout.run.stopped is None,
        trace=bout.run.trace,
    )


def _outcomes(data: Data, clean: _Clean, bouts: list[_Bout]) -> tuple[Outcome, ...]:
    forward = clean.forward + sum(bout.run.forward for bout in bouts)
    backward = np.zeros_like(forward) + sum(bout.run.backward for bout in bouts)
    return tuple(
        Outcome(
            index=int(data.index[row]),
            key=f"{int(clean.keys[row]) & (1 << 64) - 1:016x}",
            label=int(clean.labels[row]),
            prediction=int(clean.prediction[row]),
            breaks=tuple(
                Break(
                    attack=bout.name,
                    threat=str(bout.threat),
                    prediction=int(bout.run.prediction[row]),
                    distance=float(bout.run.distance[row]),
                )
                for bout in bouts
                if bout.run.broken[row]
            ),
            passes=Passes(forward=int(forward[row]), backward=int(backward[row])),
        )
        for row in range(len(data))
    )


def _gates(demands: Gates, clean: Interval, robust: Interval) -> Iterator[Gate]:
    # What was right and is broken is one count of the samples, so the drop has an exact interval too.
    drop = Interval.of(clean.count - robust.count, clean.total)
    for name, seen, sign in (
        ("min_clean_accuracy", clean, 1),
        ("min_robust_accuracy", robust, 1),
        ("max_drop", drop, -1),
    ):
        threshold = getattr(demands, name)
        if threshold is not None:
            met, missed = sorted([sign * (seen.low - threshold), sign * (seen.high - threshold)])
            yield Gate(
                name=name,
                threshold=threshold,
                value=seen.value,
                low=seen.low,
                high=seen.high,
                passed=missed >= 0,
                decided=met >= 0 or missed < 0,
            )


def _verdict(findings: tuple[Finding, ...], gates: tuple[Gate, ...]) -> Verdict:
    if any(finding.severity == "error" for finding in findings):
        return "INVALID"
    return "PASS" if all(gate.passed for gate in gates) else "FAIL"


def _witnesses(data: Data, bouts: list[_Bout]) -> Witnesses:
    found = [(bout.name, str(bout.threat), row, x) for bout in bouts for row, x in sorted(bout.run.witnesses.items())]
    return Witnesses(
        index=data.index.numpy()[[row for _, _, row, _ in found]] if found else np.empty(0, np.int64),
        attack=np.array([name for name, _, _, _ in found], dtype=np.str_),
        threat=np.array([threat for _, threat, _, _ in found], dtype=np.str_),
        x=np.stack([x for _, _, _, x in found]) if found else np.empty((0, *data.shape), np.float32),
    )


def _gallery(data: Data, clean: _Clean, bouts: list[_Bout]) -> Iterator[Example]:
    """Up to a dozen witnesses, taken in turn from the attacks, each sample once."""
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        return
    shown: set[int] = set()
    piles = [(bout, iter(sorted(bout.run.witnesses, key=lambda row: clean.keys[row]))) for bout in bouts]
    while piles and len(shown) < _GALLERY:
        for bout, pile in list(piles):
            row = next((row for row in pile if row not in shown), None)
            if row is None:
                piles.remove((bout, pile))
            elif len(shown) < _GALLERY:
                shown.add(row)
                yield _example(data, clean, bout, row)


def _example(data: Data, clean: _Clean, bout: _Bout, row: int) -> Example:
    original, adversarial = data.fetch(torch.tensor([row]))[0].numpy(), bout.run.witnesses[row]
    change = adversarial - original
    return Example(
        index=int(data.index[row]),
        label=int(clean.labels[row]),
        prediction=int(clean.prediction[row]),
        attack=bout.name,
        threat=str(bout.threat),
        adversarial_prediction=int(bout.run.prediction[row]),
        distance=float(bout.run.distance[row]),
        original=_png(original),
        perturbation=_png(0.5 + 0.5 * change / max(float(np.abs(change).max()), 1e-12)),
        adversarial=_png(adversarial),
    )


def _png(image: NDArray[np.float32]) -> str:
    from PIL import Image

    levels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _environment() -> Environment:
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor(),
        threads=torch.get_num_threads(),
        packages={name: metadata.version(name) for name in _PACKAGES if _installed(name)},
    )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def processor() -> str:
    """Name of the GPU where there is one, else of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return platform.processor() or platform.machine()
