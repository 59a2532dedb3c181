"""Batches in the sizes that a module takes: exported ones may take a single size, compiled ones should see few."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Answer = Callable[[Tensor], Tensor]
"""Inputs, (n, *shape), to rows of logits, (n, K)."""

FEW = (8, 32, 128, 512)
"""Sizes that a compiled module is asked with: for each new one it may be compiled anew."""
_TRIED = (1, 2, 4, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256, 512)
_MOST_VALUES = 2**26  # of a batch that is only tried


class Batching:
    """The sizes of batch that a module is asked with. Smaller batches are filled with copies of their last sample."""

    def __init__(self, few: bool = False) -> None:
        self.sizes: tuple[int, ...] = FEW if few else ()
        """The only sizes that the module is asked with, ascending; empty where it takes any."""
        self.few = few
        self.fixed: int | None = None
        """The only size that the module takes."""
        self.least = 1
        """The smallest size that the module takes."""
        self.fault = ""
        """What it raised on smaller ones."""
        self.calls: Counter[int] = Counter()
        """How often the module was asked, by size of batch: what the answers cost, with all that was filled in."""

    def notes(self) -> Iterator[str]:
        """What is done to the batches, a line each."""
        if self.fixed is not None:
            yield f"it takes batches of {self.fixed} and no others: all are cut and filled to that size"
        elif self.few:
            yield f"it is compiled: batches are filled to {', '.join(map(str, FEW))}, so that few are compiled for"
        elif self.sizes:
            yield f"it takes batches of {', '.join(map(str, self.sizes))} and not of others: all are filled to these"

    def ask(self, answer: Answer, x: Tensor) -> Tensor:
        """Answer a batch, (n, *shape), in the sizes that the module takes."""
        size = self._size(len(x))
        if len(x) == size:
            return self._counted(answer, x)
        if len(x) < size:
            return self._counted(answer, filled(x, size))[: len(x)]
        return torch.cat([self.ask(answer, part) for part in torch.split(x, size)])

    def _counted(self, answer: Answer, x: Tensor) -> Tensor:
        found = answer(x)
        self.calls[len(x)] += 1
        return found

    def _size(self, samples: int) -> int:
        if self.fixed is not None:
            return self.fixed
        if self.sizes:
            return next((size for size in self.sizes if size >= samples), self.sizes[-1])
        return max(samples, self.least)

    def mend(self, answer: Answer, x: Tensor, fault: BaseException) -> bool:
        """Look for a size with which a batch that has failed is answered; return whether there is one.

        Where larger batches were answered before, the smallest of these sizes is tried; where none was, and the batch
        is a first try of one or two samples, the module may take a single size, some sizes, or those from one on. A
        fault that doesn't come again when the same batch is asked about again is none of sizes.
        """
        size = self._size(len(x))
        larger = sorted(known for known in self.calls if known > size)
        if larger:
            if not _answers(answer, x, larger[0]) or _answers(answer, x, size):
                return False
            self.least, self.fault = larger[0], str(fault).partition("\n")[0]
            return True
        if self.calls or len(x) > 2:
            return False
        named = [int(one) for one in re.findall(r"\b[1-9]\d{0,3}\b", str(fault))]
        answered = [one for one in dict.fromkeys([*named, *_TRIED]) if one != size and _answers(answer, x, one)]
        if not answered or _answers(answer, x, size):
            return False
        if len(answered) == 1:
            self.fixed = answered[0]
        elif set(answered) >= {one for one in _TRIED if min(answered) < one <= max(answered)}:
            self.least, self.fault = min(answered), str(fault).partition("\n")[0]
        else:
            self.sizes = tuple(sorted(answered))
        return True


def filled(x: Tensor, size: int) -> Tensor:
    """Fill a batch with copies of its last sample, which take no gradient."""
    return torch.cat([x, x[-1:].detach().expand(size - len(x), *x.shape[1:])])


def _answers(answer: Answer, x: Tensor, size: int) -> bool:
    """Whether a batch is answered when it is cut or filled to a size."""
    if size * x[:1].numel() > _MOST_VALUES:
        return False
    try:
        with torch.no_grad():
            answer(x[:size] if len(x) >= size else filled(x, size))
    except Exception:  # whatever the module raises: it doesn't take this size
        return False
    return True
