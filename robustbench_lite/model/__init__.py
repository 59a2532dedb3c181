"""What is attacked: a module or a function as the harness sees it, loaded by name, its weights read safely.

In comes a model in any of the forms that users have; out comes a `Target`: inputs in [0, 1] to logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.model.loading import load_target as load_target
    from robustbench_lite.model.loading import save_model as save_model
    from robustbench_lite.model.target import Target as Target
    from robustbench_lite.model.target import as_target as as_target

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Target": "target",
        "as_target": "target",
        "load_target": "loading",
        "save_model": "loading",
    },
)
