"""Normalisation by channel: known ones by name, checked ones from numbers, applied to inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError

Channels = tuple[float, ...]
MeanAndStd = tuple[Channels, Channels] | tuple[None, None]

NORMALISATIONS: dict[str, MeanAndStd] = {
    "none": (None, None),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
}
"""Mean and standard deviation by channel, of inputs in [0, 1]."""


def mean_and_std(mean: Sequence[float] | None, std: Sequence[float] | None) -> MeanAndStd:
    """Check a normalisation: as many finite means as standard deviations above 0, or None twice."""
    if mean is None and std is None:
        return None, None
    if mean is None or std is None:
        raise UserError(f"normalisation has {'a std but no mean' if mean is None else 'a mean but no std'}; give both")
    mean, std = tuple(float(value) for value in mean), tuple(float(value) for value in std)
    finite = all(math.isfinite(value) for value in (*mean, *std))
    if len(mean) != len(std) or not mean or not finite or min(std) <= 0:
        raise UserError(
            f"normalisation is mean {mean}, std {std}: expected as many finite means as standard deviations above 0, "
            "one a channel"
        )
    return mean, std


def parse_normalisation(text: str) -> MeanAndStd:
    """Mean and standard deviation by channel, from a known name or ``m1,m2,m3/s1,s2,s3``; None twice for ``none``.

    Raises
    ------
    UserError
        For an unknown name and for numbers that are no mean and standard deviation.
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    if "/" not in text:
        raise UserError(f"{registry.unknown('normalisation', text, NORMALISATIONS)}; or give m1,m2,m3/s1,s2,s3")
    try:
        mean, std = ([float(value) for value in half.split(",")] for half in text.split("/"))
    except ValueError:
        raise UserError(
            f"normalisation {text!r}: expected means, a slash and standard deviations, such as 0.5,0.5,0.5/0.2,0.2,0.2"
        ) from None
    return mean_and_std(mean, std)


def by_channel(values: Channels, x: Tensor) -> Tensor:
    """One value a channel, in the shape, type and place in which it can be subtracted from inputs, (N, C, ...)."""
    # Checked, because one channel would silently be broadcast to three.
    if len(values) > 1 and (x.ndim < 2 or x.shape[1] != len(values)):
        raise UserError(
            f"the normalisation has {len(values)} channels, the inputs have shape {tuple(x.shape)}, (N, C, H, W); "
            "give one value a channel"
        )
    return _column(values, max(x.ndim - 2, 0), x.dtype, x.device)


@lru_cache(maxsize=16)
def _column(values: Channels, trailing: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is kept, and a tensor born in inference mode couldn't be used in a gradient
        return torch.tensor(values, dtype=dtype, device=device).reshape(-1, *[1] * trailing)
