"""DeepFool: exact on linear models in one step, agreement with foolbox on a network, what it costs, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.deepfool import DeepFool
from robustbench_lite.core import registry
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target

ROUNDING = 1e-6
"""What float32 may add to a distance."""
FURTHER = 1e-4
"""What each step goes beyond the boundary."""
FAR = {"Linf": "Linf 1", "L2": "L2 50"}


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 16, 16), (50,), (2, 3, 4, 5)])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_is_the_nearest_boundary_and_the_overshoot_on_a_linear_model(linear, norm, shape, classes):
    problem = linear(shape, classes=classes)
    exact = problem.distances(norm).numpy()
    found = problem.attack(DeepFool(overshoot=0.05), FAR[norm], early_stop=False)
    assert found.broken.all()
    np.testing.assert_allclose(found.distance, 1.05 * (exact + FURTHER), rtol=1e-3, atol=ROUNDING)


@pytest.mark.parametrize("early_stop", [False, True])
def test_counts_its_own_passes_and_takes_no_step_more_than_it_needs(linear, early_stop):
    problem = linear(classes=4)
    sure = problem.distances("L2") > 1e-3
    problem = type(problem)(problem.x[sure], problem.y[sure], problem.model)
    found = problem.attack(DeepFool(), FAR["L2"], early_stop=early_stop)
    count = len(problem.x)
    # An answer and three gradients at the input (one with the answer, two of its own), an answer at the boundary, a
    # confirmation; and, where it may go on, another answer at the candidate that it doesn't move any more.
    assert found.passes == Passes(forward=(4 + (not early_stop)) * count, backward=4 * count)
    assert DeepFool(steps=1, classes=4).passes == Passes(forward=3, backward=3)
    assert DeepFool(steps=7, classes=2).passes == Passes(forward=8, backward=7)


def test_compares_no_more_rivals_than_it_is_told_to(linear):
    problem = linear((1, 6, 6), classes=6, samples=200)
    exact = problem.distances("L2").numpy()
    best = problem.model(problem.x).detach().topk(2).indices[:, 1]
    towards_best = problem.rivals("L2").gather(1, best[:, None])[:, 0].numpy()
    farther = towards_best > exact * 1.1 + FURTHER
    assert 5 < farther.sum() < 100
    found = problem.attack(DeepFool(classes=2), FAR["L2"], early_stop=False).distance
    assert (found[farther] > exact[farther] * 1.05 + FURTHER).any()
    assert (found <= 1.021 * (towards_best + FURTHER)).all()
    few, all_of_them = (problem.attack(DeepFool(classes=many), FAR["L2"], early_stop=False) for many in (6, 100))
    np.testing.assert_array_equal(few.distance, all_of_them.distance)


@pytest.fixture(scope="module")
def network():
    """A network with curved boundaries, and inputs that touch the box."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.Tanh(), nn.Linear(64, 7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        x = (torch.rand(120, 3, 4, 4, generator=generator) * 1.4 - 0.2).clamp(0, 1)
        y = model(x).argmax(1)
    return model, x, y


def attacked(network, name, threat, rows=None, **options):
    model, x, y = network
    data = as_data((x, y))
    attack = registry.build("attacks", name, options.pop("params", {}))
    rows = np.arange(len(x)) if rows is None else rows
    samples = Samples(data, torch.arange(len(x)), y)
    return run_attack(attack, Target(model), samples, rows, ThreatModel.parse(threat), RunOptions(**options))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_agrees_with_foolbox_in_distance(network, norm):
    params = {"steps": 30, "overshoot": 0.02}
    ours = attacked(network, "deepfool", FAR[norm], params=params, early_stop=False)
    theirs = attacked(network, f"foolbox:{norm}DeepFoolAttack", FAR[norm], params=params, early_stop=False)
    assert ours.broken.all()
    assert np.median(ours.distance / theirs.distance) == pytest.approx(1, abs=0.01)
    assert ((ours.distance / theirs.distance) < 1.05).mean() >= 0.97
    assert ours.passes.total < theirs.passes.total, "only ours drops what is done"


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_outcomes_depend_neither_on_the_batch_size_nor_on_the_others(network, norm):
    whole = attacked(network, "deepfool", FAR[norm], early_stop=False, batch_size=512)
    threat = f"{norm} {np.median(whole.distance)}"
    inside, parts = (attacked(network, "deepfool", threat, batch_size=size) for size in (64, 7))
    np.testing.assert_array_equal(inside.broken, parts.broken)
    np.testing.assert_allclose(inside.distance, whole.distance, rtol=1e-3)
    np.testing.assert_allclose(parts.distance, whole.distance, rtol=1e-3)
    rows = np.array([100, 3, 57, 8, 21])
    shard = attacked(network, "deepfool", threat, rows, batch_size=2)
    np.testing.assert_allclose(shard.distance[rows], whole.distance[rows], rtol=1e-3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_witnesses_are_in_ball_and_box(network, norm):
    far = attacked(network, "deepfool", FAR[norm], early_stop=False)
    eps = float(np.median(far.distance))
    found = attacked(network, "deepfool", f"{norm} {eps}", keep=range(120))
    assert 0.3 < found.broken.mean() < 0.7
    for row, witness in found.witnesses.items():
        assert witness.min() >= 0
        assert witness.max() <= 1
        change = (witness.astype(np.float64) - network[1][row].double().numpy()).ravel()
        assert np.linalg.norm(change, np.inf if norm == "Linf" else 2) <= eps + 1e-6


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_logits_does_not_matter(linear, scale):
    plain, scaled = (linear((1, 6, 6), classes=4, scale=by) for by in (1.0, scale))
    one, other = (problem.attack(DeepFool(), "L2 5", early_stop=False).distance for problem in (plain, scaled))
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=ROUNDING)


@pytest.mark.parametrize("cut", [False, True])
def test_a_flat_model_and_one_without_a_gradient_cost_nothing_but_time(cut):
    class Flat(nn.Module):
        def forward(self, x):
            score = x.flatten(1).sum(1) * 0
            return (
                torch.stack([score + 1, score, score - 1], 1).detach()
                if cut
                else torch.stack([score + 1, score, score], 1)
            )

    x, y = torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64)
    found = attacked((Flat(), x, y), "deepfool", "L2 1", params={"steps": 5})
    assert not found.broken.any()
    assert found.non_finite == 0
    assert found.trace.zero_gradient[0] == 5


def test_a_targeted_goal_is_refused(linear):
    with pytest.raises(ValueError, match="expected an untargeted goal"):
        linear(classes=2).attack(DeepFool(), "L2 0.5 targeted")


@pytest.mark.parametrize("norm", ["L1 5", "L0 5"])
def test_a_norm_that_it_does_not_do_is_refused(linear, norm):
    with pytest.raises(ValueError, match="can't be run under"):
        linear().attack(DeepFool(), norm)


@pytest.mark.parametrize("params", [{"steps": 0}, {"classes": 1}, {"overshoot": -0.1}], ids=str)
def test_parameters_out_of_range_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", "deepfool", params)
