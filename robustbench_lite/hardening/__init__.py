"""Training a model to withstand an adversary.

In come a model, data and a recipe, which is a list of steps; out come a hardened target, and the scorecards before and
after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.hardening.interface import Artifact as Artifact
    from robustbench_lite.hardening.interface import Batch as Batch
    from robustbench_lite.hardening.interface import Context as Context
    from robustbench_lite.hardening.interface import Defense as Defense
    from robustbench_lite.hardening.interface import Stage as Stage
    from robustbench_lite.hardening.interface import Step as Step
    from robustbench_lite.hardening.interface import StepRecord as StepRecord
    from robustbench_lite.hardening.interface import WrappingStep as WrappingStep
    from robustbench_lite.hardening.pipeline import Hardened as Hardened
    from robustbench_lite.hardening.pipeline import harden as harden
    from robustbench_lite.hardening.recipe import Recipe as Recipe
    from robustbench_lite.hardening.recipe import RecipeStep as RecipeStep
    from robustbench_lite.hardening.recipe import load_recipe as load_recipe
    from robustbench_lite.hardening.schedule import Schedule as Schedule

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Artifact": "interface",
        "Batch": "interface",
        "Context": "interface",
        "Defense": "interface",
        "Hardened": "pipeline",
        "Recipe": "recipe",
        "RecipeStep": "recipe",
        "Schedule": "schedule",
        "Stage": "interface",
        "Step": "interface",
        "StepRecord": "interface",
        "WrappingStep": "interface",
        "harden": "pipeline",
        "load_recipe": "recipe",
    },
)
