"""Adaptive evaluation: what hides from the attacks is found, and the number is that of the model without it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from robustbench_lite import Scorecard, Target, ThreatModel, evaluate, load_data
from robustbench_lite.evaluating.adapt import adapted, curable, surrogate
from robustbench_lite.faces.cli import main
from robustbench_lite.results.scorecard import Finding
from tests.support import Altered

EPS = "Linf 0.1"
THREATS = [ThreatModel.parse(EPS)]
PGD = {"attack": "pgd", "params": {"steps": 20}}
SAMPLES = 64
FEW = 0.04
"""Share of samples by which an adapted robust accuracy may differ from the true one."""


@pytest.fixture(autouse=True)
def _alone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        yield


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", split="test").stratified(SAMPLES, 0)


def trained(model):
    train = load_data("digits", split="train")
    x, y = train.fetch(range(len(train))), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in model.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="module")
def net():
    return trained(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
    )


@pytest.fixture(scope="module")
def truth(net, digits):
    """The robust accuracy of the model that nothing hides."""
    card = run(net, digits)
    assert card.verdict == "MEASURED"
    assert card.adaptation is None
    return card.robust_accuracy.value


def run(model, data, adapt=True, suite=(PGD,), **options) -> Scorecard:
    return evaluate(model, data, list(suite), EPS, adapt=adapt, **options)


def finding(code, severity="error"):
    return Finding(code=code, severity=severity, message="m", cure="c")


def rounded(x):
    return (x * 50).round() / 50  # of which eps is a multiple, so that the ball is as wide as before


def resized(model, x):
    """Resize and pad at random, as Xie et al. 2018 do, https://arxiv.org/abs/1711.01991."""
    side = random.randint(7, 8)
    left, top = (random.randint(0, 8 - side) for _ in range(2))
    x = F.interpolate(x, size=(side, side), mode="nearest")
    return model(F.pad(x, (left, 8 - side - left, top, 8 - side - top)))


# Each of these hides something of the same network.
HIDING = {
    "dropout": (lambda model, x: model(F.dropout(x, 0.02)), "eot"),
    "noise": (lambda model, x: model(x + 0.03 * torch.randn_like(x)), "eot"),
    "numpy noise": (lambda model, x: model(x + torch.from_numpy(np.random.normal(0, 0.03, x.shape)).to(x)), "eot"),
    "scaled": (lambda model, x: 1e4 * model(x), "rescale"),
    "softmax": (lambda model, x: model(x).softmax(1), "logits"),
    "two softmaxes": (lambda model, x: model(x).softmax(1).softmax(1), "logits"),
    "rounded inside": (lambda model, x: model(rounded(x)), "bpda"),
    "bytes": (lambda model, x: model((x * 255).to(torch.uint8).float() / 255), "bpda"),
    "cut": (lambda model, x: model(x.detach()), "bpda"),
}


@pytest.mark.parametrize("name", HIDING)
def test_the_number_is_that_of_the_model_that_hides_nothing(net, digits, truth, name):
    function, measure = HIDING[name]
    card = run(Altered(net, function), digits)
    assert card.adaptation is not None
    assert card.adaptation.measures[0].name == measure
    assert card.adaptation.verdict == "INVALID"
    assert card.verdict == "MEASURED", card.validity
    if measure != "eot":  # no answer is another one
        assert card.robust_accuracy.value <= card.adaptation.robust_accuracy.value
    assert abs(card.robust_accuracy.value - truth) <= FEW


def test_a_declared_preprocessing_is_passed_over_on_the_way_back(net, digits, truth):
    target = Target(net, preprocessing=rounded)
    card = run(target, digits)
    assert [one.name for one in card.adaptation.measures] == ["bpda", "surrogate"]
    assert card.adaptation.robust_accuracy.value > truth + 0.2
    assert abs(card.robust_accuracy.value - truth) <= 2 * FEW  # rounding does change the model a little
    assert card.verdict == "MEASURED"


def test_what_no_gradient_goes_through_is_followed_by_differences(net, digits, truth):
    model = Altered(net, lambda model, x: model(torch.from_numpy(rounded(x).detach().numpy())))
    made = adapted(Target(model), digits, [finding("RB131")], THREATS, samples=24)
    assert [one.name for one in made.measures] == ["smoothing"]
    few = {"attack": "pgd", "params": {"steps": 6}}
    card, plain = (run(one, digits, adapt=False, suite=[few], limit=20) for one in (made.target, model))
    assert card.robust_accuracy.value < plain.robust_accuracy.value - 0.25


class WinnersTakeAll(nn.Module):
    """Keeps the largest activations (Xiao et al. 2020, https://arxiv.org/abs/1905.10510)."""

    def forward(self, x):
        flat = x.flatten(1)
        least = flat.topk(flat.shape[1] // 50, dim=1).values[:, -1:]
        return (flat * (flat >= least)).reshape(x.shape)


def test_winners_take_all_are_broken_by_the_slope_of_a_neighbourhood(digits):
    model = trained(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), WinnersTakeAll(), nn.Flatten(), nn.Linear(512, 10)))
    made = adapted(Target(model), digits, [finding("RB213")], THREATS, samples=24)
    assert made is not None
    assert [one.name for one in made.measures] == ["smoothing"]
    few = {"attack": "pgd", "params": {"steps": 8, "loss": "margin"}}
    before, after = (run(one, digits, adapt=False, suite=[few], limit=20) for one in (model, made.target))
    assert after.robust_accuracy.count <= before.robust_accuracy.count < before.clean_accuracy.count / 2


# The adapted target


def test_an_average_depends_neither_on_the_call_nor_on_the_batch(net, digits):
    model = Altered(net, lambda model, x: model(F.dropout(x, 0.3)))
    made = adapted(Target(model), digits, [finding("RB101")], THREATS)
    x = digits.fetch(range(8))
    with torch.no_grad(), made.target.attacking():
        state = torch.get_rng_state()
        together = made.target(x)
        assert torch.equal(state, torch.get_rng_state())
        alone = torch.cat([made.target(one[None]) for one in x])
        assert torch.allclose(together, alone, atol=1e-5)
        assert torch.equal(together, made.target(x))
        assert torch.allclose(together.exp().sum(1), torch.ones(8))


def test_a_random_resize_and_pad_is_averaged_as_a_whole(net, digits):
    made = adapted(Target(Altered(net, resized)), digits, [finding("RB101")], THREATS, samples=24)
    assert made.measures[0].name == "eot"
    assert "sample by sample" not in made.measures[0].reason
    x, y = digits.fetch(range(50)), digits.labels[:50]
    with torch.no_grad():
        assert (made.target(x).argmax(1) == y).float().mean() > 0.9


def test_more_chance_takes_more_draws(net, digits):
    def draws(p):
        made = adapted(
            Target(Altered(net, lambda model, x: model(F.dropout(x, p)))), digits, [finding("RB101")], THREATS
        )
        return int(made.measures[0].setting.split()[0])

    assert draws(0.01) < draws(0.3)


def test_a_module_that_can_not_be_mapped_is_averaged_over_batches(net, digits):
    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    model = Altered(net, lambda model, x: model(Sum.apply(x + 0.02 * torch.randn_like(x))))
    made = adapted(Target(model), digits, [finding("RB101")], THREATS)
    assert made.measures[0].setting == "64 draws"
    assert "it can't be asked sample by sample" in made.measures[0].reason
    x = digits.fetch(range(8))
    with torch.no_grad():
        assert torch.equal(made.target(x), made.target(x))


def test_the_target_is_left_as_it_was(net, digits):
    target = Target(Altered(net, lambda model, x: 1e4 * model(x)))
    target.module.train()
    before = target.weights_sha256()
    made = adapted(target, digits, [finding("RB125", "warning")], THREATS)
    assert str(made.measures[0]).startswith("rescale, temperature")
    assert made.target is not target
    assert target.weights_sha256() == before
    assert target.module.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    net.eval()


def test_what_has_no_cure_is_left_alone(net, digits):
    assert adapted(Target(net), digits, [finding("RB111"), finding("RB114", "warning")], THREATS) is None
    assert adapted(Target(net), digits, [finding("RB101")], THREATS) is None, "nothing random is there"
    assert not curable(finding("RB101"), Target.from_callable(lambda x: x.reshape(len(x), -1)))


def test_a_surrogate_learns_the_answers(net, digits):
    target = Target(net)
    other = surrogate(target, digits, THREATS)
    x = digits.fetch(range(len(digits)))
    with torch.no_grad():
        agreed = (target(x).argmax(1) == other(x).argmax(1)).float().mean()
    assert agreed > 0.9


# The evaluation


def test_without_adapt_the_cure_is_named(net, digits):
    card = run(Altered(net, lambda model, x: model(x).softmax(1)), digits, adapt=False, limit=30)
    assert card.adaptation is None
    assert card.validity[0].cure.endswith("or evaluate it adaptively (--adapt)")


def test_both_numbers_are_on_the_card_and_in_the_reports(net, digits, tmp_path):
    from robustbench_lite.core import registry

    card = run(Altered(net, lambda model, x: model(x).softmax(1)), digits, limit=30)
    assert card.witnesses is None
    loaded = Scorecard.load(card.save(tmp_path / "card.json"))
    assert loaded == card
    for form in ("markdown", "html"):
        text = registry.find("reports", form)([loaded])
        assert "Adapted (logits, logarithm of the probabilities)" in text
        assert "without: " in text
    plain = run(net, digits, limit=30)
    assert '"adaptation"' not in plain.model_dump_json()


def test_the_cache_tells_adapted_from_plain(net, digits, tmp_path):
    model = Altered(net, lambda model, x: model(x).softmax(1))
    first = run(model, digits, limit=30, cache=tmp_path)
    plain = run(model, digits, adapt=False, limit=30, cache=tmp_path)
    again = run(model, digits, limit=30, cache=tmp_path)
    assert plain.verdict == "INVALID"
    assert plain.adaptation is None
    measured = {"created", "seconds", "attacks"}
    assert again.created == first.created
    assert again.model_dump(exclude=measured) == first.model_dump(exclude=measured)


def test_a_preprocessing_is_part_of_the_question(net, digits, tmp_path):
    coarse = run(Target(net, preprocessing=lambda x: 0 * x), digits, adapt=False, limit=30, cache=tmp_path)
    fine = run(
        Target(net, preprocessing=lambda x: (x * 64).round() / 64), digits, adapt=False, limit=30, cache=tmp_path
    )
    assert coarse.clean_accuracy != fine.clean_accuracy


def test_a_spent_budget_ends_it_as_it_ends_any(net, digits):
    from robustbench_lite import Budget

    card = run(Altered(net, lambda model, x: model(F.dropout(x, 0.1))), digits, budget=Budget(passes=500))
    assert card.interrupted == "passes"
    assert card.verdict == "INVALID"


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1)).softmax(1)
"""


def test_the_command_shows_both_numbers(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "net.py:Net", "--data", "digits", "--limit", "20", "--suite", "linf_quick", "--adapt"]
    command += ["--allow-invalid", "it has learnt nothing"]
    told = CliRunner().invoke(main, [*command, "--json", "card.json"])
    assert told.exit_code in (0, 1, 3), told.output
    assert "Adapted (logits" in " ".join(told.output.split())
    told = CliRunner().invoke(main, [*command, "-q"])
    assert "(adapted; without: " in told.output
