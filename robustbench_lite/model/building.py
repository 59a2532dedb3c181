"""A target made again by its builder, with other keyword arguments: another width, depth or rate of dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.toml import NamedFile
from robustbench_lite.core.usercode import ARCHITECTURE, import_object, users_code
from robustbench_lite.model.architectures.files import load_architecture
from robustbench_lite.model.loading import MADE_BY_NAME, keywords, load_target
from robustbench_lite.model.target import Target, module_of
from robustbench_lite.model.wrapping import bare, rewrapped, wrappers_of


def builder_arguments(target: Target) -> list[str] | None:
    """Names of the keyword arguments that a target's builder takes; None where it takes any.

    Raises
    ------
    UserError
        For a target that was not made by a callable of one's own, nor of a file that tells its architecture.
    """
    spec = target.spec or ""
    if spec.startswith(ARCHITECTURE):
        known = type(load_architecture(spec.removeprefix(ARCHITECTURE))).model_fields
        return [name for name in known if name not in NamedFile.model_fields]
    if spec.partition(":")[0] in ("", *MADE_BY_NAME):
        raise UserError(
            f"{target.name}: is made by no function with arguments; give the model as package.module:function or "
            "path/to/file.py:function"
        )
    with users_code(spec):
        found = module_of(import_object(spec))
        if isinstance(found, nn.Module | Target) or not callable(found):
            raise UserError(f"{spec}: is a model, not a function that makes it; name a function with keyword arguments")
        return keywords(found)


def rebuilt(target: Target, arguments: Mapping[str, Any], seed: int, *, spec: str | None = None) -> Target:
    """Make a target again with some other arguments of its builder.

    Parameters
    ----------
    target
        Its other arguments, normalisation, device and wrappers stay.
    arguments
        By name.
    seed
        Of fresh weights. Where every weight of the target fits the new network, it starts from those.
    spec
        Of another builder, in the place of the target's own: then it starts from fresh weights in any case.

    Raises
    ------
    UserError
        For an argument that the builder doesn't take, and where it fails.
    """
    inner = bare(target)
    own = inner.spec if spec is None else spec
    assert own is not None  # `builder_arguments` refuses those
    made = load_target(
        own,
        classes=inner.classes,
        device=str(inner.device),
        seed=seed,
        arguments=dict(arguments) if spec else inner.arguments | dict(arguments),
    )
    made = made.fed(mean=inner.mean, std=inner.std, preprocessing=inner.preprocessing)
    made.name, made.class_names = target.name, inner.class_names
    state, fresh = inner.module.state_dict(), made.module.state_dict()
    fits = {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in fresh.items()}
    if fits and spec is None:
        made.module.load_state_dict(state)
    return rewrapped(made, wrappers_of(target), target.name)
