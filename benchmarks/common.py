"""What the benchmarks share: networks with their weights, the clock, and how results are written down."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.model.weights import load_weights

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"


def loaded(network: nn.Module, weights: Path) -> nn.Module:
    """The network with weights from a file, in evaluation mode."""
    load_weights(network, weights)
    return network.eval()


def mnist(root: Path, limit: int | None = None) -> Data:
    """The first MNIST test images."""
    data = load_data("mnist", split="test", root=root)
    return data if limit is None else data.take(torch.arange(limit))


def cpu_seconds(job: Callable[[], object]) -> float:
    """Processor time of a job: with one thread what the wall clock shows on a machine that does nothing else."""
    started = time.process_time()
    job()
    return time.process_time() - started


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # in the environment of an extra
        return None


def environment() -> dict[str, Any]:
    """What it ran on."""
    from robustbench_lite.evaluating.environment import processor

    packages = ("torch", "numpy", "foolbox", "adversarial-robustness-toolbox", "flwr", "robustbench_lite")
    return {
        "processor": processor(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version for name in packages if (version := _version(name))},
    }


def write(name: str, title: str, note: str, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON and as a Markdown table into ``docs/benchmarks``, and print the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = environment()
    (RESULTS / f"{name}.json").write_text(json.dumps({"environment": where, "rows": rows}, indent=1) + "\n")
    heads = list(rows[0])
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    lines += [
        " | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()) for row in rows
    ]
    table = "\n".join(f"| {line} |" for line in lines)
    ran_on = ", ".join(f"{key} {value}" for key, value in where.items())
    (RESULTS / f"{name}.md").write_text(f"# {title}\n\n{note}\n\n{table}\n\nRan on: {ran_on}.\n")
    print(table)
