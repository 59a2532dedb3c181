"""Models that are no PyTorch module: a function of arrays, of which nothing is seen but what it returns."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import Access
from robustbench_lite.model.fingerprint import is_users


class BlackBox(nn.Module):
    """A function as a module: the engine sees its scores or its labels, and no gradient comes through it.

    Parameters
    ----------
    function
        Takes a float32 numpy array in [0, 1], (N, C, H, W), which is its own to write to. Returns the scores (logits or
        probabilities) as floats, (N, K), or the predicted classes as integers from 0, (N,): as an array, a tensor, or
        nested lists.
    name
        What errors call it.
    classes
        K; None until `expect` tells it, which only labels need.
    access
        ``scores`` or ``labels``; None until the first call shows it. With ``labels``, of scores only the largest is
        seen.
    """

    def __init__(
        self, function: Callable[..., Any], *, name: str, classes: int | None = None, access: Access | None = None
    ) -> None:
        super().__init__()
        self.function, self.name, self.access = function, name, access
        self.given = self.classes = classes

    def expect(self, classes: int) -> None:
        """Take K from the data, where none was given."""
        self.classes = self.given or max(2, classes)

    def train(self, mode: bool = True) -> BlackBox:
        """Refuse to be trained: there is nothing in it that could be."""
        if mode:
            raise UserError(f"{self.name} is a function of arrays and can't be trained: give a torch.nn.Module")
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Scores, or labels as scores of 0 and 1, (N, K), of inputs (N, C, H, W)."""
        found = _array(self.function(x.detach().cpu().numpy()))
        told = f"{self.name}: returned {found.dtype} of shape {found.shape} for {len(x)} inputs"
        labels = found.dtype.kind in "biu" and found.shape == (len(x),)
        if not labels and (found.dtype.kind != "f" or found.ndim != 2 or len(found) != len(x)):
            raise UserError(
                f"{told}: expected the scores as floats, ({len(x)}, K), or the classes as integers from 0, ({len(x)},)"
            )
        if labels and self.access == "scores":
            raise UserError(f"{told}: these are labels, not scores; give access='labels'")
        if not labels and self.given and found.shape[1] != self.given:
            raise UserError(f"{told}: expected {self.given} columns, as it has {self.given} classes")
        self.access = self.access or ("labels" if labels else "scores")
        scores = self._one_hot(found.astype(np.int64), told) if labels else torch.from_numpy(found)
        if not labels and self.access == "labels":
            finite = scores.isfinite().all(1, keepdim=True)
            largest = nn.functional.one_hot(scores.argmax(1), scores.shape[1]).to(scores)
            scores = torch.where(finite, largest, torch.nan)
        return scores.to(x.device)

    def _one_hot(self, labels: NDArray[np.int64], told: str) -> Tensor:
        if self.classes is None:
            raise UserError(f"{told}: these are labels, which don't tell how many classes there are; give classes")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
            wrong = labels[(labels < 0) | (labels >= self.classes)][0]
            raise UserError(
                f"{told}: label {wrong} is none of the {self.classes} classes; number them from 0"
                + ("" if self.given else ", and give classes where the data don't show all of them")
            )
        return nn.functional.one_hot(torch.from_numpy(labels), self.classes).float()


def _array(found: Any) -> NDArray[Any]:
    """Copy what a function returned: it may be read-only, or a buffer that the next call overwrites."""
    if isinstance(found, Tensor):
        found = found.detach().cpu()
        found = (found.float() if found.dtype == torch.bfloat16 else found).numpy()
    array = np.array(found)
    return array.astype(np.float64) if array.dtype == np.longdouble else array


def state_sha256(function: Callable[..., Any]) -> str:
    """Hash of what a function holds and refers to, down to the globals that it reads; empty where some can't be read.

    Whatever can be pickled can be read: arrays, scikit-learn's models, boosters. Sessions and handles of other runtimes
    can't. What it reads when it runs (a file, a service) isn't seen.
    """
    reader = _Reader(digest := _Digest())
    try:
        reader.dump(function)
    except Exception:  # an object may answer anything to being pickled
        return ""
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in sorted(reader.packages)}
    digest.write(repr(versions).encode())
    return digest.sha256.hexdigest()


class _Digest:
    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.sha256.update(data)


def _told(*_: Any) -> None:
    """Stand in a stream that is never read back."""


class _Reader(pickle.Pickler):
    """Pickles, to be hashed. Pickle only names functions, classes and modules: here the user's own are read as well."""

    def __init__(self, stream: _Digest) -> None:
        super().__init__(stream, protocol=5)
        self.packages: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):  # pickled, it would tell where in memory it is
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            return _told, (str(value.dtype), tuple(value.shape), data)
        if isinstance(value, CodeType):
            return _told, (value.co_code, value.co_names, value.co_consts)
        if isinstance(value, ModuleType):
            self.packages.add(value.__name__.partition(".")[0])
            return _told, (value.__name__,)
        if not isinstance(value, FunctionType | type):
            return NotImplemented
        if not _is_own(value.__module__) and "<" not in value.__qualname__:
            self.packages.add(value.__module__.partition(".")[0])
            return NotImplemented
        # As a state, which is read once the object itself is known: functions and classes refer to one another.
        return _told, (value.__qualname__,), _function(value) if isinstance(value, FunctionType) else _class(value)


def _function(function: FunctionType) -> dict[str, Any]:
    names = set(_names(function.__code__))
    # A module may be imported within the function.
    scope = {name: sys.modules[name] for name in names if name in sys.modules and _is_own(name)} | function.__globals__
    return {
        "code": function.__code__,
        "defaults": (function.__defaults__, function.__kwdefaults__),
        "cells": [cell.cell_contents for cell in function.__closure__ or ()],
        "globals": dict(_referred(names, scope)),
        "attributes": vars(function),
    }


def _class(kind: type) -> dict[str, Any]:
    members = {}
    for name, value in sorted(vars(kind).items()):
        function = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        if isinstance(function, FunctionType) or not (name.startswith(("__", "_abc")) or hasattr(value, "__get__")):
            members[name] = function
    return {"bases": kind.__bases__, "members": members}


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _referred(names: set[str], scope: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Values of the names that some code uses, also of those that it takes from the user's own modules."""
    for name in sorted(names & scope.keys()):
        value = scope[name]
        if isinstance(value, ModuleType) and _is_own(value.__name__):
            yield from _referred(names, vars(value), f"{path}{name}.")
        else:
            yield path + name, value


def _is_own(module: str) -> bool:
    """Whether a module is the user's: its code may change without a change of version."""
    return module == "__main__" or is_users(module)
