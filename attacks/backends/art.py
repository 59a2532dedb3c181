"""Every attack of the Adversarial Robustness Toolbox that looks for a perturbation in a ball, by its name there."""

from __future__ import annotations

import importlib
import logging.config
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attacking.interface import Problem
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.parameters import step_length
from robustbench_lite.core.threat import NORMS, Access

from ._foreign import Foreign, checked, defaults, environment, needs, pick, replaced

_NORMS_OF: dict[str, tuple[str, ...]] = {
    "BasicIterativeMethod": ("Linf",),
    "BoundaryAttack": ("L2",),
    "CarliniL2Method": ("L2",),
    "CarliniLInfMethod": ("Linf",),
    "DeepFool": ("L2",),
    "ElasticNet": ("L1",),
    "HopSkipJump": ("Linf", "L2"),
    "NewtonFool": ("L2",),
    "PixelAttack": ("L0",),
    "SaliencyMapMethod": ("L0",),
    "SignOPTAttack": ("L2",),
    "SimBA": ("L2",),
    "SquareAttack": ("Linf",),  # in L2, ART 1.20 divides by what it should multiply with: its steps are infinite
    "ThresholdAttack": ("Linf",),
    "VirtualAdversarialMethod": ("L2",),
    "ZooAttack": ("L2",),
}
"""The attacks that take no ``norm``, or do fewer than the others, and those they are made for."""

_REFUSED = {
    "CarliniL0Method": "in ART 1.20 it changes nearly every value; use foolbox:L0FMNAttack",
    "LowProFool": "it is for tables: it weighs features by their correlation with the label",
    "ProjectedGradientDescentTensorFlowV2": "it is for TensorFlow; use ProjectedGradientDescent",
    "TargetedUniversalPerturbation": "it makes one perturbation for all samples",
    "UniversalPerturbation": "it makes one perturbation for all samples",
    "Wasserstein": "its ball is one of the Wasserstein distance",
}
_UNDECLARED = {"AutoAttack": "multiprocess", "PixelAttack": "cma", "ThresholdAttack": "cma"}
_ELSEWHERE = "it makes a patch, a texture, a sound or a rotation, or it needs more than a classifier of images"

_STRONG: dict[str, dict[str, Any]] = {
    "CarliniL2Method": {"binary_search_steps": 6, "max_iter": 100, "initial_const": 1.0},
    # Even so it stops at 2.5 times the distance that foolbox's LInfFMNAttack finds on digits; use that one.
    "CarliniLInfMethod": {"max_iter": 100, "learning_rate": 0.05, "initial_const": 1.0, "const_factor": 4.0},
    "DeepFool": {"epsilon": 0.02},
    "ElasticNet": {"decision_rule": "L1"},
    "SaliencyMapMethod": {"theta": 1.0},  # as far as a value goes: in L0 the way is free
    "SimBA": {"batch_size": 1},  # it refuses any other
    "SquareAttack": {"max_iter": 1000},
    # Its importance sampling takes the wrong axis of a larger batch, and its resizing wants inputs of 32 x 32 or more.
    "ZooAttack": {"binary_search_steps": 3, "max_iter": 100, "batch_size": 1, "use_resize": False},
}
"""Used where the caller gives no value, because ART's own defaults are weak. A few more follow from the threat model
and the inputs, see `ArtAttack._settings`."""

_BY_LABELS = ("BoundaryAttack", "GeoDA", "HopSkipJump", "SignOPTAttack")
_TOWARDS = ("SaliencyMapMethod",)  # whatever the goal, the labels they are given are the classes to reach
_FOLLOWING = ("eps_step", "batch_size", "nb_parallel")
_PROBABILITIES = ("NewtonFool", "SimBA", "VirtualAdversarialMethod")  # they refuse logits
_SET_BY_US = {
    "classifier": "the target",
    "estimator": "the target",
    "norm": "the threat model",
    "eps": "the threat model",
    "targeted": "the threat model's goal",
    "verbose": "who shows progress",
}


class ArtAttack(Foreign):
    """One of ART's attacks, https://github.com/Trusted-AI/adversarial-robustness-toolbox."""

    library: ClassVar[str] = "art"

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        return _norms(self.source)

    @property
    def access(self) -> Access:  # type: ignore[override]
        # What it needs of ART's estimator is a part of each attack; only what it does with the scores isn't told.
        needed = {part.__name__ for part in self.source._estimator_requirements}  # type: ignore[attr-defined]
        if needed & {"LossGradientsMixin", "ClassGradientsMixin"}:
            return "gradients"
        return "labels" if self.source.__name__ in _BY_LABELS else "scores"

    @property
    def minimal(self) -> bool:  # type: ignore[override]
        return "eps" not in defaults(self.source)

    def generate(self, problem: Problem, classes: int) -> Tensor:
        known = defaults(self.source)
        towards = self.source.__name__ in _TOWARDS
        if problem.targeted and not towards and "targeted" not in known:
            raise UserError(f"{self.label} has no targeted form: it can't be run under {problem.threat}")
        model = Probabilities(problem.model) if self.source.__name__ in _PROBABILITIES else problem.model
        classifier = _library().estimators.classification.PyTorchClassifier(
            model=model,
            loss=nn.CrossEntropyLoss(reduction="sum"),  # a mean's gradients would shrink as the batch grows
            input_shape=tuple(problem.x.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if problem.x.is_cuda else "cpu",
        )
        attack = self.source(classifier, **self._settings(problem))
        target_class = _runner_up(problem) if towards and not problem.targeted else problem.target_class
        labels = np.eye(classes, dtype=np.float32)[target_class.cpu().numpy()]
        found: Tensor = torch.from_numpy(attack.generate(problem.x.cpu().numpy(), labels)).to(problem.x)
        return found if self.source.__name__ != "HopSkipJump" else _back(problem, found)

    def params(self) -> dict[str, Any]:
        found = {name: value for name, value in super().params().items() if name not in _SET_BY_US}
        return found | {name: self.given.get(name) for name in _FOLLOWING if name in found}

    def _settings(self, problem: Problem) -> dict[str, Any]:
        """Parameters of the constructor: what the threat model says, then strong defaults, then what the user gave."""
        known, threat = defaults(self.source), problem.threat
        steps = max(1, self.given.get("max_iter", known.get("max_iter", 25)))
        follows = {
            "norm": {"Linf": np.inf, "L2": 2, "L1": 1}.get(threat.norm),
            "eps": threat.eps,
            "targeted": threat.goal == "targeted",
            "verbose": False,
            # ART's 0.1 is longer than most radii. The adaptive ones halve it as they go, and start from their paper's.
            "eps_step": 2 * threat.eps if "nb_random_init" in known else step_length(None, threat.eps, steps),
            # ART's is 1 for many, whereas the engine already made the batches as large as they may be.
            "batch_size": max(len(problem.x), known.get("batch_size", 1)),
            # Coordinates drawn at a time, without replacement: not ART's 128 where there are hardly more.
            "nb_parallel": min(128, max(1, problem.x[0].numel() // 4)),
        }
        return {name: value for name, value in follows.items() if name in known} | dict(self.given)


@torch.no_grad()
def _back(problem: Problem, found: Tensor) -> Tensor:
    """Candidates brought back to the boundary on the straight way to the original, shape (B, *shape).

    ART's HopSkipJump ends with a step away from it, not with the search for it as the paper's does: after 50 iterations
    it is a seventh too far away.
    """
    way = found - problem.x
    far = torch.ones(len(way), *[1] * (way.ndim - 1), device=way.device)
    near = torch.zeros_like(far)
    for _ in range(10):
        middle = (near + far) / 2
        same = problem.model(problem.x + middle * way).argmax(1) == problem.target_class
        reached = (same if problem.targeted else ~same).reshape(middle.shape)
        near, far = torch.where(reached, near, middle), torch.where(reached, middle, far)
    return problem.x + far * way


def _runner_up(problem: Problem) -> Tensor:
    """The most likely of the other classes, shape (B,)."""
    with torch.no_grad():
        return problem.model(problem.x).scatter(1, problem.target_class[:, None], -torch.inf).argmax(1)  # type: ignore[no-any-return]


class Probabilities(nn.Module):
    """A model's softmax, for attacks that refuse logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).softmax(1)  # type: ignore[no-any-return]


def find(name: str) -> Callable[..., ArtAttack]:
    """What makes an attack of ART, from the parameters of its constructor.

    Parameters
    ----------
    name
        Its class in ``art.attacks.evasion``, such as ``SquareAttack``.

    Raises
    ------
    ValueError
        For an unknown name, for an attack that can't be run here, and where ART isn't installed.
    """
    return partial(_make, pick("art", name, _classes(), _refused()))


def names() -> dict[str, tuple[str, ...]]:
    """Names of the attacks that can be run under our norms, each with its norms."""
    found = {name: _norms(source) for name, source in _classes().items() if name not in _refused()}
    return {name: norms for name, norms in sorted(found.items()) if set(norms) & set(NORMS)}


def _make(source: type, **params: Any) -> ArtAttack:
    strong = _STRONG.get(source.__name__, {})
    return ArtAttack(source=source, given=strong | checked(defaults(source), _SET_BY_US, params))


def _norms(source: type) -> tuple[str, ...]:
    return _NORMS_OF.get(source.__name__, ("Linf", "L2", "L1"))


def _refused() -> dict[str, str]:
    elsewhere = [
        name for name, source in _classes().items() if name not in _NORMS_OF and "norm" not in defaults(source)
    ]
    undeclared = {name: needs(package, "ART") for name, package in _UNDECLARED.items() if not find_spec(package)}
    outdated = {} if hasattr(np, "mat") else {"GeoDA": "ART 1.20 calls np.mat, which numpy 2 has no more"}
    return dict.fromkeys(elsewhere, _ELSEWHERE) | _REFUSED | undeclared | outdated


@cache
def _classes() -> dict[str, type]:
    """ART's evasion attacks by name."""
    return {name: kind for name, kind in vars(_library().attacks.evasion).items() if isinstance(kind, type)}


@cache
def _library() -> Any:
    """ART, imported without what it does to the session on the way.

    Its import writes a folder ``.art`` into the user's home, and hands a configuration to `logging` which closes the
    handlers that are there: a test session's log file would end.
    """
    with ExitStack() as kept:
        if not (Path.home() / ".art").exists():
            home = kept.enter_context(tempfile.TemporaryDirectory())
            kept.enter_context(environment(HOME=home, USERPROFILE=home))
        kept.enter_context(replaced(logging.config, "dictConfig", lambda config: None))
        try:
            art = importlib.import_module("art")
            for part in ("attacks.evasion", "estimators.classification", "config"):
                importlib.import_module(f"art.{part}")
        except ImportError as fault:
            raise UserError(
                f"ART can't be imported ({fault}): install it with `pip install adversarial-robustness-toolbox`"
            ) from fault
    logging.getLogger("art").addHandler(logging.NullHandler())
    art.config.ART_DATA_PATH = str(Path.home() / ".art" / "data")
    return art
