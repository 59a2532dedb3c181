"""What an attack is: a stepper, like an optimiser. The engine owns the loop around it.

`Attack.init` proposes a first candidate for each sample, `Attack.step` the next, from what the model said to the last.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from robustbench_lite.core.columns import Columns
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.losses import Objective, success
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import project
from robustbench_lite.core.threat import Access, ThreatModel
from robustbench_lite.model.target import Target
from robustbench_lite.results.taxonomy import MadeOn


class State(Protocol):
    """What an attack remembers of each sample: a NamedTuple of tensors, the batch dimension first in every one."""

    @property
    def x(self) -> Tensor:
        """The candidate that the model is asked about next, shape (B, *shape)."""


class ModelOutput(NamedTuple):
    """What the model said to the candidates."""

    x: Tensor
    """The candidates, brought into the box and, of a confined attack, into the ball, shape (B, *shape)."""
    logits: Tensor
    """Shape (B, K)."""
    loss: Tensor
    """The attack's loss, larger is nearer to the goal, shape (B,)."""
    grad: Tensor
    """Gradient of the loss with respect to the candidates, shape (B, *shape); zeros where none was asked for. What is
    not a number in it is 0."""
    blind: Tensor
    """Whether the gradient was zero throughout or held what is no number, shape (B,)."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What an attack may know about its batch."""

    x: Tensor
    """The originals, in [0, 1], shape (B, *shape)."""
    y: Tensor
    """True labels, shape (B,)."""
    target_class: Tensor
    """The class that the goal is about: the label to leave, or the class to reach, shape (B,)."""
    sample_keys: Tensor
    """Key of each sample: a hash of its input and label, int64, shape (B,)."""
    step: Tensor
    """Steps already taken for each sample, shape (B,); after a refill they differ."""
    noise: Noise
    """Random draws of each sample and restart; ``noise.at(problem.step)`` for those of a step."""
    threat: ThreatModel
    model: Counted
    """The target, for an attack that runs a loop of its own: every pass through it is counted."""
    columns: Columns | None = None
    """Of a table: what may be done to them."""

    @property
    def targeted(self) -> bool:
        """Whether the target class is to be reached, rather than left."""
        return self.threat.goal == "targeted"

    @property
    def aim(self) -> Tensor:
        """The name of ``target_class`` in version 0.1."""
        warnings.warn("Problem.aim is now Problem.target_class", DeprecationWarning, stacklevel=2)
        return self.target_class

    def success(self, output: ModelOutput) -> Tensor:
        """Whether the predictions are what the adversary wants, shape (B,); logits that are not finite never are.

        An attack may steer by it. What counts in the end the engine decides (see `confirm`).
        """
        return success(output.logits, self.target_class, self.targeted)

    def project(self, x: Tensor, radius: Tensor | None = None) -> Tensor:
        """Bring candidates into the box and the ball, or one of another radius for each, shape (B,)."""
        return project(x, self.x, self.threat.norm, self.threat.eps if radius is None else radius, self.columns)

    def allowed(self, x: Tensor) -> Tensor:
        """What the model is asked about in the place of candidates: themselves, or the nearest allowed rows."""
        return x if self.columns is None else self.columns.allowed(x, self.x)

    def straight_through(self, output: ModelOutput, x: Tensor) -> ModelOutput:
        """What the model said to allowed rows, as if it had been said to the candidates ``x``."""
        return output if self.columns is None else output._replace(x=x, grad=self.columns.slope(output.grad))


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """One algorithm with its parameters: two pure functions over a batch.

    Subclass it as a frozen (pydantic) dataclass, one field a parameter. The engine brings every candidate into the box,
    and into the ball where the attack is `confined`, before the model sees it; so an attack doesn't.
    """

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")
    """Norms it can be run under."""
    paper: ClassVar[str] = ""
    """URL of its source."""
    published: ClassVar[Mapping[str, Any]] = {}
    """Parameters with which it is the paper's own algorithm, where its defaults differ; the listing tells them."""
    access: ClassVar[Access] = "gradients"
    """What it must see of the target: its gradients, its scores, or its labels alone."""
    made_on: ClassVar[MadeOn] = "target"
    """What its examples are made on; those made elsewhere are only tried on the target."""
    gradients: ClassVar[bool] = True
    """Whether the engine is to compute the gradient of its loss at every candidate."""
    knows_columns: ClassVar[bool] = True
    """Whether the engine asks the model for it, so that it is told what becomes of its candidates in a table where some
    columns are fixed or hold whole numbers. False: it has a loop of its own, and is left out there."""
    minimal: ClassVar[bool] = False
    """Whether it looks for the smallest perturbation, and not for the highest loss in the ball."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "hopeless" in vars(cls):  # its name in version 0.1
            warnings.warn(f"{cls.__name__}.hopeless is now gave_up: rename it", DeprecationWarning, stacklevel=2)
            cls.gave_up = cls.hopeless  # type: ignore[method-assign, attr-defined]

    @property
    def confined(self) -> bool:
        """Whether the engine keeps its candidates in the ball; otherwise in the box alone.

        Of those out of the ball, none counts.
        """
        return not self.minimal

    @property
    @abstractmethod
    def steps(self) -> int:
        """How often `step` is called for a sample; the model sees ``steps + 1`` candidates."""

    @property
    def loss(self) -> Objective:
        """The objective: what it climbs, by a name of `losses.LOSSES` or as a callable; a field where a parameter."""
        return "cross_entropy"

    @property
    def restarts(self) -> int:
        """How often it is started on a sample that still stands; a field where it is a parameter."""
        return 1

    @abstractmethod
    def init(self, problem: Problem) -> State:
        """Propose the first candidates."""

    @abstractmethod
    def step(self, problem: Problem, state: Any, output: ModelOutput) -> State:
        """Propose the next candidates from what the model said to the last ones."""

    @property
    def passes(self) -> Passes:
        """What a sample costs that withstands it: an upper bound, as broken ones leave early."""
        looks = self.restarts * (self.steps + 1)
        return Passes(forward=looks, backward=self.restarts * self.steps * self.gradients)

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        """What it expects in place of inputs of this shape or of this threat model; None where it can be run."""
        return None

    def misfit(self, shape: tuple[int, ...], threat: ThreatModel, columns: Columns | None) -> str | None:
        """Why it can't be run on samples of this shape, of a table with these columns; None where it can."""
        if columns is not None and not self.knows_columns:
            return (
                "asks the model in a loop of its own, which knows nothing of columns that are fixed or hold whole "
                "numbers"
            )
        return self.unfit(shape, threat)

    def rival(self, problem: Problem, state: Any) -> Tensor | None:
        """The class for which the candidates are to leave ``problem.target_class``, shape (B,); None: any other."""
        return None

    def gave_up(self, problem: Problem, state: Any) -> Tensor | None:
        """Whether it gives a sample up before its last step, shape (B,); None: none."""
        return None

    def params(self) -> dict[str, Any]:
        """Parameters by name, defaults included; a callable by its module and name."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: _told(value) if callable(value) else value for name, value in given.items()}


def _told(function: Any) -> str:
    home, name = getattr(function, "__module__", None), getattr(function, "__qualname__", type(function).__qualname__)
    return f"{home}:{name}" if home else name


class Counted(nn.Module):
    """The target, counting every sample that goes through it, forward and backward."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        self._passes = [0, 0]  # a list: a module is slow to set its attributes

    def forward(self, x: Tensor) -> Tensor:
        self.count(forward=len(x))
        return self._target(_CountBackward.apply(x, self) if x.requires_grad else x)

    def count(self, forward: int = 0, backward: int = 0) -> None:
        """Add passes."""
        self._passes[0] += forward
        self._passes[1] += backward

    def take(self) -> Passes:
        """Passes since the last call."""
        spent = Passes(forward=self._passes[0], backward=self._passes[1])
        self._passes[:] = 0, 0
        return spent


class _CountBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counted: Counted) -> Tensor:
        ctx.counted = counted
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.counted.count(backward=len(grad))
        return grad, None
