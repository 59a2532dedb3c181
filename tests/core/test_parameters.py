"""Types of the parameters: what they take from TOML and Python, what they refuse, and the default step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from robustbench_lite.core.parameters import Length, PositiveInt, Share, cosine, patience_used_up, step_length


def _read(kind, given):
    return TypeAdapter(kind).validate_python(given)


@pytest.mark.parametrize(
    ("given", "value"), [("2/255", 2 / 255), ("0.5", 0.5), ("1e-2", 0.01), (0.3, 0.3), (1, 1.0), ("300/255", 300 / 255)]
)
def test_a_length_is_a_number_or_a_fraction(given, value):
    read = _read(Length, given)
    assert read == value
    assert isinstance(read, float)


@pytest.mark.parametrize("given", ["two", "", "2/", "1/0", "8/255/2", "nan", "inf"])
def test_a_text_that_is_no_number_is_refused_with_an_example(given):
    with pytest.raises(ValidationError, match=r"expected a number or a fraction such as 2/255"):
        _read(Length, given)


@pytest.mark.parametrize("given", [0, -0.1, "0", "-1/2", "1e-400", math.inf, -math.inf, math.nan, None, [1]])
def test_a_length_is_finite_and_above_zero(given):
    with pytest.raises(ValidationError):
        _read(Length, given)


def test_a_text_too_large_for_a_float_is_refused_as_any_other():
    with pytest.raises(ValidationError):
        _read(Length, "1e400")


@pytest.mark.parametrize("given", [0, 0.5, 1])
def test_a_share_goes_from_zero_to_one(given):
    assert _read(Share, given) == given


@pytest.mark.parametrize("given", [-1e-9, 1.0001, math.nan, math.inf, "half"])
def test_a_share_out_of_range_is_refused(given):
    with pytest.raises(ValidationError):
        _read(Share, given)


@pytest.mark.parametrize("given", [0, -1, 1.5, "x", None])
def test_a_count_is_whole_and_above_zero(given):
    assert _read(PositiveInt, 1) == 1
    with pytest.raises(ValidationError):
        _read(PositiveInt, given)


def test_a_step_is_as_long_as_given():
    assert step_length(0.01, eps=0.3, steps=40) == 0.01
    assert step_length(7.0, eps=0.3, steps=40) == 7.0


@given(eps=st.floats(1e-6, 20), steps=st.integers(1, 1000))
def test_by_default_the_steps_cross_the_ball_and_none_is_longer_than_its_radius(eps, steps):
    length = step_length(None, eps, steps)
    assert 0 < length <= eps
    if steps >= 2:
        assert length * steps >= 2 * eps * (1 - 1e-12)


def test_default_step_by_hand():
    assert step_length(None, eps=0.3, steps=40) == pytest.approx(0.3 / 16)
    assert step_length(None, eps=0.3, steps=1) == 0.3


@pytest.mark.parametrize(("left", "share"), [(1.0, 2), (0.5, 4), (0.1, 20), (0.05, 40), (0.01, 200)])
def test_the_less_of_the_margin_is_left_the_more_tries_a_sample_gets(left, share):
    first = torch.tensor([-4.0])
    tries = torch.tensor([share - 1, share + 1])  # a share itself is reached or not by rounding
    assert patience_used_up(tries, left * first, first, patience=20).tolist() == [False, True]


def test_a_sample_at_the_boundary_is_not_given_up():
    assert not patience_used_up(torch.tensor([10**6]), torch.tensor([0.0]), torch.tensor([-4.0]), patience=20)


def test_a_cosine_schedule_by_hand():
    assert cosine(torch.tensor([0, 10, 20, 30, 40]), 40).tolist() == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0], abs=1e-7
    )
