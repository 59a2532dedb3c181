"""Robustness beside ordinary tests."""

from __future__ import annotations

import pytest
from digits_models import hardened

from robustbench_lite import assert_robust


@pytest.fixture(scope="module")
def robust_target():
    return hardened()


def test_ordinary():
    assert 1 + 1 == 2


@pytest.mark.robustness(threat="Linf 8/255", suite="linf_fast", min_robust_accuracy=0.3)
def test_holds_its_gates():
    """Asserts nothing: the marker does."""


@pytest.mark.robustness(threat="Linf 8/255", suite="linf_fast", min_robust_accuracy=0.3)
def test_reads_the_scorecard(robustness):
    assert robustness.data.samples == 40
    assert_robust(robustness, at_least=0.3)
