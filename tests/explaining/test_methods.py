"""Each method on a model with a known answer, and on one that knows nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import Target
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.explaining.interface import Asked, Explainer, probabilities

from .conftest import SIDE, Left, random_model, samples

METHODS = registry.names("explanations")
FEW: dict[str, dict[str, Any]] = {"lime": {"draws": 200, "grid": 4}, "kernel_shap": {"draws": 200, "grid": 4}}
X = samples(3)[0]


def attributed(name: str, model: nn.Module | Target, x: Tensor = X, batch_size: int = 128, seed: int = 0) -> Tensor:
    target = model if isinstance(model, Target) else Target(model)
    explainer: Explainer = registry.build("explanations", name, FEW.get(name, {}))
    with torch.no_grad():
        classes = target(x).argmax(1)
    with target.attacking():
        return explainer.attribute(Asked(target, batch_size), x, classes, seed)


def on_the_left(found: Tensor) -> float:
    return float(found[..., : SIDE // 2].abs().sum() / found.abs().sum())


@pytest.mark.parametrize("name", METHODS)
def test_where_only_the_left_half_counts_attributions_say_so(name: str) -> None:
    assert on_the_left(attributed(name, Left())) > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_attributions_of_a_random_model_do_not(name: str) -> None:
    shares = [on_the_left(attributed(name, random_model(seed))) for seed in range(4)]
    assert 0.2 < sum(shares) / 4 < 0.75


@pytest.mark.parametrize("name", ["lime", "kernel_shap"])
def test_a_black_box_is_explained_by_its_answers_alone(name: str) -> None:
    model = Left()

    def answer(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(x)).softmax(1).numpy()

    target = Target.from_callable(answer)
    assert torch.allclose(attributed(name, target), attributed(name, model), atol=1e-5)


def test_integrated_gradients_sum_to_what_the_logit_rises_from_black() -> None:
    model = Left()
    with torch.no_grad():
        rise = (model(X) - model(torch.zeros_like(X))).gather(1, model(X).argmax(1, keepdim=True))[:, 0]
    assert torch.allclose(attributed("integrated_gradients", model).sum((1, 2, 3)), rise, rtol=1e-3)


def test_shap_values_sum_to_what_the_probability_rises_from_black() -> None:
    model = Left()
    found = attributed("kernel_shap", model).sum((1, 2, 3)) / 4  # four pixels a cell
    with torch.no_grad():
        chosen = model(X).argmax(1, keepdim=True)
        rise = (model(X).softmax(1) - model(torch.zeros_like(X)).softmax(1)).gather(1, chosen)[:, 0]
    assert torch.allclose(found, rise, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_what_it_says_depends_on_the_seed_alone(name: str) -> None:
    model = random_model()
    state = np.random.get_state()[1].copy()
    first = attributed(name, model)
    assert torch.allclose(first, attributed(name, model, batch_size=7), atol=1e-6)
    assert torch.allclose(first[:1], attributed(name, model, X[:1]), atol=1e-6)
    assert (np.random.get_state()[1] == state).all()
    other = attributed(name, model, seed=1)
    assert torch.equal(first, other) == (name not in FEW)


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_counted_and_none_are_more_than_it_says(name: str) -> None:
    target, explainer = Target(random_model()), registry.build("explanations", name, FEW.get(name, {}))
    asked = Asked(target)
    with target.attacking():
        explainer.attribute(asked, X, torch.zeros(3, dtype=torch.int64), 0)
    assert 0 < asked.passes.forward <= 3 * explainer.passes.forward
    assert asked.passes.backward == 3 * explainer.passes.backward


def test_grad_cam_takes_the_last_convolution_or_the_layer_that_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    target, classes = Target(model), torch.zeros(3, dtype=torch.int64)

    def by(**params: Any) -> Tensor:
        explainer = registry.build("explanations", "grad_cam", params)
        assert explainer.unfit(target, (1, SIDE, SIDE)) is None
        found: Tensor = explainer.attribute(Asked(target), X, classes, 0)
        return found

    assert torch.equal(by(), by(layer="2"))
    assert not torch.equal(by(), by(layer="0"))


@pytest.mark.parametrize(
    ("params", "told"),
    [({"layer": "con"}, "unknown layer 'con': did you mean conv"), ({}, None), ({"layer": "conv"}, None)],
)
def test_grad_cam_says_what_it_lacks(params: dict[str, Any], told: str | None) -> None:
    unfit = registry.build("explanations", "grad_cam", params).unfit(Target(Left()), (1, SIDE, SIDE))
    assert (unfit is None) == (told is None)
    assert told is None or (unfit is not None and told in unfit)


def test_grad_cam_needs_a_convolution_and_maps() -> None:
    flat = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    unfit = registry.build("explanations", "grad_cam", {}).unfit(flat, (1, SIDE, SIDE))
    assert unfit == "needs a convolution, and the model has none"
    named = registry.build("explanations", "grad_cam", {"layer": "1"})
    with pytest.raises(UserError, match=r"the layer '1' gives \(3, 1\): expected maps"):
        named.attribute(Asked(flat), X, torch.zeros(3, dtype=torch.int64), 0)


@pytest.mark.parametrize("name", ["grad_cam", "lime", "kernel_shap"])
def test_what_needs_images_says_so(name: str) -> None:
    explainer = registry.build("explanations", name, {})
    assert explainer.unfit(Target(Left()), (64,)) == "needs images, (C, H, W); the samples are (64,)"


def test_probabilities_stay_as_they_are_and_logits_are_made_some() -> None:
    known = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    assert torch.equal(probabilities(known), known)
    assert torch.allclose(probabilities(torch.tensor([[0.2, 0.9]])).sum(1), torch.ones(1))
    assert torch.allclose(probabilities(torch.tensor([[-1.0, 2.0]])).sum(1), torch.ones(1))
