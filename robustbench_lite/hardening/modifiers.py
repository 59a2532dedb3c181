"""What goes with any step that trains: averaged weights, perturbed weights, a growing ball, clipped gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.checkpoint import Weights
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.model.target import Target

Joined = Callable[[Sequence[Tensor | None], Sequence[Tensor]], Sequence[Tensor | None]]
"""Makes the gradients of all processes of one's own; it is also given what they are gradients of."""


class Average:
    """Exponential moving average of a module's weights and buffers.

    In the first steps it forgets faster, so that the random weights of the start don't stay in it.

    Parameters
    ----------
    module
        Whose weights are averaged.
    decay
        Share of the mean that stays at each update, in [0, 1).
    weights, updates
        Mean and number of updates so far; by default it starts from the module's weights.

    References
    ----------
    Izmailov et al. 2018, https://arxiv.org/abs/1803.05407; in adversarial training: Gowal et al. 2020,
    https://arxiv.org/abs/2010.03593
    """

    def __init__(self, module: nn.Module, decay: float, weights: Weights | None = None, updates: int = 0) -> None:
        now: Weights = module.state_dict()  # the tensors themselves, not copies
        self.decay, self.updates = decay, updates
        self.weights: Weights = copy.deepcopy(now)
        for name, value in (weights or {}).items():
            self.weights[name] = value.clone().to(now[name].device) if isinstance(value, Tensor) else value
        self._pairs = [
            (self.weights[name], value) for name, value in now.items() if isinstance(value, Tensor) and value.numel()
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of the moment."""
        self.updates += 1
        stays = min(self.decay, self.updates / (10 + self.updates))
        for mean, value in self._pairs:
            if mean.is_floating_point():
                mean.lerp_(value, 1 - stays)
            else:
                mean.copy_(value)  # such as a count of batches


@contextmanager
def perturbed_weights(
    module: nn.Module,
    loss: Callable[[], Tensor],
    size: float,
    optimizer: torch.optim.Optimizer,
    joined: Joined | None = None,
) -> Iterator[None]:
    """Move each layer's weights uphill along a loss, until the optimizer's next step, or the end of the block.

    The step is then made from where the weights were, along the gradient where they were moved to. Norms and biases
    stay where they are.

    Parameters
    ----------
    loss
        Gives a scalar of the module's weights. Batch statistics don't move with it.
    size
        Length of the move, as a share of the norm of each layer's weights.
    joined
        Where other processes train with this one.

    References
    ----------
    Wu, Xia and Wang, *Adversarial weight perturbation helps robust generalization*, NeurIPS 2020.
    https://arxiv.org/abs/2004.05884
    """
    layers = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter.ndim > 1]
    with kept_buffers(module):
        slopes: Sequence[Tensor | None] = torch.autograd.grad(loss(), layers, allow_unused=True)
    if joined is not None:
        slopes = joined(slopes, layers)
    before = [layer.detach().clone() for layer in layers]

    def restore(*_: object) -> None:
        with torch.no_grad():
            for layer, weights in zip(layers, before, strict=True):
                layer.copy_(weights)
        before.clear()
        layers.clear()

    with torch.no_grad():
        for layer, slope in zip(layers, slopes, strict=True):
            if slope is not None:
                layer.add_(slope * (size * layer.norm() / slope.norm().clamp_min(1e-30)))
    hook = optimizer.register_step_pre_hook(restore)
    try:
        yield
    finally:
        hook.remove()
        restore()


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Give a module's buffers, such as batch statistics, back the values that they had before the block."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def grown(threat: ThreatModel, ramp: float, done: float) -> ThreatModel:
    """The ball where a share ``done`` of the training is behind, if eps grows over the share ``ramp`` of it."""
    if done >= ramp:
        return threat
    eps = threat.eps * done / ramp
    return threat.model_copy(update={"eps": eps, "eps_text": repr(eps)})


def make_optimizer(target: Target, schedule: Schedule, joined: Joined | None = None) -> torch.optim.Optimizer:
    """The optimizer of a schedule; norms and biases, which have one dimension at most, know no weight decay.

    Parameters
    ----------
    joined
        Where other processes train with this one: asked before each step.

    Raises
    ------
    UserError
        For a network without trainable parameters.
    """
    trainable = [parameter for parameter in target.module.parameters() if parameter.requires_grad]
    if not trainable:
        raise UserError(f"{target.name}: has no parameter that requires a gradient, so there is nothing to train")
    groups = [
        {"params": [one for one in trainable if one.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [one for one in trainable if one.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adam":
        optimizer = torch.optim.AdamW(groups, lr=schedule.lr)
    else:
        optimizer = torch.optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum, nesterov=schedule.momentum > 0)
    if joined is not None:

        def join(*_: object) -> None:
            for parameter, grad in zip(trainable, joined([one.grad for one in trainable], trainable), strict=True):
                parameter.grad = grad

        optimizer.register_step_pre_hook(join)
    if schedule.clip is not None:
        most = schedule.clip

        def shorten(*_: object) -> None:
            torch.nn.utils.clip_grad_norm_(trainable, most)

        optimizer.register_step_pre_hook(shorten)
    return optimizer


def stay_zero(target: Target, optimizer: torch.optim.Optimizer) -> None:
    """Keep what was pruned at zero, whatever the optimizer makes of it."""
    named = dict(target.module.named_parameters())
    pruned = [(named[name], named[name] == 0) for name in target.sparse if name in named]
    if not pruned:
        return

    @torch.no_grad()
    def clear(*_: object) -> None:
        for parameter, zeros in pruned:
            parameter[zeros] = 0

    optimizer.register_step_post_hook(clear)
