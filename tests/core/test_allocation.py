"""What tensors free is kept for the next ones."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import torch
from robustbench_lite.core.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def use():
    several = [torch.ones(1 << 19) for _ in range(8)]  # of 2 MiB
for _ in range(5):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_pages_are_not_cleared_anew_for_each_tensor():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, check=True, text=True).stdout)
        for how in ("kept", "given back")
    )
    assert kept < 0.1 * given_back, "pages that the system has cleared"
