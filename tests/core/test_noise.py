"""Random draws that belong to a sample: reproducible for ever, independent of the batch, and random enough."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from robustbench_lite.core.noise import Noise

LARGEST = 3558559446808474027  # a key whose first uniform draw is the largest there is, 1 - 2**-24
SMALLEST = 7046029254386353131  # and one whose first is 0


def _noise(*keys):
    return Noise(torch.tensor(keys, dtype=torch.int64))


def _hashed(count):
    """Keys as evaluations have them: spread over 64 bits."""
    return Noise(torch.randint(-(2**63), 2**63 - 1, (count,), generator=torch.Generator().manual_seed(0)))


def _splitmix64(seed, count):
    """Steele, Lea and Flood 2014, in Python's integers: the reference."""
    drawn, mask = [], 2**64 - 1
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        bits = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
        drawn.append(bits ^ (bits >> 31))
    return drawn


@pytest.mark.parametrize("key", [0, 1, -1, 123456789, 2**63 - 1, -(2**63)])
def test_uniform_draws_are_splitmix64s(key):
    expected = [(bits >> 40) / 2**24 for bits in _splitmix64(key % 2**64, 50)]
    assert _noise(key).uniform((50,)).tolist() == [expected]


def test_draws_never_change():
    # What a seed means is part of what a scorecard promises: a change here is a new major version.
    noise = _noise(0, -1)
    assert noise.uniform((3,)).tolist() == [
        [0.8833107948303223, 0.4315279722213745, 0.02643376588821411],
        [0.8939428925514221, 0.9125971794128418, 0.2194819450378418],
    ]
    assert noise.normal((2,)).flatten().tolist() == pytest.approx(
        [1.1917012, -0.1724853, 1.2477733, 1.3569231], abs=2e-6
    )
    assert noise.at(0).uniform(()).tolist() == [0.6524484753608704, 0.36624205112457275]
    assert noise.at(7).at(3).keys.tolist() == [2185661678744672605, -5086123850915556716]


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_a_sample_draws_the_same_in_every_batch_and_order(draw):
    noise = _hashed(17)
    whole = getattr(noise, draw)((2, 3, 4))
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1))
    assert torch.equal(getattr(Noise(noise.keys[order]), draw)((2, 3, 4)), whole[order])
    for sample in range(17):
        assert torch.equal(getattr(Noise(noise.keys[sample : sample + 1]), draw)((2, 3, 4))[0], whole[sample])


def test_a_stream_for_each_sample_is_the_stream_of_its_number():
    noise = _hashed(5)
    steps = torch.tensor([0, 3, 3, 9, 2**40])
    expected = [Noise(noise.keys[row : row + 1]).at(int(step)).uniform((4,)) for row, step in enumerate(steps)]
    assert torch.equal(noise.at(steps).uniform((4,)), torch.cat(expected))


def test_samples_and_streams_draw_differently():
    noise = _hashed(50)
    streams = [noise] + [noise.at(draw) for draw in (0, 1, 2, -1, 2**32, 2**62)]
    drawn = torch.cat([stream.uniform((4,)) for stream in streams])
    assert len(drawn.unique(dim=0)) == len(drawn)


def test_restarts_and_steps_have_streams_of_their_own():
    noise = _noise(42)
    drawn = torch.cat([noise.at(restart).at(step).uniform((3,)) for restart in range(20) for step in range(50)])
    assert len(drawn.unique(dim=0)) == 1000
    assert not torch.equal(noise.at(1).at(2).uniform((3,)), noise.at(2).at(1).uniform((3,)))


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(lambda: _noise(7).uniform((20_000,)), id="within a sample"),
        pytest.param(lambda: _noise(*range(20_000)).uniform(()), id="over neighbouring keys"),
        pytest.param(lambda: torch.cat([_noise(7).at(step).uniform(()) for step in range(5_000)]), id="over steps"),
    ],
)
def test_uniform_draws_are_uniform(stream):
    drawn = stream().flatten().double().numpy()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert kstest(drawn, "uniform").pvalue > 1e-3


def test_neighbours_in_a_stream_over_samples_and_over_streams_are_uncorrelated():
    drawn = _noise(*range(200)).uniform((200,)) - 0.5
    other = _noise(*range(200)).at(0).uniform((200,)) - 0.5
    pairs = [(drawn[:, 1:], drawn[:, :-1]), (drawn[1:], drawn[:-1]), (drawn, other)]
    for first, second in pairs:
        correlation = float((first * second).mean()) * 12
        assert abs(correlation) < 5 / 200  # five standard errors


def test_normal_draws_are_standard_normal():
    drawn = _noise(11).normal((50_000,)).flatten().double().numpy()
    assert kstest(drawn, "norm").pvalue > 1e-3
    assert abs(drawn.mean()) < 5 / 50_000**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / 50_000) ** 0.5


@pytest.mark.parametrize("key", [LARGEST, SMALLEST], ids=["largest", "smallest"])
def test_normal_draws_are_finite_at_both_ends_of_the_uniform(key):
    noise = _noise(key)
    assert noise.uniform(()).item() in (0.0, 1 - 2**-24), "the key no longer draws an end: look for another one"
    assert torch.isfinite(noise.normal(())).all()


def test_draws_have_the_shape_asked_for_and_are_float32():
    for shape in [(), (3,), (1, 8, 8)]:
        for drawn in (_noise(1, 2).uniform(shape), _noise(1, 2).normal(shape)):
            assert drawn.shape == (2, *shape)
            assert drawn.dtype == torch.float32


def test_no_samples_draw_nothing():
    assert _noise().uniform((3, 2)).shape == (0, 3, 2)
    assert _noise().normal(()).shape == (0,)


def test_draws_under_vmap_are_the_same():
    keys = torch.arange(5)
    alone = torch.vmap(lambda key: Noise(key[None]).at(3).uniform((4,))[0])(keys)
    assert torch.equal(alone, Noise(keys).at(3).uniform((4,)))
