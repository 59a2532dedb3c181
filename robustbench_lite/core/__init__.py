"""The words and the maths that everything else is made of: threat models, suites, norms, losses, noise, files, cost.

In comes nothing but text and tensors; out come frozen values and pure functions. Nothing of the package is imported
here, and what can do without torch does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.core.cost import Budget as Budget
    from robustbench_lite.core.cost import Passes as Passes
    from robustbench_lite.core.errors import UserError as UserError
    from robustbench_lite.core.suite import Suite as Suite
    from robustbench_lite.core.suite import load_suite as load_suite
    from robustbench_lite.core.threat import ThreatModel as ThreatModel

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Budget": "cost",
        "Passes": "cost",
        "Suite": "suite",
        "ThreatModel": "threat",
        "UserError": "errors",
        "load_suite": "suite",
    },
)
