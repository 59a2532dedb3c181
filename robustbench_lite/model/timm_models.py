"""timm's models, by name, with their own normalisation. Nothing is downloaded; needs the extra ``timm``."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.core.usercode import users_code


class TimmModel(NamedTuple):
    """A model without weights, and how it is fed."""

    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]


def make_timm(name: str, classes: int | None) -> TimmModel:
    """Make one of timm's models, without weights.

    Parameters
    ----------
    name
        Such as ``resnet18`` or ``vit_tiny_patch16_224.augreg_in21k``; what stands behind the point names weights, whose
        normalisation is used.
    classes
        Number of logits; by default as many as the published weights have.

    Raises
    ------
    UserError
        For a name that timm doesn't know, with the nearest ones, and where timm isn't installed.
    """
    timm = _timm()
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise UserError(unknown("timm model", name, known))
    with users_code(f"timm:{name}"):
        module = timm.create_model(name, pretrained=False, **({"num_classes": classes} if classes else {}))
    fed: dict[str, Any] = module.pretrained_cfg
    return TimmModel(module, tuple(fed["mean"]), tuple(fed["std"]))


def _timm() -> Any:
    try:
        import timm
    except ImportError as fault:
        raise UserError(
            f"timm's models need timm, which can't be imported ({fault}); pip install 'robustbench_lite[timm]'"
        ) from None
    return timm
