"""A training step's time beside its bare passes in a plain loop, and beside ART's adversarial trainer.

    python benchmarks/training_step.py

Every loop trains a copy of one network on the same MNIST images for one epoch: PGD of so many steps on each batch, then
one step of SGD. *Bare* are the passes alone, with no attack around them: forward and gradient to the input as often,
forward and backward of the weights once, the optimizer's step. *Plain* is the same with PGD written out in the loop.
The jobs alternate, and the median of the rounds' ratios to the bare passes counts, so that drift hits all alike.

On a busy machine those ratios swing by more than is looked for. What a loop does *around* the passes doesn't depend
on the network; so it is measured again on a single linear layer, whose passes cost next to nothing: the difference to
its bare passes, in milliseconds a step, beside the bare passes of the network above.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import click
import torch
from common import cpu_seconds, write
from nets import SHARED
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.evaluating.calibration import lenet5
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.target import Target

EPS, LR = 0.3, 0.01
AROUND = 10  # batches of a round on the single layer
HELD_OUT = 1  # the probe after the epoch asks next to nothing: the time of the steps is measured


def one_layer() -> nn.Module:
    """Pixels to logits: nothing but a linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def loops(
    architecture: Callable[[], nn.Module], data: Data, held_out: Data, batch: int, steps: int
) -> dict[str, Callable[[], object]]:
    """One epoch by each loop."""
    size = 2.5 * EPS / steps

    def network() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return architecture()

    def epoch(worst: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        model = network().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, nesterov=True)
        for rows in torch.split(torch.randperm(len(data)), batch):
            x, y = data.fetch(rows), data.labels[rows]
            model.requires_grad_(False)
            moved = worst(model.eval(), x, y)
            model.train().requires_grad_(True)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(moved), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def slope(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(nn.functional.cross_entropy(model(x), y, reduction="sum"), x)[0]

    def asked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(steps):
            slope(model, x, y)
        return x

    def climbed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        moved = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(steps):
            moved = moved + size * slope(model, moved, y).sign()
            moved = (x + (moved - x).clamp(-EPS, EPS)).clamp(0, 1)
        return moved

    def ours() -> None:
        schedule = Schedule(epochs=1, batch_size=batch, lr=LR, decay="constant", weight_decay=0.0, keep="last")
        defense = registry.build("defenses", "pgd_training", {"steps": steps})
        train(Target(network()), defense, schedule, ThreatModel.parse(f"Linf {EPS}"), data, held_out)

    def art() -> None:
        from art.defences.trainer import AdversarialTrainerMadryPGD
        from art.estimators.classification import PyTorchClassifier

        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, nesterov=True)
        wrapped = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), data.shape, 10, optimizer=optimizer, clip_values=(0, 1)
        )
        trainer = AdversarialTrainerMadryPGD(
            wrapped, nb_epochs=1, batch_size=batch, eps=EPS, eps_step=size, max_iter=steps, num_random_init=1
        )
        every = torch.arange(len(data))
        trainer.fit(data.fetch(every).numpy(), nn.functional.one_hot(data.labels, 10).numpy())

    return {
        "bare passes": lambda: epoch(asked),
        "plain loop": lambda: epoch(climbed),
        "robustbench_lite": ours,
        "ART": art,
    }


def alternated(
    jobs: dict[str, Callable[[], object]], warm: dict[str, Callable[[], object]], count: int
) -> dict[str, list[float]]:
    """Processor seconds of each job in each of the rounds, after a short one of each."""
    for job in warm.values():
        job()
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(count):
        for name, job in jobs.items():
            taken[name].append(cpu_seconds(job))
    return taken


@click.command()
@click.option("--samples", default=1024, show_default=True, type=click.IntRange(min=2), help="MNIST images to learn.")
@click.option("--batch", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--steps", default=10, show_default=True, type=click.IntRange(min=1), help="Of PGD on each batch.")
@click.option("--count", default=5, show_default=True, type=click.IntRange(min=1), help="Rounds.")
@click.option("--threads", default=1, show_default=True)
def main(samples: int, batch: int, steps: int, count: int, threads: int) -> None:
    """Measure and write the table."""
    torch.set_num_threads(threads)
    images = load_data("mnist", split="train", root=SHARED / "data")
    data = images.take(torch.arange(samples))
    held_out = images.take(torch.arange(samples, samples + HELD_OUT))
    few = data.take(torch.arange(min(batch, samples)))
    taken = alternated(loops(lenet5, data, held_out, batch, steps), loops(lenet5, few, held_out, batch, steps), count)
    more = images.take(torch.arange(AROUND * batch))
    small = alternated(
        loops(one_layer, more, held_out, batch, steps), loops(one_layer, few, held_out, batch, steps), 2 * count
    )
    around = {
        name: 1000
        * statistics.median(one - other for one, other in zip(small[name], small["bare passes"], strict=True))
        / AROUND
        for name in small
    }
    bare = taken["bare passes"]
    a_step = 1000 * batch / samples
    rows: list[dict[str, Any]] = []
    for name, seconds in taken.items():
        ratios = [one / other for one, other in zip(seconds, bare, strict=True)]
        rows.append(
            {
                "loop": name,
                "seconds": statistics.median(seconds),
                "ms a step": statistics.median(seconds) * a_step,
                "times the bare passes": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "ms a step around the passes": around[name],
                "times the bare passes, by that": 1 + around[name] / (statistics.median(bare) * a_step),
            }
        )
    write(
        "training_step",
        "Time of a training step",
        f"PGD training ({steps} steps) of LeNet5, Linf {EPS}, one epoch of the first {samples} MNIST training images, "
        f"batches of {batch}. Processor seconds; median of {count} alternating rounds, and the median, least and most "
        "of the rounds' ratios to the bare passes. Ours includes all that a training does around its steps: seeds, "
        "checks of the inputs, counting, and the held-out probe on a single sample. *Around the passes*: what a loop "
        f"takes more than its bare passes on a single linear layer ({AROUND} batches; median of {2 * count} rounds), "
        "which a busy machine disturbs less. "
        "`python benchmarks/training_step.py`",
        rows,
    )


if __name__ == "__main__":
    main()
