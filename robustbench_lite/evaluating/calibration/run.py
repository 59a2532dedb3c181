"""Runs published cases, and compares each of their numbers with what is measured here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

import robustbench_lite
from robustbench_lite.core import registry
from robustbench_lite.core.cost import Progress
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import load_suite
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.calibration.cases import CASES, Case
from robustbench_lite.evaluating.calibration.numbers import Measured, Number, Verdict, check_number
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.model.target import Target
from robustbench_lite.model.weights import load_weights
from robustbench_lite.results.scorecard import Scorecard

MNIST_SHA256 = "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b"
"""Of the official test set: its 10,000 x 28 x 28 pixels and then its 10,000 labels, a byte each."""


class Result(NamedTuple):
    """What came of one number of a case."""

    case: Case
    number: Number
    verdict: Verdict
    here: Measured | None
    """None where it wasn't run."""
    note: str = ""
    """Why it wasn't run, or what is wrong; the same for all numbers of a case that lacks its file."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What came of all cases."""

    results: tuple[Result, ...]
    samples: int
    """Samples that each case was run on."""
    available: int
    """Samples of the data."""
    data_sha256: str
    interrupted: bool = False

    @property
    def official(self) -> bool:
        """Whether the data are the official test set."""
        return self.data_sha256 == MNIST_SHA256

    @property
    def whole(self) -> bool:
        """Whether the numbers must be the published ones, rather than hold them in their intervals."""
        return self.official and self.samples == self.available

    def count(self, *verdicts: Verdict) -> int:
        """How many numbers have one of these verdicts."""
        return sum(result.verdict in verdicts for result in self.results)

    @property
    def ran(self) -> int:
        """How many numbers were measured."""
        return len(self.results) - self.count("not run")


def calibrate(
    folder: Path,
    data: Data,
    names: Sequence[str] = (),
    *,
    limit: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Calibration:
    """Run published cases.

    Parameters
    ----------
    folder
        Where the weights lie.
    data
        MNIST's test set.
    names
        Of the cases; by default all.
    limit
        Size of a class-stratified sample, seed 0.
    on_progress
        As in `evaluate`.

    Raises
    ------
    UserError
        For a folder that isn't there, and an unknown case.
    """
    if not folder.is_dir():
        raise UserError(f"weights {folder}: no such folder; expected the one that holds the published files")
    if strange := [registry.unknown("case", name, CASES) for name in names if name not in CASES]:
        raise UserError("; ".join(strange))
    sha256 = _sha256(data)
    samples = len(data) if limit is None else min(limit, len(data))
    official, results, interrupted = sha256 == MNIST_SHA256, [], False
    for name in dict.fromkeys(names or CASES):
        case = CASES[name]
        try:
            if interrupted:
                raise UserError("interrupted before it began")
            card = _run(case, case.weights.find(folder), data, limit, on_progress)
        except UserError as fault:
            results += [Result(case, number, "not run", None, str(fault)) for number in case.numbers]
            continue
        interrupted = card.interrupted is not None
        results += _results(case, card, whole=official and samples == len(data), official=official)
    return Calibration(
        results=tuple(results), samples=samples, available=len(data), data_sha256=sha256, interrupted=interrupted
    )


def _run(
    case: Case, weights: Path, data: Data, limit: int | None, on_progress: Callable[[Progress], None] | None
) -> Scorecard:
    module = case.architecture()
    load_weights(module, weights)
    return evaluate(
        Target(module.eval(), name=case.name, device="auto"),
        data,
        load_suite(case.suite),
        case.threat,
        curve=case.curve,
        limit=limit,
        anyway=True,
        on_progress=on_progress,
    )


def _results(case: Case, card: Scorecard, *, whole: bool, official: bool) -> Iterator[Result]:
    failed = "; ".join(f"{attack.name} failed: {attack.fault}" for attack in card.attacks if attack.fault)
    for number in case.numbers:
        if card.interrupted:
            yield Result(case, number, "not run", None, "interrupted")
            continue
        here = number.measure(card)
        verdict: Verdict = "differs" if failed else check_number(number, here, whole=whole, official=official)
        yield Result(case, number, verdict, here, failed or _note(number, verdict))


def _note(number: Number, verdict: Verdict) -> str:
    if verdict == "impossible":
        return (
            f"BELOW THE PROOF. {number.text(number.accepted[0])} of all samples are proved to withstand every attack "
            f"of this size ({number.source}): an attack that breaks more has left the ball. Trust no robust accuracy "
            "of this install until that is found."
        )
    return f"published in {number.source}" if verdict == "differs" else ""


def _sha256(data: Data) -> str:
    """Hash the arrays as the official files hold them."""
    pixels = (data.fetch(range(len(data))) * 255).round().to(torch.uint8)
    return hashlib.sha256(pixels.numpy().tobytes() + data.labels.to(torch.uint8).numpy().tobytes()).hexdigest()


def as_json(found: Calibration) -> str:
    """The same for machines: one JSON object."""
    told = {
        "version": robustbench_lite.__version__,
        "torch": metadata.version("torch"),
        "samples": found.samples,
        "available": found.available,
        "data_sha256": found.data_sha256,
        "official_data": found.official,
        "interrupted": found.interrupted,
        "results": [_as_json(result) for result in found.results],
    }
    return json.dumps(told, indent=1, allow_nan=False) + "\n"


def _as_json(result: Result) -> dict[str, Any]:
    number, weights = result.number, result.case.weights
    here = result.here and {
        name: value if math.isfinite(value) else None for name, value in result.here._asdict().items()
    }
    return {
        "case": result.case.name,
        "what": number.what,
        "published": number.published,
        "accepted": number.accepted,
        "here": here,
        "verdict": result.verdict,
        "note": result.note,
        "source": number.source,
        "weights": {"repository": weights.repository, "file": weights.path, "sha256": weights.sha256},
    }
