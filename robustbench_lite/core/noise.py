"""Random draws that belong to a sample, not to a batch.

Each draw is a function of (seed, sample, draw) alone: a counter-based generator (the SplitMix64 finaliser) computed
with integer tensor arithmetic, so the same numbers come out on every device, for every batch size, order and shard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX = (-4658895280553007687, -7723592293110705685)  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Noise:
    """A stream of draws for each sample of a batch.

    Parameters
    ----------
    keys
        One int64 key a sample, shape (B,).
    """

    keys: Tensor

    def at(self, draw: int | Tensor) -> Noise:
        """Another stream for each sample; ``draw`` is one number, or one a sample, shape (B,)."""
        draws = torch.as_tensor(draw, dtype=torch.int64, device=self.keys.device).reshape(-1)
        keys, numbers = _array(self.keys), _array(draws)
        if keys is None or numbers is None:
            return Noise(_stream(self.keys, draws))
        return Noise(torch.from_numpy(_stream(keys, numbers)))

    def to(self, device: torch.device) -> Noise:
        """The same streams on another device."""
        return Noise(self.keys.to(device))

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform draws in [0, 1), float32, shape (B, *shape)."""
        keys, counters = self.keys[:, None], torch.arange(1, math.prod(shape) + 1, device=self.keys.device)
        array = _array(keys)
        bits = _fractions(keys, counters) if array is None else torch.from_numpy(_fractions(array, counters.numpy()))
        fractions = bits.to(torch.float32) * 2.0**-24
        return fractions.reshape(len(self.keys), *shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal draws, float32, shape (B, *shape)."""
        # In the middle of their 2^24 steps the draws are symmetric and never at the ends, where erfinv is infinite.
        # In float64, where the half step is not rounded away.
        centred = (self.uniform(shape).double() + 2.0**-25) * 2 - 1
        return (torch.erfinv(centred) * math.sqrt(2)).float()


# The same integers from tensors and from arrays; arrays take less time on a CPU, a third where there are many.
_Bits = TypeVar("_Bits", Tensor, NDArray[np.int64])


def _array(keys: Tensor) -> NDArray[np.int64] | None:
    """The same memory as an array; None where there is none to share: on a GPU, and under `torch.vmap`."""
    try:
        array: NDArray[np.int64] = keys.numpy()
    except (TypeError, RuntimeError):
        return None
    return array


def _stream(keys: _Bits, draws: _Bits) -> _Bits:
    return _mix(keys + (draws + 1) * _GOLDEN)


def _fractions(keys: _Bits, counters: _Bits) -> _Bits:
    """24 bits of each draw."""
    return _shift(_mix(keys + counters * _GOLDEN), 40)


def _mix(bits: _Bits) -> _Bits:
    bits = (bits ^ _shift(bits, 30)) * _MIX[0]
    bits = (bits ^ _shift(bits, 27)) * _MIX[1]
    return bits ^ _shift(bits, 31)


def _shift(bits: _Bits, by: int) -> _Bits:
    # int64's shift to the right copies the sign: mask it off.
    return (bits >> by) & ((1 << (64 - by)) - 1)
