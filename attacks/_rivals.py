"""Which classes promise most to a climb that leaves the label for one class at a time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustbench_lite.attacking.interface import Problem
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import Norm

Ranking = Literal["gap", "gap_over_gradient"]

# In L1 the dual norm would tell of the one value with the largest slope, and a climb changes many.
_DUAL_OF: dict[Norm, Norm] = {"Linf": "Linf", "L2": "L2", "L1": "L2"}
NORMS: tuple[Norm, ...] = tuple(_DUAL_OF)
"""Norms under which classes can be ranked."""


def ranked(problem: Problem, count: int, by: Ranking) -> Tensor:
    """The ``count`` most promising classes, shape (B, count), or all others where there are fewer.

    Parameters
    ----------
    by
        The smallest difference of logits at the input, for one forward pass; or the smallest one over the length of its
        gradient, how far the class would be were the model linear, for one backward pass more for each of the
        ``2 * count`` classes with the smallest differences. A class that no change of the input brings nearer comes
        last, however small its difference is.
    """
    own, weighted = problem.target_class[:, None], by == "gap_over_gradient"
    with torch.set_grad_enabled(weighted):
        x = problem.x.detach().requires_grad_(weighted)
        logits = problem.model(x)
    others = logits.detach().scatter(1, own, -torch.inf)
    pool = min(2 * count if weighted else count, logits.shape[1] - 1)
    near: Tensor = others.topk(pool, dim=1).indices
    if not logits.requires_grad:
        return near[:, :count]
    gaps = (logits.gather(1, own) - logits.gather(1, near)).unbind(1)
    steepness = GEOMETRIES[_DUAL_OF[problem.threat.norm]].dual
    grads = [torch.autograd.grad(gap.sum(), x, retain_graph=True, materialize_grads=True)[0] for gap in gaps]
    slopes = [steepness(grad.double()) for grad in grads]
    distances = torch.stack(gaps, 1).detach() / torch.stack(slopes, 1).clamp_min(1e-12)
    return near.gather(1, distances.argsort(dim=1, stable=True)[:, :count])
