"""A user's files, from which models are made."""

from __future__ import annotations

import textwrap
from pathlib import Path

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
