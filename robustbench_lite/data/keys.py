"""Keys of samples: a hash of input and label, by which two scorecards, or a scorecard and data, are paired."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.data.dataset import Data, check_inputs


def batches(data: Data, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions and checked inputs, a batch at a time."""
    for at in range(0, len(data), size):
        rows = torch.arange(at, min(at + size, len(data)))
        x = data.fetch(rows)
        check_inputs(x, data.name)
        yield rows, x


def keys_of(data: Data, size: int) -> NDArray[np.int64]:
    """The key of each sample, shape (N,)."""
    return np.array([key for rows, x in batches(data, size) for key in key_list(x, data.labels[rows])], np.int64)


def key_list(x: Tensor, labels: Tensor) -> list[int]:
    """Hash each input with its label."""
    digests = (
        hashlib.blake2b(sample.tobytes() + label.to_bytes(8, "little"), digest_size=8).digest()
        for sample, label in zip(x.numpy(), labels.tolist(), strict=True)
    )
    return [int.from_bytes(digest, "little", signed=True) for digest in digests]


def key_text(key: int) -> str:
    """A key as it stands on a scorecard."""
    return f"{key & (1 << 64) - 1:016x}"
