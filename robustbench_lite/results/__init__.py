"""What came out of an evaluation: the scorecard, and all that is read from it.

In come counts and outcomes; out come intervals, gates, comparisons and verdicts. No torch: a scorecard is loaded,
compared and shown on machines that never run a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.results.compare import compare as compare
    from robustbench_lite.results.gates import Gates as Gates
    from robustbench_lite.results.scorecard import Scorecard as Scorecard

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Gates": "gates",
        "Scorecard": "scorecard",
        "compare": "compare",
    },
)
