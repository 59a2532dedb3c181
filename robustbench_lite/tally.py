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
from robustbench_lite import validity
from robustbench_lite.clean import Clean
from robustbench_lite.data import Data
from robustbench_lite.engine import Run
from robustbench_lite.meter import Meter
from robustbench_lite.scorecard import (
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
    Passes,
    Scorecard,
    Skipped,
    TargetInfo,
    ThreatResult,
    Witnesses,
    median,
)
from robustbench_lite.stepper import Attack
from robustbench_lite.suite import REPLAY, Suite, adversary
from robustbench_lite.threat import NORMS, ThreatModel

_GALLERY = 12
_PACKAGES = ("robustbench_lite", "torch", "torchvision", "numpy", "foolbox", "adversarial-robustness-toolbox")


class Bout(NamedTuple):
    """One attack under one threat model, and what came of it."""

    name: str
    algorithm: str
    attack: Attack
    threat: ThreatModel
    attempted: NDArray[np.int64]
    """Positions of the samples that it was run on."""
    run: Run

    def merge(self, other: Bout) -> Bout:
        """Add the same on other samples."""
        return self._replace(attempted=np.concatenate([self.attempted, other.attempted]), run=self.run.merge(other.run))

    def take(self, rows: NDArray[np.int64]) -> Bout:
        """The same, of data that hold only these samples."""
        return self._replace(attempted=np.searchsorted(rows, self.attempted), run=self.run.take(rows))

    def at(self, threat: ThreatModel) -> Bout:
        """The same under another eps; of what was broken under a larger one, what is in the smaller ball too."""
        if threat.eps >= self.threat.eps:
            return self._replace(threat=threat)
        broken = self.run.broken & (self.run.distance <= threat.reach)
        run = replace(
            self.run,
            broken=broken,
            prediction=np.where(broken, self.run.prediction, -1),
            witnesses={row: x for row, x in self.run.witnesses.items() if broken[row]},
            denied={},  # of the larger ball
        )
        return self._replace(threat=threat, run=run)

    def known(self, wholly: bool) -> Bout:
        """What it tells without a pass under another eps: its witnesses or, of a search for the nearest, all of it."""
        run, broken = self.run, self.run.broken
        free = replace(
            Run.empty(len(broken), len(run.samples) - 1),
            broken=broken,
            prediction=run.prediction,
            distance=run.distance if wholly else np.where(broken, run.distance, np.inf),
            witnesses=run.witnesses,
        )
        return self._replace(attempted=self.attempted if wholly else self.attempted[broken[self.attempted]], run=free)


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
    bouts: list[Bout],
    audited: Audit | None,
    stopped: str | None,
    checks: Passes,
    found: tuple[Finding, ...],
    seed: int,
    batch_size: int,
    keep_witnesses: bool,
    meter: Meter,
) -> Scorecard:
    """Write down what came out; gates are not looked at. ``found`` is what was found outside of the attacks.

    ``stopped`` is why their witnesses and survivors weren't all asked about again.
    """
    total, right = len(data), clean.correct
    results, threats = _results(bouts, suite, right)
    standing = right.copy()
    for bout in bouts:
        standing &= ~bout.run.broken
    stopped = next((bout.run.stopped for bout in bouts if bout.run.stopped), stopped)
    told = (
        *found,
        *validity.unstable(clean.changed, clean.asked),
        *validity.judge(results, suite.independent),
        *_still_falling(suite, bouts),
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
            sha256=hashlib.sha256(np.sort(clean.keys).tobytes()).hexdigest(),
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
        passes=meter.passes,
        seconds=meter.seconds,
        verdict="INVALID" if any(finding.severity == "error" for finding in findings) else "PASS",
        validity=findings,
        checks=checks,
        audit=audited,
        interrupted=stopped,
        outcomes=_outcomes(data, clean, suite, bouts),
        gallery=tuple(_gallery(data, clean, bouts)),
    )
    return card.with_witnesses(_witnesses(data, bouts)) if keep_witnesses else card


def _still_falling(suite: Suite, bouts: list[Bout]) -> Iterator[Finding]:
    """Finding where the end of what a survivor was given still broke samples."""
    # Of attacks that see every sample, what one spends after another broke it tells nothing.
    for threat in () if suite.independent else suite.threats:
        fought = [bout for bout in bouts if bout.threat == threat and bout.algorithm != REPLAY]
        if any(":" in bout.algorithm for bout in fought):
            continue  # another library's attack hands its examples over at its end: when they fell isn't seen
        whole = all(bout.run.stopped is None and bout.run.fault is None for bout in fought)
        if fought and whole and not any(searched(suite, bout.attack, threat) for bout in fought):
            spent = np.sum([bout.run.forward + bout.run.backward for bout in fought], axis=0)
            broken = np.any([bout.run.broken for bout in fought], axis=0)
            tried = np.any([np.isin(np.arange(len(broken)), bout.attempted) for bout in fought], axis=0)
            yield from validity.still_falling(threat, spent[tried & broken], spent[tried & ~broken])


def _results(
    bouts: list[Bout], suite: Suite, right: NDArray[np.bool_]
) -> tuple[tuple[AttackResult, ...], tuple[ThreatResult, ...]]:
    results, threats = [], []
    for threat in suite.threats:
        standing = right.copy()
        for bout in bouts:  # a witness at an eps is one at every larger eps, where the attacks are independent, too
            if adversary(bout.threat) == adversary(threat) and bout.threat.eps < threat.eps:
                standing &= ~bout.run.broken
        for bout in (one for one in bouts if one.threat == threat):
            standing &= ~bout.run.broken
            results.append(_result(bout, right, int(standing.sum())))
        worst = Interval.of(int(standing.sum()), len(right))
        threats.append(ThreatResult(threat=threat, robust_accuracy=worst))
    return tuple(results), tuple(threats)


def _result(bout: Bout, right: NDArray[np.bool_], standing: int) -> AttackResult:
    broken = int(bout.run.broken.sum())
    distances = bout.run.distance[bout.run.broken].tolist()
    finished = bout.run.stopped is None and bout.run.fault is None
    saw_all = finished and len(bout.attempted) == int(right.sum())
    return AttackResult(
        name=bout.name,
        attack=bout.algorithm,
        threat=bout.threat,
        params=bout.attack.params(),
        gradients=bout.attack.gradients,
        minimal=bout.attack.minimal,
        attempted=len(bout.attempted),
        broken=broken,
        unconfirmed=bout.run.unconfirmed,
        strange=bout.run.strange,
        unmoved=distances.count(0.0),
        robust_accuracy=Interval.of(standing, len(right)),
        alone=Interval.of(int(right.sum()) - broken, len(right)) if saw_all else None,
        distance_median=median(distances),
        passes=bout.run.passes,
        seconds=bout.run.seconds,
        finished=finished,
        fault=bout.run.fault,
        trace=bout.run.trace,
    )


def _outcomes(data: Data, clean: Clean, suite: Suite, bouts: list[Bout]) -> tuple[Outcome, ...]:
    nearest = _nearest(suite, bouts, len(data)) if suite.curve else {}
    forward = clean.forward + sum(bout.run.forward for bout in bouts)
    backward = clean.backward + sum(bout.run.backward for bout in bouts)
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
            nearest=tuple(nearest.get(row, ())),
            passes=Passes(forward=int(forward[row]), backward=int(backward[row])),
        )
        for row in range(len(data))
    )


def _nearest(suite: Suite, bouts: list[Bout], size: int) -> dict[int, list[Nearest]]:
    """By position and threat model, the nearest confirmed adversarial example under any eps of the norm and goal."""
    found: dict[int, list[Nearest]] = {}
    for threat in suite.threats:
        if threat.norm not in NORMS:
            continue
        least, name = np.full(size, np.inf), np.full(size, "", object)
        for bout in bouts:
            if adversary(bout.threat) == adversary(threat):
                sure = searched(suite, bout.attack, bout.threat)
                distance = np.where(bout.run.broken | sure, bout.run.distance, np.inf)
                name[distance < least] = bout.name
                least = np.minimum(least, distance)
        for row in np.isfinite(least).nonzero()[0].tolist():
            found.setdefault(row, []).append(Nearest(attack=name[row], threat=str(threat), distance=float(least[row])))
    return found


def _witnesses(data: Data, bouts: list[Bout]) -> Witnesses:
    found = [(bout.name, str(bout.threat), row, x) for bout in bouts for row, x in sorted(bout.run.witnesses.items())]
    return Witnesses(
        index=data.index.numpy()[[row for _, _, row, _ in found]] if found else np.empty(0, np.int64),
        attack=np.array([name for name, _, _, _ in found], dtype=np.str_),
        threat=np.array([threat for _, threat, _, _ in found], dtype=np.str_),
        x=np.stack([x for _, _, _, x in found]) if found else np.empty((0, *data.shape), np.float32),
    )


def _gallery(data: Data, clean: Clean, bouts: list[Bout]) -> Iterator[Example]:
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


def _example(data: Data, clean: Clean, bout: Bout, row: int) -> Example:
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
