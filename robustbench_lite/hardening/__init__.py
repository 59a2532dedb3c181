"""Training a model to withstand an adversary.

In come a model, data and a recipe; out come a hardened target, and the scorecards before and after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.hardening.pipeline import Hardened as Hardened
    from robustbench_lite.hardening.pipeline import harden as harden
    from robustbench_lite.hardening.recipe import Recipe as Recipe
    from robustbench_lite.hardening.recipe import Schedule as Schedule
    from robustbench_lite.hardening.recipe import load_recipe as load_recipe
    from robustbench_lite.hardening.training import Defense as Defense

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Defense": "training",
        "Hardened": "pipeline",
        "Recipe": "recipe",
        "Schedule": "recipe",
        "harden": "pipeline",
        "load_recipe": "recipe",
    },
)
