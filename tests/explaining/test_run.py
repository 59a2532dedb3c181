"""An evaluation explained: what is told of it, what it costs, and what can't be run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import robustbench_lite as rl
from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.explaining import explain
from robustbench_lite.explaining.interface import Asked
from robustbench_lite.explaining.run import ExplainOptions
from robustbench_lite.results.explained import Explained
from robustbench_lite.results.scorecard import Scorecard
from tests.support import Counting

from .conftest import Left, samples

FAST = ("integrated_gradients", "grad_cam")
OWN = '''
from typing import ClassVar
from robustbench_lite.core.cost import Passes
from robustbench_lite.explaining.interface import Explainer

class Input(Explainer):
    """The input itself."""
    passes = Passes()
    access: ClassVar[str] = "labels"
    def attribute(self, asked, x, classes, seed):
        return x
'''


def told(card: Scorecard, data: Data, *methods: str, target: rl.Target | None = None) -> Explained:
    return explain(card, target or rl.Target(Left()), data, ExplainOptions(methods=methods, samples=3))


@pytest.fixture(scope="module")
def card(data: Data) -> Scorecard:
    """So few samples that no reason is looked for, which takes seconds."""
    found = rl.evaluate(Left(), data, ["fgsm"], "Linf 0.1", limit=16, keep_witnesses=True)
    assert 3 <= found.clean_accuracy.count - found.robust_accuracy.count < 10
    return found


@pytest.fixture(scope="module")
def found(card: Scorecard, data: Data) -> Explained:
    return told(card, data, *FAST)


def test_broken_samples_are_shown_beside_their_witnesses(found: Explained, card: Scorecard) -> None:
    assert found.broken == card.clean_accuracy.count - card.robust_accuracy.count
    assert len(found.exhibits) == 3
    rows = {one.index: one for one in card.outcomes}
    for one in found.exhibits:
        assert one.said.label == rows[one.index].prediction
        assert one.said_of_adversarial.label == rows[one.index].breaks[0].prediction
        assert one.said.confidence is not None
        assert one.said.confidence > 0.5
        assert [heat.method for heat in one.heats] == list(FAST)
        assert len({one.original, one.adversarial, *(heat.clean for heat in one.heats)}) == 4
    assert [number.name for number in found.methods[0].numbers] == [
        *("attribution_spearman", "attribution_overlap", "attribution_sensitivity", "attribution_input_stability")
    ]


def test_it_is_the_same_each_time(found: Explained, card: Scorecard, data: Data) -> None:
    clock = {"created", "seconds", "methods"}
    again = told(card, data, *FAST)
    assert again.model_dump(exclude=clock) == found.model_dump(exclude=clock)
    assert [one.numbers for one in again.methods] == [one.numbers for one in found.methods]


def test_every_pass_is_counted(card: Scorecard, data: Data) -> None:
    class Same(Counting):
        """It has the fingerprint of the model within."""

        def state_dict(self, *args: object, **kwargs: object) -> dict[str, object]:
            return self.model.state_dict()

    model = Same(Left())
    seen = told(card, data, "integrated_gradients", target=rl.Target(model))
    assert (seen.passes.forward, seen.passes.backward) == (model.forwards, model.backwards)


def test_a_model_without_a_convolution_is_explained_by_the_other_methods(data: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight[1] = 1.0
        model[1].weight[0] = -1.0
        model[1].bias.copy_(torch.tensor([24.0, -24.0]))
    y = rl.Target(model)(data.fetch(range(60))).argmax(1)
    flat = as_data((data.fetch(range(60)), y))
    card = rl.evaluate(model, flat, ["fgsm"], "Linf 0.1", limit=16, keep_witnesses=True)
    seen = explain(card, rl.Target(model), flat, ExplainOptions(samples=1))
    assert [(one.name, one.reason) for one in seen.left_out] == [
        ("grad_cam", "needs a convolution, and the model has none")
    ]
    assert [one.name for one in seen.methods] == ["integrated_gradients", "lime", "kernel_shap"]
    assert "inputs near the samples were not explained" in seen.methods[1].left_out
    with pytest.raises(UserError, match="grad_cam needs a convolution, and the model has none"):
        told(card, flat, "grad_cam", target=rl.Target(model))


def test_a_black_box_is_explained_by_lime_and_kernel_shap_alone(data: Data) -> None:
    def answer(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return Left()(torch.from_numpy(x)).numpy()

    card = rl.evaluate(answer, data, ["square"], "Linf 0.3", limit=30, keep_witnesses=True)
    target = rl.Target.from_callable(answer)
    seen = told(card, data, "lime", target=target)
    assert [one.name for one in seen.methods] == ["lime"]
    assert seen.passes.backward == 0
    with pytest.raises(UserError, match="integrated_gradients needs gradients; of answer only the scores are seen"):
        told(card, data, "integrated_gradients", target=target)


def test_data_that_are_no_images_are_refused(card: Scorecard) -> None:
    x, y = samples()
    with pytest.raises(UserError, match=r"samples of shape \(64,\) are no images"):
        told(card, as_data((x.flatten(1), y)))


def test_what_is_not_installed_is_left_out_and_said(
    card: Scorecard, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("captum", "captum.attr", "captum.metrics", "shap", "interpret", "interpret.glassbox"):
        monkeypatch.setitem(sys.modules, name, None)
    seen = told(card, data)
    assert [one.name for one in seen.methods] == ["lime"]
    install = "which can't be imported; pip install 'robustbench_lite[explain]'"
    assert {one.name: one.reason for one in seen.left_out}["kernel_shap"] == f"needs shap, {install}"
    with pytest.raises(UserError, match="grad_cam needs captum"):
        told(card, data, "grad_cam")


def test_an_unknown_method_is_told_with_the_nearest(card: Scorecard, data: Data) -> None:
    with pytest.raises(UserError, match="unknown explanation 'kernelshap': did you mean kernel_shap"):
        told(card, data, "kernelshap")


def test_a_method_of_ones_own_is_found_by_name(
    card: Scorecard, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "explanations").mkdir()
    table = 'CATALOGUE = {"mine": "own:Input", "wrong": "own:Passes"}\n'
    (tmp_path / "explanations" / "__init__.py").write_text(table, encoding="utf-8")
    (tmp_path / "explanations" / "own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    seen = told(card, data, "mine")
    assert seen.methods[0].definition == "The input itself."
    assert seen.methods[0].numbers[3].value == pytest.approx(1, rel=1e-4)
    with pytest.raises(UserError, match="wrong: expected a subclass of"):
        told(card, data, "wrong")


def test_asking_counts_forward_and_backward() -> None:
    asked = Asked(rl.Target(Left()), 2)
    asked.scores(samples(5)[0])
    x = samples(3)[0].requires_grad_()
    asked(x).sum().backward()
    assert (asked.passes.forward, asked.passes.backward) == (8, 3)
