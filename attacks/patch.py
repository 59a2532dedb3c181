"""An adversarial patch: a square of the image that may take any values."""

from __future__ import annotations

import math
from functools import cache
from typing import ClassVar, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import Objective
from robustbench_lite.core.norms import per_sample
from robustbench_lite.core.parameters import Length, PositiveInt
from robustbench_lite.core.threat import ThreatModel

_SEARCH = 0.75  # most of the steps that the search may take
_FEWER = 4  # of the places of a round one in so many is in the next, for as many times the tries


class State(NamedTuple):
    """The candidate; the places to try, best first after each round, with their losses; the best of all so far."""

    x: Tensor
    places: Tensor
    losses: Tensor
    best: Tensor
    best_x: Tensor
    best_place: Tensor


@dataclass(frozen=True, kw_only=True)
class AdversarialPatch(Attack):
    """A square patch, optimised for each image in [0, 1] by signed gradient steps, at the best of several places.

    Under ``L0``: a patch of side ``s`` changes at most ``channels * s ** 2`` values, so its side is the largest with
    ``channels * s ** 2 <= eps``, ``floor(sqrt(eps / channels))``; for a patch of 5 by 5 pixels in colour, eps is 75.
    Other sparse attacks choose their values freely: what stands here need not stand there.

    The place is searched for by successive halving: a try of each of ``places`` places drawn without replacement,
    with random values in the patch, then four tries of each of the best quarter, sixteen of each of the best quarter of
    those, and so on; what is left of the steps goes to the candidate that got farthest. One patch for each image, as in
    LaVAN, not one for all images under transformations.

    References
    ----------
    Karmon et al., *LaVAN: Localized and visible adversarial noise*, ICML 2018. https://arxiv.org/abs/1801.02608
    After Brown et al., *Adversarial patch*, 2017. https://arxiv.org/abs/1712.09665
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1801.02608"
    norms: ClassVar[tuple[str, ...]] = ("L0",)

    steps: PositiveInt = 200
    """Number of steps, with those of the search."""
    places: PositiveInt = 48
    """Places that are tried; each round of the search takes about as many steps, and together they take three in four
    steps at most."""
    step_size: Length = 0.3
    """Length of a step, in units of the full range; after the search it falls linearly to zero."""
    restarts: PositiveInt = 1
    """Draws of places, and starts, for each sample; a further one is made only where the sample still stands."""
    loss: Objective = "cross_entropy"
    """Objective to climb."""

    def __post_init__(self) -> None:
        if self.places > _SEARCH * self.steps:
            raise ValueError(f"places is {self.places} with {self.steps} steps: expected three in four steps at most")

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        if len(shape) != 3:
            return "expected images (C, H, W)"
        if threat.eps < shape[0]:
            return f"expected an eps of channels * side ** 2, such as {25 * shape[0]}"
        return None

    def init(self, problem: Problem) -> State:
        side, (height, width) = _side(problem), problem.x.shape[2:]
        there_are = (height - side + 1) * (width - side + 1)
        places = problem.noise.at(0).uniform((there_are,)).argsort(dim=1, stable=True)
        places = places.repeat(1, math.ceil(self.places / there_are))[:, : self.places]
        losses = torch.full(places.shape, -torch.inf, dtype=problem.x.dtype, device=problem.x.device)
        return State(self._fresh(problem, 0, places[:, 0]), places, losses, losses[:, 0], problem.x, places[:, 0])

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        turns, search = _turns(self.places, self.steps, problem.x.device)
        now, following = turns[problem.step], turns[problem.step + 1]
        searching, slot = now >= 0, now.clamp_min(0)[:, None] % self.places
        place = torch.where(searching, state.places.gather(1, slot)[:, 0], state.best_place)
        better = output.loss > state.best
        best, best_place = torch.where(better, output.loss, state.best), torch.where(better, place, state.best_place)
        best_x = torch.where(per_sample(better, output.x), output.x, state.best_x)

        left = ((self.steps - problem.step) / (self.steps - search)).clamp_max(1.0)
        moved = output.x + self.step_size * per_sample(left, output.x) * output.grad.sign()
        x = torch.where(_window(problem, place), moved, problem.x)
        if not bool(searching.any()):
            return State(x, state.places, state.losses, best, best_x, best_place)

        losses = state.losses.scatter(1, slot, state.losses.gather(1, slot).maximum(output.loss[:, None]))
        over = (searching & (now // self.places != following // self.places))[:, None]  # the round is
        order = losses.argsort(dim=1, descending=True, stable=True)
        places = torch.where(over, state.places.gather(1, order), state.places)
        losses = torch.where(over, -torch.inf, torch.where(searching[:, None], losses, state.losses))
        fresh = self._fresh(problem, 1, places.gather(1, following.clamp_min(0)[:, None] % self.places)[:, 0])
        x = torch.where(per_sample((following >= 0) & (following != now), x), fresh, x)
        x = torch.where(per_sample(searching & (following < 0), x), best_x, x)
        return State(x, places, losses, best, best_x, best_place)

    def _fresh(self, problem: Problem, ahead: int, place: Tensor) -> Tensor:
        """A patch of random values, shape (B, C, H, W)."""
        values = problem.noise.at(1).at(problem.step + ahead).uniform(tuple(problem.x.shape[1:]))
        return torch.where(_window(problem, place), values, problem.x)


@cache
def _turns(places: int, steps: int, device: torch.device) -> tuple[Tensor, int]:
    """Whose turn each candidate is, shape (steps + 1,), and how many candidates the search takes.

    In the search, ``places * round`` and the place's rank after the round before; then -1.
    """
    turns: list[int] = []
    for number in range(steps):
        count, tries = places // _FEWER**number, _FEWER**number
        if count == 0 or len(turns) + count * tries > _SEARCH * steps:
            break
        turns += [places * number + rank for rank in range(count) for _ in range(tries)]
    return torch.tensor(turns + [-1] * (steps + 1 - len(turns)), device=device), len(turns)


def _side(problem: Problem) -> int:
    """Pixels along a side of the patch."""
    channels, height, width = problem.x.shape[1:]
    return min(math.isqrt(int(problem.threat.eps) // channels), height, width)


def _window(problem: Problem, place: Tensor) -> Tensor:
    """Where the patch is, bool, shape (B, 1, H, W); places are numbered by their upper left corners, row by row."""
    side, (height, width) = _side(problem), problem.x.shape[2:]
    top, left = place // (width - side + 1), place % (width - side + 1)

    def span(start: Tensor, length: int) -> Tensor:
        at = torch.arange(length, device=place.device) - start[:, None]
        return (at >= 0) & (at < side)

    return (span(top, height)[:, :, None] & span(left, width)[:, None, :])[:, None]
