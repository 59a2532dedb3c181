"""Tensors of whatever NumPy makes an array of, and of pictures."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustbench_lite.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def array_tensor(given: Any, what: str) -> Tensor:
    """Tensor of an array, or of what NumPy makes one of, whatever its byte order, strides and flags."""
    import numpy as np

    try:
        array: np.ndarray[Any, Any] = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as fault:
        raise UserError(f"{what}: can't be made an array ({fault}); expected a tensor or an array of numbers") from None
    if array.dtype.kind not in "biuf":
        names = ": numpy.unique(names, return_inverse=True) numbers them" if array.dtype.kind in "US" else ""
        raise UserError(f"{what}: has dtype {array.dtype}; expected a tensor or an array of numbers{names}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch has little use for the wider unsigned types
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
    return torch.from_numpy(array)


def dtype_name(x: Tensor) -> str:
    """``torch.float32`` as ``float32``."""
    return str(x.dtype).removeprefix("torch.")


def is_picture(given: Any) -> bool:
    """Whether it is an image of Pillow's; looked at by name, so that Pillow is imported by none but its users."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(given).__mro__)


def picture_tensor(picture: Any, what: str) -> Tensor:
    """Float tensor in [0, 1], (C, H, W), of a picture in grey or RGB.

    Raises
    ------
    UserError
        For a picture of any other mode, as it isn't clear what is to become of it.
    """
    if picture.mode not in ("L", "RGB"):
        raise UserError(
            f"{what} is a picture of mode {picture.mode}; expected L (grey) or RGB: convert it, with "
            "image.convert('RGB')"
        )
    x = array_tensor(picture, what)
    x = x[None] if x.ndim == 2 else x.permute(2, 0, 1)
    return x.to(torch.float32).contiguous() / 255


def png(image: NDArray[np.float32]) -> str:
    """PNG in base64 of an image in [0, 1], (1, H, W) or (3, H, W)."""
    import numpy as np
    from PIL import Image

    levels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
