"""Writing files that survive a kill, and reading ones that may be damaged or made to do harm."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

NPZ_LIMIT = 8 * 2**30
"""Bytes that an npz file may always unpack to."""

NPZ_FAULTS = (Exception,)
"""What numpy raises for a damaged npz file: nearly anything, as of a damaged header, which is Python that it parses."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Errors of a disk that is full or may not be written."""

_SEAL = ',"sha256":"'

_LARGEST = 2**63
"""Whole numbers beyond it are no counts: floats can't hold them, and arrays neither."""


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


def write_sealed(path: Path, content: bytes) -> None:
    """Write bytes behind a line that holds their checksum, in one step; a link in its place is replaced."""
    if path.is_symlink():
        path.unlink()
    write_atomically(path, seal(content) + b"\n" + content)


def read_sealed(path: Path) -> bytes:
    """Read what `write_sealed` wrote.

    Raises
    ------
    OSError
        Where it isn't there, can't be read, or is a link.
    ValueError
        Where it is not what was written.
    """
    checksum, _, content = read_own(path).partition(b"\n")
    if checksum != seal(content):
        raise ValueError(f"{path}: its checksum is not that of its content")
    return content


def seal(content: bytes) -> bytes:
    """The checksum of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest().encode()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a whole file, as any tool gives it; `OSError` where it can't be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sealed_line(text: str) -> str:
    """Add a checksum to a JSON object, as its last key."""
    return f'{text[:-1]}{_SEAL}{seal(text.encode()).decode()}"}}'


def unsealed_line(line: str) -> str:
    """The JSON object that `sealed_line` was given.

    Raises
    ------
    ValueError
        Where the line is not what was written.
    """
    text = line.rstrip("\n").rpartition(_SEAL)[0] + "}"
    if sealed_line(text) != line.rstrip("\n"):
        raise ValueError("its checksum is not that of its content")
    return text


def read_own(path: Path) -> bytes:
    """Read a file of ours; a link in its place is none, and raises `OSError`."""
    with open_own(path, "rb") as stream:
        content: bytes = stream.read()
        return content


def open_own(path: Path, mode: str) -> Any:
    """Open a file of ours, as `open` does; a link in its place is not followed, and raises `OSError`."""
    if path.is_symlink():  # also where the system has no flag for it
        raise OSError(errno.ELOOP, "is a link", str(path))
    return open(path, mode, opener=_not_a_link)


def _not_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def read_json(path: Path) -> Any:
    """Read strict JSON: UTF-8, finite numbers, whole characters, and no key twice, as the last would hide the first.

    Raises
    ------
    OSError
        Where it can't be read.
    ValueError
        For anything else; where it is nested too deep, too.
    """
    try:
        found = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_once_each,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_small,
        )
        json.dumps(found, ensure_ascii=False).encode()  # half a character, "\ud800", could be neither shown nor saved
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return found


def unpacked_size(path: Path) -> int:
    """Bytes that an npz file, or another zip archive, says it unpacks to, before anything is unpacked.

    What is read of it then is no more than that: each member ends where the table of contents says.
    """
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def check_unpacked(path: Path) -> None:
    """Refuse an npz file of our own that would fill the memory, before anything is unpacked.

    Raises
    ------
    ValueError
        For one that unpacks to more than `NPZ_LIMIT` and is packed as densely as no images are.
    """
    size = unpacked_size(path)
    if size > max(NPZ_LIMIT, 100 * path.stat().st_size):
        raise ValueError(f"it would unpack to {size / 2**30:.1f} GiB")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _small(text: str) -> int:
    number = int(text)
    if not -_LARGEST <= number < _LARGEST:
        raise ValueError(f"{text[:24]}... is too large")
    return number
