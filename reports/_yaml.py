"""A small part of YAML, enough to be read by every reader of it: block collections, and scalars as JSON writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def dump(value: Any) -> str:
    """Write mappings with plain keys, lists, texts, numbers and truths, none of them empty."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Mapping):
                yield f"{key}:"
                yield from (f"  {line}" for line in _lines(item))
            elif _is_list(item):
                yield f"{key}:"
                yield from _lines(item)
            else:
                yield f"{key}: {_scalar(item)}"
    elif _is_list(value):
        for item in value:
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _scalar(value: Any) -> str:
    # Quotes around every text: none is taken for a number, a date or a truth, whatever reads it.
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
