"""How the C library deals with the memory of tensors that were freed."""

from __future__ import annotations

import torch

_LARGEST = (1 << 25) - (1 << 14)  # bytes; what glibc counts ends at 32 MiB, its own head among them


def keep_freed_memory() -> None:
    """Have glibc keep what tensors on the CPU free for the next ones, up to 64 MiB of it.

    Else it gives each such piece back to the system, which clears it for the next tensor: a tenth to a fifth of the
    time of attacks on small networks, and of their training. The largest block that was mapped and freed sets how much
    is kept (``mallopt(3)``, M_MMAP_THRESHOLD). This one is never written to, so it takes no memory. Other C libraries
    don't mind it.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
