"""Objectives: what an attack climbs. A loss of the logits, one value a sample; more is nearer to the adversary's goal.

A loss takes logits, shape (B, K); the target class, shape (B,); whether that class is to be reached (targeted) or to be
left (untargeted); and the rival, shape (B,), where an attack leaves the class for another one of its own choice: `ANY`
where it makes no choice, None where no sample's does. It returns a tensor of shape (B,), each value of its own sample
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PlainValidator, TypeAdapter
from torch import Tensor

Loss = Callable[[Tensor, Tensor, bool, Tensor | None], Tensor]
LossName = Literal["cross_entropy", "margin", "dlr", "probability_margin"]

_NAMES: TypeAdapter[LossName] = TypeAdapter(LossName)


def _objective(given: Any) -> Any:
    return given if callable(given) else _NAMES.validate_python(given)


Objective = Annotated[LossName | Loss, PlainValidator(_objective)]
"""A parameter: the name of a loss or, in Python, a function of one's own with the arguments of a `Loss`."""

ANY = -1
"""In place of a rival: whichever other class is nearest."""

_TINY = 1e-12  # keeps the quotient of equal logits finite


def success(logits: Tensor, target_class: Tensor, targeted: bool) -> Tensor:
    """Whether the predictions are what the adversary wants, shape (B,); logits that are not finite never are.

    Parameters
    ----------
    logits
        Shape (B, K).
    target_class
        The class to reach (targeted) or to leave (untargeted), shape (B,).
    """
    return reached(logits, target_class, targeted) & finite(logits)


def reached(logits: Tensor, target_class: Tensor, targeted: bool) -> Tensor:
    """Whether the largest logit is that of the class to reach, or not that of the one to leave, shape (B,)."""
    said = logits.argmax(1)
    return said == target_class if targeted else said != target_class


def finite(logits: Tensor) -> Tensor:
    """Whether all logits of a sample are finite numbers, shape (B,)."""
    return logits.abs().amax(1) < torch.inf


def cross_entropy(logits: Tensor, target_class: Tensor, targeted: bool, rival: Tensor | None = None) -> Tensor:
    """Cross-entropy; its gradient vanishes where the softmax saturates."""
    if rival is None:
        loss = F.cross_entropy(logits, target_class, reduction="none")
        return -loss if targeted else loss
    chosen = rival != ANY
    loss = F.cross_entropy(logits, torch.where(chosen, rival, target_class), reduction="none")
    return torch.where(chosen, -loss, loss)


def margin(logits: Tensor, target_class: Tensor, targeted: bool, rival: Tensor | None = None) -> Tensor:
    """Best other logit (or the rival's) less the class's (untargeted), or the reverse (targeted).

    Above 0 is adversarial. The loss f6 of Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644, without its clamp.
    Its gradient doesn't vanish however confident the model is.
    """
    place = target_class[:, None]
    own = logits.gather(1, place)[:, 0]
    others = logits.scatter(1, place, -torch.inf).amax(1)
    if rival is not None:
        others = torch.where(rival == ANY, others, logits.gather(1, rival.clamp_min(0)[:, None])[:, 0])
    return own - others if targeted else others - own


def dlr(logits: Tensor, target_class: Tensor, targeted: bool, rival: Tensor | None = None) -> Tensor:
    """Difference of logits ratio: the margin over a spread of the largest logits, so that their scale cancels out.

    Of Croce and Hein 2020, https://arxiv.org/abs/2003.01690: over the first less the third logit, or, with a rival or a
    class to reach, less the mean of the third and the fourth. With two classes it would be constant: it is the margin.
    """
    gain = margin(logits, target_class, targeted, rival)
    classes = logits.shape[1]
    if classes < 3:
        return gain
    largest = logits.topk(min(classes, 4), dim=1).values
    third, both = largest[:, 2], (largest[:, 2] + largest[:, -1]) / 2
    low = torch.where(rival == ANY, third, both) if rival is not None else both if targeted else third
    return gain / (largest[:, 0] - low).clamp_min(_TINY)


def probability_margin(logits: Tensor, target_class: Tensor, targeted: bool, rival: Tensor | None = None) -> Tensor:
    """The margin of the softmax instead of the logits (Xie et al. 2024, https://arxiv.org/abs/2411.15210).

    It steps towards whatever class is probable, and vanishes where the softmax saturates.
    """
    return margin(logits.softmax(1), target_class, targeted, rival)


LOSSES: dict[LossName, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "probability_margin": probability_margin,
}


def loss_of(objective: LossName | Loss) -> Loss:
    """The loss that an objective names, or is."""
    return objective if callable(objective) else LOSSES[objective]
