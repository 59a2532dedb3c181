"""PGD's time against the bare cost of its passes, ours beside foolbox's and ART's, all samples active.

    python benchmarks/pgd_overhead.py

The network is LeNet5 with fresh weights on inputs of MNIST's size: time doesn't depend on the weights. No sample may
leave (``early_stop=False``), as the peers let none leave.
"""

from __future__ import annotations

import click
import torch
from common import rounds, write
from torch import Tensor, nn

from robustbench_lite import registry
from robustbench_lite.calibration import lenet5
from robustbench_lite.data import as_data
from robustbench_lite.engine import Samples, run
from robustbench_lite.target import Target
from robustbench_lite.threat import ThreatModel

EPS, STEPS = 0.3, 40
PARAMS = {"steps": STEPS, "step_size": 0.01, "random_start": False}


def bare(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> None:
    """Forward and input gradient as often as PGD, and nothing else."""
    for at in range(0, len(x), batch):
        part, labels = x[at : at + batch].clone(), y[at : at + batch]
        for _ in range(STEPS):
            part.requires_grad_()
            loss = nn.functional.cross_entropy(model(part), labels, reduction="sum")
            part = part.detach() + 0 * torch.autograd.grad(loss, part)[0]
        with torch.no_grad():
            model(part)


@click.command()
@click.option("--samples", default=512, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--count", default=5, show_default=True, help="Rounds; the median counts.")
@click.option("--threads", default=1, show_default=True)
def main(samples: int, batch: int, count: int, threads: int) -> None:
    """Measure and write the table."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = lenet5().eval().requires_grad_(False)
    x = torch.rand(samples, 1, 28, 28)
    y = model(x).argmax(1)
    data, threat = as_data((x, y)), ThreatModel.parse(f"Linf {EPS}")
    target, rows = Target(model), torch.arange(samples).numpy()
    known = Samples(data, torch.arange(samples), y)

    def ours() -> None:
        attack = registry.build("attacks", "pgd", PARAMS)
        run(attack, target, known, rows, threat, batch_size=batch, early_stop=False)

    def foolbox() -> None:
        from foolbox.attacks import LinfPGD
        from foolbox.models.pytorch import PyTorchModel

        wrapped = PyTorchModel(model, bounds=(0, 1))
        attack = LinfPGD(steps=STEPS, abs_stepsize=0.01, random_start=False)
        for at in range(0, samples, batch):
            attack(wrapped, x[at : at + batch], y[at : at + batch], epsilons=EPS)

    def art() -> None:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1))
        attack = ProjectedGradientDescentPyTorch(
            wrapped, eps=EPS, eps_step=0.01, max_iter=STEPS, batch_size=batch, verbose=False
        )
        attack.generate(x.numpy(), y.numpy())

    jobs = {"bare loop": lambda: bare(model, x, y, batch), "robustbench_lite": ours, "foolbox": foolbox, "ART": art}
    for job in jobs.values():
        job()  # once to warm up
    seconds = rounds(jobs, count)
    write(
        "pgd_overhead",
        "PGD's time against the bare cost of its passes",
        f"{samples} samples of 1x28x28 through LeNet5, Linf {EPS}, {STEPS} steps, batches of {batch}, none leaves; CPU "
        f"seconds, median of {count} rounds in one run. `python benchmarks/pgd_overhead.py`",
        [
            {"loop": name, "seconds": taken, "ratio to bare": taken / seconds["bare loop"]}
            for name, taken in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
