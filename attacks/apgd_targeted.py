"""Auto-PGD towards one class at a time, the most promising first."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.norms import per_sample
from robustbench_lite.core.parameters import PositiveInt, Share
from robustbench_lite.core.threat import ThreatModel

from ._auto_pgd import State, begin, climb, refuse_repeats
from ._rivals import NORMS, Ranking, ranked


@dataclass(frozen=True, kw_only=True)
class APGDTargeted(Attack):
    """Auto-PGD towards one rival class after another, the most promising first, to leave the label for it.

    A model with fewer other classes than ``targets`` is attacked through each of them once.

    References
    ----------
    Croce and Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks*,
    ICML 2020. https://arxiv.org/abs/2003.01690
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01690"
    norms: ClassVar[tuple[str, ...]] = NORMS

    targets: PositiveInt = 9
    """Most classes that are attacked, one after another."""
    iterations: PositiveInt = 100
    """Candidates for each class, the start among them; the checkpoints follow from it."""
    ranking: Ranking = "gap"
    """What promises most: the smallest difference of logits at the input; or the smallest one over the length of its
    gradient, how far the class would be were the model linear, at the cost of one backward pass for each of the
    ``2 * targets`` classes with the smallest differences."""
    restarts: PositiveInt = 1
    """Starts for each sample; a further one is made only where the sample still stands."""
    loss: Literal["dlr", "margin"] = "dlr"
    """Loss to climb for each class: ``dlr`` or ``margin``."""
    random_start: bool = True
    """Start for each class from a uniform draw of the ball rather than from the input."""
    rho: Share = 0.75
    """Share of the steps since the last checkpoint that must have raised the loss, or the step size is halved."""

    def __post_init__(self) -> None:
        refuse_repeats(self.restarts, self.random_start)

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        if threat.goal == "targeted":
            return "expected an untargeted threat model, as it chooses its classes itself; apgd does targeted ones"
        return None

    @property
    def steps(self) -> int:
        return self.targets * self.iterations

    @property
    def passes(self) -> Passes:
        backward = self.steps + 2 * self.targets * (self.ranking == "gap_over_gradient")
        return Passes(forward=self.restarts * (self.steps + 2), backward=self.restarts * backward)

    def init(self, problem: Problem) -> State:
        ranking = ranked(problem, self.targets, self.ranking)
        return begin(problem, problem.noise.at(0) if self.random_start else None, ranking)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        stage = self._stage(problem, state)
        done = problem.step - stage * self.iterations
        following = climb(problem, state, output, done, self.iterations, self.rho)
        over = (done + 1 == self.iterations) & (stage + 1 < state.ranking.shape[1])
        if not bool(over.any()):
            return following
        fresh = begin(problem, problem.noise.at(stage + 1) if self.random_start else None, state.ranking)
        return State(
            *(torch.where(per_sample(over, new), new, old) for new, old in zip(fresh, following, strict=True)),
        )

    def rival(self, problem: Problem, state: State) -> Tensor:
        return state.ranking.gather(1, self._stage(problem, state)[:, None])[:, 0]

    def gave_up(self, problem: Problem, state: State) -> Tensor:
        return problem.step >= state.ranking.shape[1] * self.iterations

    def _stage(self, problem: Problem, state: State) -> Tensor:
        """Place in the ranking of the class that is attacked, shape (B,); a run's last candidate is of the last one."""
        return (problem.step // self.iterations).clamp_max(state.ranking.shape[1] - 1)
