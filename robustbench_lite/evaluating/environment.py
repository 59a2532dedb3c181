"""Where an evaluation ran: the versions and the processor, for the scorecard."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from robustbench_lite.results.scorecard import Environment

_WHERE_USED = ("executorch", "onnxruntime", "skops", "torchao")
_PACKAGES = ("robustbench_lite", "torch", "torchvision", "numpy", "foolbox", "adversarial-robustness-toolbox")


def environment(device: torch.device, workers: int, processors: Mapping[str, int]) -> Environment:
    """Describe this process and its machine, how many workers there were, and what they ran on."""
    used = (*_PACKAGES, *(name for name in _WHERE_USED if name in sys.modules))
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor(device),
        threads=torch.get_num_threads(),
        workers=workers,
        processors=dict(processors) if workers > 1 else {},
        packages={name: version for name in used if (version := _version(name))},
    )


@cache
def _version(name: str) -> str | None:
    """Version of a package, None where it isn't installed. Kept, for it is read from the disk."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def processor(device: torch.device) -> str:
    """Name of the GPU that a device is, else of this machine's CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return platform.processor() or platform.machine()
