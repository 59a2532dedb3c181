"""Published cases, run again: networks that others trained, with the numbers that they published.

    python benchmarks/yardsticks.py --weights DIR --data-root DIR

``--weights`` holds advertorch's ``mnist_lenet5_clean.pt`` and ``mnist_lenet5_adv.pt``; ``--data-root`` the official
MNIST in torchvision's layout. The published attack starts at the input, takes 40 steps of 0.01 in Linf 0.3 on the
cross-entropy, and is judged by its last step.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from common import loaded, mnist, write

from robustbench_lite import Suite, evaluate
from robustbench_lite.core.suite import AttackSpec
from robustbench_lite.evaluating.calibration import lenet5

PUBLISHED = {"mnist_lenet5_clean.pt": (0.9889, 1.0), "mnist_lenet5_adv.pt": (0.9864, 0.068)}
SUITE = Suite(
    name="advertorch-pgd",
    threats=("Linf 0.3",),
    attacks=(AttackSpec(attack="pgd", name="pgd", params={"steps": 40, "step_size": 0.01, "random_start": False}),),
)


@click.command()
@click.option("--weights", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data-root", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--limit", type=click.IntRange(min=1), help="First test images only.")
@click.option("--threads", default=1, show_default=True)
def main(weights: Path, data_root: Path, limit: int | None, threads: int) -> None:
    """Run the cases and write the table."""
    torch.set_num_threads(threads)
    data = mnist(data_root, limit)
    rows: list[dict[str, Any]] = []
    for name, (clean, success) in PUBLISHED.items():
        started = time.perf_counter()
        card = evaluate(loaded(lenet5(), weights / name), data, SUITE)
        right = card.clean_accuracy.count
        rows.append(
            {
                "network": name,
                "samples": len(data),
                "clean accuracy": card.clean_accuracy.value,
                "published clean": clean,
                "attack success": 1 - card.robust_accuracy.value,
                "success on what was right": card.attacks[0].broken / right,
                "published success": success,
                "passes a sample": card.passes.total / len(data),
                "seconds": time.perf_counter() - started,
            }
        )
    write("yardsticks", "Published cases, run again", "PGD, Linf 0.3, 40 steps of 0.01, no random start; seed 0.", rows)


if __name__ == "__main__":
    main()
