"""robustbench_lite: how much of a model's accuracy survives an adversary, as a number you can believe.

The public names are loaded when first used, so that importing the package costs milliseconds and no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_lite.asserts import assert_clean, assert_gates, assert_robust, assert_valid
    from robustbench_lite.data import Data, load_data
    from robustbench_lite.evaluation import evaluate
    from robustbench_lite.gates import Gates
    from robustbench_lite.hardening import Hardened, harden
    from robustbench_lite.scorecard import Scorecard
    from robustbench_lite.suite import Budget, Recipe, Suite, load_recipe, load_suite
    from robustbench_lite.target import Target, load_target
    from robustbench_lite.threat import ThreatModel

__version__ = "0.1.0"

_PUBLIC = {
    "Budget": "suite",
    "Data": "data",
    "Gates": "gates",
    "Hardened": "hardening",
    "Recipe": "suite",
    "Scorecard": "scorecard",
    "Suite": "suite",
    "Target": "target",
    "ThreatModel": "threat",
    "assert_clean": "asserts",
    "assert_gates": "asserts",
    "assert_robust": "asserts",
    "assert_valid": "asserts",
    "evaluate": "evaluation",
    "harden": "hardening",
    "load_data": "data",
    "load_recipe": "suite",
    "load_suite": "suite",
    "load_target": "target",
}
__all__ = [
    "Budget",
    "Data",
    "Gates",
    "Hardened",
    "Recipe",
    "Scorecard",
    "Suite",
    "Target",
    "ThreatModel",
    "assert_clean",
    "assert_gates",
    "assert_robust",
    "assert_valid",
    "evaluate",
    "harden",
    "load_data",
    "load_recipe",
    "load_suite",
    "load_target",
]

# In a checkout the catalogue stands beside this folder, not inside it: a wheel's user who runs from the
# checkout's root finds this folder first, and would miss it.
_here = Path(__file__).parent
if not (_here / "attacks").is_dir() and (_here.parent / "attacks" / "__init__.py").is_file():
    __path__.append(str(_here.parent))


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
