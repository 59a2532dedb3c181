"""Which GPU a worker has: each process of this machine another one, or none."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_BEFORE_CUDA = 15  # torch asks its own way to a GPU at 20, and that raises


def here() -> int:
    """How many GPUs this process sees."""
    torch = sys.modules.get("torch")  # where nothing has loaded it, no worker is sent anything that is on a GPU
    return torch.cuda.device_count() if torch else 0


def one_for(place: int, variables: Mapping[str, str], count: int) -> dict[str, str]:
    """Variables of a worker process that finds another GPU where this process has its first one, and so on.

    All GPUs stay visible, in turned order: what was on ``cuda:1`` here is on the GPU after the worker's own there.

    Parameters
    ----------
    place
        Of the worker, from 0; the worker at place 0 sees them as this process does.
    variables
        Of this process.
    count
        GPUs that this process sees.
    """
    if count < 2:
        return {}
    given = variables.get(_VISIBLE)
    seen = given.split(",")[:count] if given is not None else [str(number) for number in range(count)]
    if len(seen) < count:  # it was changed after they were counted
        return {}
    first = place % count
    return {_VISIBLE: ",".join(seen[first:] + seen[:first])}


def or_memory() -> None:
    """From now on, read tensors that were pickled on a GPU into memory, where this machine has no GPU."""
    import torch

    def restored(storage: Any, location: str) -> Any:
        return storage if location.startswith("cuda") else None

    if not torch.cuda.is_available():
        torch.serialization.register_package(_BEFORE_CUDA, lambda _: None, restored)
