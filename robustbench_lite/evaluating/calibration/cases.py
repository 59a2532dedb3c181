"""The published cases: networks, names and hashes of their files, attacks, and numbers. Never the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import AttackSpec, Suite
from robustbench_lite.evaluating.calibration.numbers import (
    Number,
    clean_accuracy,
    median_distance,
    robust_accuracy,
    share_broken,
)


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
            Number(
                what="clean accuracy",
                published=clean,
                accepted=(clean, clean),
                measure=clean_accuracy,
                source=_PGD_SOURCE,
            ),
            Number(
                what="broken by PGD",
                published=broken,
                accepted=(round(broken - tolerance, 4), round(broken + tolerance, 4)),
                measure=share_broken,
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
                measure=median_distance,
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
                measure=clean_accuracy,
                source="https://github.com/vtjeng/MIPVerify.jl/blob/dc3149b/test/utils/import_example_nets.jl",
            ),
            # Exact, by mixed integer programming; the authors' PGD leaves 95.89 %, and a suite has to do better.
            Number(
                what="robust accuracy",
                published=0.9562,
                accepted=(0.9562, 0.957),
                measure=robust_accuracy,
                source="https://arxiv.org/abs/1711.07356",
                proved=True,
            ),
        ),
    ),
)
CASES: dict[str, Case] = {case.name: case for case in _CASES}
"""All published cases, by name."""
