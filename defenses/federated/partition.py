"""How samples are shared out among clients, and how far the shares are from alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.core.errors import UserError

_TRIES = 100


def dirichlet(labels: Tensor, clients: int, alpha: float, *, least: int, seed: int) -> list[Tensor]:
    """Share samples out by class, with shares drawn from a Dirichlet distribution.

    Parameters
    ----------
    labels
        Class of each sample, (N,).
    clients
        Number of shares.
    alpha
        Concentration: with a large one all clients have the same mixture of classes, with one near 0 each has few
        classes.
    least
        Samples that each client must have; the draw is made again until it holds.
    seed
        Of the draw.

    Returns
    -------
    list[Tensor]
        Rows of each client, ascending. Every sample belongs to one client.

    Raises
    ------
    UserError
        Where there are too few samples, or no draw gives each client enough.

    References
    ----------
    Hsu, Qi and Brown, *Measuring the effects of non-identical data distribution for federated visual classification*,
    2019. https://arxiv.org/abs/1909.06335
    """
    if clients * least > len(labels):
        raise UserError(
            f"{len(labels)} samples can't be shared out among {clients} clients of {least} or more; take fewer clients"
        )
    generator = np.random.default_rng(seed)
    for _ in range(_TRIES):
        shares: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label in sorted(set(labels.tolist())):
            rows = generator.permutation((labels == label).nonzero().flatten().numpy())
            ends = np.round(np.cumsum(generator.dirichlet([alpha] * clients)) * len(rows)).astype(int)
            for share, part in zip(shares, np.split(rows, ends[:-1]), strict=True):
                share.append(part)
        drawn = [torch.from_numpy(np.sort(np.concatenate(share))) for share in shares]
        if min(map(len, drawn)) >= least:
            return drawn
    raise UserError(
        f"with alpha {alpha:g} none of {_TRIES} draws gives each of {clients} clients {least} samples or more; take a "
        "larger alpha or fewer clients"
    )


def heterogeneity(labels: Sequence[Tensor]) -> float:
    """How far the clients' mixtures of classes are from that of all samples together.

    Parameters
    ----------
    labels
        Of each client, the class of each of its samples.

    Returns
    -------
    float
        Mean over the clients of the total variation distance, in [0, 1): 0 where all have the same mixture.
    """
    classes = 1 + int(max(one.max() for one in labels))
    shares = torch.stack([one.bincount(minlength=classes) / len(one) for one in labels])
    whole = torch.cat(list(labels)).bincount(minlength=classes)
    return float((shares - whole / whole.sum()).abs().sum(1).mean() / 2)
