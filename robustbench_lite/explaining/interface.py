"""What a method of explanation is: inputs and a target in, a number for each value of the inputs out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.threat import Access
from robustbench_lite.model.target import Target


class Asked:
    """A target that counts what it is asked: samples forward and backward.

    Parameters
    ----------
    target
        Answers inputs in [0, 1], (N, *shape), with logits, (N, K).
    batch_size
        Most inputs that a method should ask about at once.
    """

    def __init__(self, target: Target, batch_size: int = 128) -> None:
        self.target, self.batch_size, self.passes = target, batch_size, Passes()

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.target(x)
        self.passes += Passes(forward=len(x))
        if logits.requires_grad:
            logits.register_hook(self._backward)  # type: ignore[no-untyped-call]
        return logits

    def _backward(self, grad: Tensor) -> None:
        self.passes += Passes(backward=len(grad))

    def scores(self, x: Tensor) -> Tensor:
        """Probabilities, (N, K), which a method that sees no gradient explains; asked for in batches."""
        with torch.no_grad():
            return probabilities(torch.cat([self(part) for part in torch.split(x, self.batch_size)]))


def probabilities(logits: Tensor) -> Tensor:
    """Probabilities of logits, (N, K). What are some already, as a black box may give, stay as they are."""
    known = bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all())
    return logits if known else logits.softmax(1)


class Explainer(ABC):
    """A method of explanation: a frozen, keyword-only dataclass, one field a parameter.

    An entry of the catalogue ``explanations`` names one. Its docstring says what it is, with the paper's address.
    """

    library: ClassVar[str | None] = None
    """Package that it is imported from; None where it needs none."""
    access: ClassVar[Access] = "gradients"
    """What it must see of the target."""

    @property
    @abstractmethod
    def passes(self) -> Passes:
        """What a sample costs at most."""

    def unfit(self, target: Target, shape: tuple[int, ...]) -> str | None:
        """Why it can't explain this target on inputs of this shape, to go on with after its name; None where it can."""
        return None

    @abstractmethod
    def attribute(self, asked: Asked, x: Tensor, classes: Tensor, seed: int) -> Tensor:
        """Say how much each value of the inputs speaks for a class.

        Parameters
        ----------
        asked
            The target, in evaluation mode, its parameters frozen.
        x
            Inputs in [0, 1], (N, *shape), where the target is.
        classes
            The class that is explained of each, (N,), int64.
        seed
            Of random draws, which are the same for every input, so that two inputs can be compared.

        Returns
        -------
        Tensor
            (N, *shape), or (N, 1, H, W) of one that doesn't tell channels apart. Above 0: speaks for the class.
        """
