"""Which GPU a worker process of this machine has: each another one, in turn where there are more workers."""

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
    given = variables.get(_VISIBLE)
    seen = given.split(",")[:count] if given is not None else [str(number) for number in range(count)]
    if len(seen) < count:  # it was changed after they were counted
        return {}
    first = place % count
    return {_VISIBLE: ",".join(seen[first:] + seen[:first])}
