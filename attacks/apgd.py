"""Auto-PGD: projected gradient ascent that chooses its step size itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import Objective
from robustbench_lite.core.parameters import PositiveInt, Share

from ._auto_pgd import State, begin, climb, refuse_repeats


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Gradient ascent with momentum that halves its step at checkpoints where the loss has not grown as it should.

    The checkpoints come sooner and sooner. Where the step is halved, the climb goes on from the best point so far.

    In L1 a step changes the values with the largest gradients alone, and fewer of them as the best perturbation gets
    sparser. By default, other than in the paper, values that can't move are left out, what rounding left of a change is
    not counted, and the number of values is rounded down, so that it comes to one: on linear models it is within 2 % of
    the optimum, of which the paper's form, ``form = "published"``, falls short by up to 20 %. In Linf and L2 the two
    forms are one. The larger radii that AutoAttack starts with in L1 are no part of either.

    References
    ----------
    Croce and Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks*,
    ICML 2020. https://arxiv.org/abs/2003.01690. In L1: Croce and Hein, *Mind the box: l1-APGD for sparse adversarial
    attacks on image classifiers*, ICML 2021, https://arxiv.org/abs/2103.01208
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01690"
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    published: ClassVar[Mapping[str, Any]] = {"form": "published"}

    steps: PositiveInt = 100
    """Number of steps; the checkpoints follow from it."""
    restarts: PositiveInt = 1
    """Starts for each sample; a further one is made only where the sample still stands."""
    loss: Objective = "cross_entropy"
    """Objective to climb: ``cross_entropy``, ``dlr``, ``margin``, ``probability_margin`` or, in Python, a function."""
    random_start: bool = True
    """Start from a uniform draw of the ball rather than from the input."""
    rho: Share = 0.75
    """Share of the steps since the last checkpoint that must have raised the loss, or the step size is halved."""
    form: Literal["free", "published"] = "free"
    """In L1. ``free``: a step changes the values that can move alone. ``published``: it is the paper's."""

    def __post_init__(self) -> None:
        refuse_repeats(self.restarts, self.random_start)

    def init(self, problem: Problem) -> State:
        return begin(
            problem, problem.noise if self.random_start else None, problem.target_class.new_empty(len(problem.x), 0)
        )

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        return climb(problem, state, output, problem.step, self.steps, self.rho, self.form == "published")
