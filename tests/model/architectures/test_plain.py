"""A plain network fits images, signals and flat features, whatever is chosen."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from robustbench_lite.model.architectures.plain import Plain

SHAPES: tuple[tuple[int, ...], ...] = ((7,), (1,), (2, 33), (1, 3), (1, 8, 8), (3, 28, 20), (3, 1, 9))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_choice_builds_a_network_of_that_shape(shape: tuple[int, ...]) -> None:
    options = Plain(shape=shape, classes=3).options()
    for key, values in options.items():
        for value in values:
            net = Plain.model_validate({"shape": shape, "classes": 3, key: value}).build()
            assert net(torch.rand(2, *shape)).shape == (2, 3), (key, value)
    deepest = {key: values[-1] for key, values in options.items()}
    net = Plain.model_validate({"shape": shape, "classes": 3, **deepest}).build()
    assert net(torch.rand(2, *shape)).shape == (2, 3)


def test_each_choice_changes_the_network() -> None:
    plain = Plain(shape=(1, 8, 8), classes=3)
    texts = {
        str(plain.changed({key: value}).build())
        for key, values in plain.options().items()
        for value in values
        if value != (3 if key == "kernel" else getattr(plain, key))
    }
    assert len(texts) == sum(len(values) - 1 for values in plain.options().values())
    assert str(plain.build()) not in texts


def test_a_small_network_computes_what_it_says() -> None:
    net = Plain(shape=(2,), classes=2, depth=1, width=2, norm="none", skip=True, activation="relu").build()
    linear: list[nn.Linear] = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer in linear:
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
        linear[0].weight.mul_(-3)
    # relu(-3 x + x) of the block, then the identity.
    assert net(torch.tensor([[1.0, -1.0]])).tolist() == [[0.0, 2.0]]


def test_sides_are_halved_down_to_four_and_channels_doubled_at_most_twice() -> None:
    net = Plain(shape=(1, 64, 64), classes=3, depth=5, width=2).build()
    widths = [layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert widths == [2, 4, 8, 8, 8]
    assert [layer.in_features for layer in net.modules() if isinstance(layer, nn.Linear)] == [8 * 4 * 4]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kernel": 4}, "kernel is 4: expected an odd number"),
        ({"shape": (7,), "kernel": 3}, r"features of shape \[7\] have none"),
        ({"activation": "rlu"}, "did you mean relu"),
        ({"norm": "layer"}, "unknown norm 'layer'"),
        ({"depth": 0}, "greater than or equal to 1"),
        ({"depth": True}, "valid integer"),
        ({"skip": 1}, "valid boolean"),
        ({"shape": ()}, "at least 1"),
        ({"shape": (1, 2, 3, 4)}, "at most 3"),
    ],
)
def test_what_is_no_network_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Plain.model_validate({"shape": (1, 8, 8), "classes": 2} | given)


def test_groups_divide_any_number_of_channels() -> None:
    for width, skip in itertools.product((1, 6, 8, 12, 30), (False, True)):
        net = Plain(shape=(5,), classes=2, width=width, norm="group", skip=skip).build()
        assert net(torch.rand(3, 5)).shape == (3, 2)
