"""What is put around a target at inference: one mechanism for all of it, from the step of a recipe to the saved folder.

A wrapper is a module that holds a target and asks it. ``model.json`` keeps, for each, the name of the step that made it
and that step's parameters; `rewrapped` lets the step make it again. So the weights on disk are always those of the bare
network, which plain torch loads into its architecture.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.model.target import Preprocessing, Target
from robustbench_lite.model.weights import WrapperFile
from robustbench_lite.results.scorecard import NO_ANSWER


class Wrapper(nn.Module):
    """A module around a target: inputs in [0, 1], (B, *shape), to logits. It keeps nothing between calls.

    Parameters
    ----------
    inner
        The target that is asked, with its normalisation. It isn't copied.
    """

    abstains = False
    """Whether the last of the logits is no class of the data, and means that no answer is given."""
    certifies = False
    """Whether it proves radii."""
    error = 0.0
    """Probability of error of each proof, at most."""

    def __init__(self, inner: Target) -> None:
        super().__init__()
        self.inner, self.module = inner, inner.module

    def passed_over(self, inner: Target) -> Wrapper | None:
        """The same around ``inner``, with the gradient of the identity past what it does to its inputs.

        None where it does nothing to them that a gradient may have to pass over.
        """
        return None

    def note(self) -> str:
        """What happens at inference, for the scorecard: a sentence without its full stop."""
        raise NotImplementedError

    def certified_radii(self, x: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        """L2 radii within which the answer is proven to be the label, 0 where nothing is proven, shape (B,).

        Asked only of a wrapper that `certifies`.

        Parameters
        ----------
        x, labels
            Samples in [0, 1], shape (B, *shape), and their labels, shape (B,).
        keys
            One int64 a sample, for its draws, shape (B,).
        """
        raise NotImplementedError

    def contradicted(self, x: Tensor, labels: Tensor, keys: Tensor, left: Tensor) -> Tensor:
        """Whether answers at points of a certified ball deny the certificate, shape (B,).

        Parameters
        ----------
        x, labels, keys
            Points, and the labels and keys of their samples.
        left
            Radius that is left at each point: the certified one less the point's distance from its sample.
        """
        raise NotImplementedError


class WrappedTarget(Target):
    """A target whose module is a `Wrapper`.

    Parameters
    ----------
    wrapper
        The module; name, spec and device are those of the target within.
    made_by
        The step that made it.
    """

    def __init__(self, wrapper: Wrapper, made_by: WrapperFile) -> None:
        super().__init__(wrapper, name=wrapper.inner.name, device=wrapper.inner.device, spec=wrapper.inner.spec)
        self.wrapper, self.made_by = wrapper, made_by
        names = wrapper.inner.class_names
        self.class_names = (*names, NO_ANSWER) if names and wrapper.abstains else names

    @property
    def inner(self) -> Target:
        """The target within."""
        return self.wrapper.inner

    def fed(
        self,
        *,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        preprocessing: Preprocessing | None = None,
    ) -> WrappedTarget:
        """The same wrapper around the same network behind another normalisation: what is done to inputs stays so."""
        wrapper = copy.copy(self.wrapper)
        wrapper.inner = self.inner.fed(mean=mean, std=std, preprocessing=preprocessing)
        return WrappedTarget(wrapper, self.made_by)

    def weights_sha256(self) -> str:
        """Hash of the weights within, and of what is around them."""
        made = json.dumps(self.made_by.model_dump(), sort_keys=True)
        return hashlib.sha256(f"{self.inner.weights_sha256()} {made}".encode()).hexdigest()


def wrapped(target: Target) -> Iterator[WrappedTarget]:
    """The wrapped targets of a target, from the outermost inwards."""
    while isinstance(target, WrappedTarget):
        yield target
        target = target.inner


def passed_over(target: Target) -> Target | None:
    """The same answers, with another gradient: that of the identity past whatever purifies the inputs; None without."""
    if not isinstance(target, WrappedTarget):
        return None
    inner = passed_over(target.inner)
    wrapper = target.wrapper.passed_over(inner or target.inner)
    if wrapper is None and inner is not None:
        wrapper = copy.copy(target.wrapper)
        wrapper.inner = inner
    if wrapper is None:
        return None
    params = {**target.made_by.params, "way_back": "identity"}  # in the hash: the cache keeps the two apart
    return WrappedTarget(wrapper, target.made_by.model_copy(update={"params": params}))


def bare(target: Target) -> Target:
    """The target within all wrappers."""
    for one in wrapped(target):
        target = one.inner
    return target


def wrappers_of(target: Target) -> tuple[WrapperFile, ...]:
    """How the wrappers of a target were made, the innermost first."""
    return tuple(one.made_by for one in wrapped(target))[::-1]


def rewrapped(target: Target, wrappers: tuple[WrapperFile, ...], where: str) -> Target:
    """Put wrappers around a target again, the first of them innermost.

    Raises
    ------
    UserError
        For a name that is none of a wrapping step, and for parameters that it doesn't take.
    """
    for one in wrappers:
        try:
            step = registry.build("defenses", one.name, one.params)
        except UserError as fault:
            raise UserError(f"{where}: is wrapped by {one.name!r}, which can't be made again: {fault}") from None
        if not callable(getattr(step, "wrap", None)):
            raise UserError(f"{where}: is wrapped by {one.name!r}, which is no wrapping step of the catalogue")
        target = step.wrap(target, one.name)
    return target
