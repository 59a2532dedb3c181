"""Every attack of foolbox that looks for a perturbation in a ball, by its name there."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, ClassVar

from torch import Tensor

from robustbench_lite.attacking.interface import Problem
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.parameters import step_length
from robustbench_lite.core.threat import NORMS, Access

from ._foreign import Foreign, checked, defaults, environment, needs, pick

_REFUSED = {
    "BinarizationRefinementAttack": "it refines the starting points of another attack",
    "DatasetAttack": "it must be fed with other samples",
    "PointwiseAttack": "it is broken in foolbox 3.3: it has no distance",
    "SpatialAttack": "it rotates and shifts, so its results are in no ball",
}
_NUMBA = ("L0BrendelBethgeAttack", "L1BrendelBethgeAttack", "L2BrendelBethgeAttack", "LinfinityBrendelBethgeAttack")
_BY_LABELS = (
    "additive_noise",
    "blended_noise",
    "blur",
    "boundary_attack",
    "contrast",
    "contrast_min",
    "hop_skip_jump",
    "inversion",
    "saltandpepper",
)
_BY_SCORES = ("gen_attack",)
"""foolbox's modules whose attacks see no gradients."""
_STRONG: dict[str, dict[str, Any]] = {
    # Its own rule keeps the example of the best mixture of L1 and L2, and its 9 times 10,000 steps gain hardly more.
    "EADAttack": {"decision_rule": "L1", "steps": 1000},
    "VirtualAdversarialAttack": {"steps": 10},
}
_SET_BY_US = dict.fromkeys(("distance", "constraint"), "the threat model's norm")
_DISTANCES = {"L0": "l0", "L1": "l1", "L2": "l2", "Linf": "linf"}


class FoolboxAttack(Foreign):
    """One of foolbox's attacks, https://github.com/bethgelab/foolbox."""

    library: ClassVar[str] = "foolbox"

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        return _norms(self.source)

    @property
    def access(self) -> Access:  # type: ignore[override]
        module = self.source.__module__.rpartition(".")[2]
        return "labels" if module in _BY_LABELS else "scores" if module in _BY_SCORES else "gradients"

    @property
    def minimal(self) -> bool:  # type: ignore[override]
        return issubclass(self.source, _library().attacks.base.MinimizationAttack)

    def generate(self, problem: Problem, classes: int) -> Tensor:
        foolbox = _library()
        model = foolbox.PyTorchModel(problem.model.eval(), bounds=(0, 1), device=problem.x.device)
        criteria = foolbox.criteria
        goal = criteria.TargetedMisclassification if problem.targeted else criteria.Misclassification
        attack = self.source(**self.given, **self._settings(problem.threat.norm))
        limit = {} if self.minimal else {"epsilon": problem.threat.eps}
        # Not `attack(...)`: it would spend a pass on judging the result, which the engine does.
        found: Tensor = attack.run(model, problem.x, goal(problem.target_class), **limit)
        return found

    def _settings(self, norm: str) -> dict[str, Any]:
        """What the constructor is told of the norm, where it asks."""
        name = _DISTANCES[norm]
        told = {"constraint": name, "distance": getattr(_library().distances, name)}
        return {key: value for key, value in told.items() if key in defaults(self.source)}


def find(name: str) -> Callable[..., FoolboxAttack]:
    """What makes an attack of foolbox, from the parameters of its constructor.

    Parameters
    ----------
    name
        Its class in ``foolbox.attacks``, such as ``L2DeepFoolAttack``, or one of foolbox's own short names (``FGSM``).

    Raises
    ------
    ValueError
        For an unknown name, for an attack that can't be run here, and where foolbox isn't installed.
    """
    return partial(_make, pick("foolbox", name, _classes(), _refused()))


def names() -> dict[str, tuple[str, ...]]:
    """Names of the attacks that can be run under our norms, each with its norms."""
    found = {source.__name__: _norms(source) for name, source in _classes().items() if name not in _refused()}
    return {name: norms for name, norms in sorted(found.items()) if set(norms) & set(NORMS)}


def _make(source: type, **params: Any) -> FoolboxAttack:
    strong = _strong(source, params)
    given = strong | checked(defaults(source) | strong, _SET_BY_US, params)
    if isinstance(given.get("init_attack"), str):  # so that a suite's file can name one
        given["init_attack"] = pick("foolbox", given["init_attack"], _classes(), _refused())()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "At the first initialisation", UserWarning)  # numba compiles it
            source(**given)
    except Exception as fault:  # told now, where the suite is read; some are assertions
        raise UserError(f"foolbox refuses {given}: {type(fault).__name__}: {fault}") from fault
    return FoolboxAttack(source=source, given=given)


def _strong(source: type, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters for which foolbox's default is weak, or missing."""
    known = defaults(source)
    if source.__name__ in _STRONG:
        return _STRONG[source.__name__]
    if "rel_stepsize" in known and params.get("abs_stepsize") is None:
        # foolbox's is a fixed share of eps: fewer steps than its default number don't cross the ball.
        return {"rel_stepsize": step_length(None, 1.0, max(1, params.get("steps", known["steps"])))}
    return {}


def _norms(source: type) -> tuple[str, ...]:
    if "constraint" in defaults(source):
        return ("Linf", "L2")
    if "distance" in defaults(source):
        return NORMS
    # Of most it stands on the class: to make one may take a minute, where numba compiles it.
    distance = source.__dict__.get("distance") or source(**_strong(source, {})).distance
    return tuple(norm for norm, name in _DISTANCES.items() if distance is getattr(_library().distances, name))


def _refused() -> dict[str, str]:
    return _REFUSED | ({} if find_spec("numba") else dict.fromkeys(_NUMBA, needs("numba", "foolbox")))


@cache
def _classes() -> dict[str, type]:
    """Attacks by name, short names included."""
    attacks = _library().attacks
    kinds = (attacks.base.FixedEpsilonAttack, attacks.base.MinimizationAttack)
    return {name: kind for name, kind in vars(attacks).items() if isinstance(kind, type) and issubclass(kind, kinds)}


@cache
def _library() -> Any:
    # GitPython, which foolbox loads, raises where there is no git executable, unless told not to.
    quiet = {"GIT_PYTHON_REFRESH": os.environ.get("GIT_PYTHON_REFRESH", "quiet")}
    with environment(**quiet), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
        try:
            return importlib.import_module("foolbox")
        except ImportError as fault:
            raise UserError(f"foolbox can't be imported ({fault}): install it with `pip install foolbox`") from fault
