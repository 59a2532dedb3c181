"""Write down what came out of an evaluation: the bouts of its attacks in, a scorecard out."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import robustbench_lite
from robustbench_lite.attacking.engine import RunResult
from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core.cost import BudgetTracker, Passes
from robustbench_lite.core.suite import REPLAY, Suite, adversary
from robustbench_lite.core.threat import NORMS, ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating import validity
from robustbench_lite.evaluating.clean_pass import Clean
from robustbench_lite.results.scorecard import (
    AttackResult,
    Audit,
    Break,
    DataInfo,
    Environment,
    Example,
    Finding,
    Interval,
    Nearest,
    Outcome,
    Scorecard,
    Skipped,
    TargetInfo,
    ThreatResult,
    Witnesses,
    median,
)

_GALLERY = 12
_PACKAGES = ("robustbench_lite", "torch", "torchvision", "numpy", "foolbox", "adversarial-robustness-toolbox")


class AttackRun(NamedTuple):
    """One attack under one threat model, and what came of it."""

    name: str
    algorithm: str
    attack: Attack
    threat: ThreatModel
    attempted: NDArray[np.int64]
    """Positions of the samples that it was run on."""
    result: RunResult

    def merge(self, other: AttackRun) -> AttackRun:
        """Add the same on other samples."""
        return self._replace(
            attempted=np.concatenate([self.attempted, other.attempted]), result=self.result.merge(other.result)
        )

    def take(self, rows: NDArray[np.int64]) -> AttackRun:
        """The same, of data that hold only these samples."""
        return self._replace(attempted=np.searchsorted(rows, self.attempted), result=self.result.take(rows))

    def at(self, threat: ThreatModel) -> AttackRun:
        """The same under another eps; of what was broken under a larger one, what is in the smaller ball too."""
        if threat.eps >= self.threat.eps:
            return self._replace(threat=threat)
        broken = self.result.broken & (self.result.distance <= threat.reach)
        run = replace(
            self.result,
            broken=broken,
            prediction=np.where(broken, self.result.prediction, -1),
            witnesses={row: x for row, x in self.result.witnesses.items() if broken[row]},
            denied={},  # of the larger ball
        )
        return self._replace(threat=threat, result=run)

    def known(self, wholly: bool) -> AttackRun:
        """What it tells without a pass under another eps: its witnesses or, of a search for the nearest, all of it."""
        result, broken = self.result, self.result.broken
        free = replace(
            RunResult.empty(len(broken), len(result.samples) - 1),
            broken=broken,
            prediction=result.prediction,
            distance=result.distance if wholly else np.where(broken, result.distance, np.inf),
            witnesses=result.witnesses,
        )
        return self._replace(
            attempted=self.attempted if wholly else self.attempted[broken[self.attempted]], result=free
        )


def searched(suite: Suite, attack: Attack, threat: ThreatModel) -> bool:
    """Whether an attack goes on to the nearest adversarial example of every sample."""
    return suite.curve and attack.minimal and threat.norm in NORMS


def scorecard(
    *,
    target: TargetInfo,
    data: Data,
    planned: int | None,
    limit: int | None,
    clean: Clean,
    suite: Suite,
    skipped: tuple[Skipped, ...],
    runs: list[AttackRun],
    audited: Audit | None,
    stopped: str | None,
    checks: Passes,
    found: tuple[Finding, ...],
    seed: int,
    batch_size: int,
    keep_witnesses: bool,
    budget: BudgetTracker,
) -> Scorecard:
    """Write down what came out; gates are not looked at. ``found`` is what was found outside of the attacks.

    ``stopped`` is why their witnesses and survivors weren't all asked about again.
    """
    total, right = len(data), clean.correct
    results, threats = _results(runs, suite, right)
    standing = right.copy()
    for run in runs:
        standing &= ~run.result.broken
    stopped = next((run.result.stopped for run in runs if run.result.stopped), stopped)
    told = (
        *found,
        *validity.unstable(clean.changed, clean.asked),
        *validity.check(results, suite.independent),
        *_still_falling(suite, runs),
        *validity.stopped(
            stopped,
            (result.name for result in results if result.finished and result.attack != REPLAY),
            len(suite.attacks) * len(suite.threats) - len(skipped),
            int(standing.sum()),
        ),
    )
    findings = validity.without_echo(told)
    card = Scorecard(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=robustbench_lite.__version__,
        target=target,
        data=DataInfo(
            name=data.name,
            samples=total,
            planned=planned,
            limit=limit,
            shape=tuple(data.shape),
            classes=data.classes or tuple(str(label) for label in range(clean.classes)),
            sha256=hashlib.sha256(np.sort(clean.sample_keys).tobytes()).hexdigest(),
        ),
        suite=suite,
        seed=seed,
        batch_size=batch_size,
        environment=_environment(),
        clean_accuracy=Interval.of(int(right.sum()), total),
        robust_accuracy=Interval.of(int(standing.sum()), total),
        threats=threats,
        attacks=results,
        skipped=skipped,
        passes=budget.passes,
        seconds=budget.seconds,
        verdict="INVALID" if any(finding.severity == "error" for finding in findings) else "PASS",
        validity=findings,
        checks=checks,
        audit=audited,
        interrupted=stopped,
        outcomes=_outcomes(data, clean, suite, runs),
        gallery=tuple(_gallery(data, clean, runs)),
    )
    return card.with_witnesses(_witnesses(data, runs)) if keep_witnesses else card


def _still_falling(suite: Suite, runs: list[AttackRun]) -> Iterator[Finding]:
    """Finding where the end of what a survivor was given still broke samples."""
    # Of attacks that see every sample, what one spends after another broke it tells nothing.
    for threat in () if suite.independent else suite.threats:
        fought = [run for run in runs if run.threat == threat and run.algorithm != REPLAY]
        if any(":" in run.algorithm for run in fought):
            continue  # another library's attack hands its examples over at its end: when they fell isn't seen
        whole = all(run.result.stopped is None and run.result.fault is None for run in fought)
        if fought and whole and not any(searched(suite, run.attack, threat) for run in fought):
            spent = np.sum([run.result.forward + run.result.backward for run in fought], axis=0)
            broken = np.any([run.result.broken for run in fought], axis=0)
            tried = np.any([np.isin(np.arange(len(broken)), run.attempted) for run in fought], axis=0)
            yield from validity.still_falling(threat, spent[tried & broken], spent[tried & ~broken])


def _results(
    runs: list[AttackRun], suite: Suite, right: NDArray[np.bool_]
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
        strange=run.result.strange,
        unmoved=distances.count(0.0),
        robust_accuracy=Interval.of(standing, len(right)),
        alone=Interval.of(int(right.sum()) - broken, len(right)) if saw_all else None,
        distance_median=median(distances),
        passes=run.result.passes,
        seconds=run.result.seconds,
        finished=finished,
        fault=run.result.fault,
        trace=run.result.trace,
    )


def _outcomes(data: Data, clean: Clean, suite: Suite, runs: list[AttackRun]) -> tuple[Outcome, ...]:
    nearest = _nearest(suite, runs, len(data)) if suite.curve else {}
    forward = clean.forward + sum(run.result.forward for run in runs)
    backward = clean.backward + sum(run.result.backward for run in runs)
    return tuple(
        Outcome(
            index=int(data.index[row]),
            key=f"{int(clean.sample_keys[row]) & (1 << 64) - 1:016x}",
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


def _nearest(suite: Suite, runs: list[AttackRun], size: int) -> dict[int, list[Nearest]]:
    """By position and threat model, the nearest confirmed adversarial example under any eps of the norm and goal."""
    found: dict[int, list[Nearest]] = {}
    for threat in suite.threats:
        if threat.norm not in NORMS:
            continue
        least, name = np.full(size, np.inf), np.full(size, "", object)
        for run in runs:
            if adversary(run.threat) == adversary(threat):
                sure = searched(suite, run.attack, run.threat)
                distance = np.where(run.result.broken | sure, run.result.distance, np.inf)
                name[distance < least] = run.name
                least = np.minimum(least, distance)
        for row in np.isfinite(least).nonzero()[0].tolist():
            found.setdefault(row, []).append(Nearest(attack=name[row], threat=str(threat), distance=float(least[row])))
    return found


def _witnesses(data: Data, runs: list[AttackRun]) -> Witnesses:
    found = [(run.name, str(run.threat), row, x) for run in runs for row, x in sorted(run.result.witnesses.items())]
    return Witnesses(
        index=data.index.numpy()[[row for _, _, row, _ in found]] if found else np.empty(0, np.int64),
        attack=np.array([name for name, _, _, _ in found], dtype=np.str_),
        threat=np.array([threat for _, threat, _, _ in found], dtype=np.str_),
        x=np.stack([x for _, _, _, x in found]) if found else np.empty((0, *data.shape), np.float32),
    )


def _gallery(data: Data, clean: Clean, runs: list[AttackRun]) -> Iterator[Example]:
    """Up to a dozen witnesses, taken in turn from the attacks, each sample once."""
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        return
    shown: set[int] = set()
    piles = [(run, iter(sorted(run.result.witnesses, key=lambda row: clean.sample_keys[row]))) for run in runs]
    while piles and len(shown) < _GALLERY:
        for run, pile in list(piles):
            row = next((row for row in pile if row not in shown), None)
            if row is None:
                piles.remove((run, pile))
            elif len(shown) < _GALLERY:
                shown.add(row)
                yield _example(data, clean, run, row)


def _example(data: Data, clean: Clean, run: AttackRun, row: int) -> Example:
    original, adversarial = data.fetch(torch.tensor([row]))[0].numpy(), run.result.witnesses[row]
    change = adversarial - original
    return Example(
        index=int(data.index[row]),
        label=int(clean.labels[row]),
        prediction=int(clean.prediction[row]),
        attack=run.name,
        threat=str(run.threat),
        adversarial_prediction=int(run.result.prediction[row]),
        distance=float(run.result.distance[row]),
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
