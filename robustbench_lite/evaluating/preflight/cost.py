"""What a pass costs here."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_lite.evaluating.preflight.check import Check, CountedModel, check, found
from robustbench_lite.evaluating.preflight.gradients import both_gradients


def cost(model: CountedModel, rows: Tensor, x: Tensor) -> Check:
    """Time of a forward pass and of one with its gradient, of a batch; the memory that they took."""
    cuda = x.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(x.device)
    size = min(len(x), model.budget.batch_limit)
    rows, x = rows[:size], x[:size]
    forward = _timed(lambda: model.logits(rows, x), cuda)
    told = f"a batch of {size}: {forward:.3g} s forward, {size / forward:,.0f} passes a second"
    if model.gradients:
        both = _timed(lambda: both_gradients(model, rows, x), cuda)
        told += f"; {both:.3g} s with two gradients"
    memory = torch.cuda.max_memory_allocated(x.device) if cuda else _resident()
    where = "on the GPU" if cuda else "of the process"
    if memory:
        told += f"; peak memory {where} {memory / 2**20:,.0f} MiB"
    cure = "nothing to do; 'rblite list attacks' tells how many passes each attack takes for a sample"
    return check("cost", told, found("RB191", "info", told, cure))


def _timed(work: Callable[[], object], cuda: bool) -> float:
    best = math.inf
    for _ in range(2):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return max(best, 1e-9)


def _resident() -> int:
    """Most memory that the process ever held, in bytes; 0 where it can't be told."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
