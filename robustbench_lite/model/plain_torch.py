"""How a saved model is loaded with torch alone: a few lines of Python, for those who deploy it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.usercode import import_object, users_code
from robustbench_lite.model.changes import NewHead
from robustbench_lite.model.loading import arguments, load_target
from robustbench_lite.model.weights import WEIGHTS_FILE, ModelFile, read_model_file
from robustbench_lite.model.wrapping import bare


def plain_torch(folder: Path) -> str | None:
    """Lines of Python that make the module of a saved model, without this library.

    Parameters
    ----------
    folder
        What `save_model` wrote; in the lines it stands as it is given here.

    Returns
    -------
    str or None
        None where no such lines are known: the architecture was a live object, or was changed since by compression, or
        what makes it is no plain module.
    """
    try:
        spec, stored = read_model_file(folder.resolve())
        compressed = any(not isinstance(change, NewHead) for change in stored.changes)
        make = None if compressed else _make(spec, stored, folder)
    except UserError:
        return None
    if make is None:
        return None
    for name in dict.fromkeys(change.layer for change in stored.changes if isinstance(change, NewHead)):
        make += f"\nimport torch\nmodel.set_submodule({name!r}, {_layer(folder, name)})"
    lines = (
        f"from safetensors.torch import load_file\n{make}\n"
        f'model.load_state_dict(load_file("{(folder / WEIGHTS_FILE).as_posix()}"))\nmodel.eval()'
    )
    if stored.wrappers:
        names = ", ".join(one.name for one in stored.wrappers)
        lines += f"\n# without {names}: with it, load_target({json.dumps(folder.as_posix())})"
    return lines if stored.normalize is None else f"{lines}\n# takes (x - mean) / std: {_normalisation(stored)}"


def _make(spec: str, stored: ModelFile, folder: Path) -> str | None:
    """Statements that make the module, called ``model``; one a line."""
    place, _, name = spec.rpartition(":")
    if place == "timm":
        given = _given({"num_classes": stored.classes} if stored.classes else {})
        return f'import timm\nmodel = timm.create_model("{name}"{given and f", {given}"})'
    if place == "torchvision":
        given = _given({"num_classes": stored.classes} if stored.classes else {})
        return f'import torchvision\nmodel = torchvision.models.get_model("{name}"{given and f", {given}"})'
    if not name.isidentifier():
        return None
    made: Any
    with users_code(spec):
        found = import_object(spec)
        if isinstance(found, nn.Module):
            made, call = found, name
        else:
            given_here = arguments(found, spec, stored.classes, stored.arguments)
            made, call = found(**given_here), f"{name}({_given(given_here)})"
    if not isinstance(made, nn.Module):
        return None
    if not place.endswith(".py"):
        return f"from {place} import {name}\nmodel = {call}"
    path = Path(place)  # absolute; the folder holds its code
    where = folder / path.parent.relative_to(folder.resolve())
    return f'import sys\nsys.path.insert(0, "{where.as_posix()}")\nfrom {path.stem} import {name}\nmodel = {call}'


def _layer(folder: Path, head: str) -> str:
    """The head that was put in the place of another."""
    layer = bare(load_target(str(folder))).module.get_submodule(head)
    bias = getattr(layer, "bias", None) is not None
    if isinstance(layer, nn.Conv2d):
        return f"torch.nn.Conv2d({layer.in_channels}, {layer.out_channels}, 1, bias={bias})"
    assert isinstance(layer, nn.Linear)
    return f"torch.nn.Linear({layer.in_features}, {layer.out_features}, bias={bias})"


def _given(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _normalisation(stored: ModelFile) -> str:
    assert stored.normalize is not None
    mean, std = (", ".join(f"{value:g}" for value in one) for one in (stored.normalize.mean, stored.normalize.std))
    return f"mean {mean}, std {std}"
