"""Pictures of mixed sizes are brought to one, as torchvision does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.load import as_data, load_data
from robustbench_lite.data.sizes import view_of

DICE = np.random.default_rng(0)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    for name, height, width in (("ant", 20, 30), ("bee", 40, 24)):
        (tmp_path / name).mkdir()
        for number in range(2):
            pixels = DICE.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_mixed_sizes_are_told_with_the_options_that_cure_them(mixed: Path) -> None:
    data = load_data(f"imagefolder:{mixed}")
    with pytest.raises(
        UserError, match=r"sample 0 has shape \(3, 20, 30\), sample 2 has \(3, 40, 24\).*--resize N and --crop N"
    ):
        data.fetch([0, 2])


def test_they_are_resized_and_then_cut_as_torchvision_does(mixed: Path) -> None:
    data = load_data(f"imagefolder:{mixed}", resize=16, crop="12x10")
    x = data.fetch(range(4))
    assert x.shape == (4, 3, 12, 10)
    assert data.shape == (3, 12, 10)
    assert data.notes == ("each picture is resized to 16 along the shorter side and cut to the central 12x10",)
    picture = v2.functional.to_dtype(v2.functional.pil_to_tensor(Image.open(mixed / "bee" / "1.png")), scale=True)
    expected = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop((12, 10))])(picture)
    assert torch.allclose(x[3], expected, atol=1e-6)
    assert x.min() >= 0
    assert x.max() <= 1


@pytest.mark.parametrize("data", [(torch.rand(3, 1, 8, 6), torch.zeros(3).long()), "digits"])
def test_data_in_memory_are_seen_through_the_same_view(data: Any) -> None:
    plain = as_data(data)
    found = as_data(data, resize=(5, 4))
    assert found.shape == (1, 5, 4)
    expected = v2.functional.resize(plain.fetch([1]), [5, 4], antialias=True)
    assert torch.equal(found.fetch([1]), expected)


def test_a_crop_larger_than_a_picture_is_not_filled_with_black(mixed: Path) -> None:
    with pytest.raises(UserError, match=r"sample 0 is of 20x30 pixels, smaller than its crop of 28x28: resize first"):
        load_data(f"imagefolder:{mixed}", crop=28)


@pytest.mark.parametrize("size", [0, "12x", "axb", "1x2x3", (-1, 4), 2.5, []])
def test_what_is_no_size_is_told(size: Any) -> None:
    with pytest.raises(UserError, match=r"resize is .*expected pixels, N or HxW"):
        view_of(size, None)
