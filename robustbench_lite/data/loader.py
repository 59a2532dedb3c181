"""What a ``DataLoader`` yields: which samples its sampler draws, and the batches of one that makes them its own way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils.collate import default_collate, default_convert

from robustbench_lite.core.errors import UserError

_FEW = 8


def is_plain(loader: DataLoader[Any]) -> bool:
    """Whether it yields the samples of its data set as they are, so that they can be read one by one, when needed."""
    return loader.collate_fn in (default_collate, default_convert) and type(loader).__iter__ is DataLoader.__iter__


def positions(loader: DataLoader[Any], total: int) -> list[int] | None:
    """Positions in the data set of all the samples that a pass over the loader yields; None where these are all.

    Where the order changes from pass to pass, as with ``shuffle=True``, it is ascending. The random numbers of the
    caller are left as they were.

    Raises
    ------
    UserError
        Where a second pass draws other samples: then there are no samples that could be judged.
    """
    name = type(loader).__name__
    with _dice_kept(loader):
        first, second = _drawn(loader, total, name), _drawn(loader, total, name)
    if sorted(first) != sorted(second):
        how = type(loader.sampler).__name__
        left = " with drop_last=True, which leaves out other samples each time" if loader.drop_last else ""
        raise UserError(
            f"{name}: its sampler ({how}{left}) draws other samples at each pass: expected the same ones; give the "
            "data set itself, or a loader without it (shuffle=False)"
        )
    if not first:
        raise UserError(f"{name}: its sampler draws no samples")
    if min(first) < 0 or max(first) >= total:
        raise UserError(f"{name}: its sampler draws sample {max(first)} of a data set of {total}")
    drawn = first if first == second else sorted(first)
    return None if drawn == list(range(total)) else drawn


def read_all(iterable: Any, name: str) -> list[Any]:
    """Read to the end, with the same random numbers each time; the caller's are left as they were.

    Raises
    ------
    UserError
        For whatever the user's code raises.
    """
    try:
        with _dice_kept(iterable):
            torch.manual_seed(0)
            return list(iterable)
    except Exception as fault:  # whatever the user's data set raises
        raise UserError(f"{name}: can't be read to its end: {type(fault).__name__}: {fault}") from fault


def is_steady(loader: DataLoader[Any]) -> bool:
    """Whether a loader with a collate function of its own makes the same batch of the same samples, each time."""
    if type(loader).__iter__ is not DataLoader.__iter__:
        return True  # can't be told
    few = range(min(_FEW, len(loader.dataset)))  # type: ignore[arg-type]
    try:
        with _dice_kept(loader):
            one, other = (loader.collate_fn([loader.dataset[place] for place in few]) for _ in range(2))
    except Exception:  # a batch of another size than its own may not do
        return True
    return _same(one, other)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return all(_same(one[key], other.get(key)) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return True


def _drawn(loader: DataLoader[Any], total: int, name: str) -> list[int]:
    sampler: Any = (
        loader.sampler if loader.batch_sampler is None else itertools.chain.from_iterable(loader.batch_sampler)
    )
    most = 4 * total + 1_000
    try:
        drawn = [int(place) for place in itertools.islice(sampler, most + 1)]
    except Exception as fault:  # whatever the user's sampler raises
        raise UserError(f"{name}: its sampler fails: {type(fault).__name__}: {fault}") from fault
    if len(drawn) > most:
        raise UserError(f"{name}: its sampler draws more than {most:,} of {total:,} samples, perhaps without end")
    return drawn


@contextmanager
def _dice_kept(loader: Any) -> Iterator[None]:
    """Leave the random numbers of torch, and the loader's own, as they were."""
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    dice = [getattr(owner, "generator", None) for owner in owners]
    states = [(one, one.get_state()) for one in dice if isinstance(one, torch.Generator)]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for one, state in states:
                one.set_state(state)
