"""The samples: where they come from, and what they must be.

In comes a name, arrays, a data set or a loader; out comes a `Data`: labelled samples in [0, 1], read when needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.data.dataset import Data as Data
    from robustbench_lite.data.load import as_data as as_data
    from robustbench_lite.data.load import load_data as load_data

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Data": "dataset",
        "as_data": "load",
        "load_data": "load",
    },
)
