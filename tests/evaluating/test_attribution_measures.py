"""Stability of attributions as measures: on the card, with an interval, gated; refused where they can't be taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import robustbench_lite as rl
from robustbench_lite.core import registry

NAMES = ("attribution_spearman", "attribution_overlap", "attribution_sensitivity", "attribution_input_stability")


def linear() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 16, generator=dice))
        x = torch.rand(40, 1, 4, 4, generator=dice)
        return model, (x, model(x).argmax(1))


@pytest.mark.parametrize("name", NAMES)
def test_they_are_on_the_card_with_an_interval_and_can_be_gated(name: str) -> None:
    model, data = linear()
    better = registry.find("measures", name).better
    gate = f"{'min' if better == 'higher' else 'max'}_{name}"
    card = rl.evaluate(model, data, ["fgsm"], "Linf 0.3", gates={gate: 0.5}, measures=["attribution_spearman"])
    number = {one.name: one for one in card.measures}[name]
    assert number.low is not None
    assert number.high is not None
    assert number.low <= number.value <= number.high
    assert "https://arxiv.org/abs/" in number.definition
    assert [one.name for one in card.gates] == [gate]
    assert card.witnesses is None


def test_another_method_is_named_behind_a_colon() -> None:
    model, data = linear()
    card = rl.evaluate(model, data, ["fgsm"], "Linf 0.3", measures=["attribution_overlap:lime"])
    assert card.measures[0].definition.startswith("by lime: share of the tenth")
    with pytest.raises(ValueError, match="unknown explanation 'lame': did you mean lime"):
        rl.evaluate(model, data, ["fgsm"], "Linf 0.3", measures=["attribution_overlap:lame"])


@pytest.mark.parametrize(
    ("name", "eps", "told"),
    [
        ("attribution_overlap:grad_cam", 0.3, "grad_cam needs a convolution, and the model has none"),
        ("attribution_spearman", 1e-6, "nothing failed, so there is nothing to explain"),
    ],
)
def test_what_cannot_be_taken_is_a_finding(name: str, eps: float, told: str) -> None:
    model, data = linear()
    card = rl.evaluate(model, data, ["fgsm"], f"Linf {eps}", measures=[name])
    assert card.measures == ()
    assert [told in one.message for one in card.validity if one.code == "RB303"] == [True]


def test_a_black_box_needs_another_method() -> None:
    model, data = linear()

    def answer(x: object) -> object:
        return model(torch.as_tensor(x)).detach().numpy()

    card = rl.evaluate(answer, data, ["square"], "Linf 0.5", measures=["attribution_spearman"])
    assert any("only the scores are seen; name another method" in one.message for one in card.validity)
