"""How the C library deals with the memory of tensors that were freed."""

from __future__ import annotations

import torch

_LARGEST = (1 << 25) - (1 << 14)  # bytes; what glibc counts ends at 32 MiB, its own head among them


def keep_freed_memory() -> None:
    """Have glibc keep what tensors on the CPU free for the next ones: up to 64 MiB at the end of its heap.

    Else it may give each such piece back to the system, which clears it for the next tensor: up to a fifth of the time
    of attacks on small networks, by network and by what else is in the heap. What is freed below a tensor that is still
    there stays as well. Tensors of 32 MiB and more are given back as before.

    The largest block that was mapped and freed sets how much is kept (``mallopt(3)``, M_MMAP_THRESHOLD). This one is
    never written to, so it takes no memory. Other C libraries don't mind it.
    """
    # No tensor: that may be on another device by default, or be filled.
    torch.UntypedStorage(_LARGEST)  # type: ignore[no-untyped-call]
