"""How long, how fast and by which modifiers a step trains."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_WARM_UP = 0.4  # share of the training in which `one_cycle` rises


class Schedule(BaseModel):
    """How long and how fast to train."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: int = Field(default=10, ge=1)
    """Passes over the training data."""
    batch_size: int = Field(default=128, ge=1)
    """Samples a step."""
    lr: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Peak learning rate."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with Nesterov momentum, or Adam (decoupled weight decay)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    """Pull of the weights towards zero."""
    decay: Literal["constant", "cosine", "one_cycle"] = "cosine"
    """Course of the learning rate over the training."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training data that is kept out, to measure clean and robust accuracy after each epoch."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are deployed: those of the best held-out robust accuracy, or the last."""


def learning_rate(schedule: Schedule, done: float) -> float:
    """Learning rate where a share ``done``, in [0, 1], of the training is behind.

    ``cosine`` falls from the peak to 0 along half a cosine; ``one_cycle`` rises from 0 to the peak in the first 40 %
    and falls back to 0, both linearly.
    """
    if schedule.decay == "cosine":
        return schedule.lr * (1 + math.cos(math.pi * done)) / 2
    if schedule.decay == "one_cycle":
        return schedule.lr * min(done / _WARM_UP, (1 - done) / (1 - _WARM_UP))
    return schedule.lr
