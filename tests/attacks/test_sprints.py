"""Sprints on linear models, where the margin's course is known, and on a small network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_lite.attacks.pgd import PGD
from robustbench_lite.attacks.sprints import Sprints
from robustbench_lite.core.losses import ANY
from robustbench_lite.core.norms import GEOMETRIES

from .conftest import Linear, l1_distances

NORMS = ("Linf", "L2", "L1")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.99, 1.02])
def test_it_breaks_what_is_in_reach_and_nothing_else(linear, norm, share):
    problem = linear(classes=2 if norm == "L1" else 4)
    distances = (l1_distances(problem) if norm == "L1" else problem.distances(norm)).numpy()
    eps = float(np.median(distances)) / share
    found = problem.attack(Sprints(), f"{norm} {eps}")
    assert (found.broken == (distances <= eps)).mean() >= 0.975
    assert not (found.broken & (distances > eps * 1.000_01)).any(), "what was seen out of the ball is no witness"


@pytest.mark.parametrize("norm", NORMS)
def test_the_batch_does_not_matter(linear, norm):
    problem = linear(classes=5, samples=24)
    eps = float(problem.distances("L2").median()) * {"Linf": 0.1, "L2": 1, "L1": 10}[norm]
    one, other = (problem.attack(Sprints(), f"{norm} {eps}", batch_size=size) for size in (7, 64))
    assert np.array_equal(one.broken, other.broken)
    assert np.array_equal(one.forward, other.forward)


def test_a_targeted_goal_is_reached(linear):
    problem = linear((1, 8, 8), classes=4, scale=0.1)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(Sprints(), "Linf 0.2 targeted", target_classes=target_classes)
    assert found.broken.all()
    np.testing.assert_array_equal(found.prediction, target_classes)


@pytest.mark.parametrize(("rivals", "pace"), [(1, None), (1, 0.1), (3, None), (3, 0), (4, 0.1)])
def test_passes_go_where_little_of_the_margin_is_left(rivals, pace):
    # Whichever rival a sprint heads for, it takes 8 * eps off a margin of 4 * lead.
    left, eps = torch.arange(0.025, 0.98, 0.01), 0.004
    problem = _rising(torch.zeros(5), torch.ones(5), lead=2 * eps / (1 - left))
    attack = Sprints(sprints=30, patience=4, rivals=rivals, pace=pace)
    found = problem.attack(attack, f"Linf {eps}")
    assert not found.broken.any()
    needed = 1 / (rivals + 1) if pace is None else pace
    expected = (rivals + 0.4 / left).ceil().clamp_max(30)
    for done in range(rivals - 1, 0, -1):
        expected[left > 1 - needed * done] = done
    sprints = torch.from_numpy(found.forward - 2) // attack.length  # besides, the input is looked at twice
    sure = ((0.4 / left).frac() - 0.5).abs() < 0.499
    assert sprints[sure].tolist() == expected[sure].tolist()


def test_a_sample_costs_no_more_than_all_of_its_sprints(linear):
    problem = linear(classes=3)
    attack = Sprints(sprints=6, length=5, pace=0, patience=1000)
    found = problem.attack(attack, "Linf 0.0001")
    assert set(found.forward) == {attack.steps + 2} == {attack.passes.forward}
    assert set(found.backward) == {attack.steps + 2} <= set(range(attack.passes.backward + 1))  # two rivals to rank


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("widest", [1, 4, None])
def test_a_sprint_starts_far_out_and_ends_in_the_ball(linear, norm, widest):
    seen: list[torch.Tensor] = []
    problem = linear(classes=3, samples=4)

    class Watched(torch.nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return problem.model(x)

    eps, length = float(problem.distances("Linf").min()) / 10, 8  # too little to break one in any norm
    attack = Sprints(sprints=3, length=length, pace=0, patience=1000, widest=widest)
    problem.attack(attack, f"{norm} {eps}", model=Watched())
    torch.testing.assert_close(seen.pop(0), problem.x)  # which rivals are near
    torch.testing.assert_close(seen[0], problem.x)
    distance = GEOMETRIES[norm].distance
    for start in range(1, 3 * length, length):
        radii = torch.stack([distance((x - problem.x).double()) for x in seen[start : start + length]]) / eps
        assert (radii[length // 2 :] <= 1.01).all()  # float32
        if widest == 1:
            assert attack.confined
            assert (radii <= 1.01).all()
        else:
            assert (radii[0] > 1.1).all()
            assert (radii[0] <= (widest or 20) * 1.01).all()
    assert not torch.equal(seen[1], seen[1 + length])


def test_from_far_out_it_sees_over_a_plateau():
    """Flat in all of the ball but its corner, where the boundary is; beyond, the way to it shows."""

    class Plateau(torch.nn.Module):
        def forward(self, x):
            rise = torch.relu((x - 0.5).flatten(1)[:, :3].mean(1) - 0.19)
            return torch.stack([torch.full_like(rise, 0.005), rise], 1)

    problem = Linear(torch.full((20, 1, 4, 4), 0.5), torch.zeros(20, dtype=torch.int64), Plateau())
    assert not problem.attack(Sprints(sprints=40, pace=0, patience=1000, widest=1), "Linf 0.2").broken.any()
    assert problem.attack(Sprints(sprints=40, pace=0, patience=1000), "Linf 0.2").broken.mean() >= 0.8


def test_what_the_model_says_out_of_the_ball_is_not_held_against_it():
    """A root that is no number just outside of the ball."""

    class Root(torch.nn.Module):
        def forward(self, x):
            root = (x.flatten(1) - 0.285).sqrt()
            return torch.stack([torch.ones(len(x)), root.mean(1)], 1)

    x = 0.3 + 0.4 * torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = Linear(x, torch.zeros(30, dtype=torch.int64), Root()).attack(Sprints(), "Linf 0.01")
    assert found.non_finite == 0
    assert not found.broken.any()


@pytest.mark.parametrize("given", [{"length": 1}, {"widest": 0.5}, {"widest": 1e9}, {"sprints": 0}, {"pace": 2}])
def test_what_is_out_of_range_is_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        Sprints(**given)


def test_a_class_that_no_input_brings_nearer_costs_nothing():
    problem = _rising(torch.tensor([1.0, 0.99, 0.0]), torch.tensor([0.0, 0.0, 1.3]))
    assert not problem.attack(PGD(loss="margin", steps=40, random_start=False), "Linf 0.2").broken.any()
    assert problem.attack(Sprints(sprints=1, rivals=1), "Linf 0.2").broken.all()
    assert not problem.attack(Sprints(sprints=1, rivals=1, ranking="gap"), "Linf 0.2").broken.any()


def test_the_first_sprints_head_for_one_rival_each():
    """The nearest class, by a linear guess, rises to a ceiling; the second one is in reach."""
    problem = _rising(
        torch.tensor([1.0, 0.96, 0.0]), torch.tensor([0.0, 0.1, 1.26]), ceiling=torch.tensor([9, 0.97, 9])
    )
    assert not problem.attack(PGD(loss="margin", steps=40, random_start=False), "Linf 0.2").broken.any()
    assert problem.attack(Sprints(sprints=2, pace=0, widest=1), "Linf 0.2").broken.all()
    assert not problem.attack(Sprints(pace=0, patience=1000, rivals=1, widest=1), "Linf 0.2").broken.any()


def test_the_others_head_for_the_rival_that_led_nearest_or_for_any():
    headings: list[int] = []

    class Watched(Sprints):
        def rival(self, problem, state):
            chosen = super().rival(problem, state)
            assert (chosen == chosen[0]).all()
            headings.append(int(chosen[0]))
            return chosen

    # By a linear guess the classes 1, 2, 3 are next; 2 leads nearest, and not across.
    problem = _rising(
        torch.tensor([1.0, 0.3, 0.0, 0.2]), torch.tensor([0.0, 2, 1.1, 0.1]), ceiling=torch.tensor([9, 0.4, 9, 9])
    )
    assert not problem.attack(Watched(sprints=8, length=10, pace=0, patience=1000), "Linf 0.2").broken.any()
    assert headings[1::10][:8] == [1, 2, 3, 2, ANY, 2, ANY, 2]


def _rising(
    bias: torch.Tensor,
    slopes: torch.Tensor,
    *,
    ceiling: torch.Tensor | float = torch.inf,
    lead: torch.Tensor | None = None,
) -> Linear:
    """Five grey samples; each logit rises with four values of its own, from its bias to a ceiling.

    With a lead there are as many samples as it has values, and the first class's values begin that much higher.
    """

    class Rising(torch.nn.Module):
        def forward(self, x):
            risen = bias + slopes * (x[:, 0] - 0.5).sum(2)
            return risen.minimum(torch.as_tensor(ceiling).to(risen))

    lead = torch.zeros(5) if lead is None else lead
    x = torch.full((len(lead), 1, len(bias), 4), 0.5)
    x[:, 0, 0] += lead[:, None]
    return Linear(x, torch.zeros(len(x), dtype=torch.int64), Rising())
