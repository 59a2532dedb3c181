"""The adversarial patch: one square of at most eps values, the best place, closed-form gains on a linear model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.patch import AdversarialPatch
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target


def gains(problem, side):
    """By how much the best patch at each place raises the margin of a binary linear model, shape (N, places)."""
    weight = problem.model[1].weight.detach()
    along = (weight[1 - problem.y] - weight[problem.y]).reshape(problem.x.shape)
    best = torch.maximum(along * (1 - problem.x), -along * problem.x).sum(1, keepdim=True)
    return (F.avg_pool2d(best, side, 1) * side**2).flatten(1)


def gap(problem):
    """By how much the margin is to rise, shape (N,)."""
    logits = problem.model(problem.x).detach()
    return (logits.gather(1, problem.y[:, None]) - logits.gather(1, 1 - problem.y[:, None]))[:, 0]


@pytest.mark.parametrize(("shape", "side"), [((1, 12, 12), 2), ((2, 20, 12), 2), ((3, 9, 9), 1)])
def test_breaks_a_linear_model_where_some_patch_can_and_nowhere_else(walled, shape, side):
    problem = walled(shape, samples=70)
    most, needed = gains(problem, side).amax(1), gap(problem)
    threat = f"L0 {shape[0] * side**2}"
    broken = problem.attack(AdversarialPatch(steps=600, places=150), threat, batch_size=200).broken
    assert 0.2 < broken.mean() < 0.8
    assert not broken[(most < needed * 0.999).numpy()].any(), "no patch can"
    assert broken[(most > needed * 1.02).numpy()].mean() >= 0.97


@pytest.mark.parametrize("eps", [12, 26, 27, 40])
def test_a_witness_differs_in_one_square_alone(walled, eps):
    problem = walled((3, 8, 8), samples=60)
    found = problem.attack(AdversarialPatch(steps=60, places=16), f"L0 {eps}", keep=range(60))
    side = int((eps / 3) ** 0.5)
    assert len(found.witnesses) >= 5
    for row, witness in found.witnesses.items():
        assert witness.min() >= 0
        assert witness.max() <= 1
        changed = (witness != problem.x[row].numpy()).any(0)
        down, right = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        assert np.ptp(down) < side
        assert np.ptp(right) < side
        assert found.distance[row] <= 3 * side**2 <= eps


def test_every_candidate_keeps_to_its_square_whatever_the_batch(walled):
    problem, seen = walled((1, 6, 6), samples=10), []

    class Recording(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return problem.model(x)

    problem.attack(AdversarialPatch(steps=40, places=10), "L0 4", model=Recording(), early_stop=False)
    assert len(seen) == 42  # 41 candidates and a confirmation
    for candidates in seen[:41]:
        assert candidates.amin() >= 0
        assert candidates.amax() <= 1
        assert ((candidates - problem.x).flatten(1) != 0).sum(1).max() <= 4


class Spot(nn.Module):
    """Sees nothing but one square of the image, at a place of the sample's own that its first row tells."""

    def forward(self, x):
        row, column = ((x[:, 0, 0, at] * 16).round().long() for at in (0, 1))
        at = torch.arange(12)
        inside = ((at - row[:, None]).abs() <= 1)[:, :, None] & ((at - column[:, None]).abs() <= 1)[:, None, :]
        bright = (x[:, 0] * inside).sum((1, 2)) / 9
        return torch.stack([torch.zeros_like(bright), bright - 0.95], 1) * 10


def test_finds_the_one_place_that_matters():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(40, 1, 12, 12)
    x[:, 0, 0, :2] = torch.randint(3, 11, (40, 2), generator=generator) / 16
    data = as_data((x, torch.zeros(40, dtype=torch.int64)))
    samples = Samples(data, torch.arange(40), data.labels)
    threat = ThreatModel.parse("L0 9")

    def broken(**params):
        return run_attack(AdversarialPatch(**params), Target(Spot()), samples, np.arange(40), threat).broken.mean()

    assert broken(steps=400, places=100) >= 0.95  # all the places that there are
    once = broken(steps=40, places=1)
    assert once <= 0.2
    assert broken(steps=40, places=1, restarts=20) > once, "a restart draws another place"


def test_outcomes_depend_neither_on_the_batch_size_nor_on_the_others(walled):
    problem, attack = walled((1, 12, 12), samples=50), AdversarialPatch(steps=60, places=8, restarts=2)
    whole, some, few = (problem.attack(attack, "L0 4", batch_size=size, keep=range(50)) for size in (512, 64, 7))
    assert 0.2 < whole.broken.mean() < 0.8
    for parts in (some, few):
        np.testing.assert_array_equal(parts.broken, whole.broken)
        for row, witness in whole.witnesses.items():
            np.testing.assert_array_equal(parts.witnesses[row], witness)
    samples = Samples(as_data((problem.x, problem.y)), torch.arange(50) * 7919, problem.y)
    rows = np.array([40, 2, 31, 17])
    shard = run_attack(
        attack, Target(problem.model), samples, rows, ThreatModel.parse("L0 4"), RunOptions(batch_size=3)
    )
    np.testing.assert_array_equal(shard.broken[rows], whole.broken[rows])


def test_reaches_the_class_that_is_wanted(linear):
    problem = linear((3, 8, 8), classes=4, samples=60)
    target_classes = (problem.y + 2) % 4
    found = problem.attack(AdversarialPatch(), "L0 75 targeted", target_classes=target_classes)
    assert found.broken.mean() >= 0.95
    np.testing.assert_array_equal(found.prediction[found.broken], target_classes[torch.from_numpy(found.broken)])


def test_a_patch_is_no_larger_than_the_image(linear):
    problem = linear((1, 6, 4), classes=2)
    found = problem.attack(AdversarialPatch(steps=20, places=12), "L0 1000")
    assert found.broken.all()
    assert found.distance.max() <= 16  # 4 by 4


@pytest.mark.parametrize("eps", [1, 2])
def test_an_eps_too_small_for_a_pixel_is_refused(linear, eps):
    with pytest.raises(ValueError, match=r"expected an eps of channels \* side \*\* 2"):
        linear((3, 16, 16)).attack(AdversarialPatch(), f"L0 {eps}")


def test_inputs_that_are_no_images_are_refused(linear):
    with pytest.raises(ValueError, match=r"expected images \(C, H, W\)"):
        linear((50,)).attack(AdversarialPatch(), "L0 9")


def test_a_norm_that_it_does_not_do_is_refused(linear):
    with pytest.raises(ValueError, match="can't be run under"):
        linear().attack(AdversarialPatch(), "Linf 0.1")


@pytest.mark.parametrize(
    "params",
    [{"steps": 0}, {"places": 0}, {"places": 100, "steps": 100}, {"step_size": 0}, {"restarts": 0}, {"loss": "x"}],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", "adversarial_patch", params)
