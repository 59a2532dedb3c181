"""A surrogate: a network that learned the target's answers, and has gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.adapt.slopes import smoothing_scale
from robustbench_lite.evaluating.preflight.check import drawn
from robustbench_lite.model.target import Target

_SAMPLES, _COPIES, _EPOCHS = 2000, 3, 20
_BYTES = 2**30  # that the inputs may take


def surrogate(
    target: Target,
    data: Data,
    threats: Sequence[ThreatModel],
    *,
    seed: int = 0,
    size: int = 128,
    budget: BudgetTracker | None = None,
) -> Target:
    """Train a small network on the target's own answers, about the samples and about points around them.

    Papernot et al., *Practical black-box attacks against machine learning*, 2017. https://arxiv.org/abs/1602.02697

    Parameters
    ----------
    target, data
        Whose answers, and about what: `Data` with inputs in [0, 1]; no label is looked at.
    threats
        Their eps says how far around the samples it is asked.
    seed
        Of the samples, of the points and of the network.
    size
        Most samples at once.
    budget
        Counts and limits the target's passes; those of the network itself, which is small, are not counted.

    Returns
    -------
    Target
        On the target's device, in eval mode.

    Raises
    ------
    Stop
        Where the budget doesn't allow for the answers.
    """
    with torch.inference_mode(False):  # what is made inside of it can't be trained on
        return _taught(target, data, threats, seed, size, budget or BudgetTracker())


def _taught(
    target: Target, data: Data, threats: Sequence[ThreatModel], seed: int, size: int, budget: BudgetTracker
) -> Target:
    dice = torch.Generator().manual_seed(seed)
    most = max(1, _BYTES // (4 * math.prod(data.shape) * (_COPIES + 1)))
    x = data.fetch(drawn(data, min(_SAMPLES, most), seed))
    scale = smoothing_scale(threats, tuple(x.shape[1:]))
    near = [x + scale * (2 * torch.rand(x.shape, generator=dice) - 1) for _ in range(_COPIES)]
    x = torch.cat([x, *(one.clamp(0, 1) for one in near)]).to(target.device)
    budget.check(len(x))
    budget.spend(len(x), 0)
    with target.attacking(), torch.no_grad():
        answers = torch.cat([target(part).softmax(1) for part in torch.split(x, size)]).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(tuple(x.shape[1:]), answers.shape[1]).to(target.device)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    with torch.enable_grad():
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(x), generator=dice).to(x.device), 64):
                optimizer.zero_grad()
                F.cross_entropy(network(x[rows]), answers[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return Target(network.eval(), name="surrogate", device=target.device)


def _network(shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(shape) != 3:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, classes))
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )
