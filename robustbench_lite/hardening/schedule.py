"""How long, how fast and by which modifiers a step trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Augmentation = Literal["crop", "flip", "randaugment", "cutmix"]

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
    """Pull of the weights towards zero; norms and biases are left alone."""
    decay: Literal["constant", "cosine", "one_cycle", "cyclic", "piecewise", "slow_start"] = "cosine"
    """Course of the learning rate over the training; see `learning_rate`."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training data that is kept out, to measure clean and robust accuracy after each epoch."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Share of the running mean of the weights that stays at each step, such as 0.999; the mean is then what is
    measured and deployed. 0 averages nothing."""
    awp: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Adversarial weight perturbation: by which share of its norm each layer's weights are moved uphill while the
    gradient is taken, such as 0.005; 0 moves none."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes."""
    clip: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Largest L2 norm of a step's gradient; None leaves it as it is."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the passes that train. What is measured is always measured in the model's own."""
    eps_ramp: float = Field(default=0.0, ge=0, le=1)
    """Share of the training in which eps grows linearly from 0; 0 has it whole from the start."""
    augment: tuple[Augmentation, ...] = ()
    """What is done to the samples, in this order: ``crop`` shifts by up to an eighth of the side, ``flip`` mirrors left
    and right, ``randaugment`` draws two of torchvision's operations, ``cutmix`` pastes a part of another sample."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are: patterns of their names (``features.*``), or ``backbone`` for all but the last
    layer. Frozen layers with batch statistics stay in evaluation mode."""
    extra: str = ""
    """Further data to learn from, generated or collected, by the name of a source; its ``train`` split."""
    extra_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of each batch that is taken from ``extra``. An epoch still goes once through the data themselves."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are deployed: ``best``, those of the best held-out robust accuracy, and where others can't
    be told from it, of those the one with the best sum of clean and robust accuracy; or the ``last``."""


def learning_rate(schedule: Schedule, done: float) -> float:
    """Learning rate where a share ``done``, in [0, 1], of the training is behind.

    =============  =====================================================================================
    ``constant``   the peak all along
    ``cosine``     falls from the peak to 0 along half a cosine
    ``one_cycle``  rises from 0 to the peak in the first 40 %, falls back to 0, both linearly
    ``cyclic``     the same with the peak in the middle (Wong et al. 2020, https://arxiv.org/abs/2001.03994)
    ``piecewise``  the peak, a tenth of it from one half on, a hundredth from three quarters on
    ``slow_start`` grows from a hundredth of the peak up to it in the first half and falls to a thousandth, both by
                   equal factors: slow start and fast decay, for fine-tuning, after Jeddi et al. 2020,
                   https://arxiv.org/abs/2012.13628
    =============  =====================================================================================
    """
    courses: dict[str, Callable[[float], float]] = {
        "constant": lambda done: 1.0,
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
        "one_cycle": lambda done: min(done / _WARM_UP, (1 - done) / (1 - _WARM_UP)),
        "cyclic": lambda done: min(2 * done, 2 * (1 - done)),
        "piecewise": lambda done: 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01,
        "slow_start": lambda done: 10 ** (4 * done - 2) if done < 0.5 else 10 ** (3 - 6 * done),
    }
    return schedule.lr * courses[schedule.decay](done)
