"""Which GPU a worker has: each another one, and its share of one where there are fewer GPUs than workers."""

from __future__ import annotations

from collections.abc import Mapping

_VISIBLE = "CUDA_VISIBLE_DEVICES"


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
    given = variables.get(_VISIBLE) or ",".join(str(number) for number in range(count))
    seen = given.split(",")[:count]
    first = place % count
    return {_VISIBLE: ",".join(seen[first:] + seen[:first])}


def share(gpus: int, workers: int) -> float:
    """Of one GPU, for each of so many workers, so that all of them find room; 0 without a GPU."""
    return 1 / -(-workers // gpus) if gpus else 0.0
