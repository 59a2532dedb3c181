"""Published cases, run again from a user's own files: whether this install reproduces what others measured.

In come the published weights and MNIST; out comes, for each published number, what was measured here and a verdict.
The project carries the networks' architectures, the names and hashes of their files, and the published numbers; never
the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.evaluating.calibration.cases import CASES as CASES
    from robustbench_lite.evaluating.calibration.cases import Case as Case
    from robustbench_lite.evaluating.calibration.cases import Weights as Weights
    from robustbench_lite.evaluating.calibration.cases import lenet5 as lenet5
    from robustbench_lite.evaluating.calibration.cases import wk17a as wk17a
    from robustbench_lite.evaluating.calibration.numbers import Measured as Measured
    from robustbench_lite.evaluating.calibration.numbers import Number as Number
    from robustbench_lite.evaluating.calibration.numbers import check_number as check_number
    from robustbench_lite.evaluating.calibration.run import MNIST_SHA256 as MNIST_SHA256
    from robustbench_lite.evaluating.calibration.run import Calibration as Calibration
    from robustbench_lite.evaluating.calibration.run import Result as Result
    from robustbench_lite.evaluating.calibration.run import as_json as as_json
    from robustbench_lite.evaluating.calibration.run import calibrate as calibrate

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CASES": "cases",
        "Calibration": "run",
        "Case": "cases",
        "MNIST_SHA256": "run",
        "Measured": "numbers",
        "Number": "numbers",
        "Result": "run",
        "Weights": "cases",
        "as_json": "run",
        "calibrate": "run",
        "check_number": "numbers",
        "lenet5": "cases",
        "wk17a": "cases",
    },
)
