"""One evaluation, from what is asked to the scorecard.

In come a target, data and a suite; out comes a `Scorecard`: what the attacks broke, and whether to believe it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.evaluating.pipeline import evaluate as evaluate

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "evaluate": "pipeline",
    },
)
