"""The choices of an architecture as a part of a search's space."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from robustbench_lite.core.errors import UserError, in_our_words, unknown
from robustbench_lite.core.toml import NamedFile
from robustbench_lite.core.usercode import ARCHITECTURE
from robustbench_lite.model.architectures.files import SPACES, load_architecture
from robustbench_lite.model.architectures.interface import Architecture, Choice
from robustbench_lite.model.target import Target
from robustbench_lite.model.wrapping import bare

_GIVEN = {"space", "shape", "classes", *NamedFile.model_fields}
"""Keys of an architecture that are no choices."""


class ArchitectureSpace(BaseModel):
    """Which networks are tried. Each trial's starts from fresh weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    space: str
    """Kind of the networks: ``plain`` or ``cells``."""
    search: tuple[str, ...] = ()
    """The choices that are searched, such as ``edge_0_1``; by default all, but those that are ``fixed``."""
    choices: dict[str, tuple[Choice, ...]] = Field(default_factory=dict)
    """Values of a choice, in the place of all; also of a size, such as ``channels``, that isn't searched otherwise."""
    fixed: dict[str, Choice] = Field(default_factory=dict)
    """What all networks have in common; by default as in MODEL, where that is such an architecture."""

    @field_validator("space")
    @classmethod
    def _is_known(cls, given: str) -> str:
        if given not in SPACES:
            raise ValueError(unknown("space", given, SPACES))
        return given

    def start(self, shape: tuple[int, ...], classes: int, target: Target) -> Architecture:
        """The network that all others are changes of.

        Parameters
        ----------
        shape, classes
            Of the data.
        target
            MODEL: where it is told by a file of the same space, its values are taken over.

        Raises
        ------
        UserError
            With every value that is refused, as for data of another shape.
        """
        given = _told_by(target)
        told = {"shape": shape, "classes": classes} | self.fixed
        try:
            if given is not None and given.space == self.space:
                return given.changed(told)
            return SPACES[self.space].model_validate({"name": self.space} | told)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, one['loc']))}: {in_our_words(one)}" for one in error.errors()]
        raise UserError("\n".join([f"architectures of the space {self.space!r} don't fit the data", *lines]))

    def choices_of(self, start: Architecture) -> dict[str, tuple[Choice, ...]]:
        """What is searched, with its values."""
        options = start.options() | self.choices
        return {key: options[key] for key in self._searched(start) if key in options}

    def faults(self, start: Architecture) -> Iterator[str]:
        """What can't be searched, one line each."""
        options = start.options()
        known = [key for key in type(start).model_fields if key not in _GIVEN]
        for key in (*self.search, *self.choices):
            if key not in known:
                yield f"architecture: {unknown('choice', key, known)}"
            elif key in self.fixed:
                yield f"architecture: {key} is searched and fixed: take it out of one"
            elif key not in options and key not in self.choices:
                yield f"architecture: {key} has no values by default: give them in choices"
        for key, values in self.choices.items():
            if len(values) < 2 or len({repr(one) for one in values}) < len(values):
                yield f"architecture: choices.{key}: expected two values or more, each once"
        for key, values in self.choices_of(start).items():
            for value in values if key in known else ():
                try:
                    start.changed({key: value})
                except UserError as fault:
                    yield str(fault)

    def _searched(self, start: Architecture) -> tuple[str, ...]:
        if self.search:
            return self.search
        return tuple(key for key in dict.fromkeys((*start.options(), *self.choices)) if key not in self.fixed)


def _told_by(target: Target) -> Architecture | None:
    inner = bare(target)
    if inner.spec is None or not inner.spec.startswith(ARCHITECTURE):
        return None
    return load_architecture(inner.spec.removeprefix(ARCHITECTURE), inner.arguments)
