"""Columns in [0, 1]: by deviation and by range."""

from __future__ import annotations

import numpy as np

from robustbench_lite.data.scaling import REACH, SCALES, WORDS, ends

VALUES = np.array([[0.0, 3.0, 0.1], [4.0, 3.0, 0.1], [8.0, 3.0, 0.1]])


def test_standardised_units_are_those_of_z_scores() -> None:
    low, span = ends(VALUES, "std")
    scaled = (VALUES - low) / span
    z_scores = (VALUES[:, 0] - 4) / VALUES[:, 0].std()
    assert np.allclose((scaled[:, 0] - 0.5) * 2 * REACH, z_scores)
    assert np.allclose(scaled[:, 1:], 0.5)  # of one value, whose deviation would be 0 but for rounding


def test_a_range_goes_to_its_ends() -> None:
    low, span = ends(VALUES, "range")
    assert low.tolist() == [0, 3, 0.1]
    assert span.tolist() == [8, 1, 1]


def test_each_scale_is_told_in_words() -> None:
    assert set(WORDS) == set(SCALES)
