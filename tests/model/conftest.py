"""A user's files, from which models are made."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from robustbench_lite.model.target import Target

MAKER = """
    import torch
    from torch import nn

    def make():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
"""


def write(path: Path, source: str) -> Path:
    """Write a file of that source, indented as a whole or not, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


def drawn(make: Callable[[], nn.Module], seed: int) -> Target:
    """A network in float64, of two channels, with all that training would set drawn at random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make().double()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                nn.init.normal_(part.weight)  # of both signs
    return Target(module.eval(), mean=[0.4, 0.6], std=[0.2, 0.5])
