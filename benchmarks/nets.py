"""The networks that attacks are compared on: published ones, and small ones hardened here.

    python benchmarks/nets.py            # trains what the cache doesn't hold, and tells what each one can do

The published weights, MNIST and CIFAR-10 are read from a folder beside the project (``SHARED``). What is made from them
is kept in ``CACHE``: CIFAR-10 as arrays, and each hardened network in a folder of its own whose name ends in a hash of
how it was trained, so that another lesson never finds the old weights. A training that was killed goes on.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Literal

import click
import numpy as np
import torch
from common import loaded, mnist
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.evaluating.calibration import lenet5, wk17a
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE, Checkpoint
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.loading import save_model
from robustbench_lite.model.target import Target
from robustbench_lite.model.weights import WEIGHTS_FILE

SHARED = Path(__file__).resolve().parents[2] / "shared"
CACHE = Path(__file__).resolve().parents[1] / ".robustbench" / "benchmarks"

_HELD_OUT = 0.02  # of the training samples: the accuracies after each epoch are to look at, not to choose by


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How a network is hardened."""

    defense: str
    params: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network, and what it is attacked under."""

    name: str
    architecture: Callable[[], nn.Module]
    weights: str | Lesson
    """A file of ``SHARED/yardsticks``, or how they are trained."""
    dataset: Literal["mnist", "cifar10"]
    threat: ThreatModel
    """The ball it was trained for, or that results are published for."""

    def load(self) -> nn.Module:
        """The network in evaluation mode; one of ours is trained first where the cache doesn't hold it."""
        if isinstance(self.weights, str):
            return loaded(self.architecture(), SHARED / "yardsticks" / self.weights)
        lesson = f"{self.weights} {self.threat}"
        folder = CACHE / f"{self.name}-{zlib.crc32(lesson.encode()):08x}"
        if not (folder / WEIGHTS_FILE).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            self._train(self.weights, folder, {"lesson": lesson})
        return loaded(self.architecture(), folder / WEIGHTS_FILE)

    def test(self, limit: int = 1000) -> Data:
        """The first test samples."""
        return mnist(SHARED / "data", limit) if self.dataset == "mnist" else cifar10("test", limit)

    def _train(self, lesson: Lesson, folder: Path, fingerprint: dict[str, str]) -> None:
        data = load_data("mnist", split="train", root=SHARED / "data") if self.dataset == "mnist" else cifar10("train")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = Target(self.architecture(), name=self.name)
        trained = train(
            fresh,
            registry.build("defenses", lesson.defense, lesson.params),
            lesson.schedule,
            self.threat,
            *data.split(_HELD_OUT, 0),
            seed=0,
            checkpoint=Checkpoint.open(folder, fingerprint, resume=True),
        )
        save_model(trained.target, folder)
        (folder / CHECKPOINT_FILE).unlink()


def small_cnn() -> nn.Module:
    """Three convolutions and two linear layers: input (3, 32, 32) in [0, 1], 10 logits; 203,818 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def cifar10(split: Literal["train", "test"], limit: int | None = None, root: Path = SHARED / "data") -> Data:
    """The first CIFAR-10 images as the JPEG archive has them: the first file of each class, the second of each, ...

    So any multiple of ten images is class-stratified. Classes are numbered in the order of their names, which is
    CIFAR-10's own.
    """
    data = load_data(f"npz:{_cifar10_arrays(split, root)}")
    return data if limit is None else data.take(torch.arange(limit))


@cache
def _cifar10_arrays(split: str, root: Path) -> Path:
    """Decode the archive once: 50,000 files are slower to open than to decode, and no epoch should wait for them."""
    from PIL import Image

    path = CACHE / f"cifar10-{split}.npz"
    if not path.is_file():
        images: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        with tarfile.open(root / "cifar10-jpeg.tar.xz") as archive:
            for member in archive:
                path_in = PurePath(member.name)
                if path_in.parts[0] == split and path_in.suffix == ".jpg" and (stream := archive.extractfile(member)):
                    image = Image.open(io.BytesIO(stream.read()))
                    images[path_in.name, path_in.parent.name] = np.asarray(image.convert("RGB"))
        classes = sorted({label for _, label in images})
        order = sorted(images)
        part = path.with_suffix(".part.npz")
        part.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            part,
            x=np.stack([images[key] for key in order]).transpose(0, 3, 1, 2),
            y=np.array([classes.index(label) for _, label in order]),
        )
        part.replace(path)
    return path


_MNIST = Schedule(epochs=6, batch_size=128, lr=0.003, optimizer="adam", decay="one_cycle", keep="last")
_CIFAR = Schedule(epochs=10, batch_size=128, lr=0.004, optimizer="adam", decay="one_cycle", keep="last")

NETS: dict[str, Net] = {
    net.name: net
    for net in (
        Net(
            name="lenet5_clean",
            architecture=lenet5,
            weights="mnist_lenet5_clean.pt",
            dataset="mnist",
            threat=ThreatModel.parse("Linf 0.3"),
        ),
        Net(
            name="lenet5_adv",
            architecture=lenet5,
            weights="mnist_lenet5_adv.pt",
            dataset="mnist",
            threat=ThreatModel.parse("Linf 0.3"),
        ),
        Net(
            name="wk17a",
            architecture=wk17a,
            weights="mnist_wk17a.pth",
            dataset="mnist",
            threat=ThreatModel.parse("Linf 0.1"),
        ),
        Net(
            name="mnist_pgd",
            architecture=wk17a,
            # On adversarial examples alone so small a network never leaves the constant prediction that it starts with.
            weights=Lesson(defense="pgd_training", params={"steps": 5, "clean_share": 0.5}, schedule=_MNIST),
            dataset="mnist",
            threat=ThreatModel.parse("Linf 0.2"),
        ),
        Net(
            name="mnist_trades",
            architecture=wk17a,
            weights=Lesson(defense="trades", params={"steps": 5}, schedule=_MNIST),
            dataset="mnist",
            threat=ThreatModel.parse("Linf 0.2"),
        ),
        Net(
            name="cifar_small",
            architecture=small_cnn,
            weights=Lesson(defense="pgd_training", params={"steps": 2}, schedule=_CIFAR),
            dataset="cifar10",
            threat=ThreatModel.parse("Linf 8/255"),
        ),
    )
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(NETS)))
@click.option("--threads", default=1, show_default=True)
def main(names: tuple[str, ...], threads: int) -> None:
    """Load or train the networks (by default all), and tell their clean accuracies on the first 1,000 test samples."""
    torch.set_num_threads(threads)
    for name in names or NETS:
        net = NETS[name]
        module, data = net.load(), net.test()
        with torch.no_grad():
            right = module(data.fetch(range(len(data)))).argmax(1) == data.labels
        click.echo(f"{name}: {int(right.sum())} of {len(data)} right; attacked under {net.threat}")


if __name__ == "__main__":
    main()
