"""Rotations and shifts: known images, a model whose answer is known for each, every point of the grid once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.attacks.spatial import Spatial, move
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target


class Side(nn.Module):
    """Where the mass of a blob lies: 0 near the middle, 1 left of it by ``far`` of the width, 2 right."""

    def __init__(self, far: float) -> None:
        super().__init__()
        self.far, self.seen = far, []

    @torch.no_grad()
    def forward(self, x):
        self.seen.append(x)
        place = (torch.arange(x.shape[3]) + 0.5) / x.shape[3] - 0.5
        centre = (x.sum((1, 2)) * place).sum(1) / x.sum((1, 2, 3)).clamp_min(1e-9)
        return torch.stack([torch.zeros_like(centre), -centre - self.far, centre - self.far], 1)


def blobs(samples: int = 6) -> torch.Tensor:
    """Round blobs of different sizes in the middle of 20 x 20, far from the border."""
    far = (torch.arange(20) - 9.5) ** 2
    sizes = torch.linspace(2.0, 3.0, samples)
    return torch.exp(-(far[:, None] + far) / sizes[:, None, None] ** 2)[:, None]


def attack(
    spatial: Spatial, model: nn.Module, threat: str = "Spatial 30", batch_size: int = 64, x=None, target_class: int = 0
):
    data = as_data((blobs() if x is None else x, torch.zeros(len(blobs() if x is None else x), dtype=torch.int64)))
    samples = Samples(data, torch.arange(len(data)) * 7919, torch.full((len(data),), target_class))
    rows = np.arange(len(data))
    return run_attack(
        spatial, Target(model), samples, rows, ThreatModel.parse(threat), RunOptions(batch_size=batch_size, keep=rows)
    )


@pytest.mark.parametrize("padding", ["zeros", "reflection"])
@pytest.mark.parametrize("turns", [-1, 1, 2, 3])
@pytest.mark.parametrize("side", [8, 9])
def test_a_quarter_turn_is_rot90(side, turns, padding):
    x = torch.rand(3, 2, side, side)
    turned = move(x, torch.full((3,), 90.0 * turns), torch.zeros(3, 2), padding)
    torch.testing.assert_close(turned, torch.rot90(x, turns, (2, 3)), rtol=0, atol=1e-5)


def test_a_quarter_turn_of_what_is_not_square_keeps_its_shape():
    x = torch.zeros(1, 1, 5, 9)
    x[0, 0, 2, 5:7] = 1
    expected = torch.zeros_like(x)
    expected[0, 0, :2, 4] = 1
    torch.testing.assert_close(move(x, torch.tensor([90.0]), torch.zeros(1, 2)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("padding", "outside"), [("zeros", "constant"), ("reflection", "symmetric")])
def test_a_shift_by_whole_pixels_moves_every_pixel(padding, outside):
    x = torch.rand(4, 3, 6, 8)
    pixels = [(2, 0), (0, -1), (-3, 2), (0, 0)]
    moved = move(x, torch.zeros(4), torch.tensor(pixels) / torch.tensor([8, 6]), padding)
    for image, found, (right, down) in zip(x.numpy(), moved.numpy(), pixels, strict=True):
        wide = np.pad(image, ((0, 0), (4, 4), (4, 4)), mode=outside)
        np.testing.assert_allclose(found, wide[:, 4 - down : 10 - down, 4 - right : 12 - right], atol=1e-5)


def test_it_rotates_before_it_shifts():
    x = F.pad(torch.rand(2, 1, 6, 6), (5, 5, 5, 5))  # so that nothing leaves the image in between
    degrees, shift = torch.tensor([20.0, -45.0]), torch.tensor([[0.25, 0.0], [0.0, -0.125]])
    turned = move(x, degrees, torch.zeros(2, 2))
    torch.testing.assert_close(move(x, degrees, shift), move(turned, torch.zeros(2), shift), rtol=0, atol=1e-5)


def test_rotations_are_torchvisions():
    from torchvision.transforms.v2 import functional as vision

    x = torch.rand(2, 3, 9, 13)
    theirs = vision.rotate(x, 25.0, interpolation=vision.InterpolationMode.BILINEAR)
    torch.testing.assert_close(move(x, torch.full((2,), 25.0), torch.zeros(2, 2)), theirs, rtol=0, atol=1e-4)


@given(
    x=st.integers(2, 9).map(lambda side: torch.rand(2, 1, side, side)),
    degrees=st.floats(-180, 180),
    shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    padding=st.sampled_from(["zeros", "reflection"]),
)
@settings(max_examples=50, deadline=None)
def test_a_moved_image_is_in_the_box(x, degrees, shift, padding):
    moved = move(x, torch.tensor([degrees, 0.0]), torch.tensor([shift, (0.0, 0.0)]), padding)
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-6
    torch.testing.assert_close(moved[1], x[1], rtol=0, atol=1e-5)


@given(angles=st.integers(1, 6), shifts=st.integers(1, 4), draws=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_each_point_of_the_grid_is_tried_once_the_strongest_first(angles, shifts, draws):
    if angles == shifts == 1 and draws == 0:
        return
    spatial = Spatial(angles=angles, shifts=shifts, draws=draws)
    model = Side(far=1.0)
    # One spot away from the middle, which every point moves elsewhere.
    x = torch.zeros(1, 1, 33, 33)
    x[0, 0, 4:7, 22:27] = torch.rand(3, 5) + 0.5
    x /= x.max()
    found = attack(spatial, model, "Spatial 20", x=x)
    assert not found.broken.any()
    assert found.forward.item() == spatial.steps + 1 == len(model.seen)
    assert len({tuple(image.flatten().tolist()) for image in model.seen}) == len(model.seen)
    assert not any(torch.allclose(image, x, atol=1e-4) for image in model.seen[: len(model.seen) - draws])
    if angles > 1 and shifts > 1:
        corner = move(x, torch.tensor([-20.0]), torch.tensor([[-0.1, -0.1]]))
        torch.testing.assert_close(model.seen[0], corner, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize(("far", "broken"), [(0.09, True), (0.11, False)])
def test_breaks_a_sample_exactly_where_the_shift_reaches(far, broken, batch_size):
    found = attack(Spatial(angles=3, shifts=3), Side(far), batch_size=batch_size)
    assert (found.broken == broken).all()
    assert found.unconfirmed == 0
    assert (found.backward == 0).all(), "it asks for no gradients"
    if not broken:
        assert (found.forward == 26).all()


def test_reaches_the_class_that_is_wanted():
    for target_class in (1, 2):
        found = attack(Spatial(angles=3, shifts=3), Side(0.09), "Spatial 5 targeted", target_class=target_class)
        assert (found.prediction == target_class).all()


def test_samples_of_a_batch_are_at_points_of_their_own():
    """Some break at the second point, and others take their places while the rest is further on."""

    class Marked(nn.Module):
        def forward(self, x):
            side = Side(0.09)(x)
            return torch.where(x.amax((1, 2, 3))[:, None] > 0.7, side, side - torch.tensor([0.0, 1, 1]))

    x = blobs(40)
    x[::3] *= 0.5
    results = [attack(Spatial(angles=3, shifts=3), Marked(), batch_size=size, x=x) for size in (5, 13, 64)]
    for result in results:
        np.testing.assert_array_equal(result.broken, np.arange(40) % 3 != 0)
        np.testing.assert_array_equal(result.forward, results[0].forward)
        for row, witness in result.witnesses.items():
            np.testing.assert_allclose(witness, results[0].witnesses[row], atol=1e-6)


def test_draws_differ_by_sample_and_keep_within_the_bounds():
    model = Side(1.0)
    attack(Spatial(angles=1, shifts=1, draws=30, shift=0.1), model, "Spatial 1", x=blobs(1).repeat(5, 1, 1, 1))
    place = (torch.arange(20) + 0.5) / 20 - 0.5
    seen = torch.cat([batch for batch in model.seen if len(batch) == 5])
    across = (seen.sum((1, 2)) * place).sum(1) / seen.sum((1, 2, 3))
    assert across.abs().max() <= 0.1 + 1e-4
    assert across.min() < -0.08
    assert across.max() > 0.08
    assert len(across.unique()) > 140


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"angles": 1, "shifts": 1}, "never be moved"),
        ({"shift": 0.0}, "give shifts = 1"),
        ({"shift": 1.5}, "less than or equal to 1"),
        ({"angles": 0}, "greater than 0"),
        ({"padding": "border"}, "zeros"),
    ],
)
def test_weak_and_wrong_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Spatial(**params)


def test_rotations_alone():
    assert Spatial(shift=0.0, shifts=1).steps == 29
    assert Spatial().steps == 31 * 25 - 2


def test_what_is_no_image_is_refused(linear):
    with pytest.raises(UserError, match="expected images"):
        linear(shape=(10,)).attack(Spatial(), "Spatial 30")


def test_another_threat_model_is_refused(linear):
    with pytest.raises(UserError, match="it does Spatial"):
        linear().attack(Spatial(), "Linf 0.1")
