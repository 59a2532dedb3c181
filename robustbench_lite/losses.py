"""What an attack climbs: losses over logits, one value a sample, larger is nearer to the adversary's goal.

Each takes logits (B, K), the class that the goal is about (B,) and whether it is the class to reach (targeted) or to
leave (untargeted).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, bool], Tensor]
LossName = Literal["cross_entropy", "margin"]


def cross_entropy(logits: Tensor, aim: Tensor, targeted: bool) -> Tensor:
    """Cross-entropy; its gradient vanishes where the softmax saturates."""
    loss = F.cross_entropy(logits, aim, reduction="none")
    return -loss if targeted else loss


def margin(logits: Tensor, aim: Tensor, targeted: bool) -> Tensor:
    """Best other logit less the class's (untargeted), or the reverse (targeted); above 0 is adversarial.

    The loss f6 of Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644, without its clamp. Its gradient doesn't
    vanish however confident the model is.
    """
    own = logits.gather(1, aim[:, None])[:, 0]
    others = logits.scatter(1, aim[:, None], float("-inf")).amax(1)
    return own - others if targeted else others - own


LOSSES: dict[LossName, Loss] = {"cross_entropy": cross_entropy, "margin": margin}
