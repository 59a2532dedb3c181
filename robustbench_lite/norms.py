"""What a norm is to an attack: a projection, a steepest step, a random start and a distance.

A new norm is one entry of `GEOMETRIES`; no attack changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.noise import Noise
from robustbench_lite.threat import Norm

_TINY = 1e-30  # keeps 0 / 0 at 0 without moving any other quotient of float32 numbers


class Geometry(NamedTuple):
    """The operations of one norm, each over a batch (B, *shape)."""

    distance: Callable[[Tensor], Tensor]
    """Perturbation -> its norm, shape (B,)."""
    project: Callable[[Tensor, float], Tensor]
    """Perturbation, eps -> the nearest one in the ball."""
    steepest: Callable[[Tensor], Tensor]
    """Gradient -> the unit perturbation along which a linear loss grows fastest; 0 where the gradient is."""
    random: Callable[[Noise, tuple[int, ...], float], Tensor]
    """Noise, shape, eps -> uniform draws from the ball."""


def _linf_distance(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().amax(1)


def _linf_project(delta: Tensor, eps: float) -> Tensor:
    return delta.clamp(-eps, eps)


def _linf_random(noise: Noise, shape: tuple[int, ...], eps: float) -> Tensor:
    return (noise.uniform(shape) * 2 - 1) * eps


def _l2_distance(delta: Tensor) -> Tensor:
    # In float64: the rounding of a float32 sum grows with its length, and would carry witnesses out of the ball.
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64)
    return length


def _l2_project(delta: Tensor, eps: float) -> Tensor:
    return torch.where(_per_sample(_l2_distance(delta) <= eps, delta), delta, eps * _l2_steepest(delta))


def _l2_steepest(grad: Tensor) -> Tensor:
    # Scaled by the largest value first: squares of gradients below 1e-19 vanish in float32.
    scaled = grad / _per_sample(_linf_distance(grad).clamp_min(_TINY), grad)
    return scaled / _per_sample(_l2_distance(scaled).clamp_min(_TINY).to(grad.dtype), grad)


def _l2_random(noise: Noise, shape: tuple[int, ...], eps: float) -> Tensor:
    direction = _l2_steepest(noise.at(0).normal(shape))
    radius = eps * noise.at(1).uniform(()) ** (1 / max(1, direction[0].numel() if len(direction) else 1))
    return direction * _per_sample(radius, direction)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


GEOMETRIES: dict[Norm, Geometry] = {
    "Linf": Geometry(_linf_distance, _linf_project, torch.sign, _linf_random),
    "L2": Geometry(_l2_distance, _l2_project, _l2_steepest, _l2_random),
}


def project(x: Tensor, origin: Tensor, norm: Norm, eps: float) -> Tensor:
    """Bring points into the ball around their origins, and into the box [0, 1].

    Parameters
    ----------
    x, origin
        Points and centres, shape (B, *shape); the centres in [0, 1].
    norm, eps
        The ball.

    Returns
    -------
    Tensor
        Shape (B, *shape). In Linf the nearest point of ball and box; in L2 a point of both (the clip to the box
        follows the projection and, as the origin is in the box, only brings the point nearer to it).
    """
    return (origin + GEOMETRIES[norm].project(x - origin, eps)).clamp(0.0, 1.0)
