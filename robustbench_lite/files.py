"""Writing files that survive a kill."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that is replaced in one step when the block ends: readers see the old or the new, never a part.

    Where the block fails, the old one stays and nothing else; where it is killed, a hidden file may stay beside it.
    """
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():  # a pipe or a device is written to, not replaced
        with path.open("wb") as stream:
            yield stream
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write bytes, or a text as UTF-8, through `atomic_file`."""
    with atomic_file(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
