"""robustbench_lite: how much of a model's accuracy survives an adversary, as a number you can believe.

The public names are loaded when first used, so that importing the package costs milliseconds and no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.core import former_names
from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.core.cost import Budget
    from robustbench_lite.core.suite import Suite, load_suite
    from robustbench_lite.core.threat import ThreatModel
    from robustbench_lite.data.dataset import Data
    from robustbench_lite.data.load import load_data
    from robustbench_lite.evaluating.pipeline import evaluate
    from robustbench_lite.faces.asserts import assert_clean, assert_gates, assert_robust, assert_valid
    from robustbench_lite.hardening.pipeline import Hardened, harden
    from robustbench_lite.hardening.recipe import Recipe, load_recipe
    from robustbench_lite.hardening.several import HardenedAll, harden_all
    from robustbench_lite.model.loading import load_target
    from robustbench_lite.model.target import Target
    from robustbench_lite.results.gates import Gates
    from robustbench_lite.results.scorecard import Scorecard

__version__ = "0.1.1"

_PUBLIC = {
    "Budget": "core.cost",
    "Data": "data.dataset",
    "Gates": "results.gates",
    "Hardened": "hardening.pipeline",
    "HardenedAll": "hardening.several",
    "Recipe": "hardening.recipe",
    "Scorecard": "results.scorecard",
    "Suite": "core.suite",
    "Target": "model.target",
    "ThreatModel": "core.threat",
    "assert_clean": "faces.asserts",
    "assert_gates": "faces.asserts",
    "assert_robust": "faces.asserts",
    "assert_valid": "faces.asserts",
    "evaluate": "evaluating.pipeline",
    "harden": "hardening.pipeline",
    "harden_all": "hardening.several",
    "load_data": "data.load",
    "load_recipe": "hardening.recipe",
    "load_suite": "core.suite",
    "load_target": "model.loading",
}
__all__ = [
    "Budget",
    "Data",
    "Gates",
    "Hardened",
    "HardenedAll",
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
    "harden_all",
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

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
former_names.install()
