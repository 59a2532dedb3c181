"""Weights: read without running what is in the file, and checked against the module."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.files import read_json, unpacked_size
from robustbench_lite.core.usercode import change_path
from robustbench_lite.model.changes import Change

WEIGHTS_FILE = "model.safetensors"
MODEL_FILE = "model.json"

_WRAPPED_UNDER = ("state_dict", "model_state_dict", "model", "net")
_WRAPPER_PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.)+")  # of DataParallel, torch.compile, Lightning
_FAULTS_SHOWN = 8
_PACKED = 64 * 2**20  # bytes: torch packs no tensors, only the code of a TorchScript archive


class Normalisation(BaseModel):
    """Mean and standard deviation by channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    std: tuple[float, ...]


class WrapperFile(BaseModel):
    """A wrapper as ``model.json`` keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """The step that makes it, by its name in the catalogue ``defenses``."""
    params: dict[str, Any] = {}
    """The step's parameters."""


class ModelFile(BaseModel):
    """``model.json``: what a saved model's weights alone don't tell."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: Literal[1] = 1
    spec: str | None
    """How the module is made; a file's path is relative to the folder, and inside it. None: it was a live object."""
    normalize: Normalisation | None
    classes: int | None
    """Number of logits, where it is known; of what is within the wrappers."""
    class_names: tuple[str, ...] = ()
    """What the logits stand for, in their order, where that was given."""
    arguments: dict[str, Any] = {}
    """Keyword arguments with which the spec's callable makes it."""
    wrappers: tuple[WrapperFile, ...] = ()
    """What is around it at inference, the innermost first."""
    changes: tuple[Change, ...] = ()
    """What compression and transfer made of the network that the spec makes, in order."""


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load weights into a module, in place. Nothing in the file is executed.

    Parameters
    ----------
    module
        The architecture.
    path
        A ``.safetensors`` file, or what ``torch.save(model.state_dict())`` wrote, alone or in a checkpoint under
        ``state_dict``, ``model_state_dict``, ``model`` or ``net``. Prefixes that ``DataParallel``,
        ``torch.compile`` and Lightning (``model.``) put before the names are dropped.

    Raises
    ------
    UserError
        For a file that is missing, damaged or would need to run code, and for weights that don't fit the module.
    """
    own, state = module.state_dict(), read_state(path)
    if not state.keys() & own.keys():
        state = {_WRAPPER_PREFIXES.sub("", name): value for name, value in state.items()}
    if found := _misfits(own, state):
        shown = "\n".join(f"  {line}" for line in found[:_FAULTS_SHOWN])
        more = f"\n  and {len(found) - _FAULTS_SHOWN} more" if len(found) > _FAULTS_SHOWN else ""
        classes = _other_classes(own, state)
        cure = (
            "give the architecture that they were trained with"
            if classes is None
            else f"their last layer has {classes} outputs: give that number of classes (--classes {classes})"
        )
        raise UserError(f"weights {path}: don't fit {type(module).__name__}; {cure}\n{shown}{more}")
    try:
        module.load_state_dict(state)
    except Exception as fault:  # a module may have a say of its own in it
        raise UserError(
            f"weights {path}: {type(module).__name__} doesn't take them ({type(fault).__name__}: {fault}); "
            "give the architecture that they were trained with"
        ) from fault


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the names and tensors of weights in a file, as `load_weights` does.

    Raises
    ------
    UserError
        For a file that is missing, damaged or would need to run code.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"weights {path}: is a folder; give the file in it, such as {path / WEIGHTS_FILE}")
    if not path.is_file():
        raise UserError(f"weights {path}: no such file; expected a .safetensors file or a torch state dict")
    return _state_dict(_read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path), path)


def read_model_file(folder: Path) -> tuple[str, ModelFile]:
    """Read the ``model.json`` of a folder.

    Returns
    -------
    tuple[str, ModelFile]
        The spec, with its file's path made absolute, and all that is stored.

    Raises
    ------
    UserError
        For a file that is damaged, and for an architecture that isn't stored, isn't there any more, or is a file
        outside the folder.
    """
    source = folder / MODEL_FILE
    try:
        stored = ModelFile.model_validate(read_json(source))
    except ValidationError as error:
        raise UserError(f"{source}: not a valid model file\n{faults(error)}") from None
    except (OSError, ValueError) as fault:
        raise UserError(f"{source}: can't be read as JSON ({fault}); save the model again") from None
    cure = f"give the architecture as MODEL, with --weights {folder / WEIGHTS_FILE}"
    if stored.spec is None:
        raise UserError(f"model {folder}: was saved from a live object, so its architecture isn't stored; {cure}")

    def found(path: Path) -> Path:
        if path.is_absolute():
            raise UserError(
                f"{source}: spec is {stored.spec}: expected a path from the folder, not from the root; {cure}"
            )
        try:
            place = (folder / path).resolve()
            there = place.is_file()
        except (OSError, ValueError) as fault:  # too long, or with a null character
            raise UserError(f"{source}: spec is {stored.spec!r:.99}: no path ({fault!s:.99}); {cure}") from None
        if not place.is_relative_to(folder.resolve()):
            raise UserError(
                f"{source}: spec is {stored.spec!r:.99}: leads out of the folder to {str(place)!r:.199}, and a folder "
                f"runs no code but its own; {cure}"
            )
        if not there:
            raise UserError(
                f"model {folder}: its architecture is in {place}, which isn't there; put it back, or {cure}"
            )
        return place

    return change_path(stored.spec, found), stored


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as fault:
        raise UserError(f"weights {path}: damaged, or not safetensors ({fault}); save or copy them again") from None


def _read_checkpoint(path: Path) -> Any:
    try:
        size = unpacked_size(path)
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        size = 0  # no archive, or a damaged one, which torch tells
    if size > path.stat().st_size + _PACKED:
        raise UserError(
            f"weights {path}: would unpack to {size / 2**30:.1f} GiB, far more than the file holds; "
            "expected what torch.save writes, which packs nothing: get them from where you trust them"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; what matters is raised
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as fault:  # a damaged pickle can raise nearly anything
        if not _looks_saved(path):
            raise UserError(
                f"weights {path}: damaged, or no torch checkpoint (it begins as neither an archive nor a pickle does); "
                "expected what torch.save writes, or a .safetensors file"
            ) from None
        raise UserError(f"weights {path}: {_refusal(fault)}") from None


def _looks_saved(path: Path) -> bool:
    """Whether a file begins as an archive or a pickle does. An empty one may be a copy that was cut off."""
    with path.open("rb") as file:
        return file.read(1) in (b"", b"P", b"\x80")


def _refusal(fault: Exception) -> str:
    cure = "save model.state_dict() where you trust the file, as .safetensors or with torch.save, and give that"
    text = str(fault)
    if "TorchScript" in text:
        return f"is a TorchScript archive, which holds code; {cure}"
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f"refused, because loading it would run code from the file ({refused[1]}); {cure}"
    if text.startswith("Weights only load failed"):
        return f"refused, because it is more than tensors in plain containers; {cure}"
    return (
        f"damaged, or no torch checkpoint ({type(fault).__name__}: {text.splitlines()[0] if text else 'no message'}); "
        "save or copy it again"
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Take the names and tensors of a checkpoint out of the dicts that wrap them."""
    for _ in _WRAPPED_UNDER:  # not without end: a dict may hold itself
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _WRAPPED_UNDER if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        held = "nothing" if isinstance(content, Mapping) else f"an object of type {type(content).__name__}"
        raise UserError(f"weights {path}: holds {held}; expected a state dict, names to tensors")
    if odd := [
        str(name) for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)
    ]:
        shown = ", ".join(odd[:_FAULTS_SHOWN])
        raise UserError(
            f"weights {path}: holds entries that are no tensors ({shown}); expected a state dict, alone or under "
            f"{', '.join(_WRAPPED_UNDER)}"
        )
    return dict(content)


def _misfits(own: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """List what keeps a state from being loaded, one line an entry."""
    lines = [f"missing: {name}" for name in own if name not in state]
    lines += [f"unexpected: {name}" for name in state if name not in own]
    for name, value in state.items():
        expected = own.get(name)
        if not isinstance(expected, Tensor) or nn.parameter.is_lazy(expected):
            continue
        if expected.shape != value.shape:
            lines.append(f"{name}: shape {tuple(value.shape)} in the file, {tuple(expected.shape)} in the model")
        elif _kind(value) != _kind(expected):
            lines.append(f"{name}: {_kind(value)} in the file, {_kind(expected)} in the model")
    return lines


def _other_classes(own: Mapping[str, Any], state: Mapping[str, Tensor]) -> int | None:
    """How many outputs the last layer has in the file, where these alone keep a state from being loaded."""
    if own.keys() != state.keys() or not all(
        isinstance(value, Tensor) and not nn.parameter.is_lazy(value) for value in own.values()
    ):
        return None
    other = [name for name in own if own[name].shape != state[name].shape]
    outputs = {len(state[name]) for name in other if state[name].dim()}
    alike = all(own[name].shape[1:] == state[name].shape[1:] for name in other)
    return outputs.pop() if alike and len(outputs) == 1 and other[-1] == list(own)[-1] else None


def _kind(tensor: Tensor) -> str:
    """What copying can't change."""
    if tensor.is_meta:
        return "without values"
    numbers = "quantised" if tensor.is_quantized else "complex" if tensor.is_complex() else "plain"
    return numbers if tensor.layout == torch.strided else f"{numbers}, {tensor.layout}".replace("torch.", "")
