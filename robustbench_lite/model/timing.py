"""How long a target takes to answer a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_lite.model.target import Target

_WARM, _FEWEST, _MOST = 5, 30, 500
_SECONDS = 0.5  # for one target and one size of batch, where that allows for the fewest


def call_times(targets: Sequence[Target], x: Tensor, seconds: float = _SECONDS) -> list[tuple[float, ...]]:
    """Ask targets about the same batch in turn, again and again.

    Parameters
    ----------
    targets
        What is timed, with normalisation and preprocessing. Whatever disturbs the machine disturbs all of them.
    x
        Inputs in [0, 1], shape (N, *shape).
    seconds
        Time to spend on each target; 30 to 500 calls are made.

    Returns
    -------
    list[tuple[float, ...]]
        One tuple a call: the seconds that each target took.
    """
    there = [x.to(target.device) for target in targets]
    for _ in range(_WARM):
        first = [_timed(target, one) for target, one in zip(targets, there, strict=True)]
    calls = min(_MOST, max(_FEWEST, int(len(targets) * seconds / max(sum(first), 1e-9))))
    return [tuple(_timed(target, one) for target, one in zip(targets, there, strict=True)) for _ in range(calls)]


def _timed(target: Target, x: Tensor) -> float:
    cuda = x.device.type == "cuda"
    with target.attacking(), torch.no_grad():
        if cuda:
            torch.cuda.synchronize(x.device)
        start = time.perf_counter()
        target(x)
        if cuda:
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - start
