"""Searching for the settings of a recipe that make a model robust.

In come a model, data, a recipe and a space of its settings; out come the trials in order, and the best one's hardened
model, judged on samples that the search never saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.searching.space import Dimension as Dimension
    from robustbench_lite.searching.space import Space as Space
    from robustbench_lite.searching.space import load_space as load_space
    from robustbench_lite.searching.study import Search as Search
    from robustbench_lite.searching.study import tune as tune

__getattr__, __dir__ = lazy_names(
    __name__, {"Dimension": "space", "Search": "study", "Space": "space", "load_space": "space", "tune": "study"}
)
