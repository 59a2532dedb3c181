"""What compression and transfer changed in an architecture: kept in ``model.json``, made again before the weights.

The code that a spec names makes the network as it was before. A change says, layer by layer, what became of it: other
sizes (channels that were removed) or other layers (integers for weights, a new head). It is data, checked against the
network, and no code.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.head import new_head
from robustbench_lite.model.quantized import BITS, quantized

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class Resized(BaseModel):
    """Layers that became smaller."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["resized"] = "resized"
    shapes: dict[str, tuple[int, ...]]
    """By name of the layer, the shape of its weight; of a norm, its size."""

    def apply(self, module: nn.Module) -> None:
        """Give the layers these sizes; their values are whatever they are."""
        for name, shape in self.shapes.items():
            resize(_layer(module, name), name, shape)


class InIntegers(BaseModel):
    """Layers whose weights became integers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["in_integers"] = "in_integers"
    layers: tuple[str, ...]
    bits: int
    """Of a weight: 8 or 4."""
    activations: bool
    """Whether what goes into the layer is rounded to 8 bits."""

    def apply(self, module: nn.Module) -> None:
        """Put layers of integers in their place."""
        if self.bits not in BITS:
            raise UserError(f"weights of {self.bits} bits: expected {' or '.join(map(str, BITS))}")
        for name in self.layers:
            if not isinstance(_layer(module, name), nn.Linear | nn.Conv2d):
                raise UserError(f"its layer {name} can't become integers: expected nn.Linear or nn.Conv2d")
            replace(module, name, quantized(_layer(module, name), self.bits, (0.0, 1.0) if self.activations else None))


class NewHead(BaseModel):
    """A last layer that was replaced, for another number of classes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["new_head"] = "new_head"
    layer: str
    classes: int = Field(ge=2)

    def apply(self, module: nn.Module) -> None:
        """Put a fresh layer in its place."""
        new_head(module, self.layer, self.classes)


Change = Annotated[Resized | InIntegers | NewHead, Field(discriminator="kind")]
"""One of the above."""


def replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put another layer in the place of the one that bears a name."""
    parent, _, own = name.rpartition(".")
    if not own:
        raise UserError("the network is a single layer, which can't be replaced: wrap it in nn.Sequential")
    setattr(module.get_submodule(parent), own, layer)


def shape_of(layer: nn.Module) -> tuple[int, ...] | None:
    """What `Resized` keeps of a layer; None of one that has no size."""
    if isinstance(layer, NORMS):
        size: Any = getattr(layer, "num_features", getattr(layer, "num_channels", None))
        return (size,) if size is not None else tuple(layer.normalized_shape)  # type: ignore[arg-type]
    weight = getattr(layer, "weight", None)
    return (
        tuple(weight.shape) if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and weight is not None else None
    )


def resize(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Make a layer smaller.

    Raises
    ------
    UserError
        For a shape that the layer can't have.
    """
    before = shape_of(layer) or ()
    if len(before) != len(shape) or any(not 0 < n <= o for n, o in zip(shape, before, strict=True)):
        raise UserError(f"its layer {name} of shape {before} can't become one of shape {shape}: expected a smaller one")
    if isinstance(layer, nn.modules.conv._ConvNd):
        if isinstance(layer, nn.modules.conv._ConvTransposeNd) or before[2:] != shape[2:]:
            raise UserError(f"its layer {name}: only the channels of a convolution can become fewer")
        layer.groups = shape[0] if layer.groups == before[0] else layer.groups
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = shape
    else:
        setattr(layer, "num_features" if hasattr(layer, "num_features") else "num_channels", shape[0])
    with_names = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
    for part, value in with_names:
        if value.ndim:
            wanted = shape if value.ndim == len(shape) else (shape[0],)
            smaller = value.detach().new_empty(wanted)
            setattr(layer, part, nn.Parameter(smaller) if isinstance(value, nn.Parameter) else smaller)


def _layer(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise UserError(f"it has no layer {name!r:.99}, of which its model.json says that it was changed") from None
