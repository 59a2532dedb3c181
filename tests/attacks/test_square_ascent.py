"""SquareAscent: closed form on linear models, climbs from what random search found, and who is searched again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite import evaluate
from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.apgd import APGD
from robustbench_lite.attacks.square import Square
from robustbench_lite.attacks.square_ascent import SquareAscent
from robustbench_lite.core import registry
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target


class Recording(nn.Module):
    """Keeps every batch that it is asked about, and whether its gradient was wanted."""

    def __init__(self, model):
        super().__init__()
        self.model, self.batches, self.climbed = model, [], []

    def forward(self, x):
        self.batches.append(x.detach().clone())
        self.climbed.append(x.requires_grad)
        return self.model(x)


class Plain(nn.Module):
    """A linear classifier that answers only where the first column has left the plain around the input."""

    def __init__(self, weight, origin, threshold):
        super().__init__()
        self.weight, self.origin, self.threshold = weight, origin, threshold

    def forward(self, x):
        moved = x - self.origin
        off = moved[..., 0].abs().flatten(1).mean(1) > self.threshold
        score = (moved * self.weight).flatten(1).sum(1) * off
        return torch.stack([torch.ones_like(score), score], 1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_breaks_nothing_beyond_the_boundary_and_what_is_well_within(linear, norm):
    problem = linear((1, 8, 8), classes=2, samples=16)
    exact = problem.distances(norm)
    eps = float(exact.median())
    found = problem.attack(SquareAscent(windows=300, patience=600), ThreatModel(norm=norm, eps=eps))
    sure = ((exact > eps * 1.001) | (exact < eps / 1.02)).numpy()
    np.testing.assert_array_equal(found.broken[sure], (exact < eps).numpy()[sure])
    assert found.passes.backward > 0


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_targeted_goal_is_reached(linear, norm):
    problem = linear((1, 8, 8), classes=4, scale=0.1)
    target_classes = (problem.y + 2) % 4
    eps = 0.2 if norm == "Linf" else 1.5
    threat = ThreatModel(norm=norm, eps=eps, goal="targeted")
    found = problem.attack(SquareAscent(windows=300, patience=15000), threat, target_classes=target_classes)
    assert found.broken.all()
    np.testing.assert_array_equal(found.prediction, target_classes)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 0.5)])
def test_every_candidate_is_in_ball_and_box_and_batches_do_not_matter(walled, norm, eps):
    problem = walled((3, 9, 5), samples=20)
    threat, attack = ThreatModel(norm=norm, eps=eps), SquareAscent(searches=2, windows=30, every=10, patience=125)
    recording = Recording(problem.model)
    whole = problem.attack(attack, threat, early_stop=False, batch_size=512, model=recording)
    assert any(recording.climbed)
    origin = problem.x.double()
    for batch in recording.batches:
        assert batch.amin() >= 0
        assert batch.amax() <= 1
        # A part of the batch has given up or doesn't climb: each candidate is near some original.
        near = torch.stack([GEOMETRIES[norm].distance(batch.double() - one) for one in origin]).amin(0)
        assert (near <= eps + 1e-6).all()
    for size in (7, 64):  # a batch of 7 is refilled, so its samples are at different windows of different searches
        part = problem.attack(attack, threat, early_stop=False, batch_size=size)
        np.testing.assert_array_equal(part.broken, whole.broken)
        np.testing.assert_allclose(part.distance, whole.distance, rtol=1e-4)


def test_the_samples_of_a_batch_climb_together(walled):
    problem, every = walled((3, 9, 5), samples=20), 8
    recording = Recording(problem.model)
    attack = SquareAscent(searches=4, windows=40, every=every, climb=2, patience=100)
    found = problem.attack(attack, "Linf 0.1", early_stop=False, model=recording)
    assert len(set(found.forward.tolist())) > 4, "their searches end at different windows"
    windows = "".join("c" if climbed else "w" for climbed in recording.climbed).strip("w")
    between = [len(part) for part in windows.split("c") if part]
    assert len(between) > 4
    assert min(between) >= every


class Step(nn.Module):
    """Scores of which a change of the input takes six tenths of the margin, and nothing takes more."""

    def forward(self, x):
        changed = (x - 0.5).abs().flatten(1).amax(1) > 0
        score = changed * 0.6 + x.flatten(1).sum(1) * 0
        return torch.stack([torch.ones_like(score), score], 1)


def test_a_search_has_its_windows_before_its_first_climb():
    data = as_data((torch.full((4, 1, 6, 6), 0.5), torch.zeros(4, dtype=torch.int64)))
    recording = Recording(Step())
    attack = SquareAscent(searches=3, every=8, patience=46)  # with four tenths of the margin left 12 windows a search
    run_attack(
        attack,
        Target(recording),
        Samples(data, torch.arange(4), data.labels),
        np.arange(4),
        ThreatModel.parse("Linf 0.1"),
    )
    steps = [place - recording.climbed[:place].count(True) for place, climb in enumerate(recording.climbed) if climb]
    # After a look at the input; not at window 16, which is the fourth of the second search, nor at its last, 24.
    assert steps == [1 + 8, 1 + 32], "a climb ends at once where there is no gradient"


def test_a_climb_from_what_random_search_found_crosses_a_plain_that_no_other_climb_leaves():
    x = torch.full((24, 1, 12, 12), 0.5)
    weight = torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(0))
    weight[..., 0] = 0  # the column that opens the way matters for nothing else
    weight *= 1.1 / (0.1 * weight.abs().sum())  # at the best corner of the ball the margin is 0.1 beyond the boundary
    data = as_data((x, torch.zeros(24, dtype=torch.int64)))
    samples = Samples(data, torch.arange(24), data.labels)
    target, threat = Target(Plain(weight, 0.5, 0.09)), ThreatModel.parse("Linf 0.1")

    def attack(one):
        return run_attack(one, target, samples, np.arange(24), threat)

    for random_start in (False, True):
        assert not attack(APGD(random_start=random_start)).broken.any()
    ours, theirs = attack(SquareAscent(searches=1, patience=1000)), attack(Square(steps=2000))
    assert ours.broken.all()
    assert theirs.broken.all()
    assert ours.passes.total < theirs.passes.total / 2


class Steps(nn.Module):
    """Scores that random search can raise by a share of the margin, and never to the boundary; the rest are deaf."""

    def forward(self, x):
        bright = x.flatten(1).mean(1)
        score = torch.where(bright > 0.4, (bright - 0.5).clamp_min(0) * 80, bright * 0)
        return torch.stack([torch.ones_like(score), score], 1)


class FlatBeyond(nn.Module):
    """A linear classifier whose scores stand still beyond the boundary: a climb that has crossed it is blind."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        reached = ((x - 0.5) * self.weight).flatten(1).sum(1) / 0.7
        score = torch.where(reached > 1, reached * 0 + 1.5, reached * 0.9)
        return torch.stack([torch.ones_like(score), score], 1)


def test_who_else_climbs_changes_nothing_where_there_is_no_gradient():
    weight = torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(0))
    x = 0.5 + torch.arange(16).view(-1, 1, 1, 1) * 1e-4 + torch.zeros(16, 1, 12, 12)
    data = as_data((x, torch.zeros(16, dtype=torch.int64)))
    samples, target = (
        Samples(data, torch.arange(16), data.labels),
        Target(FlatBeyond(weight / (0.1 * weight.abs().sum()))),
    )
    attack, threat = SquareAscent(searches=1, windows=60, patience=100_000), ThreatModel.parse("Linf 0.1")
    alone, *others = (
        run_attack(attack, target, samples, np.arange(16), threat, RunOptions(batch_size=size)) for size in (1, 3, 16)
    )
    assert 0 < alone.broken.sum() < 16
    for found in others:
        np.testing.assert_array_equal(found.broken, alone.broken)


def test_only_a_sample_that_came_near_is_searched_again():
    x = torch.cat([torch.full((4, 1, 6, 6), 0.1), torch.full((20, 1, 6, 6), 0.5)])
    data = as_data((x, torch.zeros(24, dtype=torch.int64)))
    samples = Samples(data, torch.arange(24), data.labels)
    threat = ThreatModel.parse("Linf 0.01")  # of the bright ones a fifth of the margin is left at the best corner

    def forward(searches):
        attack = SquareAscent(searches=searches, windows=100, every=1000, patience=100)
        found = run_attack(attack, Target(Steps()), samples, np.arange(24), threat)
        assert not found.broken.any()
        assert found.passes.backward == 0
        return found.forward

    once, twice = forward(1), forward(2)
    assert set(once[:4]) == set(twice[:4]) == {10 + 1 + 1}, "half of 20 windows, a look at the input, a last one"
    near = once[4:] > 20 + 1 + 1  # more windows than where half is left
    assert near.sum() >= 2
    np.testing.assert_array_equal(twice[4:] > once[4:], near)
    assert SquareAscent(searches=2, windows=100, every=1000).passes.forward == 202


def test_scores_alone_are_searched_without_climbs(linear):
    problem = linear((1, 8, 8), classes=2, samples=16)
    asked = []

    def scores(x):
        asked.append(len(x))
        with torch.no_grad():
            return problem.model(torch.from_numpy(x)).numpy()

    eps = float(problem.distances("Linf").median())
    suite = [{"attack": "square_ascent", "params": {"windows": 200}}]
    card = evaluate(scores, (problem.x, problem.y), suite, f"Linf {eps}")
    (result,) = card.attacks
    assert result.broken >= 4
    assert result.passes.backward == 0
    assert result.passes.forward <= sum(asked)


def test_a_model_that_cuts_the_graph_or_answers_no_numbers_trips_nothing(linear):
    problem = linear((1, 8, 8), classes=2, samples=8)

    class Cut(nn.Module):
        def forward(self, x):
            return problem.model(x.detach())

    class Broken(nn.Module):
        def forward(self, x):
            return problem.model(x) * torch.nan

    for model, breaks in ((Cut(), True), (Broken(), False)):
        found = problem.attack(SquareAscent(windows=100), "Linf 0.3", model=model)
        assert bool(found.broken.any()) is breaks


@pytest.mark.parametrize(
    "params",
    [{"searches": 0}, {"windows": 0}, {"every": 0}, {"climb": 0}, {"stride": 0}, {"patience": 0}, {"steps": 5}],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", "square_ascent", params)


@pytest.mark.parametrize(("norm", "shape"), [("Linf", (50,)), ("L2", (1, 2, 8))])
def test_inputs_that_are_no_images_are_refused(linear, norm, shape):
    with pytest.raises(ValueError, match="expected images"):
        linear(shape).attack(SquareAscent(), ThreatModel(norm=norm, eps=0.1))
