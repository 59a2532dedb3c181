"""What a norm must be, whatever the numbers: in the ball, in the box, idempotent, steepest, uniform."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare, kstest

from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES, project
from robustbench_lite.core.threat import NORMS, TOLERANCE, TRANSFORMATIONS

ORDER = {"Linf": np.inf, "L2": 2, "L1": 1, "L0": 0}
DUAL = {"Linf": 1, "L2": 2, "L1": np.inf, "L0": np.inf}  # in L0 a unit step moves one value by 1
INFINITE_NORMAL = 2295574122455614247  # a key among whose draws the largest uniform is

some_cases = settings(deadline=None, max_examples=60)
by_norm = pytest.mark.parametrize("norm", NORMS)


def _length(batch, order):
    """Norm of each sample, in double precision, by numpy."""
    return np.linalg.norm(batch.double().flatten(1).numpy(), ord=order, axis=1)


def _radius(norm, eps):
    """A radius in the units of the norm: in L0 a whole number."""
    return math.ceil(12 * eps) if norm == "L0" else eps


def _arrays(low, high):
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
    elements = st.floats(low, high, width=32)
    return shapes.flatmap(lambda shape: st.tuples(*[arrays(np.float32, shape, elements=elements)] * 2))


@st.composite
def _balls(draw, largest=4):
    """Points, origins in the box, and a radius."""
    points, origins = draw(_arrays(-largest, largest))
    eps = draw(st.floats(1e-4, 1.0))
    return torch.from_numpy(points), torch.from_numpy(origins).abs().clamp_max(1.0), eps


@st.composite
def _gradients(draw):
    """Gradients of every magnitude that float32 has, none of them zero, and other directions."""
    values, others = draw(_arrays(-1, 1))
    grad = torch.from_numpy(values) * 10.0 ** draw(st.integers(-37, 30))
    assume(bool((grad.flatten(1).abs().amax(1) > 0).all()))
    return grad, torch.from_numpy(others)


@by_norm
@some_cases
@given(ball=_balls())
def test_projection_is_in_the_ball_and_in_the_box(norm, ball):
    x, origin, eps = ball
    eps = _radius(norm, eps)
    inside = project(x, origin, norm, eps)
    # In L1 the rounding of all values to float32 adds up: half a unit of the last place of each.
    rounding = inside[0].numel() * 2.0**-25 if norm == "L1" else 0.0
    assert (_length(inside.double() - origin.double(), ORDER[norm]) <= eps + TOLERANCE + rounding).all()
    assert inside.min() >= 0
    assert inside.max() <= 1


@by_norm
@some_cases
@given(ball=_balls())
def test_projection_is_idempotent(norm, ball):
    x, origin, eps = ball
    eps = _radius(norm, eps)
    once = project(x, origin, norm, eps)
    torch.testing.assert_close(project(once, origin, norm, eps), once, atol=5e-7, rtol=0)


@by_norm
@some_cases
@given(ball=_balls(), share=st.floats(0, 0.99))
def test_projection_leaves_what_is_inside_where_it_is(norm, ball, share):
    x, origin, eps = ball
    eps = _radius(norm, eps)
    inside = origin + share * (project(x, origin, norm, eps) - origin)
    torch.testing.assert_close(project(inside, origin, norm, eps), inside, atol=5e-7, rtol=0)


@some_cases
@given(ball=_balls())
def test_linf_projection_is_the_nearest_point_of_ball_and_box(ball):
    x, origin, eps = ball
    x, origin = x.double(), origin.double()
    nearest = x.clamp((origin - eps).clamp_min(0), (origin + eps).clamp_max(1))
    torch.testing.assert_close(project(x, origin, "Linf", eps), nearest, atol=1e-6, rtol=0)


@some_cases
@given(ball=_balls() | _balls(largest=2.0**20))
def test_l1_projection_is_the_nearest_point_of_ball_and_box(ball):
    """The nearest point ``p`` of a convex set to ``x`` is the one from which no other point ``c`` lies in the direction
    of ``x``: the largest ``(x - p) (c - p)`` is 0. Over ball and box that is found greedily, the steepest value first.
    """
    x, origin, eps = ball
    found = project(x, origin, "L1", eps).double().flatten(1).numpy()
    x, origin = x.double().flatten(1).numpy(), origin.double().flatten(1).numpy()
    for way, start, point in zip(x - found, origin, found, strict=True):
        room = np.where(way > 0, 1 - start, start)
        steepest = np.argsort(-np.abs(way))
        spent = np.minimum(np.cumsum(room[steepest]), eps)
        best = (np.diff(spent, prepend=0) * np.abs(way)[steepest]).sum()
        assert best - way @ (point - start) <= 2e-6 * max(1, np.abs(way).max()) * len(way)


@some_cases
@given(ball=_balls())
def test_l1_projection_shortens_every_change_by_the_same_amount(ball):
    """Against a bisection of that amount."""
    x, origin, eps = ball
    x, origin = x.double(), origin.double()
    delta = x - origin
    wall = torch.where(delta > 0, 1 - origin, origin)

    def shortened(amount):
        return torch.minimum((delta.abs() - amount.reshape(-1, 1, 1, 1)).clamp_min(0), wall)

    low, high = torch.zeros(len(x), dtype=torch.float64), delta.flatten(1).abs().amax(1)
    for _ in range(80):
        middle = (low + high) / 2
        over = shortened(middle).flatten(1).sum(1) > eps
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    high = torch.where(shortened(torch.zeros_like(high)).flatten(1).sum(1) <= eps, 0.0, high)
    nearest = origin + delta.sign() * shortened(high)
    torch.testing.assert_close(project(x, origin, "L1", eps), nearest, atol=1e-6, rtol=0)


@some_cases
@given(values=_arrays(-2, 2), changes=st.integers(1, 6))
def test_l0_projection_is_the_nearest_point_of_ball_and_box(values, changes):
    """Against every choice of the values that may change."""
    x, origin = (torch.from_numpy(part).flatten(1)[:, :6].double() for part in values)
    origin = origin.abs().clamp_max(1.0)
    found = project(x, origin, "L0", changes)
    assert ((found != origin).sum(1) <= changes).all()
    places = range(x.shape[1])
    for point, start, near in zip(x, origin, found, strict=True):
        least = min(
            float((point - torch.where(torch.isin(torch.arange(len(point)), torch.tensor(kept)), cut, start)).norm())
            for cut in [point.clamp(0, 1)]
            for kept in itertools.combinations(places, min(changes, len(places)))
        )
        assert float((point - near).norm()) == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("kind", TRANSFORMATIONS)
def test_a_transformation_is_kept_in_the_box_alone(kind):
    x, origin = torch.tensor([[[[-1.0, 0.2, 3.0]]]]), torch.zeros(1, 1, 1, 3)
    assert project(x, origin, kind, 1).tolist() == [[[[0.0, pytest.approx(0.2), 1.0]]]]
    assert GEOMETRIES[kind].distance(x - origin).tolist() == [3.0]


@some_cases
@given(ball=_balls(largest=2.0**50))
def test_l2_projection_onto_the_ball_is_the_nearest_point(ball):
    delta, _, eps = ball
    length = torch.from_numpy(_length(delta, 2)).reshape(-1, 1, 1, 1)
    nearest = delta.double() * (eps / length.clamp_min(eps))
    centre = torch.full_like(delta, 0.5)
    inside = nearest.abs().flatten(1).amax(1) < 0.5  # the box cuts nothing off
    projected = project(centre + delta, centre, "L2", eps) - centre
    torch.testing.assert_close(projected[inside].double(), nearest[inside], atol=1e-6, rtol=1e-6)


@by_norm
@some_cases
@given(ball=_balls())
def test_distance_is_the_norm(norm, ball):
    delta, _, _ = ball
    np.testing.assert_allclose(
        GEOMETRIES[norm].distance(delta).numpy(), _length(delta, ORDER[norm]), rtol=1e-5, atol=1e-15
    )


@by_norm
@some_cases
@given(gradients=_gradients())
def test_steepest_is_a_unit_step_that_no_other_beats(norm, gradients):
    grad, others = gradients
    step = GEOMETRIES[norm].steepest(grad).double().flatten(1)
    np.testing.assert_allclose(_length(step, ORDER[norm]), 1, rtol=1e-5)

    slope = grad.double().flatten(1)
    gain = (slope * step).sum(1)
    np.testing.assert_allclose(gain.numpy(), _length(slope, DUAL[norm]), rtol=1e-5)  # Hölder: there is no better

    rivals = others.double().flatten(1)
    rivals = rivals / torch.from_numpy(_length(rivals, ORDER[norm])).clamp_min(1e-12)[:, None]
    assert ((slope * rivals).sum(1) <= gain * (1 + 1e-5)).all()


@by_norm
def test_where_the_gradient_is_zero_there_is_no_step(norm):
    grad = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert GEOMETRIES[norm].steepest(grad).tolist() == [[0.0, 0.0], [0.0, 1.0]]


@by_norm
@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e-38, 1e-44])
def test_a_tiny_gradient_has_a_whole_step(norm, size):
    step = GEOMETRIES[norm].steepest(torch.full((1, 3, 4, 4), size))
    assert _length(step, ORDER[norm]) == pytest.approx([1.0], rel=1e-5)


@by_norm
@some_cases
@given(
    key=st.integers(-(2**63), 2**63 - 1),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    eps=st.floats(1e-6, 10),
)
def test_random_draws_are_in_the_ball(norm, key, shape, eps):
    noise, eps = Noise(torch.tensor([key, key ^ 1])), _radius(norm, eps)
    drawn = GEOMETRIES[norm].random(noise, shape, eps)
    assert drawn.shape == (2, *shape)
    assert (_length(drawn.reshape(2, -1), ORDER[norm]) <= eps * (1 + 1e-6)).all()


def test_linf_random_draws_are_uniform():
    drawn = GEOMETRIES["Linf"].random(Noise(torch.arange(5_000)), (2,), 0.5).double().numpy()
    for column in drawn.T:
        assert kstest(column + 0.5, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 5 / 5_000**0.5


def test_l2_random_draws_are_uniform_in_the_disc():
    drawn = GEOMETRIES["L2"].random(Noise(torch.arange(5_000)), (2,), 0.5).double().numpy()
    radius = np.linalg.norm(drawn, axis=1) / 0.5
    angle = np.arctan2(drawn[:, 1], drawn[:, 0]) / (2 * np.pi) + 0.5
    assert kstest(radius**2, "uniform").pvalue > 1e-3
    assert kstest(angle, "uniform").pvalue > 1e-3
    for side in (angle, drawn[:, 0] / radius, drawn[:, 1] / radius):
        assert abs(np.corrcoef(radius, side)[0, 1]) < 5 / 5_000**0.5


def test_l2_random_draws_fill_the_ball_in_many_dimensions():
    drawn = GEOMETRIES["L2"].random(Noise(torch.arange(2_000)), (3, 4, 4), 2.0)
    assert kstest((_length(drawn, 2) / 2.0) ** 48, "uniform").pvalue > 1e-3
    assert float(drawn.flatten(1).mean(0).abs().max()) < 5 * 2.0 / 48**0.5 / 2_000**0.5


def test_l1_random_draws_are_uniform_in_the_diamond():
    drawn = GEOMETRIES["L1"].random(Noise(torch.arange(5_000)), (2,), 0.5).double().numpy()
    radius = np.abs(drawn).sum(1) / 0.5
    share = np.abs(drawn[:, 0]) / np.abs(drawn).sum(1)
    assert kstest(radius**2, "uniform").pvalue > 1e-3
    assert kstest(share, "uniform").pvalue > 1e-3
    signs = np.sign(drawn)
    for side in (share, signs[:, 0], signs[:, 1], signs.prod(1)):
        assert abs(np.corrcoef(radius, side)[0, 1]) < 5 / 5_000**0.5
    assert np.abs(np.stack([*signs.T, signs.prod(1)]).mean(1)).max() < 5 / 5_000**0.5


def test_l1_random_draws_fill_the_ball_in_many_dimensions():
    drawn = GEOMETRIES["L1"].random(Noise(torch.arange(2_000)), (3, 4, 4), 2.0)
    assert kstest((_length(drawn, 1) / 2.0) ** 48, "uniform").pvalue > 1e-3
    sizes = drawn.flatten(1).abs().double()
    assert float((sizes.mean(0) / sizes.mean() - 1).abs().max()) < 5 / 2_000**0.5  # each place has the same share


def test_l0_random_draws_change_any_places_to_any_values():
    drawn = GEOMETRIES["L0"].random(Noise(torch.arange(5_000)), (2, 5), 3).flatten(1).double().numpy()
    changed = drawn != 0
    assert set(changed.sum(1)) == {3}
    choices = np.unique(changed, axis=0, return_counts=True)[1]
    assert len(choices) == 120  # every choice of three places of ten, equally often
    assert chisquare(choices).pvalue > 1e-3
    assert kstest((drawn[changed] + 1) / 2, "uniform").pvalue > 1e-3


def test_random_draws_are_finite_whatever_the_stream_holds():
    # An infinite start is a sample that no step can move: it would count as robust.
    drawn = GEOMETRIES["L2"].random(Noise(torch.tensor([INFINITE_NORMAL])), (3, 4, 4), 1.0)
    assert torch.isfinite(drawn).all()


@by_norm
def test_no_samples_are_no_trouble(norm):
    empty, geometry = torch.empty(0, 1, 2, 2), GEOMETRIES[norm]
    assert project(empty, empty, norm, _radius(norm, 0.1)).shape == empty.shape
    assert geometry.steepest(empty).shape == empty.shape
    assert geometry.random(Noise(torch.empty(0, dtype=torch.int64)), (1, 2, 2), 2).shape == empty.shape
    assert geometry.distance(empty).shape == (0,)


@by_norm
def test_samples_of_a_batch_do_not_see_each_other(norm):
    generator = torch.Generator().manual_seed(3)
    x, origin = torch.randn(6, 1, 4, 4, generator=generator), torch.rand(6, 1, 4, 4, generator=generator)
    eps = _radius(norm, 0.3)
    whole = project(x, origin, norm, eps), GEOMETRIES[norm].steepest(x), GEOMETRIES[norm].distance(x)
    for row in range(6):
        one = slice(row, row + 1)
        alone = project(x[one], origin[one], norm, eps), GEOMETRIES[norm].steepest(x[one])
        torch.testing.assert_close(whole[0][one], alone[0])
        torch.testing.assert_close(whole[1][one], alone[1])
        torch.testing.assert_close(whole[2][one], GEOMETRIES[norm].distance(x[one]))


@by_norm
def test_the_dual_norm_is_what_a_linear_loss_gains_by_the_steepest_step_of_norm_1(norm):
    grad = torch.randn(20, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    gained = (grad * GEOMETRIES[norm].steepest(grad)).flatten(1).sum(1)
    torch.testing.assert_close(GEOMETRIES[norm].dual(grad), gained)
    np.testing.assert_allclose(GEOMETRIES[norm].dual(grad).numpy(), _length(grad, DUAL[norm]), rtol=1e-5)


@settings(deadline=None)  # the first example waits for torch
@given(
    norm=st.sampled_from(NORMS),
    size=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    radii=st.lists(st.floats(0.01, 20), min_size=3, max_size=3),
)
def test_every_perturbation_fills_the_ball_of_its_own_sample(norm, size, seed, radii):
    delta = torch.randn(3, size, generator=torch.Generator().manual_seed(seed))
    eps = torch.tensor(radii)
    eps = eps.ceil() if norm == "L0" else eps
    filled = GEOMETRIES[norm].fill(delta, eps)
    length = GEOMETRIES[norm].distance(filled).float()
    full = torch.tensor(float(size)) if norm == "L0" else GEOMETRIES["Linf"].distance(delta)
    expected = eps.minimum(full) if norm in ("L0", "Linf") else eps
    torch.testing.assert_close(length, expected, rtol=1e-4, atol=1e-5)
    assert (filled * delta >= 0).all(), "no change is turned round"
    for row in range(3):  # a sample alone comes out the same
        torch.testing.assert_close(GEOMETRIES[norm].fill(delta[row : row + 1], eps[row : row + 1])[0], filled[row])


def test_outside_of_the_l1_ball_it_is_the_nearest_point():
    delta = torch.tensor([[3.0, -2.0, 0.5, 0.0]])
    torch.testing.assert_close(GEOMETRIES["L1"].fill(delta, torch.tensor([2.0])), torch.tensor([[1.5, -0.5, 0.0, 0.0]]))
