"""What the training recipes make of small networks: clean and robust accuracy, for the same number of passes.

    python benchmarks/recipes.py mnist [--autoattack N] [ROW ...]
    python benchmarks/recipes.py cifar [ROW ...]

Every network is trained from scratch. What is found is kept in ``CACHE/recipes``, one JSON file and one file of weights
for each, and read the next time; a training that was killed goes on. A pass is one sample that goes forward and back.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from autoattack import reference
from common import loaded, mnist, write
from nets import CACHE, SHARED, cifar10
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_lite import evaluate
from robustbench_lite.core import registry
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.evaluating.calibration import wk17a
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE, Checkpoint
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.target import Target

KEPT = CACHE / "recipes"
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A recipe, and how a network is trained by it."""

    name: str
    defense: str
    params: dict[str, Any] = field(default_factory=dict)
    passes: int
    """Of each sample, in an epoch."""
    schedule: Schedule
    threat: ThreatModel

    @property
    def settings(self) -> str:
        """Its parameters, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.params.items())


class Watched(Checkpoint):
    """A checkpoint that also keeps the last weights without their running mean."""

    bare: dict[str, Tensor]

    def save(self) -> None:
        """Look at the weights of the epoch that is done."""
        self.bare = dict(self.state.weights)
        super().save()


def trained(row: Row, architecture: Callable[[], nn.Module], data: Data, held_out: Data) -> tuple[Path, Path]:
    """Train a network, unless it is kept; return the files of its weights, with their running mean and without."""
    folder = KEPT / f"{row.name.replace(' ', '-')}-{zlib.crc32(repr((row, len(data))).encode()):08x}"
    mean, bare = folder / "mean.safetensors", folder / "bare.safetensors"
    if mean.is_file() and bare.is_file():
        return mean, bare
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        fresh = Target(architecture(), name=row.name)
    checkpoint = Watched.open(folder, {"row": repr(row)}, resume=True)
    defense = registry.build("defenses", row.defense, row.params)
    started = time.process_time()
    made = train(fresh, defense, row.schedule, row.threat, data, held_out, seed=SEED, checkpoint=checkpoint)
    assert isinstance(checkpoint, Watched)
    told = {"notes": made.notes, "seconds": time.process_time() - started, "log": [one._asdict() for one in made.log]}
    write_atomically(folder / "training.json", json.dumps(told) + "\n")
    save_file({name: value.contiguous() for name, value in checkpoint.bare.items()}, bare)
    save_file({name: value.contiguous() for name, value in made.target.module.state_dict().items()}, mean)
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return mean, bare


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found before, or what is found now."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    found = make()
    write_atomically(path, json.dumps(found) + "\n")
    return found


def judged(net: nn.Module, data: Data, suite: str, threat: ThreatModel) -> dict[str, Any]:
    """Evaluate a network by a suite, or by a single attack of so many steps."""
    attacks: Any = suite
    if suite == "pgd-50":
        attacks = [{"attack": "pgd", "params": {"steps": 50}}]
    card = evaluate(net, data, attacks, threat, seed=SEED)
    return {
        "clean": card.clean_accuracy.count,
        "robust": card.robust_accuracy.count,
        "verdict": card.verdict,
        "passes": card.passes.total,
    }


def training_of(weights: Path) -> dict[str, Any]:
    """What is known of a training."""
    told: dict[str, Any] = json.loads((weights.parent / "training.json").read_text())
    return told


# -- MNIST: what a small network reaches

MNIST_THREAT, LEARNT = ThreatModel.parse("Linf 0.3"), ThreatModel.parse("Linf 0.33")
_MNIST = Schedule(
    epochs=6, batch_size=100, lr=0.005, optimizer="adam", weight_decay=0.0, decay="one_cycle", average=0.999,
    eps_ramp=0.5, held_out=0.005, keep="last",
)  # fmt: skip


def _pgd(name: str, epochs: int, steps: int, step_size: float) -> Row:
    schedule = _MNIST.model_copy(update={"epochs": epochs})
    params = {"steps": steps, "step_size": step_size}
    return Row(name=name, defense="pgd_training", params=params, passes=steps + 1, schedule=schedule, threat=LEARNT)


MNIST_ROWS = (_pgd("pgd 2", 6, 2, 0.22), _pgd("pgd 3, longer", 25, 3, 0.15), _pgd("pgd 10", 9, 10, 0.08))


@click.group()
def main() -> None:
    """Train and judge."""
    torch.set_num_threads(1)
    logging.basicConfig(format="%(asctime)s %(message)s")


@main.command("mnist")
@click.argument("names", nargs=-1)
@click.option("--data", default=SHARED / "data", type=Path, help="Folder that holds MNIST.")
@click.option(
    "--autoattack", default=0, metavar="N", help="Under pyautoattack as well: the first N, minutes for each 100."
)
@click.option("--samples", default=10_000, show_default=True, help="Of the test images, the first.")
def mnist_rows(names: Sequence[str], data: Path, autoattack: int, samples: int) -> None:
    """The small network, Linf 0.3."""
    images = load_data("mnist", split="train", root=data)
    test = mnist(data, samples)
    rows = []
    for row in MNIST_ROWS:
        if names and row.name not in names:
            continue
        mean, _ = trained(row, wk17a, *images.split(row.schedule.held_out, SEED))
        net, at = loaded(wk17a(), mean), mean.parent
        ours = kept(at / f"linf_standard-{samples}.json", partial(judged, net, test, "linf_standard", MNIST_THREAT))
        first = test.take(torch.arange(autoattack))
        theirs = _reference(net, first, at) if autoattack else ours
        same = at / f"linf_standard-{autoattack}.json"
        beside = kept(same, partial(judged, net, first, "linf_standard", MNIST_THREAT)) if autoattack else ours
        training = training_of(mean)
        rows.append(
            {
                "recipe": f"{row.defense}, {row.settings}",
                "epochs": row.schedule.epochs,
                "passes, in those of 10 epochs of FGSM-RS": row.passes * row.schedule.epochs / 20,
                "clean %": 100 * ours["clean"] / samples,
                "linf_standard %": 100 * ours["robust"] / samples,
                "AutoAttack": f"{theirs['robust']} of {autoattack}" if autoattack else "not run",
                "linf_standard on the same": f"{beside['robust']} of {autoattack}" if autoattack else "",
                "training, CPU seconds": training["seconds"],
            }
        )
        click.echo(json.dumps(rows[-1]))
    write("recipes_mnist", "MNIST, Linf 0.3: what the small network reaches", MNIST_NOTE.format(samples=samples), rows)


MNIST_NOTE = (
    "The network of Wong and Kolter 2017 (166,406 parameters), from scratch, seed 0: PGD training with a ball "
    "that grows over half of the training to Linf 0.33, running mean of the weights (0.999), Adam at 0.005, one "
    "cycle, batches of 100; no data beside MNIST's training images, the weights of the last epoch. Judged under "
    "Linf 0.3 on the first {samples:,} test images by `linf_standard`, and on as many as it says by AutoAttack "
    "(standard; PyPI's pyautoattack). The mark: a published FGSM-RS model of this network has 82.9 % on all 10,000 "
    "under AutoAttack, and 80.1 % on the first 1,000. Repeat it with `python benchmarks/recipes.py mnist "
    "--samples {samples} --autoattack 1000`."
)


_PART = 50  # samples that AutoAttack is given at once, and that are kept as soon as they are done


def _reference(net: nn.Module, data: Data, folder: Path) -> dict[str, Any]:
    """What AutoAttack leaves of a network, part by part."""
    robust = 0
    for at in range(0, len(data), _PART):
        part = data.take(torch.arange(at, min(at + _PART, len(data))))
        robust += kept(folder / f"pyautoattack-{at}-{len(part)}.json", partial(_reference_of, net, part))["robust"]
    return {"robust": robust}


def _reference_of(net: nn.Module, data: Data) -> dict[str, Any]:
    x = data.fetch(range(len(data)))
    found = reference(net, x, data.labels, MNIST_THREAT.norm, MNIST_THREAT.eps, SEED)
    attacks = {name: asdict(spent) for name, spent in found.attacks.items()}
    return {"clean": int(found.right.sum()), "robust": int(found.robust.sum()), "attacks": attacks}


# -- CIFAR-10: the recipes beside each other, for the same passes


class Block(nn.Module):
    """Two convolutions around which the input is added: input (in, H, W), output (out, H / 2, W / 2)."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, made, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(made)
        self.past = nn.Conv2d(given, made, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as above."""
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(inner + self.past(x))


def small_resnet() -> nn.Module:
    """A residual network: input (3, 32, 32) in [0, 1], 10 logits; 73,178 parameters, 2 million multiply-adds."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Block(16, 32), Block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


_UNITS, _LEARNT_FROM = 12, 20_000  # passes of each sample, and how many samples: the same for every recipe
_CIFAR = Schedule(
    epochs=1, batch_size=100, lr=0.01, optimizer="adam", decay="one_cycle", average=0.995, held_out=0.02, keep="last"
)
CIFAR_THREAT = ThreatModel.parse("Linf 8/255")


def _beside(name: str, defense: str, passes: int, **params: Any) -> Row:
    schedule = _CIFAR.model_copy(update={"epochs": _UNITS // passes})
    return Row(name=name, defense=defense, params=params, passes=passes, schedule=schedule, threat=CIFAR_THREAT)


CIFAR_ROWS = (
    _beside("pgd_training", "pgd_training", 3, steps=2),
    _beside("trades", "trades", 4, steps=2),
    _beside("mart", "mart", 4, steps=2),
    _beside("fgsm_rs", "fgsm_rs", 2),
    _beside("n_fgsm", "n_fgsm", 2),
    _beside("free", "free", 4, replays=4),
    _beside("standard", "standard", 1),
)


@main.command("cifar")
@click.argument("names", nargs=-1)
@click.option("--samples", default=500, show_default=True, help="Of the test images, the first; as many of each class.")
@click.option("--suite", "suites", multiple=True, default=("pgd-50", "linf_standard"), show_default=True)
def cifar_rows(names: Sequence[str], samples: int, suites: Sequence[str]) -> None:
    """Every training recipe for the same passes, CIFAR-10, Linf 8/255."""
    images, test = cifar10("train", _LEARNT_FROM), cifar10("test", samples)
    rows = []
    for row in CIFAR_ROWS:
        if names and row.name not in names:
            continue
        files = trained(row, small_resnet, *images.split(row.schedule.held_out, SEED))
        for averaged, weights in zip((True, False), files, strict=True):
            net = loaded(small_resnet(), weights)
            found = {
                suite: kept(
                    weights.with_suffix(f".{suite}-{samples}.json"), partial(judged, net, test, suite, row.threat)
                )
                for suite in suites
            }
            rows.append(
                {
                    "recipe": row.name,
                    "settings": row.settings,
                    "epochs": row.schedule.epochs,
                    "averaged": "yes" if averaged else "no",
                    "clean %": 100 * next(iter(found.values()))["clean"] / samples,
                    **{f"{suite} %": 100 * one["robust"] / samples for suite, one in found.items()},
                    "training, CPU seconds": round(training_of(weights)["seconds"]),
                }
            )
            click.echo(json.dumps(rows[-1]))
    options = " ".join(["--samples", str(samples), *(f"--suite {suite}" for suite in suites)])
    note = (
        f"Accuracies on the first {samples} test images: a difference of less than {_shown(samples):.0f} points may be "
        f"chance. {_averaging(rows, suites[-1])}The published order (TRADES and MART at or "
        "above PGD training) comes from trainings of a hundred epochs and more; these are of a few. "
        f"Repeat it with `python benchmarks/recipes.py cifar {options}`."
    )
    write("recipes_cifar", "CIFAR-10, Linf 8/255: the recipes for the same passes", CIFAR_NOTE + note, rows)


def _shown(samples: int) -> float:
    """About the least difference of two accuracies near 25 % that is significant at 5 %, in points."""
    return float(100 * 1.96 * (2 * 0.25 * 0.75 / samples) ** 0.5)


def _averaging(rows: Sequence[dict[str, Any]], suite: str) -> str:
    """In how many of the adversarial trainings the running mean withstands more."""
    robust = [row[f"{suite} %"] for row in rows if row["recipe"] != "standard"]
    gains = [mean - bare for mean, bare in zip(robust[::2], robust[1::2], strict=True)]
    if not gains:
        return ""
    return (
        f"Under `{suite}` the running mean is ahead in {sum(gain > 0 for gain in gains)} of {len(gains)} adversarial "
        f"trainings, by {sum(gains) / len(gains):.1f} points in the mean. "
    )


CIFAR_NOTE = (
    "A residual network of 73,178 parameters, from scratch, seed 0, Linf 8/255. Every recipe has the same passes: "
    f"{_UNITS} of each of {_LEARNT_FROM:,} training images (JPEG, hence slightly lossy; 2 % held out). Averaged: "
    "running mean of the weights (0.995) of the same training, which costs no passes. "
)


if __name__ == "__main__":
    main()
