"""PGD's time beside the bare loop and the peers: where no sample leaves, and where the active set shows.

    python benchmarks/throughput.py

On LeNet5 adv every loop takes every sample through all 40 steps (ours with ``early_stop=False``), so that the time over
that of the bare loop, forward and gradient to the input and nothing else, is overhead. The system's part of it is told
apart: the C library gives freed memory back and asks for it again at the next step, more or less often by how a loop's
small tensors happen to lie in it. On LeNet5 clean, where PGD breaks everything, ours lets broken samples go. Weights
are frozen for all loops: ours does that by itself, and the peers that compute the weights' gradients as well would
lose by it.
"""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click
import torch
from common import write
from nets import NETS, Net
from torch import Tensor, nn

from robustbench_lite import Suite, evaluate
from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.core import registry
from robustbench_lite.core.suite import AttackSpec
from robustbench_lite.data.dataset import Data
from robustbench_lite.model.target import Target

STEPS = 40
SETTINGS = (
    ("lenet5_adv", 0.01, False),
    ("lenet5_clean", 0.01, False),
    ("lenet5_clean", 0.01, True),
    ("lenet5_clean", 0.01875, True),
)
"""Network, length of a step, random start: as published, foolbox's defaults, and ours (2.5 * eps / steps)."""

Loop = Callable[[Data], tuple[int | None, float]]
"""Attack the data: how many samples are left standing, and gradients taken a sample."""


class Taken(NamedTuple):
    """Processor seconds of a job."""

    user: float
    system: float

    @property
    def both(self) -> float:
        return self.user + self.system


def taken(job: Callable[[], object]) -> Taken:
    """Run a job by the clock."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    job()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Taken(after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


def alternated(jobs: Mapping[str, Callable[[], object]], count: int) -> dict[str, list[Taken]]:
    """Rounds in which every job runs once, so that drift hits all alike."""
    rounds = [{name: taken(job) for name, job in jobs.items()} for _ in range(count)]
    return {name: [one[name] for one in rounds] for name in jobs}


def times_as_fast(theirs: list[Taken], own: list[Taken], part: Callable[[Taken], float]) -> float:
    """How many times as fast a loop is as another one, by the median of the rounds."""
    return statistics.median(part(one) / part(other) for one, other in zip(theirs, own, strict=True))


def loops(net: Net, model: nn.Module, step: float, start: bool, batch: int, *, leave: bool) -> dict[str, Loop]:
    """PGD by library.

    Parameters
    ----------
    model
        In evaluation mode, its weights frozen.
    step, start
        Length of a step, and whether the first one is taken from a random point of the ball.
    leave
        Whether ours lets broken samples go.
    """
    eps = net.threat.eps
    params = {"steps": STEPS, "step_size": step, "random_start": start}

    def batches(data: Data) -> list[tuple[Tensor, Tensor]]:
        return [(data.fetch(rows), data.labels[rows]) for rows in torch.split(torch.arange(len(data)), batch)]

    def left(data: Data, found: list[Tensor]) -> tuple[int, float]:
        with torch.no_grad():
            standing = [int((model(x).argmax(1) == y).sum()) for x, (_, y) in zip(found, batches(data), strict=True)]
        return sum(standing), STEPS

    def bare(data: Data) -> tuple[None, float]:
        for x, y in batches(data):
            for _ in range(STEPS):
                x.requires_grad_()
                loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
                x = x.detach() + 0 * torch.autograd.grad(loss, x)[0]
            with torch.no_grad():
                model(x)
        return None, STEPS

    def plain(data: Data) -> tuple[int, float]:
        found = []
        for x, y in batches(data):
            candidate = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1) if start else x.clone()
            for _ in range(STEPS):
                candidate.requires_grad_()
                loss = nn.functional.cross_entropy(model(candidate), y)
                grad = torch.autograd.grad(loss, candidate)[0]
                candidate = candidate.detach() + step * grad.sign()
                candidate = (x + (candidate - x).clamp(-eps, eps)).clamp(0, 1)
            found.append(candidate)
        return left(data, found)

    def foolbox(data: Data) -> tuple[int, float]:
        from foolbox.attacks import LinfPGD
        from foolbox.models.pytorch import PyTorchModel

        wrapped = PyTorchModel(model, bounds=(0, 1))
        attack = LinfPGD(steps=STEPS, abs_stepsize=step, random_start=start)
        broken = [attack(wrapped, x, y, epsilons=eps)[2] for x, y in batches(data)]
        return len(data) - int(torch.cat(broken).sum()), STEPS

    def art(data: Data) -> tuple[int, float]:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), data.shape, 10, clip_values=(0, 1))
        attack = ProjectedGradientDescentPyTorch(
            wrapped, eps=eps, eps_step=step, max_iter=STEPS, num_random_init=int(start), batch_size=batch, verbose=False
        )
        x = torch.cat([x for x, _ in batches(data)])
        found = torch.from_numpy(attack.generate(x.numpy(), data.labels.numpy()))
        return left(data, list(torch.split(found, batch)))

    def ours(data: Data) -> tuple[int, float]:
        rows, samples = torch.arange(len(data)), Samples(data, torch.arange(len(data)), data.labels)
        attack = registry.build("attacks", "pgd", params)
        found = run_attack(
            attack, Target(model), samples, rows.numpy(), net.threat, RunOptions(batch_size=batch, early_stop=leave)
        )
        return len(data) - int(found.broken.sum()), found.passes.backward / len(data)

    def whole(data: Data) -> tuple[int, float]:
        suite = Suite(name="pgd", threats=(net.threat,), attacks=(AttackSpec(attack="pgd", params=params),))
        card = evaluate(model, data, suite, batch_size=batch)
        return card.robust_accuracy.count, card.passes.backward / len(data)

    known: dict[str, Loop] = {"bare loop": bare, "plain loop": plain, "foolbox": foolbox, "ART": art}
    return known | {"robustbench_lite": ours} | ({"robustbench_lite, evaluation": whole} if leave else {})


@click.command()
@click.option("--samples", default=512, show_default=True, type=click.IntRange(min=1), help="First test images.")
@click.option("--batch", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--count", default=5, show_default=True, type=click.IntRange(min=1), help="Rounds; the median counts.")
@click.option("--threads", default=1, show_default=True)
def main(samples: int, batch: int, count: int, threads: int) -> None:
    """Measure and write the table."""
    torch.set_num_threads(threads)
    table: list[dict[str, Any]] = []
    for name, step, start in SETTINGS:
        net = NETS[name]
        model, data = net.load().requires_grad_(False), net.test(samples)
        jobs = loops(net, model, step, start, batch, leave=name == "lenet5_clean")
        told: dict[str, tuple[int | None, float]] = {}

        def timed(loop: str, job: Loop, told: dict[str, Any] = told, data: Data = data) -> Callable[[], None]:
            def once() -> None:
                told[loop] = job(data)

            return once

        for job in jobs.values():
            job(data.take(range(min(8, samples))))  # to warm up
        seen = alternated({loop: timed(loop, job) for loop, job in jobs.items()}, count)
        for loop, (standing, gradients) in told.items():
            seconds = statistics.median(one.both for one in seen[loop])
            table.append(
                {
                    "network": name,
                    "step": step,
                    "random start": "yes" if start else "no",
                    "loop": loop,
                    "seconds": seconds,
                    "of them the system's": statistics.median(one.system for one in seen[loop]),
                    "gradients a sample": gradients,
                    "ms a gradient": 1000 * seconds / (gradients * samples),
                    "share of the bare loop": times_as_fast(seen["bare loop"], seen[loop], lambda one: one.both),
                    "without the system's": times_as_fast(seen["bare loop"], seen[loop], lambda one: one.user),
                    "times foolbox's speed": times_as_fast(seen["foolbox"], seen[loop], lambda one: one.both),
                    "left standing": "" if standing is None else standing,
                }
            )
    write(
        "throughput",
        "PGD's throughput",
        f"{STEPS} steps of PGD in Linf 0.3, first {samples} MNIST test images, batches of {batch}. "
        f"Processor seconds, median of {count} rounds in one run, ratios by round; weights frozen for all. The "
        "system's seconds are those of memory that the C library gives back and asks for again. On LeNet5 adv no "
        "sample leaves any loop; on LeNet5 clean broken ones leave ours, and the last row is the whole evaluation, "
        "from the clean predictions through the checks to the scorecard. The plain loop is torchattacks' way of "
        "writing it. "
        "`python benchmarks/throughput.py`",
        table,
    )


if __name__ == "__main__":
    main()
