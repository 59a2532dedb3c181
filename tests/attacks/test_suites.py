"""The quick suites leave no more than the runs of PGD that people start with, for fewer passes."""

from __future__ import annotations

import pytest

from robustbench_lite import evaluate
from tests.support import FGSM_AND_PGD


@pytest.mark.parametrize("threat", ["Linf 0.05", "Linf 0.1", "L2 0.5", "L2 0.3"])
def test_a_quick_suite_beside_two_runs_of_pgd(train_on_digits, threat):
    network, *_ = train_on_digits(1000, epochs=6)
    quick, plain = (
        evaluate(network, "digits", suite, threat, limit=300)
        for suite in (f"{threat.split()[0].lower()}_quick", FGSM_AND_PGD)
    )
    assert quick.verdict == plain.verdict == "MEASURED"
    assert plain.robust_accuracy.count > 20
    assert quick.robust_accuracy.count <= plain.robust_accuracy.count
    assert quick.passes.total < 0.85 * plain.passes.total
