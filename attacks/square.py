"""Square attack: random search over square windows of an image, by the scores alone."""

from __future__ import annotations

from functools import cache
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.losses import LOSSES, LossName, cross_entropy
from robustbench_lite.core.norms import GEOMETRIES, per_sample
from robustbench_lite.core.parameters import PositiveInt, patience_used_up
from robustbench_lite.core.threat import Access, ThreatModel

_LEAST = 3  # pixels that a bump needs, up and down, to have a middle
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of a window's area, after so many of 10,000 steps
_TINY = 1e-12


class State(NamedTuple):
    """The candidate, the best one so far, and what is left of the margin."""

    x: Tensor
    best: Tensor
    loss: Tensor
    """Loss of the best candidate, shape (B,)."""
    margin: Tensor
    """Its margin, shape (B,)."""
    first: Tensor
    """The margin at the input, shape (B,); only where patience is limited."""


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Keeps a change of a random square window where the loss grows; the windows shrink along the way.

    In Linf it starts from vertical stripes, and a window gets one colour at the ends of the ball. In L2 it starts from
    a grid of bumps, and a window gets another such bump and the length of a second window, which is cleared. An
    untargeted goal is followed by the margin, a targeted one by the cross-entropy.

    References
    ----------
    Andriushchenko, Croce, Flammarion and Hein, *Square Attack: a query-efficient black-box adversarial attack via
    random search*, ECCV 2020. https://arxiv.org/abs/1912.00049
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1912.00049"
    access: ClassVar[Access] = "scores"
    gradients: ClassVar[bool] = False

    steps: PositiveInt = 1000
    """Windows that are tried, one forward pass each; the paper has 5000 or 10,000."""
    p_init: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the image that the first windows cover; it is halved nine times on the way."""
    restarts: PositiveInt = 1
    """Starts for each sample; a further one is made only where the sample still stands."""
    patience: PositiveInt | None = None
    """Steps of a sample that has a tenth of its margin left; one with a twentieth left gets twice as many, and so on
    (`parameters.patience_used_up`). By default every sample gets all steps."""

    @property
    def loss(self) -> LossName:
        return "margin"

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        small = len(shape) != 3 or min(shape[1:]) < _LEAST
        return f"expected images (C, H, W) of at least {_LEAST}x{_LEAST} pixels" if small else None

    @property
    def passes(self) -> Passes:
        return Passes(forward=self.restarts * (self.steps + 1 + (self.patience is not None)))

    def init(self, problem: Problem) -> State:
        x = problem.x
        start = self._stripes(problem) if problem.threat.norm == "Linf" else self._grid(problem)
        lowest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        return State(start, start, lowest, lowest, lowest if self.patience is None else self._margin(problem))

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        loss = (
            cross_entropy(output.logits, problem.target_class, True).to(output.x.dtype)
            if problem.targeted
            else output.loss
        )
        better = loss > state.loss
        best = torch.where(per_sample(better, output.x), output.x, state.best)
        loss = torch.where(better, loss, state.loss)
        margin = torch.where(better, output.loss, state.margin) if problem.targeted else loss
        following = self._paint(problem, best) if problem.threat.norm == "Linf" else self._shift(problem, best)
        return State(following, best, loss, margin, state.first)

    def gave_up(self, problem: Problem, state: State) -> Tensor | None:
        if self.patience is None:
            return None
        return patience_used_up(problem.step, state.margin, state.first, self.patience)

    def _margin(self, problem: Problem) -> Tensor:
        with torch.no_grad():
            logits = problem.model(problem.x)
        return LOSSES["margin"](logits, problem.target_class, problem.targeted, None).to(problem.x.dtype)

    def _stripes(self, problem: Problem) -> Tensor:
        channels, _, width = problem.x.shape[1:]
        draws = problem.noise.at(self.steps).uniform((channels, 1, width))
        return problem.x + problem.threat.eps * _signs(draws)

    def _paint(self, problem: Problem, best: Tensor) -> Tensor:
        """Set a window to an end of the ball, of one sign in each channel."""
        draws = problem.noise.at(problem.step).uniform((2 + best.shape[1],))
        side = _sides_by_step(self.steps, self.p_init, *best.shape[2:], best.device).index_select(0, problem.step)
        window = _place(draws[:, :2], side, best).window
        colour = problem.threat.eps * per_sample(_signs(draws[:, 2:]), best)
        painted = torch.where(window, (problem.x + colour).clamp(0.0, 1.0), best)
        # As in the paper's code no pass is spent on what is there already: the other colour is tried.
        same = (painted - best).abs().amax((1, 2, 3), keepdim=True) < 1e-6
        return torch.where(same & window, problem.x - colour, painted)

    def _grid(self, problem: Problem) -> Tensor:
        """Bumps of random signs and directions, side by side, five in the shorter side."""
        channels, height, width = problem.x.shape[1:]
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        bump = _bump(side).to(problem.x)
        draws = problem.noise.at(self.steps).uniform((1 + channels, rows, columns))
        standing, signs = draws[:, :1, :, None, :, None] < 0.5, _signs(draws[:, 1:, :, None, :, None])
        tiles = signs * torch.where(standing, bump.T[:, None], bump[:, None])
        filled = tiles.reshape(-1, channels, rows * side, columns * side)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        change = torch.zeros_like(problem.x)
        change[:, :, top : top + rows * side, left : left + columns * side] = filled
        return problem.x + problem.threat.eps * GEOMETRIES["L2"].steepest(change)

    def _shift(self, problem: Problem, best: Tensor) -> Tensor:
        """Add a bump to a window, of the length that a second window, cleared, and what the ball has left make free."""
        channels, height, width = best.shape[1:]
        draws = problem.noise.at(problem.step).uniform((5 + channels,))
        stage = _stages(self.steps, best.device)[problem.step]
        side = _sides(self.p_init, height, width, True, best.device)[stage]
        place, other = _place(draws[:, :2], side, best), _place(draws[:, 2:4], side, best)
        bump = _bumps(self.p_init, height, width, best.device)[stage]
        bump = torch.where(draws[:, 4, None, None] < 0.5, bump, bump.mT)
        offset = place.offset.clamp(0, min(height, width) - 1)
        bump = bump.gather(1, offset[:, 0, :height, None].expand(-1, -1, bump.shape[2]))
        bump = bump.gather(2, offset[:, 1, None, :width].expand(-1, height, -1))
        bump = bump[:, None] * per_sample(_signs(draws[:, 5:]), best)

        delta = best - problem.x
        inside = delta * place.window
        fresh = (inside / (_length(inside) + _TINY) + bump) * place.window
        left = (problem.threat.eps**2 - (delta * delta).sum((1, 2, 3), keepdim=True)).clamp_min(0.0) / channels
        length = (left + (delta * delta * (place.window | other.window)).sum((2, 3), keepdim=True)).sqrt()
        change = torch.where(place.window, fresh * (length / (_length(fresh) + _TINY)), delta * ~other.window)
        return problem.x + problem.threat.eps * GEOMETRIES["L2"].steepest(change)


class _Place(NamedTuple):
    """Where a window of each sample lies."""

    window: Tensor
    """Whether a value is in it, shape (B, 1, H, W)."""
    offset: Tensor
    """Rows below its upper edge, and columns right of its left edge, shape (B, 2, max(H, W))."""


def _place(draws: Tensor, side: Tensor, like: Tensor) -> _Place:
    """Put windows of a side, shape (B,), down where two uniform draws, shape (B, 2), say."""
    height, width = like.shape[2:]
    lengths, places = _axes(height, width, like.device)
    first = (draws * (lengths - side[:, None])).long()
    offset = places - first[:, :, None]
    covered = (offset >= 0) & (offset < side[:, None, None])
    return _Place((covered[:, 0, :height, None] & covered[:, 1, None, :width])[:, None], offset)


@cache
def _axes(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """One more than each side of the image, shape (2,), and the places along the longer one."""
    return torch.tensor([height + 1, width + 1], device=device), torch.arange(max(height, width), device=device)


@cache
def _stages(steps: int, device: torch.device) -> Tensor:
    """How often the window's area was halved at each step, shape (steps,)."""
    share = torch.arange(steps) * 10_000 // steps
    return (share[:, None] > torch.tensor(_HALVINGS)).sum(1).to(device)


@cache
def _sides(p_init: float, height: int, width: int, bumps: bool, device: torch.device) -> Tensor:
    """Side of the window after each halving, shape (10,); windows of bumps have a middle, so theirs is odd."""
    sides = [round((p_init / 2**halvings * height * width) ** 0.5) for halvings in range(len(_HALVINGS) + 1)]
    sides = [max(side, 3) | 1 if bumps else max(side, 1) for side in sides]
    return torch.tensor([min(side, height, width) for side in sides], device=device)


@cache
def _sides_by_step(steps: int, p_init: float, height: int, width: int, device: torch.device) -> Tensor:
    """Side of the window at each step, shape (steps,)."""
    return _sides(p_init, height, width, False, device)[_stages(steps, device)]


@cache
def _bumps(p_init: float, height: int, width: int, device: torch.device) -> Tensor:
    """The bump of each of these windows, in the upper left of (10, S, S), where S is the image's shorter side."""
    table = torch.zeros(len(_HALVINGS) + 1, min(height, width), min(height, width))
    for row, side in zip(table, _sides(p_init, height, width, True, torch.device("cpu")).tolist(), strict=True):
        row[:side, :side] = _bump(side)
    return table.to(device)


def _bump(side: int) -> Tensor:
    """Two halves of a square, one up and one down, each highest in its middle; of L2 norm 1, shape (side, side)."""
    upper = side // 2
    return _unit(torch.cat([_pyramid(upper, side), -_pyramid(side - upper, side)]))


def _pyramid(height: int, width: int) -> Tensor:
    """Rings about the middle, each higher than the one around it; of L2 norm 1, shape (height, width)."""
    rows, columns = (torch.arange(length) - length // 2 for length in (height, width))
    ring = rows.abs()[:, None].maximum(columns.abs())
    rings = max(height, width) // 2 + 1
    rises = 1 / torch.arange(1.0, rings + 1) ** 2
    return _unit(rises.flip(0).cumsum(0).flip(0)[ring])


def _unit(change: Tensor) -> Tensor:
    unit: Tensor = change / torch.linalg.vector_norm(change).clamp_min(_TINY)
    return unit


def _length(change: Tensor) -> Tensor:
    """L2 norm of each channel, shape (B, C, 1, 1)."""
    length: Tensor = torch.linalg.vector_norm(change, dim=(2, 3), keepdim=True)
    return length


def _signs(draws: Tensor) -> Tensor:
    return (draws < 0.5).to(draws.dtype) * 2 - 1
