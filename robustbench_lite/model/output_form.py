"""What a module's forward pass returns, brought to one row of logits a sample.

Models differ in the form of their answer, and the form says nothing about robustness: the logits may stand in an
object or a dict, a last ``.squeeze()`` may drop the batch dimension of a batch of one, a binary head may give one logit
instead of two, classes may be masked by minus infinity. Each is brought to (N, K) here, and told. What is ambiguous is
refused. The values are those of the model: no check sees less than before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustbench_lite.core.errors import UserError

LOGITS = "logits"
"""What the entry of an answer is called that holds the logits, where it has a name."""


class NoLogitsError(UserError):
    """What a model returned is no row of logits a sample. The message ends a sentence."""


@dataclass(frozen=True, kw_only=True)
class OutputForm:
    """The form of a module's answers, learned from its first one."""

    classes: int
    """K, of the rows that come out in the end."""
    entry: str | None = None
    """Where in the answer the logits were; None where the answer is the logits."""
    single: bool = False
    """Whether the module gives one logit a sample, z, which stands for the two logits (0, z)."""
    squeezed: bool = False
    """Whether the batch dimension was missing from the answer to a batch of one."""
    masked: tuple[int, ...] = ()
    """Classes whose logit is always minus infinity."""

    def notes(self) -> Iterator[str]:
        """What is done to the answers, a line each."""
        if self.entry is not None:
            yield f"the logits are taken from {self.entry} of what it returns"
        if self.single:
            yield "its one logit a sample, z, is taken as the two logits (0, z)"
        if self.squeezed:
            yield "its answer to a batch of one has no batch dimension, which is put back"
        if self.masked:
            shown = ", ".join(map(str, self.masked[:4])) + (", ..." if len(self.masked) > 4 else "")
            yield f"{len(self.masked)} classes are masked by minus infinity ({shown}) and kept below all others"


def pick(answer: Any, wanted: str | int | None) -> tuple[Any, str | None]:
    """Take the logits out of what a module returned.

    Parameters
    ----------
    answer
        A tensor, a mapping, a sequence, or an object with attributes.
    wanted
        Key, attribute or position of the logits, where the user named it.

    Returns
    -------
    tuple[Any, str | None]
        What should be the logits, and where they were; None where the answer itself is taken.

    Raises
    ------
    NoLogitsError
        Where it isn't clear which of several tensors the logits are.
    """
    if wanted is not None:
        return _named(answer, wanted), repr(wanted)
    if isinstance(answer, Tensor):
        return answer, None
    if isinstance(answer, Mapping) and isinstance(answer.get(LOGITS), Tensor):
        return answer[LOGITS], repr(LOGITS)
    if isinstance(getattr(answer, LOGITS, None), Tensor):
        return getattr(answer, LOGITS), repr(LOGITS)
    entries = _entries(answer)
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if len(tensors) == 1:
        [(name, value)] = tensors.items()
        return value, repr(name)
    if not tensors:
        return answer, None
    shown = ", ".join(f"{name!r} of shape {tuple(value.shape)}" for name, value in list(tensors.items())[:4])
    first = next(iter(tensors))
    raise NoLogitsError(
        f"it returns {type(answer).__name__} with {len(tensors)} tensors ({shown}): expected the logits; say which "
        f"they are, as Target(model, output={first!r}), or return the logits alone"
    )


def _entries(answer: Any) -> dict[Any, Any]:
    if isinstance(answer, Mapping):
        return dict(answer)
    return dict(enumerate(answer)) if isinstance(answer, tuple | list) else {}


def _named(answer: Any, wanted: str | int) -> Any:
    entries = _entries(answer)
    if wanted in entries:
        return entries[wanted]
    if isinstance(wanted, str) and hasattr(answer, wanted):
        return getattr(answer, wanted)
    held = ", ".join(map(repr, list(entries)[:8])) or "no entries"
    raise NoLogitsError(f"it returns {type(answer).__name__} with {held}: there is no output {wanted!r} in it")


def learn(logits: Any, samples: int, entry: str | None) -> OutputForm | str:
    """Learn the form from the answer to a batch; where it is no logits, say what is wrong, to end a sentence with."""
    if not isinstance(logits, Tensor):
        return f"it returns {type(logits).__name__}: expected a tensor; wrap it so that it returns the logits alone"
    shape = tuple(logits.shape)
    if not logits.is_floating_point():
        return f"it returns {logits.dtype} of shape {shape}: expected logits, not predicted classes"
    if shape in ((samples, 1), (samples,)) or (samples == 1 and shape == ()):
        return OutputForm(classes=2, entry=entry, single=True)
    if samples == 1 and logits.ndim == 1:
        return OutputForm(classes=len(logits), entry=entry)
    if logits.ndim != 2 or len(logits) != samples:
        return (
            f"it returns shape {shape}: expected one row of logits a sample, ({samples}, K); "
            "flatten or pool inside the model, and keep the batch dimension first"
        )
    if not logits.shape[1]:
        return f"it returns shape {shape}: expected one logit a class, two or more"
    below = (logits == -torch.inf).all(0)
    masked = tuple(below.nonzero()[:, 0].tolist()) if 2 <= int((~below).sum()) < logits.shape[1] else ()
    return OutputForm(classes=logits.shape[1], entry=entry, masked=masked)


def rows(form: OutputForm, logits: Any, samples: int) -> Tensor | None:
    """Bring an answer to (N, K); None where it hasn't the form that was learned."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        return None
    width = 1 if form.single else form.classes
    without_batch = samples == 1 and logits.shape == (width,)
    if without_batch or (form.single and logits.numel() == samples and logits.ndim <= 1):
        logits = logits.reshape(samples, width)
    if logits.shape != (samples, width):
        return None
    if form.single:
        return torch.cat([torch.zeros_like(logits), logits], 1)
    return _filled(logits, form.masked) if form.masked else logits


def _filled(logits: Tensor, masked: tuple[int, ...]) -> Tensor:
    """Put finite numbers, below all others of the row, in the place of the masked classes' minus infinity."""
    columns = torch.tensor(masked, device=logits.device)
    if not bool((logits[:, columns] == -torch.inf).all()):
        return logits  # no fixed mask after all: the infinities stay, and are found
    mask = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device).index_fill_(0, columns, True)
    seen = logits.detach()
    low = seen.masked_fill(mask, torch.inf).amin(1, keepdim=True)
    high = seen.masked_fill(mask, -torch.inf).amax(1, keepdim=True)
    return torch.where(mask, low - (high - low) - 1, logits)
