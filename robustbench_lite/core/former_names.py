"""Modules by the names they had in version 0.1: code that imports them goes on working, with a warning.

A former module is a stand-in that looks its names up where they are now, so importing it loads nothing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]

_NOW = {
    "adapt": ("evaluating.adapt",),
    "asserts": ("faces.asserts",),
    "baseline": ("results.baseline",),
    "black_box": ("model.black_box",),
    "cache": ("evaluating.cache", "faces.cli.tables.cache"),
    "calibration": ("evaluating.calibration", "faces.cli.tables.calibration"),
    "cli": ("faces.cli",),
    "compare": ("results.compare",),
    "corpus": ("evaluating.corpus",),
    "defenses.distillation": ("defenses.training.distillation",),
    "defenses.pgd_training": ("defenses.training.pgd_training",),
    "defenses.standard": ("defenses.training.standard",),
    "defenses.trades": ("defenses.training.trades",),
    "demo": ("faces.cli.demo",),
    "doctor": ("evaluating.doctor", "faces.cli.tables.doctor"),
    "engine": ("attacking.engine", "attacking.record", "attacking.query", "attacking.ascent"),
    "errors": ("core.errors",),
    "evaluation": ("evaluating.pipeline",),
    "evidence": ("evaluating.evidence",),
    "files": ("core.files",),
    "gates": ("results.gates",),
    "listing": ("faces.cli.tables.listing",),
    "init": ("faces.cli.init",),
    "losses": ("core.losses",),
    "meter": ("core.cost",),
    "noise": ("core.noise",),
    "norms": ("core.norms",),
    "parameters": ("core.parameters",),
    "preflight": ("evaluating.preflight",),
    "progress": ("faces.progress",),
    "registry": ("core.registry",),
    "scorecard": ("results.scorecard", "core.cost", "core.threat"),
    "sources": ("data.sources",),
    "statistics": ("results.statistics", "results.paired"),
    "stepper": ("attacking.interface",),
    "suite": ("core.suite", "core.cost", "hardening.recipe", "hardening.schedule"),
    "target": ("model.target", "model.loading", "model.normalisation"),
    "threat": ("core.threat",),
    "training": ("hardening.training", "hardening.interface"),
    "usercode": ("core.usercode",),
    "validity": ("evaluating.validity",),
    "weights": ("model.weights", "model.loading"),
}
"""By former module, the modules that hold its names now."""

_RENAMED = {
    "Meter": "BudgetTracker",
    "Run": "RunResult",
    "Seen": "ModelOutput",
    "run": "run_attack",
}
"""Names that are others now, by their former one."""


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == _PACKAGE and name in _NOW else None

    def exec_module(self, module: ModuleType) -> None:
        places = _NOW[module.__name__.partition(".")[2]]

        def look_up(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            for place in places:
                found = import_module(f"{_PACKAGE}.{place}")
                for now in (name, _RENAMED.get(name, name)):
                    if hasattr(found, now):
                        value = getattr(found, now)
                        home = getattr(value, "__module__", found.__name__)  # of a constant, the module it is in
                        told = f"{module.__name__}.{name} is now {home}.{now}"
                        warnings.warn(told, DeprecationWarning, stacklevel=2)
                        return value
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = look_up  # type: ignore[method-assign]


def install() -> None:
    """Let the former names be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
