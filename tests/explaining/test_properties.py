"""Properties of samples, against what is known of them."""

from __future__ import annotations

import pytest
import torch

from robustbench_lite import Target
from robustbench_lite.data.load import as_data
from robustbench_lite.explaining.interface import Asked
from robustbench_lite.explaining.properties import look

from .conftest import Left, samples


def test_they_are_what_they_say() -> None:
    x, y = samples(20)
    asked = Asked(Target(Left()), 7)
    seen = look(asked, as_data((x, y)), as_data((x, y)))
    found = {one.name: one.values for one in seen.properties}
    assert list(found) == [
        *("class", "margin", "confidence", "brightness", "contrast", "distance to another class", "gradient")
    ]
    with torch.no_grad():
        logits = Left()(x)
    rows = torch.arange(20)
    assert found["class"].tolist() == [str(label) for label in y.tolist()]
    assert found["margin"] == pytest.approx((logits[rows, y] - logits[rows, 1 - y]).numpy(), rel=1e-5)
    assert found["confidence"] == pytest.approx(logits.softmax(1)[rows, y].numpy(), rel=1e-5)
    assert found["brightness"] == pytest.approx(x.mean((1, 2, 3)).numpy())
    assert found["contrast"] == pytest.approx(x.flatten(1).std(1).numpy())
    away = torch.cdist(x.flatten(1), x.flatten(1))
    away[y[:, None] == y[None]] = torch.inf
    assert found["distance to another class"] == pytest.approx(away.amin(1).numpy(), rel=1e-4)
    assert (found["gradient"] > 0).all()
    assert (asked.passes.forward, asked.passes.backward) == (20, 20)
    assert (seen.predicted == y.numpy()).all()


def test_of_a_black_box_that_tells_labels_alone_only_the_image_is_looked_at() -> None:
    x, y = samples(20)
    target = Target.from_callable(lambda given: Left()(torch.from_numpy(given)).argmax(1).detach().numpy(), classes=2)
    target.probe(x[:1])
    asked = Asked(target)
    names = [one.name for one in look(asked, as_data((x, y)), as_data((x, y))).properties]
    assert names == ["class", "brightness", "contrast", "distance to another class"]
    assert asked.passes.backward == 0


def test_large_images_are_measured_small_and_to_scale() -> None:
    x = torch.zeros(2, 3, 64, 96)
    x[1] = 0.5
    seen = look(
        Asked(Target.from_callable(lambda given: given.mean((1, 2, 3))[:, None] * [[-1.0, 1.0]])),
        as_data((x, torch.tensor([0, 1]))),
        as_data((x, torch.tensor([0, 1]))),
    )
    distance = {one.name: one.values for one in seen.properties}["distance to another class"]
    assert distance == pytest.approx([0.5 * (3 * 64 * 96) ** 0.5] * 2, rel=1e-4)
