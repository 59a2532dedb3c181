"""Several processes that train one network: each learns from its part of every batch, and their gradients are averaged.

Every process runs the same recipe, and all of them hold the same weights after each step. The first one alone
evaluates and writes. What is exchanged: the mean gradient of each step, batch statistics, counts, scorecards.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_lite.core import launched
from robustbench_lite.core.errors import UserError

_T = TypeVar("_T")

TIMEOUT = 600.0
"""Seconds that a process waits for what the others have of a step."""

_PATIENCE = timedelta(days=365)  # for an evaluation by the first; who dies is noticed all the same, by the connection


_MOMENT = 2.0  # seconds; in which all have failed that fail at the same thing


class LostError(Exception):
    """Another process has ended or doesn't answer."""


@dataclass(frozen=True)
class Team:
    """The processes that train together; by default this one alone."""

    rank: int = 0
    """This one's number, from 0."""
    size: int = 1
    waiting: Any = None
    """The group in which they wait for the first, however long it takes."""
    store: Any = None
    """What they all can read and write."""

    def part(self, rows: Tensor) -> Tensor:
        """Its own part of some rows; the parts differ by one row at most."""
        return rows if self.size == 1 else rows.tensor_split(self.size)[self.rank]

    def mean(self, value: Tensor, share: float) -> Tensor:
        """The mean over all processes.

        Parameters
        ----------
        value
            Of this process, of any shape.
        share
            What it counts for: the share of the batch's samples that are here. Those of all processes add up to 1.
        """
        if self.size == 1:
            return value
        total = value * share
        with _noticed():
            dist.all_reduce(total)
        return total

    def mean_each(
        self, values: Sequence[Tensor | None], like: Sequence[Tensor], share: float
    ) -> Sequence[Tensor | None]:
        """The means of several tensors, in one exchange: of a step's gradients.

        Parameters
        ----------
        values
            Of this process; None counts as zeros, and stays None where no process has a value.
        like
            Tensors of the same shapes, in the same order.
        share
            As in `mean`.
        """
        if self.size == 1 or not like:
            return values
        there = torch.tensor([float(value is not None) for value in values], device=like[0].device)
        parts = [
            (torch.zeros_like(other) if value is None else value).flatten()
            for value, other in zip(values, like, strict=True)
        ]
        flat = self.mean(torch.cat([*parts, there]), share)
        *means, there = torch.split(flat, [*(other.numel() for other in like), len(values)])
        return [
            mean.view_as(other).to(other) if found else None
            for mean, other, found in zip(means, like, there.tolist(), strict=True)
        ]

    def gather(self, value: _T) -> list[_T]:
        """What each process has, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _noticed():
            dist.all_gather_object(found, value, group=self.waiting)
        return found

    def first(self, make: Callable[[], _T]) -> _T:
        """What the first process makes, given to all; the others wait."""
        if self.size == 1:
            return make()
        held = [make() if self.rank == 0 else None]
        with _noticed():
            dist.broadcast_object_list(held, src=0, group=self.waiting)
        made: Any = held[0]
        return made  # type: ignore[no-any-return]

    def check_same(self, settings: Mapping[str, str], device: torch.device) -> None:
        """Refuse to train together what differs, or on one GPU for two.

        Raises
        ------
        UserError
            With all that differs from what the first process has.
        """
        theirs = self.gather((dict(settings), socket.gethostname(), str(device)))
        first, wrong = theirs[0][0], []
        for number, (other, _, _) in enumerate(theirs):
            names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
            wrong += [f"  {name}: {first.get(name)}; in process {number}: {other.get(name)}" for name in names]
        if wrong:
            raise UserError(
                "\n".join(["the processes must train the same; these differ from what process 0 has:", *wrong])
            )
        places = [(host, place) for _, host, place in theirs]
        if len({place.partition(":")[0] for _, place in places}) > 1:
            told = ", ".join(f"{number} on {place}" for number, (_, place) in enumerate(places))
            raise UserError(f"some processes train on a GPU and some don't ({told}): give all of them --device cpu")
        if device.type != "cpu" and len(set(places)) < len(places):
            raise UserError(
                f"{self.size} processes train on {len(set(places))} GPUs ({device}): start one process for each "
                "GPU, and give no --device"
            )

    def is_first_to_fail(self) -> bool:
        """Whether no other process has told of an error; asked by one that is about to."""
        if self.store is None:
            return True
        try:
            first = bool(self.store.compare_set("failed", "", str(self.rank)) == str(self.rank).encode())
            self._wait_for_those_who_ask()
        except RuntimeError:  # whoever held the store is gone
            return True
        return first

    def _wait_for_those_who_ask(self) -> None:
        """Let the first process, which holds the store, stay for a moment: others may have failed at the same thing."""
        asked = self.store.add("asked", 1)
        until = time.monotonic() + _MOMENT
        while self.rank == 0 and asked < self.size and time.monotonic() < until:
            time.sleep(0.02)
            asked = self.store.add("asked", 0)


_ALONE = Team()
_team: ContextVar[Team] = ContextVar("team", default=_ALONE)


def team() -> Team:
    """The processes that this one trains with."""
    return _team.get()


@contextmanager
def together(timeout: float = TIMEOUT) -> Iterator[Team]:
    """Train inside with the other processes that torchrun has started; each of them has to enter it.

    Parameters
    ----------
    timeout
        Seconds that a process waits for what the others have of a step.

    Raises
    ------
    LostError
        Where the others can't be reached, and inside wherever one is missed.
    """
    if launched.processes() == 1:
        yield _ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    limit = timedelta(seconds=timeout)
    with _noticed():
        store, rank, size = next(iter(rendezvous("env://", timeout=limit)))
        dist.init_process_group(
            backend, store=PrefixStore("training", store), rank=rank, world_size=size, timeout=limit
        )
        waiting = dist.new_group(backend="gloo", timeout=_PATIENCE)
    token = _team.set(Team(rank, size, waiting, PrefixStore("told", store)))
    try:
        yield _team.get()
    finally:
        _team.reset(token)
    dist.destroy_process_group()  # after an error it might wait for who is gone


@contextmanager
def joint_statistics(module: nn.Module, joint: Team, share: Callable[[], float]) -> Iterator[None]:
    """Let batch norms in training mode see the samples of all processes, as `torch.nn.SyncBatchNorm` does on GPUs.

    Parameters
    ----------
    share
        Gives the share of the batch's samples that are here.
    """
    norms = [one for one in module.modules() if isinstance(one, _BatchNorm)] if joint.size > 1 else []
    for norm in norms:
        norm.forward = partial(_normalised, norm, joint, share)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalised(norm: _BatchNorm, joint: Team, share: Callable[[], float], x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    dims, shape, here = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)], share()
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = _Mean.apply(values.mean(dims), joint, here)
    values = values - mean.view(shape)
    variance = _Mean.apply(values.square().mean(dims), joint, here)
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        weight = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        count = x.numel() / x.shape[1] / here
        norm.running_mean.lerp_(mean.detach().to(norm.running_mean), weight)
        norm.running_var.lerp_(variance.detach().to(norm.running_var) * count / (count - 1), weight)
    values = values * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        values = values * norm.weight.view(shape) + norm.bias.view(shape)
    made: Tensor = values.to(x.dtype)
    return made


class _Mean(torch.autograd.Function):
    """The mean over all processes; what flows back is theirs, too, as each loss counts by its share."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, joint: Team, share: float) -> Tensor:
        ctx.joint, ctx.share = joint, share
        return joint.mean(value, share)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        joint: Team = ctx.joint
        return joint.mean(grads[0].contiguous(), ctx.share), None, None


@contextmanager
def _noticed() -> Iterator[None]:
    """Tell that another process is gone, in the place of what the transport says."""
    try:
        yield
    except RuntimeError as fault:
        raise LostError("another process of this training has ended, or didn't answer in time") from fault
