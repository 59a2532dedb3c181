"""Scorecards made up for tests: consistent in themselves, seeded, and built in milliseconds without a model."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.suite import AttackSpec, Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.scorecard import (
    AttackResult,
    Break,
    DataInfo,
    Environment,
    Example,
    Gate,
    Interval,
    Nearest,
    Outcome,
    Scorecard,
    TargetInfo,
    ThreatResult,
    Trace,
    median,
)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CASCADE: Mapping[str, float] = {"pgd": 0.35, "apgd_dlr": 0.12, "square": 0.03}


def make_card(
    name: str = "lenet5",
    *,
    clean: float = 0.95,
    breaks: Mapping[str, float] = CASCADE,
    threats: Sequence[str] = ("Linf 0.3",),
    samples: int = 200,
    classes: Sequence[str] = DIGITS,
    seed: int = 0,
    first: int = 0,
    gallery: int = 0,
    curve: bool = False,
    **changes: Any,
) -> Scorecard:
    """Make up a scorecard.

    Parameters
    ----------
    name
        Name of the target; it seeds the dice as well.
    clean
        Share of samples that are right before any attack.
    breaks
        By attack, the chance with which it breaks a sample that those before it left.
    threats
        Threat models; every attack runs under each.
    samples, first
        How many samples there are, and the position of the first in the made-up source.
    gallery
        How many examples the gallery shows.
    curve
        Whether each sample has a nearest adversarial example: a tenth of those that stand have none.
    **changes
        Fields of the scorecard to set to something else.
    """
    dice = random.Random(f"{name} {seed}")
    adversaries = tuple(ThreatModel.parse(threat) for threat in threats)
    rows = [_clean_row(position, clean, len(classes), dice) for position in range(first, first + samples)]
    results: list[AttackResult] = []
    worst: list[ThreatResult] = []
    for threat in adversaries:
        standing = [place for place, row in enumerate(rows) if row.correct]
        for attack, chance in breaks.items():
            fallen = {place: threat.eps * (0.5 + dice.random() / 2) for place in standing if dice.random() < chance}
            for place, distance in fallen.items():
                rows[place] = _break(rows[place], attack, threat, distance, len(classes))
            results.append(
                _result(
                    attack, threat, samples, len(standing), sorted(fallen.values()), first=attack == next(iter(breaks))
                )
            )
            standing = [place for place in standing if place not in fallen]
        worst.append(ThreatResult(threat=threat, robust_accuracy=Interval.of(len(standing), samples)))
    if curve:
        rows = [_with_nearest(row, adversaries, next(iter(breaks)), dice) for row in rows]
    fields: dict[str, Any] = {
        "created": "2026-11-23T14:01:02+00:00",
        "version": "0.1.1",
        "target": TargetInfo(name=name, weights_sha256="3f2a91c0" * 8, parameters=662_826, device="cpu"),
        "data": _data(samples, tuple(classes)),
        "suite": _suite(adversaries, breaks, curve),
        "seed": seed,
        "batch_size": 128,
        "environment": _ENVIRONMENT,
        "clean_accuracy": Interval.of(sum(row.correct for row in rows), samples),
        "robust_accuracy": Interval.of(sum(row.robust for row in rows), samples),
        "threats": tuple(worst),
        "attacks": tuple(results),
        "passes": sum((result.passes for result in results), Passes(forward=samples)),
        "seconds": 1.5 * len(results) + 0.25,
        "verdict": "PASS",
        "validity": (),
        "gates": (_clean_gate(rows),),
        "outcomes": tuple(rows),
        "gallery": tuple(_examples(rows, gallery, dice)),
    }
    return Scorecard(**{**fields, **changes})


def _clean_gate(rows: Sequence[Outcome]) -> Gate:
    """A gate on what the rows say."""
    found = Interval.of(sum(row.correct for row in rows), len(rows))
    ends = {"value": found.value, "low": found.low, "high": found.high}
    right, wrong = found.low >= 0.5, found.high < 0.5
    return Gate(name="min_clean_accuracy", threshold=0.5, passed=not wrong, decided=right or wrong, **ends)


def make_gate(name: str, threshold: float, value: float, *, passed: bool = True, decided: bool = True) -> Gate:
    """Make up a gate, its interval four points wide."""
    ends = {"low": max(0.0, value - 0.02), "high": min(1.0, value + 0.02)}
    return Gate(name=name, threshold=threshold, value=value, passed=passed, decided=decided, **ends)


def png(values: Sequence[Sequence[int]]) -> str:
    """A grey PNG of the values, as base64."""
    from PIL import Image

    image = Image.new("L", (len(values[0]), len(values)))
    image.putdata([value for row in values for value in row])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


_ENVIRONMENT = Environment(
    python="3.11.2",
    platform="Linux-6.1",
    processor="x86_64",
    threads=2,
    packages={"numpy": "2.4.0", "torch": "2.15.0"},
)


def _data(samples: int, classes: tuple[str, ...]) -> DataInfo:
    return DataInfo(name="digits", samples=samples, shape=(1, 8, 8), classes=classes, sha256="5ad0c4e7" * 8)


def _suite(threats: tuple[ThreatModel, ...], attacks: Iterable[str], curve: bool) -> Suite:
    specs = tuple(AttackSpec(attack=attack, params={"steps": 40}) for attack in attacks)
    return Suite(name="linf_quick", description="Fit for every commit.", threats=threats, attacks=specs, curve=curve)


def _break(row: Outcome, attack: str, threat: ThreatModel, distance: float, classes: int) -> Outcome:
    found = Break(attack=attack, threat=str(threat), prediction=(row.label + 1) % classes, distance=distance)
    return row.model_copy(update={"breaks": (*row.breaks, found)})


def _with_nearest(row: Outcome, threats: Sequence[ThreatModel], attack: str, dice: random.Random) -> Outcome:
    if not row.correct:
        return row
    broken = {found.threat: found for found in row.breaks}
    found = [
        Nearest(attack=broken[str(one)].attack, threat=str(one), distance=broken[str(one)].distance)
        if str(one) in broken
        else Nearest(attack=attack, threat=str(one), distance=one.eps * (1.001 + dice.expovariate(2)))
        for one in threats
        if str(one) in broken or dice.random() > 0.1
    ]
    return row.model_copy(update={"nearest": tuple(found)})


def _result(
    attack: str, threat: ThreatModel, samples: int, standing: int, distances: list[float], *, first: bool
) -> AttackResult:
    left = Interval.of(standing - len(distances), samples)
    return AttackResult(
        name=attack,
        attack=attack,
        threat=threat,
        params={"steps": 40, "step_size": 0.01, "random_start": True},
        gradients=True,
        attempted=standing,
        broken=len(distances),
        robust_accuracy=left,
        alone=left if first else None,
        distance_median=median(distances),
        passes=Passes(forward=standing * 41, backward=standing * 40),
        seconds=1.5,
        trace=_trace(standing, len(distances)),
    )


def _clean_row(position: int, clean: float, classes: int, dice: random.Random) -> Outcome:
    label = position % classes
    prediction = label if dice.random() < clean else (label + 1) % classes
    return Outcome(index=position, key=f"{position:016x}", label=label, prediction=prediction, passes=Passes(forward=1))


def _trace(attempted: int, broken: int, steps: int = 40) -> Trace:
    falls = [0] * steps
    for fallen in range(broken):
        falls[fallen % 12] += 1
    return Trace(
        samples=(attempted,) * steps,
        loss=tuple(4 * (1 - 0.9**step) for step in range(steps)),
        broken=tuple(falls),
        zero_gradient=(0,) * steps,
    )


def _examples(rows: Sequence[Outcome], count: int, dice: random.Random) -> Iterator[Example]:
    for row in [row for row in rows if row.breaks][:count]:
        clean = [[round(255 * (x - 3.5) ** 2 / 12.25) * (2 < y < 6) for x in range(8)] for y in range(8)]
        noise = [[dice.choice((-60, 60)) for _ in range(8)] for _ in range(8)]
        yield Example(
            index=row.index,
            label=row.label,
            prediction=row.prediction,
            attack=row.breaks[0].attack,
            threat=row.breaks[0].threat,
            adversarial_prediction=row.breaks[0].prediction,
            distance=row.breaks[0].distance,
            confidence=0.978,
            adversarial_confidence=0.61,
            original=png(clean),
            perturbation=png([[128 + 2 * value for value in line] for line in noise]),
            adversarial=png(
                [
                    [max(0, min(255, pixel + change)) for pixel, change in zip(line, changes, strict=True)]
                    for line, changes in zip(clean, noise, strict=True)
                ]
            ),
        )
