"""Rotations and shifts: the worst of a grid, or of random draws."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.parameters import PositiveInt, Share
from robustbench_lite.core.threat import Access


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class Spatial(Attack):
    """Tries rotations up to eps degrees with shifts up to ``shift`` of the side: a grid of them, then random draws.

    One forward pass each, and all it takes from the target is whether the label changed. Other than in the paper the
    grid runs from its corners, which break most samples, to its middle, where the point that moves nothing is left out.

    References
    ----------
    Engstrom et al., *Exploring the landscape of spatial robustness*, ICML 2019. https://arxiv.org/abs/1712.02779
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1712.02779"
    norms: ClassVar[tuple[str, ...]] = ("Spatial",)
    access: ClassVar[Access] = "labels"
    gradients: ClassVar[bool] = False

    shift: Share = 0.1
    """Largest shift in each direction, as a share of the side; the paper's is 3 of 28 or 32 pixels."""
    angles: PositiveInt = 31
    """Rotations of the grid, from -eps to eps degrees; 0 is among them where their number is odd."""
    shifts: PositiveInt = 5
    """Shifts of the grid along each side."""
    draws: NonNegativeInt = 0
    """Uniform draws of a rotation and a shift, after the grid."""
    padding: Literal["zeros", "reflection"] = "zeros"
    """What comes in from outside: black, or the image reflected at its border."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(
                "angles and shifts are 1 and draws is 0: the image would never be moved; give a larger one"
            )
        if self.shifts > 1 and self.shift == 0:
            raise ValueError(f"shift is 0 with shifts {self.shifts}: rotations would be tried again; give shifts = 1")

    @property
    def steps(self) -> int:
        still = (self.angles % 2) * (self.shifts % 2)
        return self.angles * self.shifts**2 - still + self.draws - 1

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> State:
        if problem.x.ndim != 4:
            raise UserError(f"Spatial on inputs of shape {tuple(problem.x.shape[1:])}: expected images, (C, H, W)")
        return State(self._moved(problem, problem.step))

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        return State(self._moved(problem, problem.step + 1))

    def _moved(self, problem: Problem, number: Tensor) -> Tensor:
        grid = _grid(self.angles, self.shifts, problem.x.device)
        point = problem.noise.at(number).uniform((3,)) * 2 - 1 if self.draws else grid.new_zeros(len(number), 3)
        if len(grid):
            point = torch.where((number < len(grid))[:, None], grid[number.clamp_max(len(grid) - 1)], point)
        return move(problem.x, point[:, 0] * problem.threat.eps, point[:, 1:] * self.shift, self.padding)


def move(x: Tensor, degrees: Tensor, shift: Tensor, padding: Literal["zeros", "reflection"] = "zeros") -> Tensor:
    """Rotate about the middle, then shift; bilinear.

    Parameters
    ----------
    x
        Images, shape (B, C, H, W).
    degrees
        Counterclockwise, shape (B,).
    shift
        To the right and down, as shares of width and height, shape (B, 2).
    padding
        Black (``zeros``), or the image reflected at its border.

    Returns
    -------
    Tensor
        Shape (B, C, H, W).
    """
    height, width = x.shape[2:]
    angle = degrees.deg2rad()
    cos, sin = angle.cos(), angle.sin()
    # From where a point of the result comes, in coordinates that run from -1 to 1 whatever the sides' lengths.
    turn = torch.stack([cos, -sin * height / width, sin * width / height, cos], 1).reshape(-1, 2, 2)
    theta = torch.cat([turn, -turn @ (2 * shift)[:, :, None]], 2).to(x.dtype)
    places = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, places, padding_mode=padding, align_corners=False)


@lru_cache(maxsize=16)
def _grid(angles: int, shifts: int, device: torch.device) -> Tensor:
    """Rotation and shifts of each point as shares of the largest, in the order they are tried, shape (points, 3)."""
    with torch.inference_mode(False):  # it is kept, and a tensor born in inference mode couldn't be used elsewhere
        # Not `linspace`, whose middle is not quite 0.
        axes = [(2 * torch.arange(number) - (number - 1)) / max(1, number - 1) for number in (angles, shifts, shifts)]
        points = torch.cartesian_prod(*axes)
        points = points[points.any(1)]
        strongest = points.norm(dim=1).argsort(descending=True, stable=True)
        return points[strongest].to(device)
