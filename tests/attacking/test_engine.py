"""The one attack loop: what it counts, keeps, restores and decides, whatever the attack and the model do."""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.attacking import engine
from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.interface import Attack, Counted
from robustbench_lite.attacking.record import RunResult, Samples
from robustbench_lite.core import registry
from robustbench_lite.core.cost import Budget, BudgetTracker
from robustbench_lite.core.errors import ModelError, out_of_memory
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.threat import TOLERANCE, ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.float64 import in_float64
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import IN_FLOAT64
from tests.support import Counting, Wrapped


@dataclass(frozen=True)
class Case:
    """A model and samples that it gets right."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def first(self, count) -> Case:
        """The first so many samples."""
        return Case(self.model, self.x[:count], self.y[:count])

    def attack(
        self, attack, threat="Linf 0.1", *, model=None, rows=None, order=None, target_classes=None, **options
    ) -> RunResult:
        """Run an attack, given as it is or by name and parameters, on all samples or in another order."""
        if not isinstance(attack, Attack):
            name, params = attack if isinstance(attack, tuple) else (attack, {})
            attack = registry.build("attacks", name, params)
        order = torch.arange(len(self.x)) if order is None else order
        data = as_data((self.x[order], self.y[order]))
        keys = order * 7919
        samples = Samples(data, keys, (self.y if target_classes is None else target_classes)[order])
        rows = np.arange(len(data)) if rows is None else np.array(rows, np.int64)
        return run_attack(
            attack, Target(model or self.model), samples, rows, ThreatModel.parse(threat), RunOptions(**options)
        )


def linear_case(shape=(1, 6, 6), classes=2, samples=40, seed=0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    size = int(np.prod(shape))
    layer = nn.Linear(size, classes)
    x = 0.5 + 0.02 * torch.randn(samples, *shape, generator=generator)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, size, generator=generator))
        layer.bias.copy_(-(layer.weight * 0.5).sum(1))
        model = nn.Sequential(nn.Flatten(), layer)
        return Case(model, x, model(x).argmax(1))


def distances(case: Case, norm: str) -> np.ndarray:
    """Exact distance of each sample of a linear model of two classes."""
    weight, logits = case.model[1].weight.detach(), case.model(case.x).detach()
    gap = (logits[:, 0] - logits[:, 1]).abs()
    return (gap / (weight[0] - weight[1]).norm(p={"Linf": 1, "L2": 2}[norm])).numpy()


@pytest.fixture
def linear() -> Case:
    return linear_case()


@pytest.fixture(scope="module")
def digits(train_on_digits) -> Case:
    """A small convolutional network, trained, and 1,000 digits that it gets right."""
    model, x, y = train_on_digits(1400, epochs=12)
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[-1000:, 0]
    return Case(model, x[right], y[right])


class Recording(Counting):
    """Counts what really goes through a model, and keeps each batch's size and whether its gradient was wanted."""

    def __init__(self, model):
        super().__init__(model)
        self.sizes, self.gradients = [], []

    def forward(self, x):
        self.sizes.append(len(x))
        self.gradients.append(x.requires_grad)
        return super().forward(x)


class Candidate(NamedTuple):
    x: Tensor


@dataclass(frozen=True, kw_only=True)
class Proposes(Attack):
    """Proposes whatever a function of the problem says."""

    what: object
    minimal = False
    norms = ("Linf", "L2")

    @property
    def steps(self):
        return 1

    def init(self, problem):
        return Candidate(problem.x)

    def step(self, problem, state, output):
        return Candidate(self.what(problem))


@dataclass(frozen=True, kw_only=True)
class ProposesAnywhere(Proposes):
    minimal = True


# What is counted


ATTACKS = [
    ("fgsm", "Linf 0.02"),
    (("pgd", {"steps": 6, "restarts": 3}), "Linf 0.02"),
    (("bim", {"steps": 5, "loss": "margin"}), "L2 0.15"),
    (("carlini_wagner", {"search_steps": 2, "iterations": 20}), "L2 0.15"),
    (("carlini_wagner_linf", {"iterations": 20}), "Linf 0.02"),
    (("foolbox:LinfBasicIterativeAttack", {"steps": 3}), "Linf 0.02"),
]


@pytest.mark.parametrize("batch_size", [7, 512])
@pytest.mark.parametrize(("attack", "threat"), ATTACKS, ids=lambda value: str(value))
def test_every_pass_is_counted_once(digits, attack, threat, batch_size):
    model = Recording(digits.model)
    case, budget = Case(model, digits.x[:60], digits.y[:60]), BudgetTracker()
    found = case.attack(attack, threat, batch_size=batch_size, budget=budget)
    assert 0 < found.broken.sum() < 60
    assert found.passes.forward == model.forwards
    assert found.passes.backward == model.backwards
    assert budget.passes == found.passes
    assert (found.forward >= 2).all()


def test_passes_of_a_sample_are_its_candidates_and_its_confirmation(linear):
    exact = distances(linear, "Linf")
    eps = float(np.median(exact))
    found = linear.attack(("bim", {"steps": 8, "step_size": eps / 8}), f"Linf {eps}")
    sure = np.abs(exact / eps * 8 - np.round(exact / eps * 8)) > 0.05  # not on the edge between two steps
    needed = np.ceil(exact / eps * 8)
    broken = found.broken & sure
    np.testing.assert_array_equal(found.forward[broken], needed[broken] + 2)
    np.testing.assert_array_equal(found.backward[broken & (needed < 8)], needed[broken & (needed < 8)] + 1)
    assert set(found.forward[~found.broken]) == {9}
    assert set(found.backward[~found.broken]) == {8}


def test_a_samples_passes_do_not_depend_on_the_batch_it_was_in(linear):
    """They are the cost that doesn't depend on the machine."""
    attack, threat = ("pgd", {"steps": 5, "restarts": 2}), f"Linf {np.median(distances(linear, 'Linf'))}"
    small, large = (linear.attack(attack, threat, batch_size=size) for size in (7, 64))
    np.testing.assert_array_equal(small.forward, large.forward)
    np.testing.assert_array_equal(small.backward, large.backward)


def test_samples_that_were_not_asked_for_are_left_alone(linear):
    found = linear.attack("fgsm", rows=[3, 17, 5])
    assert found.broken.nonzero()[0].tolist() == [3, 5, 17]
    assert found.forward.nonzero()[0].tolist() == [3, 5, 17]
    assert np.isinf(found.distance).sum() == 37
    assert (found.prediction == -1).sum() == 37


def test_no_rows_cost_nothing(linear):
    model = Recording(linear.model)
    found = linear.attack("pgd", model=model, rows=[])
    assert model.sizes == []
    assert not found.broken.any()
    assert found.passes.total == 0
    assert found.stopped is None
    assert found.trace.samples == ()


# Batches: the active set and its refill


def test_broken_samples_leave_and_waiting_ones_keep_the_batch_full(digits):
    model = Recording(digits.model)
    capacity, steps = 64, 20
    found = digits.attack(("pgd", {"steps": steps}), "Linf 0.05", model=model, batch_size=capacity)
    assert 0.1 < found.broken.mean() < 0.9
    looks = [size for size, gradient in zip(model.sizes, model.gradients, strict=True) if gradient]
    assert max(model.sizes) <= capacity
    # Places are refilled as soon as an eighth of them is free; only the last round may run on what is left.
    while_full = looks[: -(steps + 2)]
    assert min(while_full) >= capacity * 7 / 8
    assert len(looks) <= sum(looks) / (capacity * 7 / 8) + steps + 2


def test_confirmations_go_in_full_batches_too(linear):
    model = Recording(linear.model)
    linear.attack("fgsm", "Linf 0.3", model=model, batch_size=10)
    assert model.sizes == [10] * 12


def test_an_early_break_saves_its_passes(digits):
    early, late = (
        digits.attack(("pgd", {"steps": 10}), "Linf 0.3", early_stop=early_stop).passes for early_stop in (True, False)
    )
    assert early.total < 0.7 * late.total


@pytest.mark.parametrize(
    ("attack", "threat", "samples"),
    [
        (("pgd", {"steps": 5, "restarts": 2}), "Linf 0.1", 130),
        (("pgd", {"steps": 5, "loss": "margin", "momentum": 0.75}), "L2 0.7", 100),
        (("carlini_wagner", {"search_steps": 2, "iterations": 15}), "L2 0.7", 70),
        (("carlini_wagner_linf", {"iterations": 15}), "Linf 0.15", 70),
    ],
    ids=str,
)
def test_outcomes_depend_neither_on_the_batch_size_nor_on_the_order(digits, attack, threat, samples):
    digits = Case(digits.model, digits.x[:samples], digits.y[:samples])
    shuffled = torch.randperm(samples, generator=torch.Generator().manual_seed(3))
    whole = digits.attack(attack, threat, batch_size=512)
    others = [digits.attack(attack, threat, batch_size=size) for size in (7, 64)]
    mixed = digits.attack(attack, threat, batch_size=64, order=shuffled)
    back = shuffled.argsort().numpy()
    pairs = [(other.broken, other.distance, other.prediction) for other in others]
    pairs.append((mixed.broken[back], mixed.distance[back], mixed.prediction[back]))
    assert 0.2 < whole.broken.mean() < 0.95
    for broken, distance, prediction in pairs:
        assert (broken != whole.broken).sum() <= 1
        both = broken & whole.broken
        assert (np.abs(distance[both] - whole.distance[both]) > 1e-4).sum() <= 1
        assert (prediction != whole.prediction)[both].sum() <= 1


def test_another_seed_or_name_draws_otherwise_and_the_same_draws_the_same(digits):
    attack = ("pgd", {"steps": 3, "step_size": 0.1})
    first = digits.attack(attack, "L2 0.5", name="a", seed=0)
    again = digits.attack(attack, "L2 0.5", name="a", seed=0)
    np.testing.assert_array_equal(first.distance, again.distance)
    for other in (
        digits.attack(attack, "L2 0.5", name="b", seed=0),
        digits.attack(attack, "L2 0.5", name="a", seed=1),
    ):
        both = first.broken & other.broken
        assert (first.distance != other.distance)[both].mean() > 0.5


def test_the_users_generators_are_left_alone(linear):
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    linear.attack(("pgd", {"restarts": 2}), "L2 0.01")
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)


# Success is the harness's to decide


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_candidate_out_of_ball_and_box_is_brought_back(linear, norm):
    exact = distances(linear, norm)
    eps = float(np.median(exact))

    def far_away(problem):
        weight = linear.model[1].weight.detach()
        towards = (weight[1 - problem.y] - weight[problem.y]).reshape(problem.x.shape)
        return problem.x + 100 * towards

    found = linear.attack(Proposes(what=far_away), f"{norm} {eps}", keep=range(40))
    sure = np.abs(exact / eps - 1) > (1e-3 if norm == "L2" else 2)
    np.testing.assert_array_equal(found.broken[sure], (exact < eps)[sure])
    assert (found.distance[found.broken] <= eps + TOLERANCE).all()
    for witness in found.witnesses.values():
        assert witness.min() >= 0
        assert witness.max() <= 1


def test_a_minimal_attacks_candidate_out_of_the_ball_is_no_success_but_its_distance_is_known(linear):
    def other_corner(problem):
        return (
            (linear.model[1].weight[1 - problem.y] > linear.model[1].weight[problem.y]).float().reshape(problem.x.shape)
        )

    found = linear.attack(ProposesAnywhere(what=other_corner), "L2 0.01")
    assert not found.broken.any()
    assert found.unconfirmed == 0
    assert (found.distance > 1).all()
    assert np.isfinite(found.distance).all()


def test_an_attack_that_moves_the_originals_breaks_nothing(linear):
    def tamper(problem):
        problem.x.copy_(1 - problem.x.round())
        return problem.x

    found = linear.attack(Proposes(what=tamper), "Linf 0.0001")
    assert not found.broken.any()
    assert found.witnesses == {}
    assert torch.equal(linear_case().x, linear.x), "nor does it change the data"


def test_a_candidate_that_is_not_a_number_is_no_success(linear):
    forgiving = Wrapped(linear.model, lambda model, x, call: model(x.nan_to_num(1.0) * 100 - 50))
    case = Case(forgiving, linear.x, forgiving(linear.x).argmax(1))
    for kind in (Proposes, ProposesAnywhere):
        found = case.attack(kind(what=lambda problem: torch.full_like(problem.x, torch.nan)), "Linf 0.5")
        assert not found.broken.any()
        assert np.isinf(found.distance).all()


def test_an_attack_that_gives_up_breaks_nothing(linear):
    found = linear.attack(Proposes(what=lambda problem: problem.x), "Linf 0.5")
    assert not found.broken.any()
    assert set(found.forward) == {2}


def test_an_answer_that_flips_when_asked_again_is_unconfirmed_and_the_sample_stands(linear):
    def only_once(model, x, call):
        logits = model(x)
        return logits if call < 3 else F.one_hot(linear.y, 2).float()

    found = linear.attack("fgsm", "Linf 0.3", model=Wrapped(linear.model, only_once), keep=range(40))
    assert not found.broken.any()
    assert found.unconfirmed == 40
    assert found.witnesses == {}
    assert np.isinf(found.distance).all()
    assert (found.prediction == -1).all()
    assert set(found.forward) == {3}, "the denied confirmation is a pass too"


def test_what_float64_denies_is_no_witness(linear):
    """Logits of ten million: in float32 both are rounded to the same, and class 0 is said of every input."""

    class Rounding(nn.Module):
        def forward(self, x):
            layer = linear.model[1]
            return F.linear(x.flatten(1), layer.weight.to(x.dtype), layer.bias.to(x.dtype)) + 1e7

    stays, model = Proposes(what=lambda problem: problem.x), Rounding()
    rounds = linear.y.numpy() == 1
    assert (linear.attack(stays, "Linf 0.3", model=model).broken == rounds).all()
    found = linear.attack(stays, "Linf 0.3", model=model, float64_model=in_float64(Target(model)), keep=range(40))
    assert not found.broken.any()
    assert found.denial_reasons == dict.fromkeys(np.flatnonzero(rounds).tolist(), IN_FLOAT64)
    assert found.unconfirmed == 0
    assert found.witnesses == {}
    assert (found.forward == np.where(rounds, 4, 2)).all(), "two looks, each time with another one in float64"


def test_what_rounding_makes_out_of_the_ball_was_never_claimed(linear):
    class Rounding(nn.Module):
        def forward(self, x):
            layer = linear.model[1]
            return F.linear(x.flatten(1), layer.weight.to(x.dtype), layer.bias.to(x.dtype)) + 1e7

    class Far(ProposesAnywhere):
        def init(self, problem):
            return Candidate(self.what(problem))

    far, model = Far(what=lambda problem: problem.x + 0.01), Rounding()
    assert linear.attack(far, "Linf 0.1", model=model, float64_model=in_float64(Target(model))).denial_reasons
    found = linear.attack(far, "Linf 0.001", model=model, float64_model=in_float64(Target(model)))
    assert not found.broken.any()
    assert found.denial_reasons == {}


class Offset(nn.Module):
    """Logits that a number is added to, which changes no class, and makes the rounding of float32 coarse."""

    def __init__(self, model, offset):
        super().__init__()
        self.model, self.offset = model, offset

    def forward(self, x):
        return self.model(x) + self.offset


@pytest.mark.parametrize(
    ("attack", "early_stop"), [(("pgd", {"loss": "margin"}), True), ("fmn", True), ("fmn", False), ("ddn", False)]
)
def test_a_search_goes_on_past_what_rounding_makes(digits, attack, early_stop):
    """Margins of a few hundredths are rounding here: an example at the boundary is none, and one beyond it is found."""
    few, model = digits.first(50), Offset(digits.model, 1e5)
    plain = few.attack(attack, "L2 0.6", early_stop=early_stop)
    found = few.attack(attack, "L2 0.6", model=model, early_stop=early_stop, float64_model=in_float64(Target(model)))
    assert 10 < plain.broken.sum() < 45
    assert found.broken.sum() >= plain.broken.sum() - 2
    assert not found.unconfirmed
    if not early_stop:
        assert np.isfinite(found.distance).sum() >= np.isfinite(plain.distance).sum() - 1


def test_a_model_that_stops_answering_in_float64_costs_no_result(linear):
    def once(x, asked=[]):  # noqa: B006 - it is to remember
        asked.append(x)
        if len(asked) > 1:
            raise RuntimeError("no more")
        return linear.model.double()(x.double())

    found = linear.attack("fgsm", "Linf 0.3", model=copy.deepcopy(linear.model), float64_model=once)
    assert found.broken.all()
    assert not found.float64_held


def test_another_model_in_float64_denies_nothing(linear):
    said = linear.attack("fgsm", "Linf 0.3", float64_model=lambda x: torch.zeros(len(x), 2, dtype=torch.float64))
    plain = linear.attack("fgsm", "Linf 0.3")
    assert plain.broken.all()
    assert said.broken.all()
    assert (said.prediction == plain.prediction).all()


def test_an_unconfirmed_sample_is_given_its_other_restarts():
    """One denied candidate is no reason to let the sample stand: two more starts were asked for."""
    case = linear_case()

    def first_confirmation_is_denied(model, x, call):
        logits = model(x)
        return F.one_hot(case.y, 2).float() if call == 3 else logits

    model = Wrapped(case.model, first_confirmation_is_denied)
    found = case.attack(
        ("pgd", {"steps": 1, "step_size": 0.3, "restarts": 3}), "Linf 0.3", model=model, batch_size=40, early_stop=False
    )
    assert found.unconfirmed == 40
    assert found.broken.all()


def test_logits_that_are_not_numbers_never_count_as_success(linear):
    def nan_off_the_data(model, x, call):
        logits = model(x)
        return logits if call == 1 else logits * torch.nan

    found = linear.attack(("pgd", {"steps": 3}), "Linf 0.3", model=Wrapped(linear.model, nan_off_the_data))
    assert not found.broken.any()
    assert all(np.isfinite(found.trace.loss))
    infinite = Wrapped(linear.model, lambda model, x, call: model(x) if call == 1 else model(x) + torch.inf)
    assert not linear.attack("fgsm", "Linf 0.3", model=infinite).broken.any()


def test_a_gradient_that_is_not_a_number_does_not_save_a_sample(linear):
    """As of ``sqrt`` at 0: the rest of the gradient tells the way, and a sample lost to NaN is not a robust one."""

    class Masked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            grad = grad.clone()
            grad[:, 0, 0, 0] = torch.nan
            return grad

    masked = Wrapped(linear.model, lambda model, x, call: model(Masked.apply(x)))
    for attack, threat in (
        ("fgsm", "Linf 0.3"),
        ("pgd", "Linf 0.3"),
        ("pgd", "L2 1"),
        ("carlini_wagner_linf", "Linf 0.3"),
    ):
        found = linear.attack(attack, threat, model=masked)
        assert found.broken.all(), f"{attack} under {threat} breaks {found.broken.sum()} of 40"


@pytest.mark.parametrize(("shape", "eps"), [((3, 32, 32), 4), ((3, 224, 224), 3)])
def test_rounding_of_a_large_l2_ball_loses_no_sample(shape, eps):
    """The norm of so many values has in float32 an error in proportion to eps: a fixed tolerance is soon too small."""
    case = linear_case(shape, samples=16)
    assert distances(case, "L2").max() < 0.1
    found = case.attack("fgsm", f"L2 {eps}")
    assert found.broken.all(), f"{found.broken.sum()} of 16"
    assert found.unconfirmed == 0


def test_trace_tells_of_each_step(linear):
    found = linear.attack(("bim", {"steps": 4, "loss": "margin"}), f"Linf {np.median(distances(linear, 'Linf'))}")
    assert found.trace.samples[0] == 40
    assert sum(found.trace.broken) == found.broken.sum()
    for step in range(1, 5):
        assert found.trace.samples[step] == found.trace.samples[step - 1] - found.trace.broken[step - 1]
    assert found.trace.zero_gradient == (0,) * 5
    assert found.trace.loss[0] < 0


# Beyond the ball: without an early stop, an example out of it is confirmed too, for its distance


def other_side(case, share):
    """Candidates beyond the boundary of a linear model of two classes, by a share of the exact L2 distance."""
    weight = case.model[1].weight.detach()
    away = (weight[1 - case.y] - weight[case.y]).reshape(case.x.shape)
    exact = torch.from_numpy(distances(case, "L2"))
    length = (1 + share) * exact / away.flatten(1).norm(dim=1)
    return case.x + length.reshape(-1, 1, 1, 1) * away


@pytest.mark.parametrize("batch_size", [7, 512])
def test_without_an_early_stop_an_example_out_of_the_ball_is_confirmed_for_its_distance(linear, batch_size):
    exact, beyond = distances(linear, "L2"), other_side(linear, 0.05)
    eps = float(np.median(exact)) * 1.05

    def other(problem):
        return beyond[problem.sample_keys // 7919]

    model = Recording(linear.model)
    options = {"keep": range(40), "batch_size": batch_size}
    found = linear.attack(ProposesAnywhere(what=other), f"L2 {eps}", model=model, early_stop=False, **options)
    inside = 1.05 * exact <= eps
    np.testing.assert_array_equal(found.broken, inside)
    np.testing.assert_allclose(found.distance, 1.05 * exact, rtol=1e-4)
    assert set(found.forward) == {3}, "each is asked about again, in the ball or not"
    assert found.passes.forward == model.forwards
    assert set(found.witnesses) == set(inside.nonzero()[0].tolist()), "no witness is out of the ball"
    np.testing.assert_array_equal(found.prediction, np.where(inside, 1 - linear.y.numpy(), -1))
    assert found.unconfirmed == 0
    early = linear.attack(ProposesAnywhere(what=other), f"L2 {eps}", **options)
    np.testing.assert_array_equal(early.broken, found.broken)
    assert set(early.forward[~inside]) == {2}, "with it, what is out of the ball isn't"


def test_an_example_out_of_the_ball_that_is_denied_has_no_distance(linear):
    beyond = other_side(linear, 0.05)

    def second_look_denies(model, x, call):
        return F.one_hot(linear.y, 2).float() if call == 3 else model(x)

    found = linear.attack(
        ProposesAnywhere(what=lambda problem: beyond),
        "L2 0.00001",
        model=Wrapped(linear.model, second_look_denies),
        early_stop=False,
    )
    assert not found.broken.any()
    assert found.unconfirmed == 0, "nothing was claimed of the ball"
    assert np.isinf(found.distance).all()


def test_without_an_early_stop_every_restart_is_made_and_the_nearest_example_kept(linear):
    @dataclass(frozen=True, kw_only=True)
    class Restarted(ProposesAnywhere):
        restarts: int = 3

    beyond, exact = other_side(linear, 0.05), distances(linear, "L2")
    eps = float(np.median(exact)) * 1.05
    found = linear.attack(Restarted(what=lambda p: beyond[p.sample_keys // 7919]), f"L2 {eps}", early_stop=False)
    assert 0 < found.broken.sum() < 40
    assert set(found.forward) == {9}
    np.testing.assert_allclose(found.distance, 1.05 * exact, rtol=1e-4)


# What an attack may choose: a rival, and to give up


@dataclass(frozen=True, kw_only=True)
class ToRival(Attack):
    """Steps along the gradient of the margin to one class."""

    norms = ("L2",)
    loss = "margin"
    shift: int

    @property
    def steps(self):
        return 12

    def init(self, problem):
        return Candidate(problem.x)

    def step(self, problem, state, output):
        grad = output.grad / output.grad.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        return Candidate(output.x + problem.threat.eps / 6 * grad)

    def rival(self, problem, state):
        return (problem.target_class + self.shift) % 5


@pytest.mark.parametrize("most", [9, 512])
def test_an_attack_climbs_to_the_rival_of_its_choice(most):
    """In parts as large as memory allows as well; any wrong class still counts."""
    case = linear_case(classes=5, samples=60)
    weight, logits = case.model[1].weight.detach(), case.model(case.x).detach()
    for shift in (1, 3):
        rival = (case.y + shift) % 5
        gap = logits.gather(1, case.y[:, None])[:, 0] - logits.gather(1, rival[:, None])[:, 0]
        exact = gap / (weight[case.y] - weight[rival]).norm(dim=1)
        tight = Wrapped(case.model, limited(most, torch.OutOfMemoryError("CUDA out of memory")))
        found = case.attack(ToRival(shift=shift), f"L2 {float(exact.max()) * 1.01}", model=tight, early_stop=False)
        assert found.broken.all()
        reached = found.prediction == rival.numpy()
        assert reached.mean() > 0.5, "of four, to the nearest it would be a quarter"
        assert (found.distance[reached] >= exact.numpy()[reached] * (1 - 1e-5)).all()
    aimless = case.attack(ToRival(shift=0), "L2 5", model=case.model)
    assert not aimless.broken.any(), "towards its own class there is no way"


@dataclass(frozen=True, kw_only=True)
class GivesUp(Attack):
    """Stays where it is, and gives every other sample up after some steps."""

    norms = ("Linf",)
    after: int = 3
    restarts: int = 1

    @property
    def steps(self):
        return 10

    def init(self, problem):
        return Candidate(problem.x)

    def step(self, problem, state, output):
        return Candidate(output.x)

    def gave_up(self, problem, state):
        return (problem.sample_keys // 7919 % 2 == 0) & (problem.step >= self.after)


@pytest.mark.parametrize("batch_size", [7, 512])
@pytest.mark.parametrize("restarts", [1, 2])
def test_a_sample_that_is_given_up_leaves_early(linear, batch_size, restarts):
    model = Recording(linear.model)
    found = linear.attack(GivesUp(restarts=restarts), "Linf 0.001", model=model, batch_size=batch_size)
    even = np.arange(40) % 2 == 0
    assert set(found.forward[even]) == {4 * restarts}, "three looks with a gradient, and one at the last candidate"
    assert set(found.backward[even]) == {3 * restarts}
    assert set(found.forward[~even]) == {11 * restarts}
    assert not found.broken.any()
    assert found.passes.forward == model.forwards
    assert found.trace.samples == (40 * restarts,) * 4 + (20 * restarts,) * 7


def test_the_last_candidate_of_what_is_given_up_still_counts(linear):
    beyond = other_side(linear, 0.05)

    @dataclass(frozen=True, kw_only=True)
    class OneLeap(GivesUp):
        norms = ("L2",)

        def step(self, problem, state, output):
            return Candidate(beyond[problem.sample_keys // 7919])

        def gave_up(self, problem, state):
            return problem.step >= 1

    found = linear.attack(OneLeap(), "L2 5")
    assert found.broken.all()
    assert set(found.forward) == {3}


# Nothing of the model is changed


def flags(module):
    return [part.training for part in module.modules()], [item.requires_grad for item in module.parameters()]


def mixed_model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 2)
    )
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


def test_only_the_gradient_to_the_input_is_computed(linear):
    with torch.random.fork_rng(devices=[]):
        model = mixed_model()
    seen = []
    model[0].register_forward_hook(lambda layer, args, out: seen.append((layer.weight.requires_grad, layer.training)))
    model[5].register_forward_hook(lambda layer, args, out: seen.append((layer.weight.requires_grad, layer.training)))
    before, weights = flags(model), [item.clone() for item in model.state_dict().values()]
    linear.attack(("pgd", {"steps": 3}), model=model)
    assert set(seen) == {(False, False)}
    assert flags(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(weights, model.state_dict().values(), strict=True))


def test_gradients_that_the_user_had_are_kept(linear):
    F.cross_entropy(linear.model(linear.x), linear.y).backward()
    kept = linear.model[1].weight.grad.clone()
    linear.attack("pgd")
    assert torch.equal(linear.model[1].weight.grad, kept)


@pytest.mark.parametrize(
    "fault", [ValueError("of the user's"), KeyboardInterrupt(), RuntimeError("shape mismatch")], ids=repr
)
def test_flags_are_restored_also_after_a_fault(linear, fault):
    with torch.random.fork_rng(devices=[]):
        inner = mixed_model()

    def fails(model, x, call):
        if call == 3:
            raise fault
        return model(x)

    model = Wrapped(inner, fails)
    model.training = True
    before = flags(model)
    if isinstance(fault, KeyboardInterrupt):
        assert linear.attack(("pgd", {"steps": 5}), "Linf 1e-6", model=model).stopped == "interrupt"
    else:
        with pytest.raises(ModelError, match=str(fault)) as told:
            linear.attack(("pgd", {"steps": 5}), "Linf 1e-6", model=model)
        assert told.value.__cause__ is fault
    assert flags(model) == before


def test_runs_inside_no_grad(linear):
    with torch.no_grad():
        assert linear.attack("fgsm", "Linf 0.3").broken.all()


# Memory


def limited(most, error):
    def forward(model, x, call):
        if len(x) > most:
            raise error
        return model(x)

    return forward


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__} {str(error)[:12]}")
def test_the_batch_is_halved_where_memory_runs_out_and_nothing_is_lost(linear, error):
    attack, threat = ("pgd", {"steps": 5, "restarts": 2}), f"Linf {np.median(distances(linear, 'Linf'))}"
    plain = linear.attack(attack, threat, batch_size=64)
    recording = Recording(linear.model)
    tight = Wrapped(recording, limited(9, error))
    found = linear.attack(attack, threat, model=tight, batch_size=64)
    np.testing.assert_array_equal(found.broken, plain.broken)
    np.testing.assert_allclose(found.distance, plain.distance, rtol=1e-4)
    assert max(recording.sizes) in (5, 8, 9)
    assert found.passes.forward == recording.forwards
    assert found.passes.backward == recording.backwards


@pytest.mark.parametrize("error", OUT_OF_MEMORY[:2], ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_before_an_attack_takes_its_first_step_halves_the_batch_too(linear, error):
    attack, threat = ("apgd_targeted", {"iterations": 5}), f"Linf {np.median(distances(linear, 'Linf'))}"
    plain = linear.attack(attack, threat, batch_size=64)
    recording = Recording(linear.model)
    found = linear.attack(attack, threat, model=Wrapped(recording, limited(9, error)), batch_size=64)
    np.testing.assert_array_equal(found.broken, plain.broken)
    np.testing.assert_array_equal(found.forward, plain.forward)
    assert found.passes.forward == recording.forwards
    with pytest.raises(type(error)):
        linear.attack(attack, threat, model=Wrapped(linear.model, limited(0, error)), batch_size=64)


def test_memory_that_runs_out_in_the_middle_loses_nothing(linear):
    """As where another program takes the GPU's memory: the samples in flight are asked about in parts from then on."""
    started = []

    def later(model, x, call):
        started.append(call)
        if call > 4 and len(x) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(x)

    threat = f"Linf {np.median(distances(linear, 'Linf'))}"
    plain = linear.attack(("bim", {"steps": 6}), threat, batch_size=32)
    found = linear.attack(("bim", {"steps": 6}), threat, batch_size=32, model=Wrapped(linear.model, later))
    np.testing.assert_array_equal(found.broken, plain.broken)
    np.testing.assert_array_equal(found.forward, plain.forward)


def test_memory_that_runs_out_in_the_backward_pass_halves_the_batch_too(linear):
    class Hungry(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            if len(grad) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return grad

    hungry = Wrapped(linear.model, lambda model, x, call: model(Hungry.apply(x)))
    assert linear.attack("fgsm", "Linf 0.3", model=hungry).broken.all()


def test_memory_that_does_not_do_for_one_sample_is_told(linear):
    with pytest.raises(torch.OutOfMemoryError):
        linear.attack("fgsm", model=Wrapped(linear.model, limited(0, torch.OutOfMemoryError("CUDA out of memory"))))


def test_other_errors_are_not_taken_for_a_lack_of_memory(linear):
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    calls = Wrapped(linear.model, limited(9, RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(ModelError, match="mat1"):
        linear.attack("fgsm", model=calls)
    assert calls.calls == 1


# Budget and interrupt: anytime


@pytest.mark.parametrize("passes", [1, 500, 2000])
def test_a_budget_of_passes_ends_it_with_what_was_found(digits, passes):
    attack, threat = ("pgd", {"steps": 10}), "Linf 0.1"
    digits = Case(digits.model, digits.x[:300], digits.y[:300])
    full = digits.attack(attack, threat, batch_size=32)
    model = Recording(digits.model)
    found = digits.attack(
        attack, threat, batch_size=32, model=model, budget=BudgetTracker(Budget(passes=passes)), keep=range(1000)
    )
    assert found.stopped == "passes"
    assert full.stopped is None
    assert (full.broken | ~found.broken).all()
    # Confirmations of what was found come on top: at most one for each broken sample.
    assert model.forwards + model.backwards == found.passes.total <= passes + found.broken.sum()
    assert len(found.witnesses) == found.broken.sum()
    with torch.no_grad():
        for row, witness in found.witnesses.items():
            assert digits.model(torch.from_numpy(witness)[None]).argmax() != digits.y[row]
    if passes >= 1000:
        assert found.broken.any()


def test_a_larger_budget_never_finds_less(digits):
    counts = [
        digits.attack("pgd", "Linf 0.1", batch_size=32, budget=BudgetTracker(Budget(passes=passes))).broken.sum()
        for passes in (200, 800, 3200)
    ]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_a_budget_of_seconds_ends_it_with_what_was_found(digits):
    slow = Wrapped(digits.model, lambda model, x, call: (time.sleep(0.01), model(x))[1])
    started = time.perf_counter()
    found = digits.attack("pgd", "Linf 0.1", batch_size=32, model=slow, budget=BudgetTracker(Budget(seconds=0.5)))
    assert time.perf_counter() - started < 1.5
    assert found.stopped == "seconds"
    assert 0 < found.broken.sum() < 1000


def test_what_a_minimal_attack_has_found_is_kept_where_the_budget_ends_it(linear):
    """Samples in flight hold confirmed-to-be examples too, not only those that have left."""
    attack = ("carlini_wagner", {"search_steps": 2, "iterations": 50})
    full = linear.attack(attack, "L2 5", early_stop=False)
    assert full.broken.all()
    found = linear.attack(attack, "L2 5", early_stop=False, budget=BudgetTracker(Budget(passes=40 * 2 * 90)))
    assert found.stopped == "passes"
    assert found.broken.all()
    np.testing.assert_allclose(found.distance, full.distance, rtol=0.1)


def interrupt_at(number):
    def forward(model, x, call):
        if call == number:
            raise KeyboardInterrupt
        return model(x)

    return forward


@pytest.mark.parametrize("call", [1, 2, 4, 5, 7, 8])
def test_an_interrupt_in_a_step_keeps_what_is_done(linear, call):
    """Batches of ten: two looks, then a confirmation."""
    model = Wrapped(linear.model, interrupt_at(call))
    found = linear.attack("fgsm", "Linf 0.3", batch_size=10, model=model, keep=range(40))
    assert found.stopped == "interrupt"
    assert found.broken.sum() == 10 * ((call - 1) // 3)
    assert len(found.witnesses) == found.broken.sum()


@pytest.mark.parametrize("batch_size", [10, 40, 64])
def test_an_interrupt_in_a_confirmation_loses_nothing_that_was_found(linear, batch_size):
    """With room for 64 the confirmation is the last thing that is done, with 10 or 40 it is in the middle."""
    model = Wrapped(linear.model, interrupt_at(3))
    try:
        found = linear.attack("fgsm", "Linf 0.3", batch_size=batch_size, model=model)
    except KeyboardInterrupt:
        pytest.fail("everything that was done is lost")
    assert found.stopped == "interrupt"
    assert found.broken.sum() == min(batch_size, 40)


def test_the_books_balance_wherever_it_is_interrupted(digits):
    """Whatever the call in which Ctrl-C comes: each pass that was made is some sample's, each witness confirmed."""
    case, attack = Case(digits.model, digits.x[:60], digits.y[:60]), ("pgd", {"steps": 4, "restarts": 2})
    whole = Recording(digits.model)
    case.attack(attack, "Linf 0.1", model=whole, batch_size=16)
    unbalanced = {}
    for call in range(1, len(whole.sizes)):  # the last call confirms what is left: see above
        recording, budget = Recording(digits.model), BudgetTracker()
        model = Wrapped(recording, interrupt_at(call))
        found = case.attack(attack, "Linf 0.1", model=model, batch_size=16, budget=budget, keep=range(60))
        assert found.stopped == "interrupt"
        assert len(found.witnesses) == found.broken.sum()
        if found.passes != budget.passes or found.passes.forward != recording.forwards:
            unbalanced[call] = recording.forwards - found.passes.forward
    assert not unbalanced, f"passes that no sample has, by the call that was interrupted: {unbalanced}"


# Progress


def test_progress_only_ever_grows_and_ends_with_everything_done(digits):
    events = []
    budget = BudgetTracker(on_progress=events.append)
    found = digits.attack(("pgd", {"steps": 5, "restarts": 2}), "Linf 0.1", name="pgd-5", batch_size=64, budget=budget)
    assert len(events) > 10
    assert {(event.name, event.threat, event.total) for event in events} == {("pgd-5", "Linf 0.1", 1000)}
    for before, after in itertools.pairwise(events):
        assert after.done >= before.done
        assert after.broken >= before.broken
        assert after.passes.forward >= before.passes.forward
        assert after.passes.backward >= before.passes.backward
    assert events[-1].done == 1000
    assert events[-1].broken == found.broken.sum()
    assert all(event.done <= event.total for event in events)
    assert not any(event.cut_short for event in events)


def test_steps_of_samples_in_flight_are_told_before_any_is_settled(digits, monkeypatch):
    monkeypatch.setattr(engine, "_TOLD_AFTER", 0.0)
    events = []
    attack = ("pgd", {"steps": 5, "restarts": 2})
    digits.attack(attack, "Linf 0.001", batch_size=1000, budget=BudgetTracker(on_progress=events.append))
    behind = [event.done + event.under_way for event in events if event.under_way]
    assert behind[:5] == pytest.approx([100, 200, 300, 400, 500], rel=1e-5)
    assert behind == sorted(behind)
    assert behind[-1] <= 1000
    assert (events[-1].done, events[-1].under_way) == (1000, 0.0)


def test_progress_of_an_interrupted_attack_says_that_it_was_cut_short(linear):
    events = []
    model = Wrapped(linear.model, interrupt_at(4))
    linear.attack("fgsm", "Linf 0.3", batch_size=10, model=model, budget=BudgetTracker(on_progress=events.append))
    assert [event.cut_short for event in events[:2]] == [False, False]
    assert events[-1].cut_short


# perturb: what training needs


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        ("fgsm", "Linf 0.1"),
        (("pgd", {"steps": 4}), "Linf 0.1"),
        (("pgd", {"steps": 4}), "L2 0.5"),
        (("carlini_wagner_linf", {"iterations": 10}), "Linf 0.1"),
    ],
    ids=str,
)
def test_perturb_takes_every_sample_through_all_steps_and_stays_in_the_ball(digits, attack, threat):
    name, params = attack if isinstance(attack, tuple) else (attack, {})
    built, model = registry.build("attacks", name, params), Recording(digits.model)
    x, y, parsed = digits.x[:50], digits.y[:50], ThreatModel.parse(threat)
    worst = perturb(built, Target(model), x, y, parsed, torch.arange(50))
    assert model.sizes == [50] * built.steps
    assert not worst.requires_grad
    assert worst.shape == x.shape
    assert worst.amin() >= 0
    assert worst.amax() <= 1
    change = (worst.double() - x.double()).flatten(1)
    length = change.abs().amax(1) if parsed.norm == "Linf" else change.norm(dim=1)
    assert (length <= parsed.eps + TOLERANCE).all()
    assert (length > parsed.eps / 4).sum() > 25
    with torch.no_grad():
        before, after = (F.cross_entropy(digits.model(inputs), y) for inputs in (x, worst))
    assert after > 2 * before


def test_perturb_draws_by_key_alone(digits):
    attack, threat = registry.build("attacks", "pgd", {"steps": 2}), ThreatModel.parse("Linf 0.1")
    x, y, keys = digits.x[:8], digits.y[:8], torch.arange(8)
    whole = perturb(attack, Target(digits.model), x, y, threat, keys)
    part = perturb(attack, Target(digits.model), x[5:], y[5:], threat, keys[5:])
    torch.testing.assert_close(whole[5:], part, atol=1e-5, rtol=0)
    other = perturb(attack, Target(digits.model), x, y, threat, keys + 100)
    assert not torch.allclose(whole, other, atol=1e-3)


def test_perturb_leaves_no_gradient_in_the_parameters(digits):
    perturb(
        registry.build("attacks", "fgsm", {}),
        Target(digits.model),
        digits.x[:5],
        digits.y[:5],
        ThreatModel.parse("Linf 0.1"),
        torch.arange(5),
    )
    assert all(parameter.grad is None for parameter in digits.model.parameters())
    assert all(parameter.requires_grad for parameter in digits.model.parameters())


# Models and inputs of every kind


class Cut(nn.Module):
    """Quantises its input, which cuts the gradient."""

    def __init__(self, model, detach):
        super().__init__()
        self.model, self.detach = model, detach

    def forward(self, x):
        return self.model(x.detach() if self.detach else (x * 255).round() / 255)


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "rounded"])
def test_a_model_that_cuts_the_graph_has_zero_gradients_and_the_trace_says_so(linear, detach):
    found = linear.attack(("pgd", {"steps": 3}), "Linf 1e-6", model=Cut(linear.model, detach))
    assert not found.broken.any()
    assert found.trace.zero_gradient[:3] == (40, 40, 40)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("attack", "threat"), ATTACKS[:5], ids=str)
def test_models_of_every_precision_are_attacked(attack, threat, dtype):
    case = linear_case()
    case.model.to(dtype)
    with torch.no_grad():
        y = case.model(case.x.to(dtype)).argmax(1)
    wide = threat.split()[0] + " 0.5"
    for batch_size in (7, 64):
        found = Case(case.model, case.x, y).attack(attack, wide, batch_size=batch_size, keep=range(40))
        assert found.broken.all()
        assert {witness.dtype for witness in found.witnesses.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("attack", "threat"), ATTACKS[:5], ids=str)
def test_a_default_precision_of_64_bits_does_no_harm(attack, threat):
    case = linear_case()
    torch.set_default_dtype(torch.float64)
    try:
        found = case.attack(attack, threat.split()[0] + " 0.5", batch_size=7)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.broken.all()


@pytest.mark.parametrize("shape", [(50,), (4, 9), (1, 1, 1), (2, 3, 4, 5)])
@pytest.mark.parametrize(("attack", "threat"), ATTACKS[:5], ids=str)
def test_inputs_of_every_shape_are_attacked(attack, threat, shape):
    case = linear_case(shape, samples=12)
    found = case.attack(attack, threat.split()[0] + " 0.5", batch_size=5, keep=range(12))
    assert found.broken.all()
    assert {witness.shape for witness in found.witnesses.values()} == {shape}


def test_a_target_that_normalises_is_attacked_in_the_units_of_its_input(linear):
    class Shifted(nn.Module):
        def forward(self, x):
            return linear.model(x * 0.25 + 0.5)

    data = as_data((linear.x, linear.y))
    samples = Samples(data, torch.arange(40), data.labels)
    eps = float(np.median(distances(linear, "Linf")))
    plain, normalised = (
        run_attack(
            registry.build("attacks", "fgsm", {}), target, samples, np.arange(40), ThreatModel(norm="Linf", eps=eps)
        )
        for target in (Target(linear.model), Target(Shifted(), mean=[0.5], std=[0.25]))
    )
    assert (plain.broken != normalised.broken).sum() <= 1


def test_a_norm_that_the_attack_does_not_do_is_refused(linear):
    with pytest.raises(ValueError, match=r"can't be run under L2 1: it does Linf"):
        linear.attack("carlini_wagner_linf", "L2 1")


def test_an_attack_with_a_loop_of_its_own_has_its_passes_shared_among_its_samples(linear):
    def own_loop(problem):
        x = problem.x.clone().requires_grad_()
        for _ in range(3):
            (grad,) = torch.autograd.grad(F.cross_entropy(problem.model(x), problem.y, reduction="sum"), x)
            x = (x + 0.1 * grad.sign()).detach().requires_grad_()
        return x.detach()

    with torch.enable_grad():
        found = linear.attack(Proposes(what=own_loop), "Linf 0.3")
    assert found.broken.all()
    assert set(found.forward) == {2 + 3 + 1}
    assert set(found.backward) == {1 + 3}


def test_counted_counts_samples_not_calls(linear):
    counted = Counted(Target(linear.model))
    with torch.no_grad():
        counted(linear.x[:7])
    leaf = linear.x[:5].clone().requires_grad_()
    counted(leaf).sum().backward()
    spent = counted.take()
    assert (spent.forward, spent.backward) == (12, 5)
    assert counted.take().total == 0


def test_an_attack_may_draw_by_step(linear):
    draws = []

    def draw(problem):
        draws.append(problem.noise.at(problem.step).uniform((3,)))
        return problem.x

    linear.attack(Proposes(what=draw), batch_size=64)
    linear.attack(Proposes(what=draw), batch_size=10)
    torch.testing.assert_close(draws[0], torch.cat(draws[1:]), atol=0, rtol=0)
    assert isinstance(Noise(torch.arange(2)).at(torch.arange(2)).keys, Tensor)
