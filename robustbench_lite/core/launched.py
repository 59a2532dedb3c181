"""What torchrun tells the processes that it starts, read without loading torch."""

from __future__ import annotations

import os


def processes() -> int:
    """How many processes work together; 1 where none were started by torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0
