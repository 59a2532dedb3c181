"""Why it failed: what the model looked at, before and after an attack, and which samples break.

In come a scorecard with its witnesses, the target and the data; out comes an `Explained`, which pages and tables read.
`methods/` is the catalogue ``explanations``: one file a method, found by name. The libraries of the extra ``explain``
are imported where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.explaining.run import explain as explain

__getattr__, __dir__ = lazy_names(__name__, {"explain": "run"})
