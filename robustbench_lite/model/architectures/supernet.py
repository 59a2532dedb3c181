"""All cells in one network: on each edge the operations' weighted sum, so that the choice among them has a gradient.

Or one operation is drawn on each edge, and the gradient goes through its probability.

References
----------
Liu, Simonyan and Yang, *DARTS: differentiable architecture search*, ICLR 2019. https://arxiv.org/abs/1806.09055
Dong and Yang, *Searching for a robust neural architecture in four GPU hours* (GDAS), CVPR 2019.
https://arxiv.org/abs/1910.04465
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_lite.model.architectures.cells import CellNetwork, Cells, operation

_FIRST, _SECOND, _TINY = 0.5, 0.999, 1e-8  # of Adam, as the paper has them


class Choices(nn.Module):
    """The logits of each choice, with what Adam remembers of them.

    They are buffers: so no optimizer of the weights moves them, and a checkpoint of the network keeps them.
    """

    def __init__(self, options: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.options = {key: tuple(names) for key, names in options.items()}
        for key, names in self.options.items():
            for part in ("logits", "mean", "square"):
                self.register_buffer(f"{key}_{part}", torch.zeros(len(names)))
        self.register_buffer("steps", torch.zeros(()))
        self._noise: dict[str, Tensor] = {}

    def logits(self, key: str) -> Tensor:
        """Of a choice, one a name."""
        return self.get_buffer(f"{key}_logits")

    def probabilities(self) -> dict[str, list[float]]:
        """Of each choice, in the order of its options."""
        return {key: self.logits(key).softmax(0).tolist() for key in self.options}

    @contextmanager
    def drawn(self, seed: int) -> Iterator[None]:
        """Have one operation of each choice drawn by its probability inside, by Gumbel noise: always the same."""
        generator = torch.Generator().manual_seed(seed)
        for key in self.options:
            uniform = torch.rand(len(self.options[key]), generator=generator).clamp_min(_TINY)
            self._noise[key] = -(-uniform.log()).clamp_min(_TINY).log().to(self.logits(key).device)
        try:
            yield
        finally:
            self._noise.clear()

    @property
    def is_drawn(self) -> bool:
        """Whether one operation is drawn of each choice."""
        return bool(self._noise)

    def weights(self, key: str) -> Tensor:
        """Of a choice's operations: their probabilities, or 1 for the one that is drawn and 0 for the others.

        A gradient goes straight through to the probabilities that the noise leaves.
        """
        if key not in self._noise:
            return self.logits(key).softmax(0)
        soft = (self.logits(key).log_softmax(0) + self._noise[key]).softmax(0)
        return torch.zeros_like(soft).index_fill(0, soft.argmax(), 1.0) - soft.detach() + soft

    @contextmanager
    def followed(self) -> Iterator[list[Tensor]]:
        """Let gradients flow to the logits inside; hand them out, one a choice."""
        found = [self.logits(key) for key in self.options]
        for one in found:
            one.requires_grad_()
        try:
            yield found
        finally:
            for one in found:
                one.requires_grad_(False)

    @torch.no_grad()
    def descend(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take a step of Adam down a loss's gradients, one a choice."""
        steps = self.get_buffer("steps").add_(1)
        for key, gradient in zip(self.options, gradients, strict=True):
            mean, square = self.get_buffer(f"{key}_mean"), self.get_buffer(f"{key}_square")
            mean.lerp_(gradient, 1 - _FIRST)
            square.lerp_(gradient**2, 1 - _SECOND)
            scale = (square / (1 - _SECOND**steps)).sqrt() + _TINY
            self.logits(key).sub_(rate * mean / (1 - _FIRST**steps) / scale)


class Mixed(nn.Module):
    """An edge that is the sum of its operations, weighted by the softmax of their logits, or the one that is drawn."""

    def __init__(self, choices: Choices, key: str, operations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self._key, self._choices = key, (choices,)  # in a tuple, as they are no part of each edge

    def forward(self, x: Tensor) -> Tensor:
        """From (N, C, H, W) to the same shape."""
        weights = self._choices[0].weights(self._key)
        if self._choices[0].is_drawn:
            place = int(weights.argmax())
            drawn: Tensor = weights[place] * self.operations[place](x)
            return drawn
        return torch.stack([weight * one(x) for weight, one in zip(weights, self.operations, strict=True)]).sum(0)


class Supernet(nn.Module):
    """A network of cells whose edges are mixed; all cells share their choices.

    Parameters
    ----------
    sizes
        Its sizes, and the operations of the edges that aren't chosen.
    options
        Operations to choose from, by edge: ``edge_0_1``.
    """

    def __init__(self, sizes: Cells, options: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.choices = Choices(options)

        def edge(start: int, end: int, channels: int) -> nn.Module:
            key = f"edge_{start}_{end}"
            if key not in options:
                return operation(getattr(sizes, key), channels)
            return Mixed(self.choices, key, [operation(name, channels, affine=False) for name in options[key]])

        self.network = CellNetwork(sizes, edge)

    def forward(self, x: Tensor) -> Tensor:
        """From images (N, C, H, W) to logits (N, classes)."""
        logits: Tensor = self.network(x)
        return logits
