"""What compression leaves of robustness: pruned, quantised, distilled and exported networks beside the float one.

    python benchmarks/compression.py ../shared/data

``DATA`` holds MNIST in torchvision's layout and ``cifar10-jpeg.tar.xz``. Each row is a network that is trained once and
kept in ``CACHE``, as is its scorecard: a run that was stopped goes on at the row (and epoch) where it was. What was
pruned is fine-tuned for as long, whichever way its weights were chosen; the share is the same in every layer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import torch
from common import write
from nets import CACHE, cifar10

from robustbench_lite import Scorecard, Suite, evaluate, load_target
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.hardening.folder import AFTER_FILE
from robustbench_lite.hardening.pipeline import harden
from robustbench_lite.hardening.recipe import Recipe, RecipeStep
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.model.export import ExportReport, export
from robustbench_lite.model.target import Target
from robustbench_lite.results.paired import mcnemar

AMOUNTS = (0.5, 0.9, 0.95, 0.99)
TABLES = ("exported", "compressed")
MEASURES = ("bytes", "parameters", "nonzero_parameters", "slowdown", "certified_accuracy")
# `harden` evaluates before and after; what counts here is evaluated by itself, on more samples.
LOOK = Suite.model_validate({"name": "look", "threats": ["Linf 0.01"], "attacks": [{"attack": "fgsm"}]})


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, its data, and how long it learns."""

    name: str
    threat: str
    certified: str
    """Radius of a certificate that interval bounds can give."""
    epochs: int
    """Of the float network; a quarter of it for fine-tuning and for scores."""
    lr: float
    clean_share: float
    """Of each training batch; a small network never leaves the constant prediction on adversarial examples alone."""
    test: Callable[[Path], Data]
    train: Callable[[Path], Data]

    @property
    def spec(self) -> str:
        """As MODEL is named."""
        return f"{Path(__file__).with_name('small_nets.py')}:{self.name}"


CASES = (
    Case(
        name="mnist",
        threat="Linf 0.1",
        certified="0.01",
        epochs=12,
        lr=0.003,
        clean_share=0.5,
        test=lambda data: load_data("mnist", split="test", root=data),
        train=lambda data: load_data("mnist", split="train", root=data),
    ),
    Case(
        name="cifar",
        threat="Linf 8/255",
        certified="0.002",
        epochs=12,
        lr=0.003,
        clean_share=0.0,
        test=lambda data: cifar10("test", root=data),
        train=lambda data: cifar10("train", root=data),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One case on so many samples."""

    case: Case
    data: Path
    learn: int
    judge: int
    steps: int

    @cached_property
    def folder(self) -> Path:
        """Where its networks and scorecards are kept, by all that they depend on."""
        case = self.case
        asked = (
            case.threat,
            case.certified,
            case.epochs,
            case.lr,
            case.clean_share,
            self.learn,
            self.judge,
            self.steps,
        )
        return CACHE / "compression" / f"{case.name}-{zlib.crc32(repr(asked).encode()):08x}"

    @cached_property
    def train(self) -> Data:
        """What is learnt from."""
        return self.case.train(self.data).stratified(self.learn, 0)

    @cached_property
    def test(self) -> Data:
        """What is judged on."""
        return self.case.test(self.data).stratified(self.judge, 0)

    @cached_property
    def original(self) -> Target:
        """The network that all others are made of."""
        return self.made("float", load_target(self.case.spec, classes=10), [self.adversarial()], self.case.epochs)

    def adversarial(self, epochs: int | None = None) -> RecipeStep:
        """The step that trains against PGD."""
        params = {"steps": self.steps, "clean_share": self.case.clean_share}
        return RecipeStep(name="pgd_training", params=params, schedule=self.schedule(epochs) if epochs else None)

    def schedule(self, epochs: int, lr: float = 1.0) -> Schedule:
        """Of a step that trains."""
        return Schedule(
            epochs=epochs, batch_size=64, lr=lr * self.case.lr, optimizer="adam", decay="one_cycle", held_out=0.02,
            keep="last",
        )  # fmt: skip

    def made(self, name: str, start: Target, steps: Sequence[RecipeStep], epochs: int = 1) -> Target:
        """What a list of steps makes of a network; from its folder, where it was made before."""
        folder = self.folder / name.replace(" ", "_")
        if not (folder / AFTER_FILE).is_file():
            recipe = Recipe(
                name=name, description="", threat=self.case.threat, steps=tuple(steps), schedule=self.schedule(epochs)
            )
            test = self.test.take(torch.arange(20))
            harden(start, self.train, recipe, test_data=test, suite=LOOK, out=folder, resume=True)
        return load_target(str(folder))

    def networks(self) -> dict[str, Callable[[], Target]]:
        """The rows, by name."""
        tune = max(1, self.case.epochs // 4)

        def pruned(step: str, amount: float) -> Callable[[], Target]:
            chosen = (
                RecipeStep(name="prune", params={"amount": amount, "across": "layer"})
                if step == "magnitude"
                else RecipeStep(
                    name="prune_learnt",
                    params={"amount": amount, "steps": self.steps, "clean_share": self.case.clean_share},
                    schedule=self.schedule(tune, lr=3).model_copy(update={"decay": "cosine", "weight_decay": 0.0}),
                )
            )
            return lambda: self.made(f"{step} {amount:.0%}", self.original, [chosen, self.adversarial(tune)])

        def integers(bits: int) -> Callable[[], Target]:
            step = RecipeStep(name="quantize", params={"bits": bits})
            return lambda: self.made(f"int{bits}", self.original, [step])

        student = RecipeStep(
            name="robust_distillation",
            params={"student": "robustbench_lite.defenses.compression.students:small", "steps": self.steps},
        )
        return {
            "float": lambda: self.original,
            **{f"{step} {a:.0%}": pruned(step, a) for a in reversed(AMOUNTS) for step in ("magnitude", "learnt")},
            "int8": integers(8),
            "int4": integers(4),
            "student": lambda: self.made("student", self.original, [student], self.case.epochs),
        }

    def card(self, name: str, target: Callable[[], Target], **options: Any) -> Scorecard:
        """Evaluate a network, or read what came of it before."""
        path = self.folder / f"{name.replace(' ', '_')}.json"
        if not path.is_file():
            found = target()
            print(f"{self.case.name}: {name}", flush=True)
            evaluate(found, self.test, "linf_standard", self.case.threat, **options).save(path)
        return Scorecard.load(path)

    def rows(self, only: Sequence[str]) -> list[dict[str, Any]]:
        """The table of PyTorch networks: all, or those that are named."""
        cards = {
            name: self.card(
                name, target, reference=self.original, measures=(*MEASURES, f"certified_accuracy:{self.case.certified}")
            )
            for name, target in self.networks().items()
            if not only or name in only
        }
        return [self.row(name, card, cards) for name, card in cards.items()]

    def row(self, name: str, card: Scorecard, cards: dict[str, Scorecard]) -> dict[str, Any]:
        """A card in short; one that was pruned by learnt scores is compared with its rival on the same samples."""
        found = {one.name: one.value for one in card.measures}
        rival = cards.get(name.replace("learnt", "magnitude")) if name.startswith("learnt") else None
        return {
            "data": self.case.name,
            "threat": self.case.threat,
            "network": name,
            "clean": share(card.clean_accuracy.value),
            "robust": share(card.robust_accuracy.value),
            "certified": share(found.get("certified_accuracy")),
            "certified at a small radius": f"{share(found.get(f'certified_accuracy:{self.case.certified}')) or 'none'} "
            f"({self.case.certified})",
            "bytes": int(found["bytes"] or 0),
            "nonzero": int(found["nonzero_parameters"] or 0),
            "latency to float": found["slowdown"],
            "p against magnitude": "" if rival is None else f"{difference(card, rival):.2g}",
            "verdict": card.verdict,
        }

    def exported(self) -> list[dict[str, Any]]:
        """The table of ONNX files: alone, and with the float network as twin."""
        table = []
        for format in ("onnx", "onnx-int8"):
            path = self.folder / f"{format}.onnx"
            if not path.is_file():
                export(
                    self.original,
                    path,
                    format,
                    samples=self._drawn(self.case.test(self.data), 1000),
                    calibration=self._drawn(self.train, 256),
                    min_agreement=0.9,  # the table tells it
                )
            report = ExportReport.model_validate_json(path.with_name(f"{path.name}.json").read_text())
            card = self.card(format, lambda path=path: load_target(f"onnx:{path}"), twin=self.original)  # type: ignore[misc]
            alone = card.adaptation
            assert alone is not None
            errors = " ".join(one.code for one in alone.validity if one.severity == "error")
            table.append(
                {
                    "data": self.case.name,
                    "file": format,
                    "bytes": report.bytes,
                    "equal predictions": f"{share(report.equal_predictions)} of {report.verified_on}",
                    **{f"latency to float, batch {one.batch}": one.ratio for one in report.latency},
                    "robust alone": share(alone.robust_accuracy.value),
                    "verdict alone": f"{alone.verdict} {errors}".strip(),
                    "robust with twin": share(card.robust_accuracy.value),
                    "verdict with twin": card.verdict,
                }
            )
        return table

    @staticmethod
    def _drawn(data: Data, count: int) -> torch.Tensor:
        few = data.stratified(count, 0)
        return few.fetch(range(len(few)))


def share(value: float | None) -> str:
    """In percent."""
    return "" if value is None else f"{value:.1%}"


def difference(one: Scorecard, other: Scorecard) -> float:
    """How likely robust accuracies that are so far apart are where nothing but chance is at work."""
    pairs = [(a.robust, b.robust) for a, b in zip(one.outcomes, other.outcomes, strict=True)]
    return mcnemar(pairs.count((True, False)), pairs.count((False, True)))


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--learn", default=5000, show_default=True, help="Training samples.")
@click.option("--judge", default=400, show_default=True, help="Test samples.")
@click.option("--steps", default=2, show_default=True, help="Of PGD in training.")
@click.option("--table", "tables", multiple=True, default=TABLES, type=click.Choice(TABLES), help="By default both.")
@click.option("--case", "cases", multiple=True, type=click.Choice([case.name for case in CASES]), help="Or both.")
@click.option("--network", "networks", multiple=True, metavar="NAME", help="Rows of the second table; or all.")
def main(
    data: Path, learn: int, judge: int, steps: int, tables: Sequence[str], cases: Sequence[str], networks: Sequence[str]
) -> None:
    """Train what the cache doesn't hold, judge it, and write the tables."""
    torch.set_num_threads(1)
    benches = [
        Bench(case=case, data=data, learn=learn, judge=judge, steps=steps)
        for case in CASES
        if not cases or case.name in cases
    ]
    chosen = [f"--case {name}" for name in cases] + [f"--network '{name}'" for name in networks]
    options = " ".join((f"--learn {learn} --judge {judge} --steps {steps}", *chosen))
    ran = f"`python benchmarks/compression.py DATA {options}`"
    if "exported" in tables:
        write(
            "compression_exported",
            "ONNX files beside the network they came from",
            f"The float networks of compression.py as files; {judge} test samples. They learnt from {learn} training "
            f"samples against PGD of {steps} steps. Alone: by the suite black_box. With twin: by linf_standard along "
            f"the float network's gradient, the file's own answers decide. {ran}",
            [row for bench in benches for row in bench.exported()],
        )
    if "compressed" in tables:
        write(
            "compression",
            "Compressed networks beside the float one",
            f"Clean, robust (linf_standard) and certified (interval bounds, at eps and at a smaller radius) on {judge} "
            f"test samples, of small networks that learnt from {learn} training samples against PGD of {steps} steps. "
            "The same share of each layer is pruned, and both ways are fine-tuned for as long. Latency is the ratio of "
            "the time for one sample to the float network's in the same run; quantised layers simulate integers. No "
            "certificate: interval bounds don't know the quantised layers, nor the student's pooling. p: "
            f"exact McNemar test of learnt scores against magnitude on the same samples. {ran}",
            [row for bench in benches for row in bench.rows(networks)],
        )


if __name__ == "__main__":
    main()
