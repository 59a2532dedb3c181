"""Attributions as pictures: what speaks for the class orange, what speaks against it blue, over the image in grey."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from robustbench_lite.data.arrays import png

_SIDE = 128  # pixels that an image has at most on a page
_FOR, _AGAINST = (0.86, 0.30, 0.02), (0.04, 0.36, 0.72)
_FILE_SIDE = 224  # pixels that an image has at least as a file


def shown(image: Tensor) -> str:
    """PNG in base64 of an image, (1 or 3, H, W), made smaller where it is large."""
    return png(_smaller(image).numpy())


def heat(image: Tensor, attribution: Tensor) -> str:
    """PNG in base64 of an attribution, (C or 1, H, W), over its image, (1 or 3, H, W).

    Colours are strongest where the attribution is as large as 99 of 100 of its values.
    """
    grey = 0.55 + 0.45 * _smaller(image).mean(0, keepdim=True)
    value = _smaller(attribution.sum(0, keepdim=True))
    largest = float(torch.quantile(value.abs().flatten(), 0.99)) or float(value.abs().amax()) or 1.0
    strength = (value.abs() / largest).clamp(0, 1)
    colour = torch.where(value > 0, torch.tensor(_FOR)[:, None, None], torch.tensor(_AGAINST)[:, None, None])
    mixed: NDArray[np.float32] = (grey * (1 - strength) + colour * strength).numpy()
    return png(mixed)


def enlarged(encoded: str) -> bytes:
    """A PNG as a file to look at: small images larger, each pixel a square."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        times = max(1, -(-_FILE_SIDE // max(image.size)))
        buffer = io.BytesIO()
        image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _smaller(image: Tensor) -> Tensor:
    """An image, (C, H, W), whose longer side is `_SIDE` at most."""
    longer = max(image.shape[-2:])
    if longer <= _SIDE:
        return image
    size = [max(1, round(_SIDE * side / longer)) for side in image.shape[-2:]]
    return functional.interpolate(image[None], size, mode="area")[0]
