"""Square: closed form on linear models, its windows and their schedule, and giving up what makes no progress."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.square import Square, _bump, _bumps, _place, _sides, _stages
from robustbench_lite.core import registry
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target

from .conftest import Recording

CPU = torch.device("cpu")


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_breaks_nothing_beyond_the_boundary_and_most_of_what_is_well_within(linear, norm):
    problem = linear((1, 8, 8), classes=2)
    exact = problem.distances(norm)
    eps = float(exact.median())
    broken = torch.from_numpy(problem.attack(Square(steps=500), ThreatModel(norm=norm, eps=eps)).broken)
    assert not broken[exact > eps * 1.001].any()
    # In Linf the optimum is a corner of the ball, which windows of one value reach; in L2 there is none such.
    near = exact < eps / (1.1 if norm == "Linf" else 1.7)
    assert near.sum() >= 8
    assert broken[near].all()


def test_in_linf_it_comes_to_the_very_corner(linear):
    problem = linear((2, 6, 6), classes=2, samples=24)
    exact = problem.distances("Linf")
    eps = float(exact.median())
    found = problem.attack(Square(steps=1000), ThreatModel(norm="Linf", eps=eps))
    sure = ((exact > eps * 1.001) | (exact < eps / 1.02)).numpy()
    np.testing.assert_array_equal(found.broken[sure], (exact < eps).numpy()[sure])
    assert (found.backward == 0).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_targeted_goal_is_reached(linear, norm):
    problem = linear((1, 8, 8), classes=4, scale=0.1)
    target_classes = (problem.y + 2) % 4
    eps = 0.2 if norm == "Linf" else 1.5
    found = problem.attack(
        Square(steps=300), ThreatModel(norm=norm, eps=eps, goal="targeted"), target_classes=target_classes
    )
    assert found.broken.all()
    np.testing.assert_array_equal(found.prediction, target_classes)
    binary = linear((1, 8, 8), classes=2, scale=0.1)
    exact = binary.distances(norm, target_class=1 - binary.y)
    limit = float(exact.median())
    broken = binary.attack(Square(steps=300), ThreatModel(norm=norm, eps=limit, goal="targeted")).broken
    assert not broken[(exact > limit * 1.001).numpy()].any()


@pytest.mark.parametrize(
    ("norm", "eps", "shape"),
    [("Linf", 0.05, (1, 6, 6)), ("Linf", 0.05, (3, 9, 5)), ("L2", 0.5, (3, 9, 5)), ("L2", 0.5, (2, 28, 28))],
)
def test_every_candidate_is_in_ball_and_box_and_batches_and_shards_do_not_matter(walled, shape, norm, eps):
    problem = walled(shape, samples=20)
    eps = eps / 10 if shape[1] == 28 else eps
    threat, attack = ThreatModel(norm=norm, eps=eps), Square(steps=40)
    recording = Recording(problem.model)
    whole = problem.attack(attack, threat, early_stop=False, batch_size=512, model=recording)
    for batch in recording.batches[:41]:
        assert batch.amin() >= 0
        assert batch.amax() <= 1
        distance = GEOMETRIES[norm].distance(batch.double() - problem.x.double())
        assert (distance <= eps + 1e-6).all()
        assert (distance > 0).all()
    for size in (7, 64):  # a batch of 7 is refilled, so its samples are at different steps
        part = problem.attack(attack, threat, early_stop=False, batch_size=size)
        np.testing.assert_array_equal(part.broken, whole.broken)
        np.testing.assert_allclose(part.distance, whole.distance, rtol=1e-4)
    samples = Samples(as_data((problem.x, problem.y)), torch.arange(20) * 7919, problem.y)
    shards = [
        run_attack(
            attack, Target(problem.model), samples, np.arange(at, 20, 3), threat, RunOptions(batch_size=2)
        ).broken
        for at in range(3)
    ]
    np.testing.assert_array_equal(np.logical_or.reduce(shards), problem.attack(attack, threat).broken)


def test_in_linf_a_step_paints_one_square_that_was_not_so_before_and_losses_are_taken_back(linear):
    problem = linear((3, 8, 8), classes=2, samples=8)
    recording = Recording(problem.model)
    problem.attack(Square(steps=60), "Linf 1e-3", early_stop=False, model=recording)
    batches = torch.stack(recording.batches[:61])
    with torch.no_grad():
        margins = torch.stack([problem.model(batch) for batch in batches])
    own = margins.gather(2, problem.y.expand(61, -1)[:, :, None])[:, :, 0]
    gains = margins.sum(2) - 2 * own
    change = batches - problem.x
    assert (change[0].abs() - 1e-3).abs().max() < 1e-6
    assert (change[0].sign() == change[0][:, :, :1].sign()).all(), "stripes from top to bottom"
    sides = _sides(0.8, 8, 8, False, CPU)[_stages(60, CPU)]
    best = batches[0].clone()
    best_gain = gains[0].clone()
    for step in range(60):
        differs = (batches[step + 1] - best).abs().amax(1) > 1e-7
        assert differs.flatten(1).any(1).all(), "a pass for what is known already"
        for rows in (differs.any(1), differs.any(2)):
            places = [row.nonzero()[:, 0] for row in rows]
            assert all(place.max() - place.min() < sides[step] for place in places)
        better = gains[step + 1] > best_gain
        best[better], best_gain[better] = batches[step + 1][better], gains[step + 1][better]


def test_in_l2_a_candidate_is_as_long_as_the_ball_allows(linear):
    problem = linear((3, 10, 10), classes=2, samples=8)
    recording = Recording(problem.model)
    problem.attack(Square(steps=60), "L2 0.1", early_stop=False, model=recording)
    for batch in recording.batches[:61]:
        torch.testing.assert_close((batch - problem.x).flatten(1).norm(dim=1), torch.full((8,), 0.1))


# The windows


def test_the_windows_shrink_by_the_papers_schedule():
    assert _stages(10_000, CPU)[[0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8000, 8001]].tolist() == (
        [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9]
    )
    assert _stages(1000, CPU)[[0, 1, 2, 5, 6, 21, 401, 801]].tolist() == [0, 0, 1, 1, 2, 3, 7, 9]
    assert _sides(0.8, 28, 28, False, CPU).tolist() == [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]
    assert _sides(0.8, 28, 28, True, CPU).tolist() == [25, 19, 13, 9, 7, 5, 3, 3, 3, 3]
    assert _sides(1.0, 8, 30, False, CPU).max() == 8


@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 100), data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_window_is_a_square_within_the_image(height, width, seed, data):
    side = data.draw(st.integers(1, min(height, width)))
    draws = torch.rand(5, 2, generator=torch.Generator().manual_seed(seed))
    place = _place(draws, torch.full((5,), side), torch.zeros(5, 1, height, width))
    assert (place.window.flatten(1).sum(1) == side * side).all()
    for window, down, across in zip(place.window[:, 0], *place.offset.unbind(1), strict=True):
        rows, columns = window.any(1).nonzero()[:, 0], window.any(0).nonzero()[:, 0]
        assert down[rows].tolist() == across[columns].tolist() == list(range(side))


def test_windows_reach_every_corner_alike():
    draws = torch.cartesian_prod(torch.arange(100) / 100, torch.arange(100) / 100)
    covered = _place(draws, torch.full((10_000,), 1), torch.zeros(10_000, 1, 5, 5)).window.sum((0, 1))
    assert (covered == 400).all()


@pytest.mark.parametrize("side", [1, 3, 4, 5, 9, 25])
def test_a_bump_has_length_one_and_is_half_up_and_half_down(side):
    bump = _bump(side)
    assert bump.shape == (side, side)
    assert float(bump.norm()) == pytest.approx(1)
    assert (bump[: side // 2] > 0).all()
    assert (bump[side // 2 :] < 0).all()
    torch.testing.assert_close(bump[side // 2 :].norm(), torch.tensor(math.sqrt(0.5) if side > 1 else 1.0))


def test_a_bump_by_hand():
    top = torch.tensor([1 / 4, 1 + 1 / 4, 1 / 4])  # the first ring is 1 high, the second 1 / 2 ** 2
    torch.testing.assert_close(_bump(3)[0], top / top.norm() / math.sqrt(2))
    table = _bumps(0.8, 28, 28, CPU)
    torch.testing.assert_close(table[6][:3, :3], _bump(3))
    assert not table[6][3:].any()


# Giving up


class Wall(nn.Module):
    """Scores that change for nothing but inputs that are bright on the whole."""

    def forward(self, x):
        bright = (x.flatten(1).mean(1) - 0.5).clamp_min(0) * 100
        return torch.stack([torch.ones_like(bright), bright], 1)


def test_a_sample_gets_as_many_steps_as_is_left_of_its_margin_allows():
    x = torch.cat([torch.full((6, 1, 6, 6), 0.1), torch.full((6, 1, 6, 6), 0.5)])
    data = as_data((x, torch.zeros(12, dtype=torch.int64)))
    samples = Samples(data, torch.arange(12), data.labels)
    threat = ThreatModel.parse("Linf 0.0099")  # of the bright ones the margin comes to 0.01 below the boundary
    found = {
        patience: run_attack(Square(steps=60, patience=patience), Target(Wall()), samples, np.arange(12), threat)
        for patience in (None, 100)
    }
    assert not found[None].broken.any()
    assert set(found[None].forward) == {61}
    # All of the margin is left of the dark ones: a tenth of 100 steps, a last look, and one at the input.
    assert set(found[100].forward[:6]) == {12}
    assert found[100].forward[6:].max() == 62, "one that makes progress goes on"
    assert Square(steps=60, patience=100).passes.forward == 62


def test_patience_saves_passes_and_breaks_nothing_else(linear):
    problem = linear((1, 8, 8), classes=3)
    threat = ThreatModel(norm="Linf", eps=float(problem.distances("Linf").quantile(0.2)))
    whole, cut = (problem.attack(Square(steps=400, patience=patience), threat) for patience in (None, 200))
    assert (whole.broken >= cut.broken).all()
    assert whole.broken.sum() - cut.broken.sum() <= 2
    assert cut.passes.forward < whole.passes.forward / 2


def test_restarts_are_other_draws_and_lose_nothing(linear):
    problem = linear((1, 8, 8), classes=3, samples=200)
    threat = ThreatModel(norm="L2", eps=float(problem.distances("L2").median()) * 1.3)
    once, often = (problem.attack(Square(steps=30, restarts=restarts), threat).broken for restarts in (1, 4))
    assert (often >= once).all()
    assert often.sum() > once.sum()


@pytest.mark.parametrize(("norm", "shape"), [("Linf", (50,)), ("Linf", (2, 3, 4, 5)), ("L2", (1, 2, 8))])
def test_inputs_that_are_no_images_are_refused(linear, norm, shape):
    with pytest.raises(ValueError, match="expected images"):
        linear(shape).attack(Square(), ThreatModel(norm=norm, eps=0.1))


@pytest.mark.parametrize("norm", ["L1", "L0"])
def test_a_norm_that_it_does_not_do_is_refused(linear, norm):
    with pytest.raises(ValueError, match="can't be run under"):
        linear().attack(Square(), ThreatModel(norm=norm, eps=1))


@pytest.mark.parametrize(
    "params",
    [{"steps": 0}, {"restarts": 0}, {"p_init": 0}, {"p_init": 1.1}, {"patience": 0}, {"stepz": 1}],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", "square", params)
