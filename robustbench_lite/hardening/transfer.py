"""What a pretrained model brings along: a backbone that is kept or frozen, and a new head for another task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data
from robustbench_lite.model.changes import NewHead
from robustbench_lite.model.head import find_head, new_head
from robustbench_lite.model.loading import load_target
from robustbench_lite.model.predictor import ModulePredictor
from robustbench_lite.model.target import Target
from robustbench_lite.model.weights import read_state

BACKBONE = "backbone"
"""Stands, among the patterns, for all but the head."""

_SHOWN = 6  # names of parameters in an error


class Transfer(NamedTuple):
    """A pretrained target, with a head for the task."""

    target: Target
    note: str
    """What was done to the head; empty where it is the weights' own."""


def load_with_head(
    spec: str,
    data: Data,
    classes: int | Sequence[str],
    *,
    weights: str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> Transfer:
    """Load a target that has so many classes, with a new head where its weights were made for another number.

    Parameters
    ----------
    spec, weights, seed, options
        As in `load_target`.
    data
        Samples, of which one is tried.
    classes
        Number of logits, or what they are called.

    Raises
    ------
    UserError
        For what `load_target` refuses, and where the head can't be told.
    """
    try:
        target = load_target(spec, weights=weights, classes=classes, seed=seed, **options)
    except UserError as fault:
        target = _with_its_own_head(spec, weights, seed, options, fault)
    if isinstance(classes, int):
        return with_head(target, data, classes, seed)
    target.class_names = ()
    made = with_head(target, data, len(classes), seed)
    made.target.class_names = tuple(classes)
    return made


def with_head(target: Target, data: Data, classes: int, seed: int = 0) -> Transfer:
    """Give a target a new head, in place, where it has another number of classes."""
    found = target.probe(data.fetch(range(min(2, len(data)))))
    if found == classes:
        return Transfer(target, "")
    name = find_head(target.module, found)
    new_head(target.module, name, classes, seed)
    target.class_names = ()
    if isinstance(target.predictor, ModulePredictor):
        target.predictor.form = None  # its answers have another now
    target.classes, target.changes = classes, (*target.changes, NewHead(layer=name, classes=classes))
    return Transfer(target, f"{name} is new, with fresh weights: {found} classes before, {classes} now")


def _with_its_own_head(
    spec: str, weights: str | Path | None, seed: int, options: dict[str, Any], fault: UserError
) -> Target:
    """Load a target with as many classes as its weights have."""
    if weights is None:
        raise fault
    rows = None
    if Path(weights).is_file():
        fresh, stored = load_target(spec, seed=seed, **options).module.state_dict(), read_state(weights)
        # Of a head for another number of classes, the rows differ and nothing else.
        other = [stored[name] for name, own in fresh.items() if name in stored and stored[name].shape != own.shape]
        rows = next((len(one) for one in other if one.ndim), None)
    try:
        return load_target(spec, weights=weights, classes=rows, seed=seed, **options)
    except UserError:
        raise fault from None


def classes_of(target: Target, data: Data) -> int:
    """How many classes a target knows: as it says, or as one sample shows."""
    return target.classes or target.probe(data.fetch([0]))


def frozen_names(module: nn.Module, patterns: Sequence[str], logits: int | None) -> set[str]:
    """Names of the parameters that patterns freeze.

    Parameters
    ----------
    patterns
        As file names are matched, against the names of the parameters; or `BACKBONE`.
    logits
        Number of classes, by which the head is found; None where it isn't known.

    Raises
    ------
    UserError
        For a pattern that matches nothing, and where nothing is left to be trained.
    """
    names = [name for name, _ in module.named_parameters()]
    frozen: set[str] = set()
    for pattern in patterns:
        if pattern == BACKBONE:
            if logits is None:
                raise UserError(f"freeze {BACKBONE!r}: the number of classes isn't known; name the layers instead")
            head = f"{find_head(module, logits)}."
            found = [name for name in names if not name.startswith(head)]
        else:
            found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            raise UserError(
                f"freeze {pattern!r}: matches none of the parameters ({shown}); give a pattern such as "
                f"'{names[0].partition('.')[0]}.*', or {BACKBONE!r} for all but the last layer"
            )
        frozen.update(found)
    if patterns and len(frozen) == len(names):
        raise UserError(f"freeze {', '.join(patterns)}: leaves nothing to be trained; freeze less")
    return frozen


@contextmanager
def freezing(module: nn.Module, names: set[str]) -> Iterator[None]:
    """Freeze parameters by name inside the block."""
    asked = [(one, one.requires_grad) for name, one in module.named_parameters() if name in names]
    for parameter, _ in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, was_trainable in asked:
            parameter.requires_grad_(was_trainable)


def train_mode(module: nn.Module) -> None:
    """Switch to training mode, but for layers with batch statistics whose parameters are all frozen."""
    module.train()
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and own and not any(one.requires_grad for one in own):
            layer.eval()
