"""Published cases, run again from a user's own files: whether this install reproduces what others measured.

The project carries the networks' architectures, the names and hashes of their files, and the published numbers; never
the weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

import robustbench_lite
from robustbench_lite.core import registry
from robustbench_lite.core.cost import Progress
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import AttackSpec, Suite, load_suite
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.model.target import Target
from robustbench_lite.model.weights import load_weights
from robustbench_lite.results.scorecard import Interval, Scorecard

Verdict = Literal["reproduces", "differs", "impossible", "not run"]
"""``impossible``: below what is proved, so that the harness itself is at fault. Shown as ``differs``, and loudly."""

MNIST_SHA256 = "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b"
"""Of the official test set: its 10,000 x 28 x 28 pixels and then its 10,000 labels, a byte each."""

_STYLES: dict[Verdict, str] = {
    "reproduces": "green",
    "differs": "bold red",
    "impossible": "bold white on red",
    "not run": "yellow",
}


def lenet5() -> nn.Module:
    """The network of advertorch's MNIST examples: input (1, 28, 28) in [0, 1], 10 logits."""
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(1, 32, 3, padding=1),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(32, 64, 3, padding=1),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "linear1": nn.Linear(3136, 200),
        "relu3": nn.ReLU(),
        "linear2": nn.Linear(200, 10),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


def wk17a() -> nn.Module:
    """The network of Wong and Kolter 2017: input (1, 28, 28) in [0, 1], 10 logits; 166,406 parameters.

    References
    ----------
    Wong and Kolter, *Provable defenses against adversarial examples via the convex outer adversarial polytope*, ICML
    2018. https://arxiv.org/abs/1711.00851
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file that others published."""

    names: tuple[str, ...]
    """What it may be called in the user's folder, the first one ours, the others the publishers'."""
    sha256: str
    repository: str
    """URL of the repository that publishes it."""
    path: str
    """Where it is there."""

    def find(self, folder: Path) -> Path:
        """Path of the file in a folder.

        Raises
        ------
        UserError
            Where it isn't there, or is another file.
        """
        there = [path for name in self.names if (path := folder / name).is_file()]
        for path in there:
            if hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256:
                return path
        what = f"{there[0]} is another file" if there else f"{' or '.join(self.names)} is not in {folder}"
        raise UserError(f"{what}\n  from    {self.repository}\n  file    {self.path}\n  sha256  {self.sha256}")


class Measured(NamedTuple):
    """A number with its exact 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, share: Interval) -> Measured:
        """Take a share of the samples."""
        return cls(share.value, share.low, share.high)


@dataclass(frozen=True, kw_only=True)
class Number:
    """A published number, and what reproduces it on all samples."""

    what: str
    published: float
    accepted: tuple[float, float]
    """Least and largest value that reproduce it."""
    measure: Callable[[Scorecard], Measured]
    source: str
    """URL of where it is published."""
    proved: bool = False
    """Whether no attack can go below the least one, whatever it does."""
    share: bool = True
    """Whether it is a share of samples, or (False) a distance."""

    @property
    def demand(self) -> str:
        """What reproduces it, in words."""
        low, high = self.accepted
        if low == high:
            return self.text(low)
        if not self.share:
            return f"at most {self.text(high)}"
        if self.proved:
            return f"{self.text(low)} to {self.text(high)}"
        return f"{self.text(self.published)} ± {self.text(high - self.published)}"

    def text(self, value: float) -> str:
        """Write a value of it."""
        return f"{value:.2%}" if self.share else f"{value:.3f}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A published network under a published attack."""

    name: str
    architecture: Callable[[], nn.Module]
    weights: Weights
    suite: str | Suite
    threat: str
    curve: bool = False
    """Whether the nearest example of every sample is looked for."""
    numbers: tuple[Number, ...]


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


def check_number(number: Number, here: Measured, *, whole: bool, official: bool = True) -> Verdict:
    """Tell whether a measured number reproduces the published one.

    Parameters
    ----------
    whole
        Whether it was measured on all samples of the official data, and must be what was published. Of a part, what
        was published must be in the 95 % interval.
    official
        Whether the samples are the ones that a proof is about.
    """
    low, high = (here.value, here.value) if whole else (here.low, here.high)
    least, most = number.accepted
    if number.proved and official and high < least:
        return "impossible"
    return "reproduces" if low <= most and high >= least else "differs"


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


def _clean(card: Scorecard) -> Measured:
    return Measured.of(card.clean_accuracy)


def _robust(card: Scorecard) -> Measured:
    return Measured.of(card.robust_accuracy)


def _success(card: Scorecard) -> Measured:
    """Share of all samples that are wrong after the attack, those wrong from the start included, as advertorch counts.

    advertorch judges the last step; here a sample is broken as soon as any step breaks it, so there can only be more.
    """
    robust = card.robust_accuracy
    return Measured.of(Interval.of(robust.total - robust.count, robust.total))


def _median(card: Scorecard) -> Measured:
    """Median distance of the nearest examples of the samples that are right when clean, as advertorch counts.

    The interval lies between two order statistics: it holds for every distribution.
    """
    from scipy.special import bdtr

    distances = card.curve().distances
    total = len(distances)
    if not total:
        return Measured(math.inf, 0.0, math.inf)
    out = sum(float(bdtr(below, total, 0.5)) <= 0.025 for below in range(total // 2))
    low, high = (distances[out - 1], distances[total - out]) if out else (0.0, math.inf)
    return Measured(distances[(total - 1) // 2], low, high)


def report(found: Calibration) -> RenderableType:
    """What was found, for a terminal of 80 columns."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for head in ("case", "published", "here", "verdict"):
        table.add_column(head, overflow="fold")
    for case in dict.fromkeys(result.case.name for result in found.results):
        table.add_row(Text(case, style="bold"))
        for result in found.results:
            if result.case.name == case:
                table.add_row(*_row(result, whole=found.whole))
    parts: list[RenderableType] = [table, Text()]
    for note, style in _notes(found):
        parts += [Text(note, style=style), Text()]
    return Group(*parts, Text(_summary(found), style="bold"))


def _row(result: Result, *, whole: bool) -> tuple[RenderableType, ...]:
    number, here = result.number, result.here
    told = "differs" if result.verdict == "impossible" else result.verdict
    seen = "-" if here is None else number.text(here.value)
    if here is not None and not whole:
        low, high = (f"{end:.1%}" if number.share else f"{end:.2f}" for end in here[1:])
        seen += f" [{low}, {high}]"
    return f"  {number.what}", number.demand, seen, Text(told, style=_STYLES[result.verdict])


def _notes(found: Calibration) -> Iterator[tuple[str, str]]:
    if not found.official:
        yield (
            "The data are not the official MNIST test set, so nothing was published about them.\n"
            f"  found     {found.data_sha256}\n  expected  {MNIST_SHA256}",
            "bold yellow",
        )
    if found.samples < found.available:
        yield (
            f"{found.samples:,} of {found.available:,} samples: a part can't reproduce a published number exactly. It "
            "is judged by whether what was published is in its 95 % interval.",
            "",
        )
    notes: dict[str, list[Result]] = {}
    for result in found.results:
        if result.note:
            notes.setdefault(result.note, []).append(result)
    for note, about in notes.items():
        whole = all(result.verdict == "not run" for result in about)
        names = dict.fromkeys(
            result.case.name if whole else f"{result.case.name}, {result.number.what}" for result in about
        )
        yield f"{'; '.join(names)}: {note}", _STYLES["impossible"] if about[0].verdict == "impossible" else ""


def _summary(found: Calibration) -> str:
    if not found.ran:
        return "Nothing was run."
    left = f" {found.count('not run')} not run." if found.count("not run") else ""
    if wrong := found.count("differs", "impossible"):
        return f"{wrong} of {found.ran} published numbers differ here.{left}"
    return f"This install reproduces {found.ran} of {found.ran} published numbers.{left}"


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


_ADVERTORCH = "https://github.com/BorealisAI/advertorch"
_PGD_SOURCE = (
    f"{_ADVERTORCH}/blob/238084e/advertorch_examples/attack_benchmarks/benchmark_iterative_projected_gradient.py"
)
_DDN_SOURCE = f"{_ADVERTORCH}/blob/41b9f16/advertorch_examples/attack_benchmarks/benchmark_decoupled_direction_norm.py"
_PGD = Suite(
    name="published-pgd",
    threats=("Linf 0.3",),
    attacks=(AttackSpec(attack="pgd", name="pgd", params={"steps": 40, "step_size": 0.01, "random_start": False}),),
)
_DDN = Suite(name="ddn", threats=("L2 2",), attacks=(AttackSpec(attack="ddn", name="ddn"),))


def _lenet5_cases(
    kind: str, weights: Weights, *, clean: float, success: tuple[float, float], median: float
) -> Iterator[Case]:
    """PGD with its published tolerance, and DDN, on one of advertorch's two networks."""
    broken, tolerance = success
    yield Case(
        name=f"lenet5_{kind}_pgd",
        architecture=lenet5,
        weights=weights,
        suite=_PGD,
        threat="Linf 0.3",
        numbers=(
            Number(what="clean accuracy", published=clean, accepted=(clean, clean), measure=_clean, source=_PGD_SOURCE),
            Number(
                what="broken by PGD",
                published=broken,
                accepted=(round(broken - tolerance, 4), round(broken + tolerance, 4)),
                measure=_success,
                source=_PGD_SOURCE,
            ),
        ),
    )
    yield Case(
        name=f"lenet5_{kind}_ddn",
        architecture=lenet5,
        weights=weights,
        suite=_DDN,
        threat="L2 2",
        curve=True,
        numbers=(
            Number(
                what="median L2 distance",
                published=median,
                accepted=(median / 2, median),  # a better attack finds less, but half of it is another distance
                measure=_median,
                source=_DDN_SOURCE,
                share=False,
            ),
        ),
    )


_CASES = (
    *_lenet5_cases(
        "clean",
        Weights(
            names=("mnist_lenet5_clean.pt", "mnist_lenet5_clntrained.pt"),
            sha256="551a11267982991fb0c9f74e9094de19e54b51455eff9bd1c19c77a69d85156a",
            repository=_ADVERTORCH,
            path="advertorch_examples/trained_models/mnist_lenet5_clntrained.pt",
        ),
        clean=0.9889,
        success=(1.0, 0.0),
        median=1.388,
    ),
    *_lenet5_cases(
        "adv",
        Weights(
            names=("mnist_lenet5_adv.pt", "mnist_lenet5_advtrained.pt"),
            sha256="b89abfcfe8b33235fe8f8e964188d82a97c56a12ffe25132eaba197e40ac7658",
            repository=_ADVERTORCH,
            path="advertorch_examples/trained_models/mnist_lenet5_advtrained.pt",
        ),
        clean=0.9864,
        success=(0.068, 0.0005),  # five samples: those at the very boundary fall to either side with the rounding
        median=1.872,
    ),
    Case(
        name="wk17a",
        architecture=wk17a,
        weights=Weights(
            names=("mnist_wk17a.pth", "master_seed_1_epochs_100.pth", "mnist.pth"),
            sha256="665cce40af979286eabde7ba405af0a3a2575bbe6abbcaddc2c5e6f58621efc3",
            repository="https://github.com/locuslab/convex_adversarial",
            path="models/mnist.pth, at commit c5d17a6",
        ),
        suite="linf_standard",
        threat="Linf 0.1",
        numbers=(
            Number(
                what="clean accuracy",
                published=0.9811,
                accepted=(0.9811, 0.9811),
                measure=_clean,
                source="https://github.com/vtjeng/MIPVerify.jl/blob/dc3149b/test/utils/import_example_nets.jl",
            ),
            # Exact, by mixed integer programming; the authors' PGD leaves 95.89 %, and a suite has to do better.
            Number(
                what="robust accuracy",
                published=0.9562,
                accepted=(0.9562, 0.957),
                measure=_robust,
                source="https://arxiv.org/abs/1711.07356",
                proved=True,
            ),
        ),
    ),
)
CASES: dict[str, Case] = {case.name: case for case in _CASES}
"""All published cases, by name."""
