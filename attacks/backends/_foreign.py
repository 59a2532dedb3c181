"""What the adapters share: another library's attack as a stepper, and its habits kept from the user's session."""

from __future__ import annotations

import inspect
import os
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.errors import UserError, out_of_memory
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.registry import unknown
from robustbench_lite.core.threat import Access


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class Foreign(Attack):
    """An attack of another library: its whole loop is one step, its result the one candidate.

    The library sees the model through ``problem.model``, where passes are counted. Whatever it claims, the engine
    brings the result into the ball (unless `minimal`) and the box, and asks the model again.

    Its random draws come from the global generators, seeded from the samples of the batch: a rerun draws the same, but,
    other than with our own attacks, the draws of a sample depend on the batch it is in.
    """

    library: ClassVar[str]
    gradients: ClassVar[bool] = False  # it asks for its own
    knows_columns: ClassVar[bool] = False

    source: type
    """The library's class."""
    given: Mapping[str, Any]
    """Parameters of its constructor that differ from the library's defaults."""

    @property
    @abstractmethod
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]  # known for each attack, not for all of the library
        """Norms it can be run under."""

    @property
    @abstractmethod
    def access(self) -> Access:  # type: ignore[override]
        """What it must see of the target."""

    @property
    @abstractmethod
    def minimal(self) -> bool:  # type: ignore[override]
        """Whether it looks for the smallest perturbation."""

    @abstractmethod
    def generate(self, problem: Problem, classes: int) -> Tensor:
        """Run the library's loop, for a model of so many classes; its adversarial inputs, shape (B, *shape)."""

    @property
    def label(self) -> str:
        """Its name in the registry."""
        return f"{self.library}:{self.source.__name__}"

    @property
    def steps(self) -> int:
        return 1

    def init(self, problem: Problem) -> State:
        return State(problem.x)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        size = len(problem.x)
        while True:
            try:
                parts = [self._part(problem, slice(at, at + size), output) for at in range(0, len(problem.x), size)]
                return State(torch.cat(parts))
            except UserError:
                raise
            except Exception as fault:
                if size == 1 or not out_of_memory(fault):
                    raise UserError(self._failure(problem, fault)) from fault
            size //= 2  # out here the failed attempt's tensors, which its traceback held, are freed

    def _part(self, problem: Problem, rows: slice, output: ModelOutput) -> Tensor:
        keys = problem.noise.keys[rows]
        fields = {name: getattr(problem, name)[rows] for name in ("x", "y", "target_class", "step")}
        # ART runs on the current GPU; -1 is none.
        with torch.cuda.device(keys.device.index if keys.is_cuda else -1), seeded(keys), torch.enable_grad():
            found = self.generate(replace(problem, noise=Noise(keys), **fields), output.logits.shape[1])
        if found.shape != fields["x"].shape:
            raise ValueError(f"it returned shape {tuple(found.shape)} for inputs of {tuple(fields['x'].shape)}")
        return found.detach().to(problem.x)

    def _failure(self, problem: Problem, fault: Exception) -> str:
        known = ", ".join(self.params()) or "it has none"
        return (
            f"{self.label} broke off under {problem.threat} on {len(problem.x)} inputs of shape "
            f"{tuple(problem.x.shape[1:])}: {type(fault).__name__}: {fault}. Check its parameters ({known}) and "
            f"whether it does {problem.threat.goal} goals, or leave it out"
        )

    def params(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in {**defaults(self.source), **self.given}.items()}


def defaults(source: type) -> dict[str, Any]:
    """Parameters of a library's constructor by name; `inspect.Parameter.empty` for one that must be given."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: item.default for name, item in inspect.signature(source).parameters.items() if item.kind in named}


def checked(known: Mapping[str, Any], ours: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as the constructor takes them; a text such as ``2/255`` becomes a number.

    Parameters
    ----------
    known
        The constructor's defaults.
    ours
        Parameters that are not the user's to give, with the reason.
    given
        What the user gave.

    Raises
    ------
    ValueError
        For a parameter that is unknown, missing, or not the user's to give.
    """
    open_to_user = [name for name in known if name not in ours]
    for name in given:
        if name in ours and name in known:
            raise UserError(f"parameter {name!r} can't be given: it is set from {ours[name]}")
        if name not in open_to_user:
            raise UserError(f"{unknown('parameter', name, open_to_user)}; it takes {', '.join(open_to_user) or 'none'}")
    for name in open_to_user:
        if known[name] is inspect.Parameter.empty and name not in given:
            raise UserError(f"parameter {name!r} must be given")
    return {name: _number(value) for name, value in given.items()}


def _number(value: Any) -> Any:
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError):
            return value
    return value


def _plain(value: Any) -> Any:
    """A value that a scorecard can hold."""
    return value if value is None or isinstance(value, str | bool | int | float | list | tuple | dict) else repr(value)


@contextmanager
def seeded(keys: Tensor) -> Iterator[None]:
    """Seed the global generators (Python's, numpy's, torch's) from keys, shape (B,); outside they are as they were.

    Keys on a GPU must be on the current one.
    """
    seed = int(keys.sum()) % 2**32
    cuda = [keys.device] if keys.device.type == "cuda" else []
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=cuda), replaced(np.random, "RandomState", _SeededRandomState):
        try:
            random.seed(seed)
            np.random.seed(seed)
            # Not `torch.manual_seed`: it reseeds the other GPUs as well, whose states weren't kept.
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


class _SeededRandomState(np.random.RandomState):
    """One that is made without a seed takes it from the global generator, not from the operating system."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(np.random.randint(2**32, dtype=np.uint32) if seed is None else seed)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute inside; outside the one that was there."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables inside; outside they are as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def pick(library: str, name: str, classes: Mapping[str, type], refused: Mapping[str, str]) -> type:
    """A library's class by name.

    Raises
    ------
    ValueError
        For a name that is unknown, with the nearest ones, or refused, with the reason.
    """
    if name in refused:
        raise UserError(f"{library}:{name} can't be run here: {refused[name]}")
    if name not in classes:
        raise UserError(f"{library}: {unknown('attack', name, classes)}")
    return classes[name]


def needs(package: str, library: str) -> str:
    """Why an attack is refused that needs a package which its library doesn't declare."""
    return f"it needs the package {package}, which {library} doesn't declare; install it with `pip install {package}`"
