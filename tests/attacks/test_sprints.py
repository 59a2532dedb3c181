"""Sprints on linear models, where the margin's course is known, and on a small network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_lite.attacks.pgd import PGD
from robustbench_lite.attacks.sprints import Sprints
from robustbench_lite.norms import GEOMETRIES

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
    problem = linear(classes=5, samples=60)
    eps = float(problem.distances("L2").median()) * {"Linf": 0.1, "L2": 1, "L1": 10}[norm]
    one, other = (problem.attack(Sprints(), f"{norm} {eps}", batch_size=size) for size in (7, 64))
    assert np.array_equal(one.broken, other.broken)
    assert np.array_equal(one.forward, other.forward)


def test_a_targeted_goal_is_reached(linear):
    problem = linear(classes=2)
    eps = float(problem.distances("Linf").max()) * 1.02
    assert problem.attack(Sprints(), f"Linf {eps} targeted").broken.all()


def test_passes_go_where_little_of_the_margin_is_left(linear):
    # In a linear model the margin that is left is 1 - eps / distance.
    problem = linear(classes=3, samples=200)
    distances = problem.distances("Linf").numpy()
    eps = float(np.quantile(distances, 0.05))
    attack = Sprints(sprints=30, patience=4)
    found = problem.attack(attack, f"Linf {eps}")
    left = 1 - eps / distances
    standing = ~found.broken
    expected = np.clip(np.ceil(4 * (0.5 / left[standing]) ** 3 - 1e-6), 1, 30)
    sprints = (found.forward[standing] - 1) / attack.length
    assert sprints.max() > 2 * sprints.min()
    np.testing.assert_allclose(sprints, expected, atol=1)


def test_a_sample_costs_no_more_than_all_of_its_sprints(linear):
    problem = linear(classes=3)
    attack = Sprints(sprints=6, length=5, patience=1000)
    found = problem.attack(attack, "Linf 0.0001")
    assert set(found.forward) == {attack.steps + 1} == {attack.passes.forward}


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
    attack = Sprints(sprints=3, length=length, patience=1000, widest=widest)
    problem.attack(attack, f"{norm} {eps}", model=Watched())
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
    assert not problem.attack(Sprints(sprints=40, patience=1000, widest=1), "Linf 0.2").broken.any()
    assert problem.attack(Sprints(sprints=40, patience=1000), "Linf 0.2").broken.mean() >= 0.8


def test_what_the_model_says_out_of_the_ball_is_not_held_against_it():
    """A root that is no number just outside of the ball."""

    class Root(torch.nn.Module):
        def forward(self, x):
            root = (x.flatten(1) - 0.285).sqrt()
            return torch.stack([torch.ones(len(x)), root.mean(1)], 1)

    x = 0.3 + 0.4 * torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = Linear(x, torch.zeros(30, dtype=torch.int64), Root()).attack(Sprints(), "Linf 0.01")
    assert found.strange == 0
    assert not found.broken.any()


@pytest.mark.parametrize("given", [{"length": 1}, {"widest": 0.5}, {"widest": 1e9}, {"sprints": 0}])
def test_what_is_out_of_range_is_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        Sprints(**given)


def test_every_second_sprint_heads_for_one_rival():
    """The nearest class by its logit is a dead end; the second one is in reach."""
    weight = torch.zeros(3, 16)
    weight[2, :8] = 1.0
    bias = torch.tensor([1.0, 0.99, 0.0])  # class 1 is next, and no input changes it
    layer = torch.nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias - weight @ torch.full((16,), 0.5))
    problem = Linear(
        torch.full((5, 1, 4, 4), 0.5), torch.zeros(5, dtype=torch.int64), torch.nn.Sequential(torch.nn.Flatten(), layer)
    )
    threat = "Linf 0.2"
    assert not problem.attack(PGD(loss="margin", steps=40, random_start=False), threat).broken.any()
    assert problem.attack(Sprints(patience=1000, widest=1), threat).broken.all()
    assert not problem.attack(Sprints(patience=1000, rivals=1, widest=1), threat).broken.any()
