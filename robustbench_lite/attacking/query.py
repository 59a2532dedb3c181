"""Asking the model: logits, loss and input gradients, in parts as large as memory allows."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.attacking.interface import ModelOutput
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.errors import out_of_memory
from robustbench_lite.core.losses import Objective, loss_of
from robustbench_lite.model.float64 import Ask


class Query:
    """Asks the model, in parts as large as memory allows.

    Parameters
    ----------
    target
        What is asked: inputs to logits.
    objective, targeted
        The loss, by name or as a callable (`losses.Loss`), and whether the goal is to reach the target class.
    budget
        Remembers how many samples at once memory was found to hold.
    limit
        Most samples at once.
    """

    def __init__(self, target: Ask, objective: Objective, targeted: bool, budget: BudgetTracker, limit: int) -> None:
        self._target, self._targeted, self._budget = target, targeted, budget
        self._loss = loss_of(objective)
        budget.batch_limit = min(budget.batch_limit, limit)

    @property
    def limit(self) -> int:
        """Most samples at once; what was found out in one attack holds for the next."""
        return self._budget.batch_limit

    def __call__(self, x: Tensor, target_class: Tensor, rival: Tensor | None = None, *, gradient: bool) -> ModelOutput:
        while True:
            try:
                if len(x) <= self.limit:
                    return self._ask(x, target_class, rival, gradient)
                parts = [
                    self._ask(x[part], target_class[part], None if rival is None else rival[part], gradient)
                    for part in (slice(at, at + self.limit) for at in range(0, len(x), self.limit))
                ]
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault) or self.limit == 1:
                    raise
                self._budget.batch_limit = max(1, min(self.limit, len(x)) // 2)
                continue
            return ModelOutput(*map(torch.cat, zip(*parts, strict=True)))

    def _ask(self, x: Tensor, target_class: Tensor, rival: Tensor | None, gradient: bool) -> ModelOutput:
        x = x.detach()
        if not gradient:
            with torch.no_grad():
                logits = self._target(x)
                loss = self._loss(logits, target_class, self._targeted, rival).to(x.dtype)
            return ModelOutput(x, logits, loss, torch.zeros_like(x), torch.zeros_like(target_class, dtype=torch.bool))
        with torch.enable_grad():
            x.requires_grad_()
            logits = self._target(x)
            loss = self._loss(logits, target_class, self._targeted, rival)
            # A model that cuts the graph has no gradient.
            one = torch.ones_like(loss)
            grad = torch.autograd.grad(loss, x, one, allow_unused=True)[0] if loss.requires_grad else None
        x = x.detach()
        grad = torch.zeros_like(x) if grad is None else grad
        steepest = grad.flatten(1).abs().amax(1)
        blind = ~((steepest > 0) & (steepest < torch.inf))
        if bool(blind.any()):
            grad = grad.nan_to_num(0.0, 0.0, 0.0)  # one value that is no number would spoil a whole L2 step
        return ModelOutput(x, logits.detach(), loss.detach().to(x.dtype), grad, blind)
