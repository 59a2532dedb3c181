"""What people touch: the command line, the pytest plugin, the assertions, progress on a screen.

In come options and files; out come exit codes, pages and test reports. Nothing below knows of a screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.faces.asserts import assert_clean as assert_clean
    from robustbench_lite.faces.asserts import assert_gates as assert_gates
    from robustbench_lite.faces.asserts import assert_robust as assert_robust
    from robustbench_lite.faces.asserts import assert_valid as assert_valid

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "assert_clean": "asserts",
        "assert_gates": "asserts",
        "assert_robust": "asserts",
        "assert_valid": "asserts",
    },
)
