"""What an architecture is: sizes and choices, read from a file, of which a network is built. No code is in the file."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationError
from torch import nn

from robustbench_lite.core.errors import UserError, faults, unknown
from robustbench_lite.core.toml import NamedFile

Choice = str | int | bool
"""What a choice may be."""

Shape = Annotated[tuple[Annotated[int, Field(ge=1, le=65536, strict=True)], ...], Field(min_length=1, max_length=3)]
"""Of one input: (C, H, W), (C, L) or (F,)."""


def one_of(kind: str, known: Sequence[str]) -> BeforeValidator:
    """A check that a value is one of some names; the nearest is told where it isn't."""

    def check(given: Any) -> Any:
        if given not in known:
            raise ValueError(unknown(kind, given if isinstance(given, str) else repr(given), known))
        return given

    return BeforeValidator(check)


class Architecture(NamedFile):
    """A network as a file tells it: one key a line."""

    called: ClassVar[str] = "architecture"
    space: str
    """Which kind of network: ``plain`` or ``cells``."""
    shape: Shape
    """Of one input, in the order of the data: (C, H, W) for images, (C, L) for signals, (F,) for features."""
    classes: int = Field(ge=2, le=1_000_000, strict=True)
    """Number of logits."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Make the network, with fresh weights: inputs (N, *shape) in, logits (N, classes) out."""

    @abstractmethod
    def options(self) -> dict[str, tuple[Choice, ...]]:
        """What a search tries by default: each choice by its key, with two values or more."""

    @property
    def words(self) -> str:
        """The choices in a line, for a table."""
        told = ((key, getattr(self, key)) for key in self.options())
        return ", ".join(f"{key} {value}" for key, value in told if value is not None)

    def changed(self, choices: Mapping[str, Any]) -> Self:
        """The same architecture with some other values.

        Raises
        ------
        UserError
            With every key that isn't there, and every value that is refused.
        """
        try:
            return type(self).model_validate(self.model_dump(exclude_unset=True) | dict(choices))
        except ValidationError as error:
            told = faults(error, type(self))
        raise UserError(f"architecture {self.name or self.space!r}:\n{told}")

    def toml(self) -> str:
        """The file that tells it."""
        told = self.model_dump(exclude={"name", "description"}, exclude_none=True)
        # Of texts, numbers, truth values and lists of numbers TOML's words are JSON's.
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in told.items())
