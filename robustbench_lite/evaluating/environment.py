"""Where an evaluation ran: the versions and the processor, for the scorecard."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from robustbench_lite.results.scorecard import Environment

_WHERE_USED = ("executorch", "onnxruntime", "skops", "torchao")
_PACKAGES = ("robustbench_lite", "torch", "torchvision", "numpy", "foolbox", "adversarial-robustness-toolbox")


def environment(workers: int = 1) -> Environment:
    """Describe this process and its machine, and how many workers there were."""
    used = (*_PACKAGES, *(name for name in _WHERE_USED if name in sys.modules))
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor(),
        threads=torch.get_num_threads(),
        workers=workers,
        packages={name: version for name in used if (version := _version(name))},
    )


@cache
def _version(name: str) -> str | None:
    """Version of a package, None where it isn't installed. Kept, for it is read from the disk."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Name of the GPU where there is one, else of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return platform.processor() or platform.machine()
