"""Numbers of stability against closed forms and SciPy."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from robustbench_lite import Target
from robustbench_lite.core.cost import Passes
from robustbench_lite.data.dataset import Data
from robustbench_lite.explaining import stability
from robustbench_lite.explaining.interface import Asked, Explainer
from robustbench_lite.explaining.pairs import Pairs, broken_pairs
from robustbench_lite.results.scorecard import Scorecard

from .conftest import Left


class Input(Explainer):
    """The input itself, as of a linear model whose weights are all 1."""

    passes = Passes(forward=1)
    library: ClassVar[str | None] = None

    def attribute(self, asked: Asked, x: Tensor, classes: Tensor, seed: int) -> Tensor:
        return x.clone()


class Same(Input):
    """The same everywhere."""

    def attribute(self, asked: Asked, x: Tensor, classes: Tensor, seed: int) -> Tensor:
        return torch.ones_like(x)


@pytest.fixture
def pairs(card: Scorecard, data: Data) -> Pairs:
    return broken_pairs(card, data, 7)


def found(explainer: Explainer, pairs: Pairs, model: nn.Module | None = None) -> stability.Attributions:
    return stability.Attributions(explainer, Asked(Target(model or Left())), pairs, seed=0)


def test_rank_correlation_is_that_of_scipy(pairs: Pairs) -> None:
    expected = [
        spearmanr(one.flatten(), other.flatten()).statistic
        for one, other in zip(pairs.x, pairs.adversarial, strict=True)
    ]
    assert found(Input(), pairs).correlations == pytest.approx(expected)


def test_equal_values_share_their_rank() -> None:
    one, other = torch.tensor([1.0, 1, 2, 3, 3]), torch.tensor([0.0, 1, 1, 5, 2])
    assert stability._spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_overlap_counts_what_the_largest_tenth_has_in_common() -> None:
    one = torch.arange(20.0)
    assert stability._overlap(one, one) == 1
    assert stability._overlap(one, -one) == 0
    assert stability._overlap(one, one.roll(1)) == 0.5


def test_what_is_the_same_everywhere_has_no_number(pairs: Pairs) -> None:
    same = found(Same(), pairs)
    assert all(map(math.isnan, (*same.correlations, *same.overlaps)))
    assert all(stability.taken(name, same) is None for name in stability.NUMBERS)


def test_attributions_that_follow_the_input_have_a_relative_stability_of_1(pairs: Pairs) -> None:
    for one in found(Input(), pairs).steadiness:
        assert one.input_stability == pytest.approx(1, rel=1e-4)


def test_max_sensitivity_is_at_most_what_the_radius_allows(pairs: Pairs) -> None:
    made = found(Input(), pairs)
    most = stability.RADIUS * 8 / pairs.x.flatten(1).norm(dim=1)
    for one, bound in zip(made.steadiness, most.tolist(), strict=True):
        assert 0.5 * bound < one.sensitivity <= bound + 1e-6
    assert made.asked.passes.forward == 7 * stability.DRAWS


def test_numbers_are_the_same_each_time_and_come_with_an_interval(pairs: Pairs) -> None:
    first, again = ([stability.taken(name, found(Input(), pairs)) for name in stability.NUMBERS] for _ in range(2))
    assert first == again
    for one in first:
        assert one is not None
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.value <= one.high


def test_few_samples_have_no_interval(card: Scorecard, data: Data) -> None:
    one = stability.taken("attribution_spearman", found(Input(), broken_pairs(card, data, 5)))
    assert one is not None
    assert one.low is None
