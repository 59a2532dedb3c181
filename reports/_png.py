"""Images of a gallery, which come from a file and are not trusted."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SMALL = 112


@dataclass(frozen=True)
class Picture:
    """A PNG that a page can show."""

    uri: str
    """A ``data:`` address: of the base64 alphabet after its prefix, so nothing can break out of an attribute."""
    width: int
    height: int

    @property
    def pixelated(self) -> bool:
        """Whether it is so small that it is shown enlarged, each pixel a square."""
        return self.width < _SMALL


def picture(encoded: str) -> Picture | None:
    """Check that a text is a PNG in base64; None where it isn't."""
    try:
        data = base64.b64decode(encoded, validate=True)
        width, height = struct.unpack(">II", data[16:24])
    except (binascii.Error, ValueError, struct.error):
        return None
    if not data.startswith(_SIGNATURE) or not width or not height:
        return None
    return Picture(f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}", width, height)
