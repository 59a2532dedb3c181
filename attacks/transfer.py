"""Adversarial examples made on another model, tried on the target."""

from __future__ import annotations

from dataclasses import field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import NORMS, Access, ThreatModel
from robustbench_lite.model.loading import load_target
from robustbench_lite.model.target import Target, as_target
from robustbench_lite.results.taxonomy import MadeOn

_STRONG: dict[str, dict[str, Any]] = {"apgd": {"loss": "margin"}}
"""Parameters whose results carry over better than those of an attack's own defaults."""


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True, config=ConfigDict(arbitrary_types_allowed=True))
class Transfer(Attack):
    """Takes the last candidates of an attack on a surrogate, and asks the target what it says to them.

    All it takes from the target is that answer. The passes through the surrogate are not the target's, and are not
    counted. Several surrogates are several attacks of a suite.

    References
    ----------
    Papernot et al., *Transferability in machine learning*, 2016. https://arxiv.org/abs/1605.07277
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1605.07277"
    norms: ClassVar[tuple[str, ...]] = NORMS
    access: ClassVar[Access] = "labels"
    made_on: ClassVar[MadeOn] = "surrogate"
    gradients: ClassVar[bool] = False

    surrogate: str | nn.Module | Target
    """The other model, as `load_target` takes it; in Python a module or a `Target` as well. It is moved to the
    target's device."""
    weights: str | None = None
    """File of the surrogate's weights, where a text doesn't say it all."""
    normalize: str | None = None
    """The surrogate's normalisation, such as ``cifar10``; by default its own."""
    attack: str = "apgd"
    """Name of the attack on it: one that stays in the ball."""
    attack_params: dict[str, Any] = field(default_factory=dict)
    """Parameters of that attack; ``apgd`` climbs the margin unless they say otherwise."""

    def __post_init__(self) -> None:
        if not isinstance(self.surrogate, str) and (self.weights or self.normalize):
            raise ValueError("weights and normalize go with a surrogate's name; give a Target that has both")
        if not self._made.confined:
            raise ValueError(
                f"attack is {self.attack}, which leaves the ball: expected one that stays in it, as apgd does, or "
                "sprints with attack_params = { widest = 1 }"
            )
        # Loaded now: so its faults are told where the suite is read, and a cache knows its weights.
        _ = self._target

    @property
    def steps(self) -> int:
        return 1

    @property
    def restarts(self) -> int:
        return self._made.restarts

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        return "expected an untargeted threat model" if threat.goal == "targeted" else None

    def init(self, problem: Problem) -> State:
        threat = problem.threat
        if threat.norm not in self._made.norms:
            raise UserError(f"Transfer of {self.attack} under {threat}: it does {', '.join(self._made.norms)}")
        self._target.to(problem.x.device).probe(problem.x[:1])
        return State(problem.x)  # what the target says to it tells how many classes there are

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        surrogate, classes = self._target, output.logits.shape[1]
        if surrogate.classes != classes:
            raise UserError(
                f"the surrogate {surrogate.name} tells {surrogate.classes} classes apart, the target {classes}: "
                "give a surrogate that was trained on the same classes"
            )
        with surrogate.attacking():
            keys = problem.noise.keys
            x, y, threat = problem.x, problem.y, problem.threat
            return State(perturb(self._made, surrogate, x, y, threat, keys, columns=problem.columns))

    def params(self) -> dict[str, Any]:
        told = super().params() | {"attack_params": self._made.params()}
        if not isinstance(self.surrogate, str):
            told["surrogate"] = as_target(self.surrogate).name
        return told

    @cached_property
    def _made(self) -> Attack:
        found: Attack = registry.build("attacks", self.attack, _STRONG.get(self.attack, {}) | self.attack_params)
        return found

    @cached_property
    def _target(self) -> Target:
        if isinstance(self.surrogate, str):
            return load_target(self.surrogate, weights=self.weights, normalize=self.normalize)
        return as_target(self.surrogate)
