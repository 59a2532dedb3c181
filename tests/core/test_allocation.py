"""What tensors free is kept for the next ones."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

MAPPED = """
import ctypes, sys
import torch
from robustbench_lite.core.allocation import keep_freed_memory

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

information = ctypes.CDLL(None).mallinfo2
information.restype = Info
torch.set_default_device(sys.argv[2])
torch.use_deterministic_algorithms(True)
if sys.argv[1] == "kept":
    keep_freed_memory()
before = information().hblks
tensor = torch.empty(30 << 20, dtype=torch.uint8, device="cpu")
print(information().hblks - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 or later"
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tensor_lies_where_freed_memory_is_kept(device):
    # A block that is mapped by itself goes back to the system when it is freed.
    mapped, kept = (
        int(subprocess.run([sys.executable, "-c", MAPPED, how, device], capture_output=True, check=True).stdout)
        for how in ("as it is", "kept")
    )
    assert (mapped, kept) == (1, 0)
