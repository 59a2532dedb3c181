"""Checks before the first attack: each fault is told, by its code, and honest models are left in peace."""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from robustbench_lite import Budget, Target, evaluate, load_data
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.preflight import Preflight, preflight
from robustbench_lite.evaluating.validity import without_echo
from robustbench_lite.faces.cli import main
from robustbench_lite.results.scorecard import Finding
from tests.support import Altered, Counting

ROOT = Path(__file__).parents[2]
EPS = "Linf 0.1"
STRONG = [{"attack": "pgd", "params": {"steps": 20, "loss": "margin"}}]
DICE = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _alone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def network(channels=1, classes=10, width=8):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(16 * width, classes),
    )


def trained(model, data: Data, prepare=lambda x: x, epochs=8, lr=5e-3, eps=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in model.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        x, y = data.fetch(range(len(data))), data.labels
        optimizer = torch.optim.Adam(model.parameters(), lr)
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                given = x[rows]
                if eps:
                    given = given.clone().requires_grad_()
                    (grad,) = torch.autograd.grad(F.cross_entropy(model(prepare(given)), y[rows]), given)
                    given = (given.detach() + eps * grad.sign()).clamp(0, 1)
                optimizer.zero_grad()
                F.cross_entropy(model(prepare(given)), y[rows]).backward()
                optimizer.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="module")
def train():
    return load_data("digits", split="train")


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", split="test")


@pytest.fixture(scope="module")
def net(train):
    return trained(network(), train)


@pytest.fixture(scope="module")
def narrow(train):
    """Trained on inputs far from [0, 1]: without its normalisation it is lost."""
    return trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), train, far, 4)


@pytest.fixture(scope="module")
def linear(train):
    return trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), train)


def far(x):
    return (x - 0.5) / 0.1


class Picky(nn.Module):
    """Of use only on inputs with this mean and standard deviation."""

    def __init__(self, model, mean, std):
        super().__init__()
        self.model, self.mean, self.std = model, mean, std

    def forward(self, x):
        x = x * self.std + self.mean
        low, high = x.flatten(1).aminmax(dim=1)
        outside = (low.abs() - 0.02).relu() + (high - 1.02).relu() + (0.5 - high).relu()
        return self.model(x) + 200 * outside[:, None] * torch.eye(10)[0]


RANGES = {
    "scaled to 0..255": (0.0, 1 / 255),
    "scaled to [-1, 1]": (0.5, 0.5),
    "normalised as for mnist": (0.1307, 0.3081),
}


def predicted(target, data):
    with torch.no_grad(), target.attacking():
        return target(data.fetch(range(len(data)))).argmax(1).numpy()


def check(model, data, thorough=False, **options) -> Preflight:
    """As an evaluation does it, or as the doctor does."""
    target = model if isinstance(model, Target) else Target(model)
    if thorough:
        return preflight(target, data, thorough=True, samples=256, **options)
    return preflight(target, data, prediction=predicted(target, data), **options)


def told(found: Preflight):
    return [(finding.code, finding.severity) for finding in found.findings if finding.severity != "info"]


both_ways = pytest.mark.parametrize("thorough", [False, True], ids=["evaluation", "doctor"])


# Honest models


@both_ways
class TestHonest:
    def test_plain(self, net, digits, thorough):
        assert told(check(net, digits, thorough)) == []

    def test_trained_against_an_adversary(self, train, digits, thorough):
        assert told(check(trained(network(), train, eps=0.15), digits, thorough)) == []

    def test_linear(self, linear, digits, thorough):
        assert told(check(linear, digits, thorough)) == []

    def test_two_classes(self, train, digits, thorough):
        parity = [from_arrays(data.fetch(range(len(data))), data.labels % 2, "parity") for data in (train, digits)]
        assert told(check(trained(network(classes=2), parity[0]), parity[1], thorough)) == []

    def test_a_thousand_classes_and_three_channels(self, thorough):
        centres = torch.rand(1000, 3, 4, 4)
        y = torch.arange(600) * 3 % 1000
        data = from_arrays((centres[y] + 0.1 * torch.randn(600, 3, 4, 4)).clamp(0, 1), y, "centres")
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 1000))
        model[1].weight.data = centres.flatten(1)
        model[1].bias.data = -0.5 * centres.flatten(1).square().sum(1)
        assert told(check(model, data, thorough)) == []

    def test_all_right(self, net, digits, thorough):
        labels = torch.from_numpy(predicted(Target(net), digits))
        assert told(check(net, from_arrays(digits.fetch(range(len(digits))), labels, "right"), thorough)) == []

    def test_all_wrong_is_no_error(self, net, digits, thorough):
        wrong = (torch.from_numpy(predicted(Target(net), digits)) + torch.randint(1, 10, (len(digits),))) % 10
        found = check(net, from_arrays(digits.fetch(range(len(digits))), wrong, "wrong"), thorough)
        assert told(found) == [("RB114", "error")]

    def test_smoothed_with_fixed_noise(self, net, digits, thorough):
        noise = 0.1 * torch.randn(4, 1, 1, 8, 8)
        smooth = Altered(net, lambda model, x: torch.stack([model(x + one) for one in noise]).mean(0))
        assert told(check(smooth, digits, thorough)) == []

    def test_noise_from_a_fixed_seed(self, net, digits, thorough):
        def seeded(model, x):
            draws = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(1))
            return model(x + 0.05 * draws)

        assert told(check(Altered(net, seeded), digits, thorough)) == []

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
    def test_other_precision(self, net, digits, thorough, dtype):
        assert told(check(copy.deepcopy(net).to(dtype), digits, thorough)) == []

    def test_log_probabilities(self, net, digits, thorough):
        found = check(Altered(net, lambda model, x: model(x).log_softmax(1)), digits, thorough)
        assert told(found) == []
        assert ("RB122" in {finding.code for finding in found.findings}) == thorough

    def test_normalised_by_the_target(self, narrow, digits, thorough):
        assert told(check(Target(narrow, mean=(0.5,), std=(0.1,)), digits, thorough)) == []

    @pytest.mark.parametrize("labels", [False, True])
    def test_function_of_arrays(self, net, digits, thorough, labels):
        def function(x):
            with torch.no_grad():
                logits = net(torch.from_numpy(x))
            return (logits.argmax(1) if labels else logits.softmax(1)).numpy()

        target = Target.from_callable(function, classes=10)
        target.probe(digits.fetch([0, 1]))
        assert told(check(target, digits, thorough)) == []

    @pytest.mark.parametrize("samples", [1, 2, 3, 12])
    def test_few_samples(self, net, digits, thorough, samples):
        assert told(check(net, digits.take(range(samples)), thorough)) == []

    def test_untrained(self, digits, thorough):
        for seed in range(4):
            torch.manual_seed(seed)
            assert {code for code, _ in told(check(network(), digits, thorough))} <= {"RB114"}

    def test_scripted(self, net, digits, thorough):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, but still met
            traced = torch.jit.trace(net, torch.rand(2, 1, 8, 8))
        assert told(check(traced, digits, thorough)) == []


# Broken ones


class AlwaysTrains(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


class SwitchesOn(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)

    def forward(self, x):
        self.model[1].train()
        return self.model(x)


class Learns(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)

    def forward(self, x):
        self.model[0].weight.data += 1e-4
        return self.model(x)


class Rewritten(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rule):
        ctx.rule = rule
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.rule(grad), None


def rewritten(rule):
    return lambda model, x: model(Rewritten.apply(x, rule))


def rounded(x):
    return (x * 7).round() / 7


def absent_for_some(model, x):
    bright = x.flatten(1).sum(1)[:, None, None, None] > 20
    return model(torch.where(bright, x.detach(), x))


BROKEN = {
    "dropout": (lambda model, x: model(F.dropout(x, 0.3)), "RB101", "error"),
    "noise": (lambda model, x: model(x + 0.02 * torch.randn_like(x)), "RB101", "error"),
    "numpy noise": (lambda model, x: model(x + 0.1 * torch.from_numpy(DICE.random(x.shape)).to(x)), "RB101", "error"),
    "batch mean": (lambda model, x: model(x - x.mean(0) + 0.3), "RB103", "error"),
    "batch norm": (lambda model, x: model(F.batch_norm(x, None, None, training=True)), "RB103", "error"),
    "a little of the batch": (lambda model, x: model(x) * (1 + 0.06 * x[:1, :, 3, 3].sum()), "RB103", "warning"),
    "softmax": (lambda model, x: model(x).softmax(1), "RB121", "error"),
    "constant": (lambda model, x: 0 * model(x) + torch.arange(10.0), "RB123", "error"),
    "temperature": (lambda model, x: 100 * model(x), "RB125", "warning"),
    "scaled": (lambda model, x: 1e4 * model(x), "RB125", "warning"),
    "whole numbers": (lambda model, x: model(x) + ((model(x) / 4).round() * 4 - model(x)).detach(), "RB126", "warning"),
    "detached": (lambda model, x: model(x.detach()), "RB131", "error"),
    "rounded": (lambda model, x: model(rounded(x)), "RB131", "error"),
    "absent for some": (absent_for_some, "RB131", "error"),
    "root": (lambda model, x: model((x * x).sqrt()), "RB132", "error"),
    "wrong sign": (rewritten(lambda grad: -grad), "RB133", "error"),
    "random gradient": (rewritten(torch.randn_like), "RB133", "error"),
    "shrunk gradient": (rewritten(lambda grad: grad / 100), "RB133", "warning"),
    "straight through": (lambda model, x: model(x + (rounded(x) - x).detach()), "RB133", "warning"),
    "half of it": (lambda model, x: model(torch.cat([x[..., :4].detach(), x[..., 4:]], 3)), "RB133", "warning"),
}


@both_ways
@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_is_told_once_by_its_code(net, digits, thorough, name):
    function, code, severity = BROKEN[name]
    found = told(check(Altered(net, function), digits, thorough))
    if name == "whole numbers":  # a gradient that is passed through a rounding is told as well
        found = [one for one in found if one[0] != "RB133"]
    assert found == [(code, severity)]


@both_ways
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda net: nn.Sequential(AlwaysTrains(0.3), net), "0 (AlwaysTrains)"),
        (SwitchesOn, "model.1 (BatchNorm2d)"),
    ],
    ids=["by its train method", "in its forward pass"],
)
def test_train_mode_that_is_left_on_is_told_with_the_modules_name(net, digits, thorough, make, named):
    found = check(make(net), digits, thorough)
    assert told(found) == [("RB104", "error")]
    assert named in found.findings[0].message


@both_ways
def test_a_forward_pass_that_trains_is_told_with_what_it_changes(net, digits, thorough):
    found = check(Learns(net), digits, thorough)
    assert told(found) == [("RB102", "error")]
    assert "model.0.weight" in found.findings[0].message


def test_a_buffer_that_is_not_saved_counts_as_well(net, digits):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = net
            self.register_buffer("calls", torch.zeros(1), persistent=False)

        def forward(self, x):
            self.calls += 1
            return self.model(x)

    assert told(check(Counts(), digits)) == [("RB102", "error")]


def test_a_model_that_refuses_one_sample_alone_is_told(net, digits):
    def refuses(model, x):
        if len(x) == 1:
            raise ValueError("Expected more than 1 value per channel")
        return model(x)

    found = check(Altered(net, refuses), digits)
    # Filled with copies it answers as in large batches, so what is measured can be trusted.
    assert told(found) == [("RB103", "warning")]
    assert "Expected more than 1 value" in found.findings[0].message


def test_random_operations_are_named(net, digits):
    found = check(Altered(net, lambda model, x: model(F.dropout(x, 0.3))), digits)
    assert "bernoulli" in found.findings[0].message


def test_numbers_that_are_none_are_told(net, digits):
    found = check(Altered(net, lambda model, x: model(x) * (x.amax((1, 2, 3)) - 1).sqrt()[:, None]), digits, True)
    assert told(found) == [("RB124", "error")]


def test_a_model_that_fails_now_and_then_is_told_and_the_evaluation_goes_on(net, digits):
    calls = []

    def fails(model, x):
        calls.append(len(x))
        if len(calls) == 6:  # after 4 of the clean pass the second of the checks
            raise RuntimeError("of the user's")
        return model(x)

    card = evaluate(Altered(net, fails), digits, STRONG, EPS, limit=64)
    assert [finding.code for finding in card.validity if finding.severity != "info"] == ["RB105"]
    assert "of the user's" in card.validity[0].message
    assert card.attacks[0].broken > 0
    assert card.passes.forward == sum(calls)


def test_gradients_are_left_alone_where_none_are_followed(net, digits):
    found = check(Altered(net, lambda model, x: model(x.detach())), digits, gradients=False)
    assert told(found) == []
    assert found.backward.sum() == 0


# Models and data that don't fit


@both_ways
class TestFit:
    def test_missing(self, narrow, digits, thorough):
        found = check(narrow, digits, thorough)
        assert told(found) == [("RB111", "error")]

    @pytest.mark.parametrize("named", RANGES)
    def test_the_right_one_is_named(self, linear, digits, thorough, named):
        found = check(Picky(linear, *RANGES[named]), digits, thorough)
        assert told(found) == [("RB111", "error")]
        assert named in found.findings[0].message
        assert found.findings[0].cure.startswith("do so inside the model, or with --normalize")
        mean, std = RANGES[named]
        assert told(check(Target(Picky(linear, mean, std), mean=(mean,), std=(std,)), digits, thorough)) == []

    def test_applied_by_model_and_target(self, linear, digits, thorough):
        found = check(Target(Picky(linear, 0, 1), mean=(0.5,), std=(0.5,)), digits, thorough)
        assert told(found) == [("RB111", "error")]
        assert "no normalisation around it" in found.findings[0].message
        assert "--normalize none" in found.findings[0].cure

    def test_applied_twice_inside(self, linear, digits, thorough):
        twice = Altered(Picky(linear, 0.5, 0.5), lambda model, x: model(((x - 0.5) / 0.5 - 0.5) / 0.5))
        found = check(twice, digits, thorough)
        assert told(found) == [("RB111", "error")]
        assert "scaled to [-1, 1] twice" in found.findings[0].message

    def test_wrong_statistics(self, linear, digits, thorough):
        found = check(Target(Picky(linear, 0.1307, 0.3081), mean=(0.5,), std=(0.5,)), digits, thorough)
        assert told(found) == [("RB111", "error")]
        assert "normalised as for mnist" in found.findings[0].message

    @pytest.mark.parametrize("flip", [False, True], ids=["RGB", "BGR"])
    def test_channel_order(self, thorough, flip):
        centres = torch.rand(10, 3, 1, 1)
        y = torch.arange(1000) % 10
        data = from_arrays((centres[y] + 0.1 * torch.randn(1000, 3, 4, 4)).clamp(0, 1), y, "colours")
        model = trained(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), data, lr=0.02)
        found = check(Altered(model, lambda model, x: model(x.flip(1) if flip else x)), data, thorough)
        assert told(found) == ([("RB112", "error")] if flip else [])

    @pytest.mark.parametrize("how", ["+1", "-1", "renamed"])
    def test_labels(self, net, digits, thorough, how):
        names = {"+1": (torch.arange(10) + 1) % 10, "-1": (torch.arange(10) - 1) % 10, "renamed": torch.randperm(10)}
        data = from_arrays(digits.fetch(range(len(digits))), names[how][digits.labels], "renamed")
        found = check(net, data, thorough)
        assert told(found) == [("RB113", "error")]
        assert (how if how != "renamed" else "renamed: ") in found.findings[0].message

    def test_two_classes_that_change_places(self, train, digits, thorough):
        model = trained(
            network(classes=2), from_arrays(train.fetch(range(len(train))), train.labels % 2, "parity"), epochs=4
        )
        data = from_arrays(digits.fetch(range(len(digits))), 1 - digits.labels % 2, "swapped")
        found = check(model, data, thorough)
        assert told(found) == [("RB113", "error")]
        assert "change places" in found.findings[0].message

    def test_a_function_that_is_fed_the_wrong_range(self, narrow, digits, thorough):
        def function(x):
            with torch.no_grad():
                return narrow(torch.from_numpy(x)).numpy()

        found = told(check(Target.from_callable(function), digits, thorough))
        # It was promised [0, 1]; the doctor alone goes beyond.
        assert ("RB111", "error") in found if thorough else ("RB111", "error") not in found


def test_three_classes_that_are_always_wrong_are_not_renamed():
    """Of the two others one is predicted at random: no renaming explains it."""
    x, y = torch.rand(300, 1, 2, 2), torch.randint(0, 3, (300,))
    x[torch.arange(300), 0, y // 2, y % 2] = 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model[1].weight.data = -torch.eye(3, 4)
    model[1].bias.data.zero_()
    assert told(check(model, from_arrays(x, y, "three"))) == [("RB114", "error")]


# What it costs, and what it leaves behind


@pytest.mark.parametrize("model", ["net", "narrow"])
@pytest.mark.parametrize("batch_size", [7, 512])
@both_ways
def test_passes_are_those_that_the_model_saw(request, digits, model, thorough, batch_size):
    counting, budget = Counting(request.getfixturevalue(model)), BudgetTracker()
    prediction = None if thorough else predicted(Target(counting.model), digits)
    samples = 256 if thorough else 64
    found = preflight(
        Target(counting),
        digits,
        prediction=prediction,
        samples=samples,
        thorough=thorough,
        batch_size=batch_size,
        budget=budget,
    )
    assert found.finished
    assert found.forward.sum() == budget.passes.forward == counting.forwards
    assert found.backward.sum() == budget.passes.backward == counting.backwards
    if not thorough:  # a few a sample, for what is to be said
        assert budget.passes.total <= (3 if model == "net" else 5) * len(digits)


def test_what_is_found_does_not_depend_on_the_batch_size(narrow, net, digits):
    for model in (narrow, net, Altered(net, BROKEN["wrong sign"][0])):
        first, *others = (check(model, digits, batch_size=size) for size in (7, 64, 512))
        assert [told(one) for one in others] == [told(first)] * 2
        assert all((one.forward == first.forward).all() for one in others)


def test_the_model_and_the_generators_are_left_as_they_were(net, digits):
    model = copy.deepcopy(net).train()
    model[1].eval()
    before = [part.training for part in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    preflight(Target(model), digits, thorough=True)
    assert [part.training for part in model.modules()] == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_budget_ends_the_checks(net, digits):
    budget = BudgetTracker(Budget(passes=100))
    found = preflight(Target(net), digits, budget=budget)
    assert not found.finished
    assert budget.passes.total <= 100


def test_memory_that_does_not_do_is_no_end(net, digits):
    def limited(model, x):
        if len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(x)

    found = check(Altered(net, limited), digits.take(range(20)))
    assert told(found) == []
    found = preflight(Target(Altered(net, limited)), digits)
    assert told(found) == []


def test_findings_and_passes_are_kept_in_a_file(narrow, digits, tmp_path):
    found = check(narrow, digits)
    found.save(tmp_path / "checks.npz")
    again = Preflight.load(tmp_path / "checks.npz")
    assert again.findings == found.findings != ()
    assert (again.forward == found.forward).all()
    assert (again.backward == found.backward).all()


# On the card


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("dropout", {"RB101"}),
        ("batch norm", {"RB103"}),
        ("softmax", {"RB121"}),
        ("constant", {"RB123"}),
        ("detached", {"RB131"}),
        ("rounded", {"RB131"}),
        ("root", {"RB132"}),
        ("wrong sign", {"RB133"}),
    ],
)
def test_an_error_makes_the_evaluation_invalid_and_is_told_once(net, digits, name, codes):
    card = evaluate(Altered(net, BROKEN[name][0]), digits, ["fgsm", "bim"], EPS, limit=150)
    assert card.verdict == "INVALID"
    found = [finding.code for finding in card.validity if finding.code not in ("RB202", "RB203")]
    assert found == [*codes, "RB301"]  # and no attack is run
    assert not card.attacks


def test_a_saturated_softmax_is_told_by_the_attacks_that_it_blinds(net, digits):
    margin = {"attack": "pgd", "name": "margin", "params": {"steps": 3, "loss": "margin"}}
    model = Altered(net, BROKEN["scaled"][0])
    card = evaluate(model, digits, ["fgsm", margin], EPS, limit=150)
    assert {(one.code, one.severity) for one in card.validity} == {("RB226", "warning"), ("RB201", "warning")}
    card = evaluate(model, digits, [margin], EPS, limit=150)
    assert [one.code for one in card.validity if one.severity != "info"] == ["RB125", "RB226"]


def test_an_honest_model_keeps_a_clean_card(net, digits):
    card = evaluate(net, digits, STRONG, EPS, limit=150)
    assert card.verdict == "MEASURED"
    assert all(finding.severity == "info" for finding in card.validity)
    assert card.passes.forward == sum(row.passes.forward for row in card.outcomes)
    assert card.passes.backward == sum(row.passes.backward for row in card.outcomes)


def test_a_cause_mutes_its_echoes_and_a_code_is_told_once():
    def one(code, attack=None):
        return Finding(code=code, severity="error", message="m", cure="c", attack=attack)

    kept = without_echo([one("RB131"), one("RB201", "fgsm"), one("RB202", "fgsm"), one("RB202", "pgd"), one("RB131")])
    assert [(finding.code, finding.attack) for finding in kept] == [
        ("RB131", None),
        ("RB202", "fgsm"),
        ("RB202", "pgd"),
    ]


# The command


MODELS = """
import torch
from torch import nn
from robustbench_lite import Target


def good():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model[1].weight.data, model[1].bias.data = torch.eye(3, 16), torch.zeros(3)
    return model
class Dice(nn.Module):
    def forward(self, x): return torch.rand(len(x), 3) + 0 * x.sum()
def none():
    model = good()
    model[1].bias.data.fill_(float("nan"))
    return model
def two(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
def flat(): return nn.Flatten(0)
def function():
    model = good()
    return Target.from_callable(lambda x: model(torch.from_numpy(x)).argmax(1))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "zoo.py").write_text(MODELS)
    y = np.arange(60) % 3
    x = 0.2 + 0.01 * np.random.default_rng(0).random((60, 16), np.float32)
    x[np.arange(60), y] = 0.8
    np.savez(tmp_path / "ok.npz", x=x.reshape(60, 1, 4, 4), y=y)
    np.savez(tmp_path / "bytes.npz", x=255 * x.reshape(60, 1, 4, 4), y=y)
    return tmp_path


def doctor(*arguments):
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.usefixtures("here")
class TestTheCommand:
    @pytest.mark.parametrize(
        ("model", "code", "findings"),
        [("good", 0, ["RB191"]), ("function", 0, ["RB191"]), ("Dice", 1, ["RB101"]), ("none", 1, ["RB124"])],
    )
    def test_the_exit_code_tells_of_errors_and_the_report_of_findings(self, model, code, findings):
        result = doctor(f"zoo.py:{model}", "--data", "npz:ok.npz")
        assert result.exit_code == code, result.output
        assert re.findall(r"^RB\d{3}", result.output, re.MULTILINE) == findings
        assert all(len(line) <= 80 for line in result.output.splitlines())
        assert ("INVALID" in result.output) == (code == 1)
        assert result.output.count("cure: ") == len(findings)

    def test_json_says_the_same_to_machines(self):
        result = doctor("zoo.py:Dice", "--data", "npz:ok.npz", "--json")
        assert result.exit_code == 1
        found = json.loads(result.output)
        assert (found["samples"], found["errors"]) == (60, 1)
        assert [one["code"] for one in found["findings"]] == ["RB101"]
        assert {one["name"] for one in found["checks"]} >= {"logits are finite", "two identical calls agree"}
        assert json.loads(doctor("zoo.py:good", "--data", "npz:ok.npz", "--json").output)["errors"] == 0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["zoo.py:nothing", "--data", "npz:ok.npz"], "nothing"),
            (["zoo.py:good", "--data", "npz:away.npz"], "away.npz"),
            (["zoo.py:good", "--data", "npz:bytes.npz"], "divide by 255"),
            (["zoo.py:two", "--data", "npz:ok.npz"], "labels have no logit"),
            (["zoo.py:flat", "--data", "npz:ok.npz"], "expected one row of logits"),
            (["zoo.py:good", "--data", "npz:ok.npz", "--limit", "0"], "--limit"),
        ],
    )
    def test_wrong_input_is_told_in_words(self, arguments, words):
        result = doctor(*arguments)
        assert result.exit_code == 2
        assert words in result.output
        assert "Traceback" not in result.output


# The table of all codes


def test_the_table_holds_every_code_that_the_program_knows():
    table = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (RB\d{3}) \| ([a-z, ]+) \| (.+) \| (.+) \|$", table, re.MULTILINE)
    listed = [code for code, *_ in rows]
    assert listed == sorted(set(listed))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "robustbench_lite").rglob("*.py")]
    assert set(listed) == {code for text in sources for code in re.findall(r'"(RB\d{3})"', text)}
    for code, severities, *words in rows:
        assert set(severities.split(", ")) <= {"error", "warning", "info"}, code
        assert all(one.endswith(".") and len(one) > 10 for one in words), code


def test_severities_are_those_of_the_table():
    table = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (RB\d{3}) \| ([a-z, ]+) \|", table, re.MULTILINE))
    for _, code, severity in BROKEN.values():
        assert severity in listed[code]
