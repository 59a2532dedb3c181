"""AutoML of other libraries on the board of ``rblite auto``; ``make test-automl`` runs it in its own environment."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from robustbench_lite.data.convert import from_arrays
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.searching.entrants import PEERS, check_entrant, entrant

SECONDS = {"flaml": 5.0, "tpot": 120.0, "h2o": 20.0}


def rows(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes, by where a row lies along its first column."""
    x = np.random.default_rng(seed).random((samples, 4), dtype=np.float32)
    return x, (3 * x[:, 0]).astype(int)


@pytest.mark.parametrize("name", PEERS)
def test_a_library_makes_a_model_that_the_board_judges(name: str) -> None:
    pytest.importorskip(PEERS[name].module)
    if name == "h2o" and shutil.which("java") is None:
        pytest.skip("H2O needs Java, and there is none")
    check_entrant(name)
    target = entrant(name, from_arrays(*rows(300, 0), "rows"), SECONDS[name], 0)
    test = from_arrays(*rows(60, 1), "rows")
    with torch.no_grad():
        scores = target(test.fetch(range(60)))
    assert scores.shape == (60, 3)
    assert (scores.argmax(1) == test.labels).float().mean() > 0.8
    card = evaluate(target, test, "black_box_quick", "Linf 0.2", limit=20)
    assert card.target.access == "scores"
    assert card.robust_accuracy.value < card.clean_accuracy.value
