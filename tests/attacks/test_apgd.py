"""Auto-PGD: closed form on linear models in three norms, the paper's algorithm written plainly, one class at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.interface import Counted, ModelOutput, Problem
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks._auto_pgd import _spans
from robustbench_lite.attacks.apgd import APGD
from robustbench_lite.attacks.apgd_targeted import APGDTargeted
from robustbench_lite.attacks.pgd import PGD
from robustbench_lite.core import registry
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES, sparse
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target

from .conftest import Recording, l1_distances

CPU = torch.device("cpu")


@pytest.fixture
def network():
    """A network with curved boundaries, and samples of which it says the label."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 40), nn.Tanh(), nn.Linear(40, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5 * 3)
        x = torch.rand(60, 3, 4, 4, generator=generator)
        return x, model(x).argmax(1), model


def attacked(network, attack, threat, *, batch_size=64, early_stop=True, seed=0, model=None, rows=None):
    x, y, own = network
    samples = Samples(as_data((x, y)), torch.arange(len(x)) * 7919, y)
    rows = np.arange(len(x)) if rows is None else rows
    return run_attack(
        attack,
        Target(model or own),
        samples,
        rows,
        ThreatModel.parse(threat),
        RunOptions(seed=seed, batch_size=batch_size, early_stop=early_stop, keep=range(len(x))),
    )


def plain(loss, x, norm, eps, steps, rho=0.75):
    """Algorithm 1 of the paper for one sample, from the sample itself: every candidate."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    checks = [math.ceil(round(share * steps, 9)) for share in shares]

    def inside(point):
        delta = point - x
        if norm == "Linf":
            delta = delta.clamp(-eps, eps)
        elif delta.norm() > eps:
            delta = delta * eps / delta.norm()
        return (x + delta).clamp(0, 1)

    def look(point):
        leaf = point.clone().requires_grad_()
        value = loss(leaf)
        (grad,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), grad.sign() if norm == "Linf" else grad / grad.norm()

    size, halved, checked = 2 * eps, False, -math.inf
    points = [x]
    values, directions = map(list, zip(look(x), strict=True))
    best = 0
    at, direction, before = x, directions[0], x
    for done in range(steps):
        ahead = inside(at + size * direction)
        share = 1.0 if done == 0 else 0.75
        following = inside(at + share * (ahead - at) + (1 - share) * (at - before))
        before = at
        points.append(following)
        value, towards = look(following)
        values.append(value)
        directions.append(towards)
        best = len(values) - 1 if value > values[best] else best
        at, direction = following, towards
        if done + 1 in checks[1:]:
            since = checks[checks.index(done + 1) - 1]
            rises = sum(values[k + 1] > values[k] for k in range(since, done + 1))
            halves = rises < rho * (done + 1 - since) or (not halved and values[best] <= checked)
            halved, checked = halves, values[best]
            if halves:
                size, at, direction = size / 2, points[best], directions[best]
    return torch.stack(points)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 0.4)])
def test_is_the_papers_algorithm_written_plainly(network, norm, eps):
    x, y, model = network
    rows, steps = 12, 50
    recording = Recording(model)
    attack = APGD(steps=steps, random_start=False)
    attacked(network, attack, f"{norm} {eps}", early_stop=False, model=recording, rows=np.arange(rows))
    ours = torch.stack(recording.batches[: steps + 1], 1)
    for row in range(rows):

        def loss(point, row=row):
            return F.cross_entropy(model(point[None]), y[row : row + 1])

        theirs = plain(loss, x[row], norm, eps, steps)
        # Not every value: where a gradient is all but zero, its sign hangs on rounding.
        assert ((ours[row] - theirs).abs() < 1e-3).double().mean() > 0.99


@pytest.mark.parametrize(("shape", "batch_size"), [((1, 6, 6), 7), ((3, 16, 16), 64), ((50,), 512)])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_breaks_a_binary_linear_model_exactly_where_the_boundary_is_in_the_ball(linear, norm, shape, batch_size):
    problem = linear(shape, classes=2)
    exact = l1_distances(problem) if norm == "L1" else problem.distances(norm)
    eps = float(exact.median())
    broken = problem.attack(APGD(loss="margin"), ThreatModel(norm=norm, eps=eps), batch_size=batch_size).broken
    sure = ((exact > eps * 1.001) | (exact < eps / 1.02)).numpy()
    assert sure.mean() >= 0.85
    np.testing.assert_array_equal(broken[sure], (exact < eps).numpy()[sure])


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_reaches_the_nearest_point_where_the_box_is_in_the_way(walled, norm):
    problem = walled((3, 16, 16), samples=5)
    exact = l1_distances(problem) if norm == "L1" else problem.box_distances(norm)
    for row, distance in enumerate(exact.tolist()):
        one = type(problem)(problem.x[row : row + 1], problem.y[row : row + 1], problem.model)
        assert one.attack(APGD(), ThreatModel(norm=norm, eps=distance * 1.03)).broken.item(), (row, distance)
        assert not one.attack(APGD(), ThreatModel(norm=norm, eps=distance * 0.999)).broken.item()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_targeted_goal_is_exact_on_a_binary_linear_model(linear, norm):
    problem = linear(classes=2)
    exact = l1_distances(problem) if norm == "L1" else problem.distances(norm)
    eps = float(exact.median())
    broken = problem.attack(APGD(), ThreatModel(norm=norm, eps=eps, goal="targeted")).broken
    sure = ((exact > eps * 1.001) | (exact < eps / 1.02)).numpy()
    np.testing.assert_array_equal(broken[sure], (exact < eps).numpy()[sure])


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "margin", "probability_margin"])
def test_reaches_the_class_that_is_wanted(linear, loss):
    problem = linear(classes=5, samples=60)
    target_classes = (problem.y + 2) % 5
    # Logits of a few units: those of a saturated softmax have no gradient.
    found = linear(classes=5, samples=60, scale=0.1).attack(
        APGD(loss=loss), "Linf 0.2 targeted", target_classes=target_classes
    )
    assert found.broken.all()
    np.testing.assert_array_equal(found.prediction, target_classes)


@pytest.mark.parametrize("attack", [APGD(steps=20), APGDTargeted(targets=3, iterations=8)], ids=["apgd", "targeted"])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 0.3), ("L1", 1.0)])
def test_every_candidate_is_in_ball_and_box_and_batches_and_shards_do_not_matter(network, attack, norm, eps):
    threat = f"{norm} {eps}"
    recording = Recording(network[2])
    whole = attacked(network, attack, threat, batch_size=512, early_stop=False, model=recording)
    for batch in recording.batches[: attack.steps + 1]:
        assert batch.amin() >= 0
        assert batch.amax() <= 1
        assert (GEOMETRIES[norm].distance(batch.double() - network[0].double()) <= eps + 1e-6).all()
    assert 0.1 < whole.broken.mean() < 0.95
    for batch_size in (7, 64):  # a batch of 7 is refilled, so its samples are at different steps
        part = attacked(network, attack, threat, batch_size=batch_size, early_stop=False)
        np.testing.assert_array_equal(part.broken, whole.broken)
        np.testing.assert_array_equal(part.forward, whole.forward)
        np.testing.assert_allclose(part.distance, whole.distance, rtol=1e-3)
    shards = [attacked(network, attack, threat, batch_size=7, rows=np.arange(at, 60, 3)).broken for at in range(3)]
    np.testing.assert_array_equal(np.logical_or.reduce(shards), attacked(network, attack, threat).broken)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.03), ("L2", 0.25)])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_breaks_no_less_than_pgd_with_the_same_steps_and_loss(network, norm, eps, loss):
    ours, plain_steps = (
        sum(attacked(network, attack, f"{norm} {eps}", seed=seed).broken.sum() for seed in range(3))
        for attack in (APGD(steps=20, loss=loss), PGD(steps=20, loss=loss))
    )
    assert 20 < plain_steps < 160
    assert ours >= plain_steps - 2


# The checkpoints and the step size


def test_the_checkpoints_are_those_of_the_paper():
    assert _spans(100, False, CPU).nonzero()[:, 0].tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert _spans(40, False, CPU).nonzero()[:, 0].tolist() == [9, 17, 23, 28, 32, 35, 38]
    assert _spans(100, True, CPU).nonzero()[:, 0].tolist() == list(range(4, 100, 4))


@given(steps=st.integers(1, 500), even=st.booleans())
@settings(deadline=None, max_examples=50)
def test_the_spans_are_the_steps_between_checkpoints_and_none_is_at_the_end(steps, even):
    spans = _spans(steps, even, CPU)
    checks = spans.nonzero()[:, 0]
    assert len(spans) == steps + 1
    assert spans[-1] == 0
    torch.testing.assert_close(spans[checks], checks.diff(prepend=torch.zeros(1, dtype=torch.int64)))


def problem_of(threat, count=3):
    x = torch.full((count, 1, 2, 2), 0.5)
    return Problem(
        x=x,
        y=torch.zeros(count, dtype=torch.int64),
        target_class=torch.zeros(count, dtype=torch.int64),
        sample_keys=torch.arange(count),
        step=torch.zeros(count, dtype=torch.int64),
        noise=Noise(torch.arange(count)),
        threat=ThreatModel.parse(threat),
        model=Counted(Target(nn.Flatten())),
    )


def sizes(losses, steps, threat="Linf 0.1"):
    """Step size after each step of samples with these losses, shape (steps, B)."""
    problem, attack = problem_of(threat, losses.shape[1]), APGD(steps=steps)
    state, found = attack.init(problem), []
    for done in range(steps):
        output = ModelOutput(
            problem.project(state.x), losses[done][:, None], losses[done], torch.ones_like(state.x), None
        )
        state = attack.step(replace(problem, step=torch.full_like(problem.step, done)), state, output)
        found.append(state.size)
    return torch.stack(found)


def test_the_step_is_halved_at_every_checkpoint_where_the_loss_does_not_rise_and_nowhere_else():
    rising, flat = torch.arange(100.0), torch.zeros(100)
    late = torch.cat([torch.zeros(41), torch.arange(59.0)])
    found = sizes(torch.stack([rising, flat, late], 1), 100)
    assert (found[:, 0] == 0.2).all()
    checks = torch.tensor([22, 41, 57, 70, 80, 87, 93, 99])
    halvings = (torch.arange(100)[:, None] >= checks).sum(1)
    torch.testing.assert_close(found[:, 1], 0.2 * 0.5**halvings)
    torch.testing.assert_close(found[:, 2], 0.2 * 0.5 ** halvings.clamp_max(2))


def test_the_step_is_halved_where_too_few_steps_rise_and_where_the_best_loss_stays():
    # Of 22 steps 16 rise (16.5 are wanted), or 17; both reach a new best loss.
    few, enough = (
        torch.cat([torch.arange(1.0 + rises), torch.arange(rises - 1.0, rises - 1.0 - 22 + rises, -1)])
        for rises in (16, 17)
    )
    # After the first checkpoint every step rises, but never to what was reached before.
    rest = torch.arange(78.0) / 1000
    stays = torch.cat([enough[:22], torch.tensor([-5.0]), -5 + rest[1:]])
    again = torch.cat([few[:22], torch.tensor([-5.0]), -5 + rest[1:]])
    found = sizes(torch.stack([stays, again], 1), 100)
    assert found[21].tolist() == pytest.approx([0.2, 0.2])
    assert found[22].tolist() == pytest.approx([0.2, 0.1])
    # The second condition waits for a checkpoint after one that did not halve.
    assert found[41].tolist() == pytest.approx([0.1, 0.1])
    assert found[57].tolist() == pytest.approx([0.1, 0.05])


def test_a_halved_climb_goes_on_from_the_best_point():
    problem, attack = problem_of("L2 0.1", 2), APGD(steps=100, random_start=False)
    best = torch.full((2, 1, 2, 2), 0.52)
    state = attack.init(problem)._replace(
        best=best, best_grad=torch.ones_like(best), best_loss=torch.tensor([5.0, 5.0]), rises=torch.tensor([3, 21])
    )
    now = torch.full_like(best, 0.48)
    output = ModelOutput(now, torch.ones(2, 1), torch.tensor([4.0, 4.0]), -torch.ones_like(best), None)
    problem = replace(problem, step=torch.full((2,), 22))
    following = attack.step(problem, state._replace(previous=now), output)
    assert following.size.tolist() == pytest.approx([0.1, 0.2])
    assert (following.x[0] > 0.52).all()
    assert (following.x[1] < 0.48).all()


# L1


def test_in_l1_a_step_changes_the_steepest_values_that_can_move_by_equal_parts():
    grad = torch.tensor([[5.0, -4.0, 3.0, -2.0, 1.0]]).repeat(4, 1)
    grad[3] = 0
    x = torch.tensor([[0.5] * 5, [1.0, 0.0, 0.5, 0.5, 0.5], [1.0, 0.0, 0.5, 0.5, 0.5], [0.5] * 5])
    origin = x.clone()
    origin[2] = 0.5  # it reached the walls, and would come back were it not pushed on
    moved = sparse(x, origin, grad, torch.tensor([2.7, 2.0, 2.0, 3.0]))
    towards = [[0.5, -0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, -0.5, 0.0], [0.5, -0.5, 0.0, 0.0, 0.0], [0.0] * 5]
    torch.testing.assert_close(moved, torch.tensor(towards))


@given(width=st.floats(0, 12), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_in_l1_a_step_has_length_one_and_pushes_nothing_that_can_not_move(width, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 3, (4, 2, 5), generator=generator) / 2
    grad = torch.randn(4, 2, 5, generator=generator)
    moved = sparse(x, x, grad, torch.full((4,), width))
    assert not (((x == 1) & (moved > 0)) | ((x == 0) & (moved < 0))).any()
    free = torch.where(grad > 0, x < 1, x > 0).flatten(1).sum(1)
    torch.testing.assert_close(moved.abs().flatten(1).sum(1), (free > 0).float())
    wanted = torch.tensor(max(1, int(width))).minimum(free)
    assert torch.equal((moved != 0).flatten(1).sum(1), wanted)


def test_in_l1_what_rounding_left_of_a_change_does_not_count():
    problem, attack = problem_of("L1 0.4", 1), APGD(steps=100)
    best = problem.x.clone()
    best[0, 0, 0, 0], best[0, 0, 1, 1] = 0.9, 0.5 + 1e-7
    state = attack.init(problem)._replace(best=best, best_loss=torch.tensor([9.0]))
    output = ModelOutput(best, torch.ones(1, 1), torch.tensor([1.0]), torch.ones_like(best), None)
    state = attack.step(replace(problem, step=torch.tensor([4])), state, output)
    assert state.support.tolist() == [1]


def test_in_l1_the_width_follows_the_best_perturbation_and_the_step_shrinks_to_a_tenth():
    problem, attack = problem_of("L1 0.4", 2), APGD(steps=100)
    best = torch.full((2, 1, 2, 2), 0.5)
    best[0, 0, 0, 0] = 0.6
    best[1] = 0.6
    state = attack.init(problem)._replace(best=best, best_loss=torch.tensor([9.0, 9.0]))
    assert state.size.tolist() == pytest.approx([0.4, 0.4])
    for at in range(4, 60, 4):
        output = ModelOutput(best, torch.ones(2, 1), torch.tensor([1.0, 1.0]), torch.ones_like(best), None)
        state = attack.step(replace(problem, step=torch.full((2,), at)), state, output)
        if at == 4:  # one of four values is fewer than all, four are not
            assert state.size.tolist() == pytest.approx([0.4, 0.4 / 1.5])
            assert state.width.tolist() == pytest.approx([1 / 1.5, 4 / 1.5])
    assert state.size.tolist() == pytest.approx([0.04, 0.04])


# One class after another


class Chosen(nn.Module):
    """Logits that are values of the input."""

    def forward(self, x):
        return x.flatten(1)


def test_the_classes_are_attacked_by_their_gap():
    x = torch.tensor([[0.9, 0.2, 0.8, 0.5], [0.1, 0.9, 0.3, 0.2]])
    y = torch.tensor([0, 1])
    problem = replace(problem_of("Linf 0.01", 2), x=x, y=y, target_class=y, model=Counted(Target(Chosen())))
    attack = APGDTargeted(targets=3, iterations=5)
    state = attack.init(problem)
    assert state.ranking.tolist() == [[2, 3, 1], [2, 3, 0]]
    for step, rivals in ((0, [2, 2]), (4, [2, 2]), (5, [3, 3]), (14, [1, 0]), (15, [1, 0])):
        at = replace(problem, step=torch.full((2,), step))
        assert attack.rival(at, state).tolist() == rivals
    spent = problem.model.take()
    assert (spent.forward, spent.backward) == (2, 0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_by_gap_over_gradient_the_order_is_that_of_the_distances_of_a_linear_model(linear, norm):
    problem = linear(classes=6)
    attack = APGDTargeted(targets=5, ranking="gap_over_gradient")
    counted = Counted(Target(problem.model))
    given = replace(problem_of(f"{norm} 0.01", 40), x=problem.x, y=problem.y, target_class=problem.y, model=counted)
    ranking = attack.init(given).ranking
    assert torch.equal(ranking, problem.rivals(norm).argsort(1)[:, :5])
    spent = counted.take()
    assert (spent.forward, spent.backward) == (40, 5 * 40)
    assert not torch.equal(ranking, APGDTargeted(targets=5).init(given).ranking)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["dlr", "margin"])
def test_class_by_class_is_exact_in_many_classes(linear, norm, loss):
    """Each rival's margin is one linear function, so that no climb ends on one that isn't the nearest."""
    problem = linear((3, 16, 16), classes=6, samples=60)
    exact = problem.distances(norm)
    eps = float(exact.median())
    attack = APGDTargeted(targets=5, iterations=40, loss=loss)
    broken = problem.attack(attack, ThreatModel(norm=norm, eps=eps)).broken
    sure = ((exact > eps * 1.001) | (exact < eps / 1.02)).numpy()
    np.testing.assert_array_equal(broken[sure], (exact < eps).numpy()[sure])


@pytest.mark.parametrize("random_start", [False, True])
def test_each_class_has_a_start_of_its_own(network, random_start):
    recording = Recording(network[2])
    attack = APGDTargeted(targets=3, iterations=4, random_start=random_start)
    attacked(network, attack, "Linf 1e-4", early_stop=False, model=recording)
    assert len(recording.batches[0]) == len(network[0])
    candidates = recording.batches[1:]  # the first is the look by which the classes are ranked
    starts = [(candidates[at] - network[0]).flatten(1) for at in (0, 4, 8)]
    if not random_start:
        assert all((start == 0).all() for start in starts)
        return
    assert all((start != 0).any(1).all() for start in starts)
    assert not any(torch.equal(starts[one], starts[other]) for one, other in ((0, 1), (1, 2), (0, 2)))
    assert (starts[1].abs() < 0.99e-4).float().mean() > 0.9, "a draw, not the end of a climb"


def test_what_it_says_to_cost_is_what_a_sample_that_stands_costs(network):
    for ranking in ("gap", "gap_over_gradient"):
        attack = APGDTargeted(targets=2, iterations=5, ranking=ranking, restarts=2)
        found = attacked(network, attack, "Linf 1e-6")
        stands = ~found.broken
        assert stands.any()
        assert set(found.forward[stands]) == {attack.passes.forward}
        assert set(found.backward[stands]) == {attack.passes.backward}


def test_with_fewer_classes_than_targets_each_is_attacked_once(linear):
    problem = linear(classes=3)
    attack = APGDTargeted(targets=9, iterations=10)
    found = problem.attack(attack, "Linf 1e-5")
    stands = ~found.broken
    assert stands.any()
    assert set(found.forward[stands]) == {2 * 10 + 2}
    two = linear(classes=2)
    exact = two.distances("Linf")
    eps = float(exact.median())
    broken = two.attack(attack, ThreatModel(norm="Linf", eps=eps)).broken
    sure = ((exact > eps * 1.001) | (exact < eps / 1.02)).numpy()
    np.testing.assert_array_equal(broken[sure], (exact < eps).numpy()[sure])


def test_a_model_without_a_gradient_is_ranked_by_its_gaps():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    x = torch.tensor([[0.9, 0.2, 0.8, 0.5]])
    given = replace(problem_of("Linf 0.01", 1), x=x, model=Counted(Target(Cut())))
    state = APGDTargeted(targets=3, ranking="gap_over_gradient").init(given)
    assert state.ranking.tolist() == [[2, 3, 1]]


def test_class_by_class_a_targeted_goal_is_refused(linear):
    with pytest.raises(ValueError, match="apgd does targeted ones"):
        linear().attack(APGDTargeted(), "Linf 0.1 targeted")


@pytest.mark.parametrize("name", ["apgd", "apgd_targeted"])
@pytest.mark.parametrize(
    "params",
    [{"restarts": 0}, {"rho": 1.5}, {"rho": -0.1}, {"loss": "dlr2"}, {"random_start": "perhaps"}, {"stepz": 1}],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(name, params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", name, params)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("apgd", {"steps": 0}),
        ("apgd_targeted", {"targets": 0}),
        ("apgd_targeted", {"iterations": 0}),
        ("apgd_targeted", {"ranking": "size"}),
        ("apgd_targeted", {"loss": "cross_entropy"}),
    ],
    ids=str,
)
def test_parameters_of_one_form_out_of_range_are_refused_by_name(name, params):
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", name, params)


@pytest.mark.parametrize("name", ["apgd", "apgd_targeted"])
def test_restarts_without_a_random_start_are_refused(name):
    with pytest.raises(ValueError, match="each would repeat the first"):
        registry.build("attacks", name, {"restarts": 2, "random_start": False})


@pytest.mark.parametrize("threat", ["L0 5", "Spatial 10"])
def test_a_norm_that_it_does_not_do_is_refused(linear, threat):
    with pytest.raises(ValueError, match="can't be run under"):
        linear().attack(APGD(), threat)
