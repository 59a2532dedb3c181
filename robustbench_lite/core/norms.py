"""What a norm is to an attack: distance, projection, steepest step, random start, dual norm, and how a ball is filled.

A new norm is one entry of `GEOMETRIES`, and a name in the ``norms`` of the attacks that can run under it. What else it
takes is told in ``CONTRIBUTING.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.core.columns import Columns
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.threat import Norm

_LEAST = 1e-12  # a length below it is as good as none
_TINY = 1e-30  # keeps 0 / 0 at 0 without moving any other quotient of float32 numbers


class Geometry(NamedTuple):
    """The operations of one norm, each over a batch (B, *shape)."""

    distance: Callable[[Tensor], Tensor]
    """Perturbation -> its norm, shape (B,)."""
    project: Callable[[Tensor, Tensor, float | Tensor], Tensor]
    """Points, origins in [0, 1], eps, or one of each, float64, shape (B,) -> points in the ball and the box [0, 1]."""
    steepest: Callable[[Tensor], Tensor]
    """Gradient -> a unit perturbation along which a linear loss grows fastest; 0 where the gradient is."""
    random: Callable[[Noise, tuple[int, ...], float], Tensor]
    """Noise, shape, eps -> uniform draws from the ball."""
    dual: Callable[[Tensor], Tensor]
    """Gradient -> how much a linear loss grows by a step of norm 1 at most, shape (B,)."""
    fill: Callable[[Tensor, Tensor], Tensor]
    """Perturbations, radius of each, shape (B,) -> the same directions, scaled up to the radius as far as
    the values that are not 0 allow."""


def _linf_distance(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().amax(1)


def _linf_project(x: Tensor, origin: Tensor, eps: float | Tensor) -> Tensor:
    if not isinstance(eps, Tensor):
        return (origin + (x - origin).clamp(-eps, eps)).clamp(0.0, 1.0)
    radius = per_sample(eps.to(x.dtype), x)
    # Not `clamp`, which takes four times as long with tensors for its ends.
    return (origin + (x - origin).maximum(-radius).minimum(radius)).clamp(0.0, 1.0)


def _linf_random(noise: Noise, shape: tuple[int, ...], eps: float) -> Tensor:
    return (noise.uniform(shape) * 2 - 1) * eps


def _l2_distance(delta: Tensor) -> Tensor:
    # In float64: the rounding of a float32 sum grows with its length, and would carry witnesses out of the ball.
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64)
    return length


def _l2_project(x: Tensor, origin: Tensor, eps: float | Tensor) -> Tensor:
    # The clip follows the projection and, as the origin is in the box, only brings the point nearer to it.
    delta = x - origin
    radius = per_sample(eps.to(x.dtype), x) if isinstance(eps, Tensor) else eps
    shortened = radius * _l2_steepest(delta)
    inside = torch.where(per_sample(_l2_distance(delta) <= eps, delta), delta, shortened)
    return (origin + inside).clamp(0.0, 1.0)


def _l2_steepest(grad: Tensor) -> Tensor:
    # Scaled by the largest value first: squares of gradients below 1e-19 vanish in float32.
    scaled = grad / per_sample(_linf_distance(grad).clamp_min(_TINY), grad)
    return scaled / per_sample(_l2_distance(scaled).clamp_min(_TINY).to(grad.dtype), grad)


def _l2_random(noise: Noise, shape: tuple[int, ...], eps: float) -> Tensor:
    direction = _l2_steepest(noise.at(0).normal(shape))
    radius = eps * noise.at(1).uniform(()) ** (1 / max(1, direction[0].numel() if len(direction) else 1))
    return direction * per_sample(radius, direction)


def _l1_distance(delta: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=1, dim=1, dtype=torch.float64)
    return length


def _l1_project(x: Tensor, origin: Tensor, eps: float | Tensor) -> Tensor:
    # The nearest point of ball and box has every change shortened by the same amount, and cut at the walls (Croce and
    # Hein 2021, https://arxiv.org/abs/2103.01208). Its length falls with that amount, in straight pieces that end where
    # a change leaves its wall or comes to nothing: sort the ends, and the amount is found in its piece.
    boxed = x.clamp(0.0, 1.0)
    far = (_l1_distance(boxed - origin) > eps).nonzero()[:, 0]
    if len(far) == 0:
        return boxed
    start, radius = origin[far].flatten(1).double(), _each(eps, x)[far, None]
    delta = x[far].flatten(1).double() - start
    size, wall = delta.abs(), torch.where(delta > 0, 1 - start, start)
    ends, order = torch.cat([(size - wall).clamp_min(0.0), size], 1).sort(1)
    change = torch.ones_like(size)
    slope = torch.cat([change, -change], 1).gather(1, order).cumsum(1)  # how many shrink beyond each end
    lengths = torch.minimum(size, wall).sum(1, keepdim=True) - _before(slope[:, :-1] * ends.diff(dim=1))
    piece = ((lengths > radius).sum(1, keepdim=True) - 1).clamp_min(0)
    over = lengths.gather(1, piece) - radius
    amount = ends.gather(1, piece) + over / slope.gather(1, piece).clamp_min(1.0)
    shortened = delta.sign() * torch.minimum((size - amount).clamp_min(0.0), wall)
    boxed = boxed.clone()
    boxed[far] = (start + shortened).to(x.dtype).clamp(0.0, 1.0).reshape(-1, *x.shape[1:])
    return boxed


def _before(pieces: Tensor) -> Tensor:
    """Sum of the pieces that come before each end."""
    return torch.cat([torch.zeros_like(pieces[:, :1]), pieces.cumsum(1)], 1)


def _one_hot_steepest(grad: Tensor) -> Tensor:
    flat = grad.flatten(1)
    if flat.shape[1] == 0 or len(flat) == 0:
        return grad.clone()
    place = flat.abs().argmax(1, keepdim=True)
    return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).reshape(grad.shape)


def sparse(x: Tensor, origin: Tensor, grad: Tensor, width: Tensor) -> Tensor:
    """Change of L1 norm 1, by equal parts of the ``width`` values, shape (B,), with the largest gradients."""
    # A value that reached its wall is pushed on, for the projection would take back one that is let go.
    free = torch.where(grad > 0, x.minimum(origin) < 1, x.maximum(origin) > 0)
    slopes = (grad * free).flatten(1)
    steepness = slopes.abs()
    if slopes.numel() == 0:
        return torch.zeros_like(x)
    place = (width.long() - 1).clamp(0, slopes.shape[1] - 1)
    least = steepness.topk(int(place.amax()) + 1, dim=1).values.gather(1, place[:, None])
    signs = slopes.sign() * (steepness >= least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1.0)).reshape(x.shape)


def _l1_random(noise: Noise, shape: tuple[int, ...], eps: float) -> Tensor:
    # Exponential draws over their sum with one more are uniform in the simplex.
    numbers = max(1, math.prod(shape))
    parts = -(1 - noise.at(0).uniform((numbers + 1,)).double()).log()
    sizes = (parts[:, :-1] / parts.sum(1, keepdim=True).clamp_min(_TINY)).float()
    signs = (noise.at(1).uniform((numbers,)) < 0.5).float() * 2 - 1
    return (eps * sizes * signs)[:, : math.prod(shape)].reshape(-1, *shape)


def _l0_distance(delta: Tensor) -> Tensor:
    return (delta.flatten(1) != 0).sum(1).double()


def _l0_project(x: Tensor, origin: Tensor, eps: float | Tensor) -> Tensor:
    # Of the points with at most eps changes, the nearest keeps the changes by which it gains most: what a change
    # brings nearer, after the box has cut it.
    boxed, eps = x.clamp(0.0, 1.0), _each(eps, x)
    gain = ((x - origin) ** 2 - (x - boxed) ** 2).flatten(1)
    most = min(int(eps.amax()), gain.shape[1]) if len(eps) else 0
    order = gain.topk(most, dim=1).indices
    place = torch.arange(most, device=x.device)
    kept = torch.zeros_like(gain, dtype=torch.bool).scatter(1, order, place + 1 <= eps[:, None])
    return torch.where(kept.reshape(x.shape), boxed, origin)


def _l0_random(noise: Noise, shape: tuple[int, ...], eps: float) -> Tensor:
    # The values that change are drawn without replacement; each moves by up to 1, and the box cuts it.
    values = noise.at(0).uniform(shape) * 2 - 1
    rank = noise.at(1).uniform((max(1, math.prod(shape)),)).argsort(1).argsort(1)[:, : math.prod(shape)]
    return torch.where(rank.reshape(values.shape) < eps, values, 0.0)


def _box_project(x: Tensor, origin: Tensor, eps: float | Tensor) -> Tensor:
    return x.clamp(0.0, 1.0)


def _each(eps: float | Tensor, x: Tensor) -> Tensor:
    """Radius of each point, float64, shape (B,)."""
    return torch.as_tensor(eps, dtype=torch.float64, device=x.device).expand(len(x))


def _order(order: float) -> Callable[[Tensor], Tensor]:
    """The norm of an order, in the precision of its argument."""

    def norm(grad: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(grad.flatten(1), ord=order, dim=1)
        return length

    return norm


def _linf_fill(delta: Tensor, eps: Tensor) -> Tensor:
    radius = per_sample(eps, delta)
    return delta.clamp(-radius, radius)


def _l2_fill(delta: Tensor, eps: Tensor) -> Tensor:
    return delta * per_sample(eps / _order(2)(delta).clamp_min(_LEAST), delta)


def _l1_fill(delta: Tensor, eps: Tensor) -> Tensor:
    # The nearest point of the ball has every change shortened by the same amount (Duchi et al. 2008): the largest one
    # that, taken from the k longest, leaves eps.
    size, radius = delta.flatten(1).abs(), eps[:, None]
    longest = size.sort(dim=1, descending=True).values
    count = torch.arange(1, size.shape[1] + 1, device=size.device)
    amount = ((longest.cumsum(1) - radius) / count).amax(1, keepdim=True).clamp_min(0.0)
    shortened = delta.flatten(1).sign() * (size - amount).clamp_min(0.0)
    return (shortened * (radius / shortened.abs().sum(1, keepdim=True).clamp_min(_LEAST))).reshape(delta.shape)


def _l0_fill(delta: Tensor, eps: Tensor) -> Tensor:
    # The largest changes, at the walls of the box or beyond.
    flat = delta.flatten(1)
    largest = flat.abs().argsort(dim=1, descending=True, stable=True)
    kept = torch.arange(flat.shape[1], device=delta.device) < eps[:, None]
    return (flat.sign() * torch.zeros_like(flat).scatter(1, largest, kept.to(delta.dtype))).reshape(delta.shape)


def per_sample(values: Tensor, batch: Tensor) -> Tensor:
    """Values of each sample, shape (B,) or more, with the dimensions of a batch, to be spread over it."""
    return values.reshape(*values.shape, *[1] * (batch.ndim - values.ndim))


# What a transformation can make of an input is known to its attack alone; here every image of the box will do.
_ANY_IMAGE = Geometry(
    _linf_distance,
    _box_project,
    torch.sign,
    lambda noise, shape, eps: _linf_random(noise, shape, 1),
    _order(1),
    _linf_fill,
)

GEOMETRIES: dict[Norm, Geometry] = {
    "Linf": Geometry(_linf_distance, _linf_project, torch.sign, _linf_random, _order(1), _linf_fill),
    "L2": Geometry(_l2_distance, _l2_project, _l2_steepest, _l2_random, _order(2), _l2_fill),
    "L1": Geometry(_l1_distance, _l1_project, _one_hot_steepest, _l1_random, _order(math.inf), _l1_fill),
    "L0": Geometry(_l0_distance, _l0_project, _one_hot_steepest, _l0_random, _order(math.inf), _l0_fill),
    "Spatial": _ANY_IMAGE,
    "Corruption": _ANY_IMAGE,
}


def project(x: Tensor, origin: Tensor, norm: Norm, eps: float | Tensor, columns: Columns | None = None) -> Tensor:
    """Bring points into the ball around their origins, and into the box [0, 1].

    Parameters
    ----------
    x, origin
        Points and centres, shape (B, *shape); the centres in [0, 1].
    norm, eps
        The ball; of each point one of its own where eps has the shape (B,).
    columns
        Of a table: the fixed ones are put back first, so that they take nothing of the ball.

    Returns
    -------
    Tensor
        Shape (B, *shape). In Linf, L1 and L0 the nearest point of ball and box; in L2 a point of both.
    """
    if isinstance(eps, Tensor):
        eps = _each(eps, x)
    x = x if columns is None else columns.hold(x, origin)
    return GEOMETRIES[norm].project(x, origin, eps)
