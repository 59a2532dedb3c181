"""torchvision's models, by name; their published weights, from torch's cache of downloads. Nothing is downloaded."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.core.files import file_sha256
from robustbench_lite.core.usercode import users_code

_CHECKSUM = re.compile(r"-([0-9a-f]{8,})\.\w+$")  # torch puts the first digits of it into the file's name
_FILE = re.compile(r"[/\\]|\.(pt|pth|bin|ckpt|tar|safetensors)$")


class Published(NamedTuple):
    """Weights that torchvision has published for a model."""

    file: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    """What the outputs stand for; of ImageNet's, two names stand twice."""


def make_torchvision(name: str, classes: int | None) -> nn.Module:
    """Make one of torchvision's models, without weights.

    Raises
    ------
    UserError
        For a name that torchvision doesn't know, with the nearest ones.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(unknown("torchvision model", name, known))
    with users_code(f"torchvision:{name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet and Inception announce a change of their initialisation
        module: nn.Module = models.get_model(name, weights=None, **({"num_classes": classes} if classes else {}))
    return module


def published_weights(spec: str, weights: str | Path | None) -> Published | None:
    """Find published weights by their name.

    Parameters
    ----------
    spec
        Such as ``torchvision:resnet50``.
    weights
        Such as ``IMAGENET1K_V2``, ``ResNet50_Weights.IMAGENET1K_V2`` or ``DEFAULT``.

    Returns
    -------
    Published or None
        None where the model is another's, or the weights are a file.

    Raises
    ------
    UserError
        For a name that the model has no weights of, and for weights that aren't in torch's cache or were damaged there.
    """
    kind, _, name = spec.partition(":")
    if kind != "torchvision" or weights is None or Path(weights).exists() or _FILE.search(str(weights)):
        return None
    from torchvision import models

    if name not in models.list_models(module=models):
        return None  # told where the model is made
    among: Any = models.get_model_weights(name)
    known = [*among.__members__]
    asked = str(weights).removeprefix(f"{among.__name__}.")
    if asked not in known:
        raise UserError(f"weights {weights}: no such file, and {unknown(f'weights of {name}', asked, known)}")
    found = among[asked]
    transforms = found.transforms()
    return Published(
        _cached(f"{among.__name__}.{found.name}", found.url),
        tuple(transforms.mean),
        tuple(transforms.std),
        tuple(found.meta["categories"]),
    )


def _cached(name: str, url: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        raise UserError(
            f"weights {name}: not in torch's cache ({file}), and nothing is downloaded; get {url}, put it there or "
            "anywhere, and give its path with --weights"
        )
    checksum = _CHECKSUM.search(file.name)
    if checksum and not file_sha256(file).startswith(checksum[1]):
        raise UserError(f"weights {name}: {file} is damaged: its checksum is not that of its name; get {url} again")
    return file
