"""Attributions as pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from robustbench_lite.explaining.pictures import enlarged, heat, shown


def pixels(encoded: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        return np.asarray(image).astype(int)


def test_what_speaks_for_is_orange_what_speaks_against_is_blue_and_nothing_is_grey() -> None:
    attribution = torch.zeros(1, 8, 8)
    attribution[0, 0, 0], attribution[0, 7, 7] = 2.0, -2.0
    found = pixels(heat(torch.full((3, 8, 8), 0.5), attribution))
    assert found[0, 0, 0] > found[0, 0, 2] + 100
    assert found[7, 7, 2] > found[7, 7, 0] + 100
    assert len(set(found[3, 3])) == 1


def test_nothing_at_all_is_the_image_in_grey() -> None:
    found = pixels(heat(torch.rand(1, 8, 8), torch.zeros(1, 8, 8)))
    assert (found[..., 0] == found[..., 2]).all()


def test_large_images_are_made_smaller_and_files_large_enough_to_look_at() -> None:
    assert pixels(shown(torch.rand(3, 300, 600))).shape == (64, 128, 3)
    assert pixels(heat(torch.rand(3, 300, 600), torch.rand(3, 300, 600))).shape == (64, 128, 3)
    small = shown(torch.rand(1, 8, 8))
    file = base64.b64encode(enlarged(small)).decode()
    assert pixels(file).shape == (224, 224)
    assert (pixels(file)[::28, ::28] == pixels(small)).all()
