"""Randomized smoothing: votes, abstention, and the certificate against its closed form on a linear model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, norm
from torch import Tensor, nn

from robustbench_lite import evaluate
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.interface import Artifact, StepRecord
from robustbench_lite.model.target import Target

SHAPE = (1, 2, 2)
WEIGHT = torch.tensor([0.6, -0.8, 1.2, 0.5])
BIAS = -0.75


def linear() -> Target:
    """Two classes: 0 on the side to which the weight points."""
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([WEIGHT, -WEIGHT]))
        layer.bias.copy_(torch.tensor([BIAS, -BIAS]))
    return Target(nn.Sequential(nn.Flatten(), layer), name="linear")


def smoothed(target: Target | None = None, **params: Any) -> Any:
    return registry.build("defenses", "smoothing", params).wrap(target or linear(), "smoothing")


def samples(number: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, their labels, and the distance of each to the hyperplane."""
    x = torch.rand(number, *SHAPE, generator=torch.Generator().manual_seed(seed))
    rise = x.flatten(1) @ WEIGHT + BIAS
    return x, (rise < 0).long(), rise.abs() / WEIGHT.norm()


def test_the_answer_is_the_votes_and_is_withheld_where_the_binomial_test_says_so() -> None:
    wrapper = smoothed(n0=30, alpha=0.01).wrapper
    for first in range(31):
        for second in range(min(first, 30 - first) + 1):
            votes = torch.tensor([[first, second, 30 - first - second]])
            most, runner_up = sorted(votes[0].tolist(), reverse=True)[:2]
            answer = int(wrapper.scores(votes, torch.tensor([[0.0, 1.0, 0.0]])).argmax(1))
            clear = binomtest(most, most + runner_up, 0.5).pvalue <= 0.01
            assert answer == (int(votes.argmax()) if clear else 3), votes


def test_logits_are_ordered_as_the_votes_whatever_the_probabilities_are() -> None:
    wrapper = smoothed(n0=100).wrapper
    votes = torch.tensor([[20, 41, 39]])
    logits = wrapper.scores(votes, torch.tensor([[1.0, 0.0, 0.0]]))[0]
    assert logits[:3].argsort().tolist() == [0, 2, 1]


def test_an_answer_depends_neither_on_the_call_nor_on_the_batch() -> None:
    target, (x, labels, _) = smoothed(n0=50, n=100, sigma=0.3), samples(12)
    keys = torch.arange(12) * 77
    together = target(x)
    assert torch.allclose(together, torch.cat([target(one[None]) for one in x]), atol=1e-6)
    assert torch.equal(target(x).argmax(1), together.argmax(1))
    radii = target.wrapper.certified_radii(x, labels, keys)
    order = torch.randperm(12)
    apart = torch.cat([target.wrapper.certified_radii(x[[i]], labels[[i]], keys[[i]]) for i in order.tolist()])
    assert torch.equal(apart, radii[order])


@pytest.mark.parametrize("sigma", [0.2, 0.5])
def test_the_radius_of_a_linear_model_is_its_distance_to_the_hyperplane(sigma: float) -> None:
    number = 4000
    target, (x, labels, distance) = smoothed(sigma=sigma, n0=200, n=number), samples(25)
    radii = target.wrapper.certified_radii(x, labels, torch.arange(25))
    told = target(x).argmax(1) == labels
    assert int(told.sum()) > 10
    # In every draw the answer is right with probability Phi(distance / sigma): the most and the fewest votes there are.
    share = norm.cdf(distance.numpy() / sigma)
    fewest = target.wrapper.radii(torch.from_numpy(binom.ppf(1e-6, number, share)))
    assert (radii[told] <= distance[told]).all()
    assert (radii[told] >= fewest[told] - 1e-9).all()
    near = told & (distance < 2 * sigma)  # beyond, so many draws can't tell
    assert near.any()
    assert (distance[near] - radii[near]).max() < 0.25 * sigma
    assert (radii[~told] == 0).all()


def test_the_radius_by_votes_is_the_papers() -> None:
    wrapper = smoothed(sigma=0.5, n=1000, alpha=0.001).wrapper
    radii = wrapper.radii(torch.tensor([1000, 990, 500, 0]))
    # All votes: the least probability is alpha^(1/n) (section 3.2.2 of the paper).
    assert radii[0].item() == pytest.approx(0.5 * norm.ppf(0.001 ** (1 / 1000)))
    low = binomtest(990, 1000).proportion_ci(0.998, method="exact").low  # one-sided at 0.999
    assert radii[1].item() == pytest.approx(0.5 * norm.ppf(low))
    assert radii[2:].tolist() == [0, 0]


def test_a_wrong_answer_and_a_wrong_label_have_no_radius() -> None:
    target, (x, labels, _) = smoothed(n=200), samples(10)
    assert (target.wrapper.certified_radii(x, 1 - labels, torch.arange(10)) == 0).all()


def test_fresh_draws_deny_a_certificate_that_is_too_large_and_no_true_one() -> None:
    sigma = 0.3
    target, (x, labels, distance) = smoothed(sigma=sigma, n0=200, n=2000), samples(40)
    wrapper, keys = target.wrapper, torch.arange(40)
    radii = wrapper.certified_radii(x, labels, keys)
    told = (radii > 0.05).nonzero()[:, 0]
    toward = (2 * labels.float() - 1)[:, None] * WEIGHT / WEIGHT.norm()  # straight to the other side
    moved = x + (0.9 * radii[:, None].float() * toward).reshape(x.shape)
    left = 0.1 * radii
    true = wrapper.contradicted(moved[told], labels[told], keys[told], left[told])
    assert not true.any()
    false = wrapper.contradicted(moved[told], labels[told], keys[told], left[told] + radii[told])
    assert false[distance[told] > 0.3].all()


def test_attacks_through_the_votes_find_what_the_closed_form_says() -> None:
    x, eps = 0.5 + (samples(40)[0] - 0.5) * 0.8, 0.08  # so that no ball leaves the box
    labels = (x.flatten(1) @ WEIGHT + BIAS < 0).long()
    target = smoothed(n0=60, sigma=0.1)
    card = evaluate(target, (x, labels), ["pgd"], f"L2 {eps}")
    toward = ((2 * labels.float() - 1)[:, None] * WEIGHT / WEIGHT.norm()).reshape(x.shape)
    standing = (target(x).argmax(1) == labels) & (target(x + eps * toward).argmax(1) == labels)
    assert [row.robust for row in card.outcomes] == standing.tolist()
    assert 0 < int(standing.sum()) < 40
    told = {finding.code: finding.severity for finding in card.validity}
    assert told["RB108"] == "info"
    assert "RB101" not in told
    assert card.verdict == "MEASURED"


def test_no_answer_counts_as_not_right_and_the_card_says_so() -> None:
    x, labels, _ = samples(60)
    target = smoothed(n0=40, sigma=0.4)
    silent = int((target(x).argmax(1) == 2).sum())
    assert silent
    card = evaluate(target, (x, labels), ["fgsm"], "L2 0.05")
    assert card.clean_accuracy.count == int((target(x).argmax(1) == labels).sum()) <= 60 - silent
    [note] = [finding.message for finding in card.validity if finding.code == "RB108"]
    assert f"{silent} of 60 clean samples get no answer" in note
    assert "not right" in note
    assert card.data.class_count == 2
    assert card.class_name(2) == "no answer"


def test_it_is_put_on_once() -> None:
    threat = ThreatModel.parse("L2 0.5")
    step = registry.build("defenses", "smoothing", {})
    assert step.unfit(Artifact(target=linear(), threat=threat)) is None
    again = step.unfit(Artifact(target=smoothed(), threat=threat))
    assert again is not None
    assert "already" in again
    planned = Artifact(target=linear(), threat=threat, records=(StepRecord(name="smoothing"),))
    assert "already" in (step.unfit(planned) or "")
    box = Target.from_callable(lambda x: np.zeros((len(x), 2), np.float32))
    box.probe(torch.zeros(2, *SHAPE))
    assert "function of arrays" in (step.unfit(Artifact(target=box, threat=threat)) or "")


@pytest.mark.parametrize("params", [{"sigma": 0}, {"alpha": 0.5}, {"n0": 0}, {"seed": -1}])
def test_parameters_that_mean_nothing_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(params))):
        registry.build("defenses", "smoothing", params)


def test_more_draws_prove_more() -> None:
    few, many = smoothed(n=100).wrapper, smoothed(n=10_000).wrapper
    assert few.radii(torch.tensor([100])) < many.radii(torch.tensor([10_000]))
    assert math.isfinite(many.radii(torch.tensor([10_000])).item())
