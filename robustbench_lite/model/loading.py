"""Models by name: made from where their code is, with their weights; and saved so that they can be made again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.usercode import ARCHITECTURE, MissingModuleError, change_path, import_object, users_code
from robustbench_lite.model.architectures.files import kept_architecture, load_architecture
from robustbench_lite.model.normalisation import NORMALISATIONS, parse_normalisation
from robustbench_lite.model.own_code import keep_code
from robustbench_lite.model.target import FUNCTION_ADVICE, Target, class_names, module_of
from robustbench_lite.model.torchvision_models import make_torchvision, published_weights
from robustbench_lite.model.weights import (
    MODEL_FILE,
    WEIGHTS_FILE,
    ModelFile,
    Normalisation,
    load_weights,
    read_model_file,
)
from robustbench_lite.model.wrapping import bare, rewrapped, wrappers_of

_CLASSES = ("num_classes", "classes")  # what a callable may call the number of classes
_MODEL_FORMS = (
    "package.module:callable, path/to/file.py:callable, arch:FILE, torchvision:NAME, timm:NAME, onnx:FILE, "
    "executorch:FILE, skops:FILE, http://HOST/v2/models/NAME, or a folder that harden wrote"
)

MADE_BY_NAME = ("executorch", "http", "https", "onnx", "skops", "timm", "torchvision")
"""What may stand before the colon of a model that no callable of the user's makes, so that it takes no arguments."""


def load_target(
    spec: str,
    *,
    weights: str | Path | None = None,
    normalize: str | None = None,
    classes: int | Sequence[str] | None = None,
    device: str | None = None,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
) -> Target:
    """Make a target from its name. It runs the code that the name points at.

    Parameters
    ----------
    spec
        ``package.module:callable`` (the working directory is searched too), ``path/to/file.py:callable``,
        ``arch:FILE`` (see `load_architecture`),
        ``torchvision:NAME``, ``timm:NAME``, ``onnx:FILE``, ``executorch:FILE``, ``skops:FILE`` (see `skops.Trust`),
        ``http://HOST/v2/models/NAME`` (see `served.Manners`), or a folder that `save_model` wrote. The callable is
        called without arguments, except for the number of classes where it has a parameter ``num_classes`` or
        ``classes``, and returns an ``nn.Module`` or a `Target`; an object that already is one is taken as it is. A
        function of arrays is handed over as ``Target.from_callable(function)``.
    weights
        A safetensors file or a torch state dict; of torchvision's models also a name such as ``IMAGENET1K_V1`` or
        ``DEFAULT``, which is looked up in torch's cache. By default the model's own.
    normalize
        ``imagenet``, ``cifar10``, ``mnist``, ``none``, or ``m1,m2,m3/s1,s2,s3``; by default none, except for
        torchvision's models (``imagenet``), timm's (their own) and for a folder (as it was saved).
    classes
        Number of classes, where the architecture leaves it open; or what the model calls them, in its order.
    device
        As in `Target`.
    seed
        Of the draws of fresh weights; the caller's generator is left as it was.
    arguments
        Keyword arguments for the callable, such as ``{"width": 32}``; by default its own, or those of the folder. Of
        ``arch:FILE`` values in the place of the file's.

    Raises
    ------
    UserError
        For a name that leads nowhere, for code behind it that fails, and for weights that don't fit.
    """
    if not str(spec).strip():
        raise UserError(f"model {str(spec)!r}: is empty; expected {_MODEL_FORMS}")
    names = class_names(()) if classes is None or isinstance(classes, int) else class_names(classes)
    number = classes if classes is None or isinstance(classes, int) else len(names)
    spec, stored, folder = str(spec), None, Path(spec).resolve()
    if folder.is_dir():
        if not (folder / MODEL_FILE).is_file():
            raise UserError(f"model {folder}: holds no {MODEL_FILE}; expected {_MODEL_FORMS}")
        spec, stored = read_model_file(folder)
        weights, number = weights or folder / WEIGHTS_FILE, number or stored.classes
        arguments = stored.arguments if arguments is None else arguments
    published = published_weights(spec, weights)
    if published is not None:
        weights, number = published.file, len(published.classes)
    try:
        made = _make(spec, number, seed, device, arguments or {})
    except MissingModuleError as fault:
        if stored is None:
            raise
        raise UserError(
            f"model {folder}: its architecture is {spec}: {fault}; run it from the folder that holds "
            f"{spec.partition(':')[0].partition('.')[0]}, or give the architecture as MODEL, with --weights {weights}"
        ) from None
    around = stored.wrappers if stored else wrappers_of(made)
    made = bare(made)
    for change in stored.changes if stored else ():
        try:
            change.apply(made.module)
        except UserError as fault:
            raise UserError(
                f"model {folder}: its architecture, {spec}, isn't the one that was changed: {fault}"
            ) from None
    if weights is not None:
        if made.predictor.opaque:
            raise UserError(f"model {spec}: holds its own weights; leave --weights {weights} away")
        load_weights(made.module, weights)
    mean, std = (published.mean, published.std) if published else (made.mean, made.std)
    if normalize is not None:
        mean, std = parse_normalisation(normalize)
    elif stored is not None:
        mean, std = (stored.normalize.mean, stored.normalize.std) if stored.normalize else (None, None)
    name = made.name if stored is None else folder.name
    spec = change_path(spec, Path.resolve)  # absolute, so that it outlives a change of directory
    target = Target(
        made.predictor, name=name, mean=mean, std=std, preprocessing=made.preprocessing, device=device, spec=spec
    )
    target.classes, target.arguments = number or made.classes, dict(arguments or {})
    target.changes = stored.changes if stored else ()
    kept = stored.class_names if stored and len(stored.class_names) == number else ()
    target.class_names = names or kept or (published.classes if published else made.class_names)
    return rewrapped(target, around, f"model {folder if stored else spec}")


def save_model(target: Target, folder: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``, from which `load_target` makes the target again.

    The weights are those of the bare network; what is around it at inference stands in ``model.json``.

    Each file is replaced in one step. The file that a spec names is copied into the folder, with what it imports of its
    neighbours (`keep_code`), so that the folder can be moved; a module is found from the folder that holds it, or where
    it is installed; without a spec only the weights can be stored.

    Raises
    ------
    UserError
        For a module whose state holds more than tensors, and where a file of the same name as its code is there.
    """
    from safetensors.torch import save

    wrappers, target = wrappers_of(target), bare(target)
    state = target.module.state_dict()
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise UserError(
            f"{target.name}: {', '.join(odd)} in its state dict are no tensors, so they can't be saved as safetensors; "
            "keep them out of the state (get_extra_state)"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
    copies = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    write_atomically(folder / WEIGHTS_FILE, save(copies))
    spec, arguments = _kept(target, folder)
    stored = ModelFile(
        spec=spec,
        normalize=Normalisation(mean=target.mean, std=target.std) if target.mean and target.std else None,
        classes=target.classes,
        class_names=target.class_names,
        arguments=arguments,
        wrappers=wrappers,
        changes=target.changes,
    )
    write_atomically(folder / MODEL_FILE, stored.model_dump_json(indent=1) + "\n")


def _kept(target: Target, folder: Path) -> tuple[str | None, dict[str, Any]]:
    """Put what makes a target into its folder; return the spec from there, and the arguments that it still needs."""
    if target.spec is None:
        return None, target.arguments
    if target.spec.startswith(ARCHITECTURE):
        return kept_architecture(target.spec, target.arguments, folder), {}
    return keep_code(target.spec, folder), target.arguments


def _make(spec: str, classes: int | None, seed: int, device: str | None, given: Mapping[str, Any]) -> Target:
    """Make the target that a spec names, with its own normalisation, and its own weights or seeded fresh ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _made(spec, classes, device, given)


def _made(spec: str, classes: int | None, device: str | None, given: Mapping[str, Any]) -> Target:
    kind, colon, rest = spec.partition(":")
    if not kind:
        raise UserError(f"model {spec!r}: nothing stands before the colon; expected {_MODEL_FORMS}")
    if not colon or not rest:
        raise UserError(f"model {spec!r}: {_spec_advice(spec.removesuffix(':'))}")
    if given and kind in MADE_BY_NAME:
        raise UserError(f"model {spec}: takes no arguments; expected package.module:callable or file.py:callable")
    if kind in ("http", "https"):
        from robustbench_lite.model.served import ServedPredictor

        served = ServedPredictor(spec)
        return Target(served, name=served.server.name)
    if kind == "onnx":
        from robustbench_lite.model.onnx import OnnxPredictor

        return Target(OnnxPredictor(rest, device or "cpu"), name=Path(rest).name)
    if kind == "executorch":
        from robustbench_lite.model.executorch import ExecutorchPredictor

        return Target(ExecutorchPredictor(rest), name=Path(rest).name)
    if kind == "skops":
        from robustbench_lite.model.skops import SkopsPredictor

        fitted = SkopsPredictor(rest)
        target = Target(fitted, name=fitted.file.path.name)
        target.class_names = fitted.file.class_names
        return target
    if spec.startswith(ARCHITECTURE):
        found = load_architecture(rest, given)
        if classes not in (None, found.classes):
            raise UserError(f"model {spec}: has {found.classes} classes, and {classes} were given; change the file")
        target = Target(found.build(), name=found.name)
        target.classes = found.classes
        return target
    if kind == "timm":
        from robustbench_lite.model.timm_models import make_timm

        made = make_timm(rest, classes)
        return Target(made.module, name=spec, mean=made.mean, std=made.std)
    if kind == "torchvision":
        mean, std = NORMALISATIONS["imagenet"]
        return Target(make_torchvision(rest, classes), name=spec, mean=mean, std=std)
    with users_code(spec):
        found = module_of(import_object(spec, prefixes=["arch", "torchvision", "timm"]))
        if given or not isinstance(found, nn.Module | Target):
            if not callable(found) or isinstance(found, nn.Module):
                raise UserError(f"{spec}: is of type {type(found).__name__}; expected a callable that makes the model")
            found = module_of(found(**arguments(found, spec, classes, given)))
    if not isinstance(found, nn.Module | Target):
        raise UserError(
            f"{spec}: returned {type(found).__name__}; expected a torch.nn.Module or a Target; {FUNCTION_ADVICE}"
        )
    return found if isinstance(found, Target) else Target(found, name=change_path(spec, lambda path: path.name))


def _spec_advice(spec: str) -> str:
    if spec.endswith(".py"):
        return f"name the object in it that makes the model, such as {spec}:make_model"
    if Path(spec).suffix.lower() in (".joblib", ".pkl", ".pickle"):
        from robustbench_lite.model.skops import CURE

        return CURE
    if spec.endswith(".toml"):
        return f"an architecture is named {ARCHITECTURE}{spec}"
    if spec.endswith(".json"):
        return "a scorecard or another JSON file is no model; give what it is about, as it was given to make it"
    if Path(spec).suffix.lower() in (".html", ".csv", ".npz", ".npy"):
        return f"a report or data are no model; expected {_MODEL_FORMS}"
    if Path(spec).is_file():
        return "weights alone are no model; give the architecture as MODEL, and this file with --weights"
    return f"no such folder; expected {_MODEL_FORMS}"


def arguments(factory: Any, spec: str, classes: int | None, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a callable that makes a model is given; refused where it needs more, or takes no such argument."""
    given = given or {}
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError):  # some builtins tell no signature
        return dict(given)
    known = keywords(factory)
    if known is not None and (strange := [name for name in given if name not in known]):
        raise UserError("; ".join(f"{spec}: {unknown('argument', name, known)}" for name in strange))
    found: dict[str, Any] = dict(given)
    for name, parameter in parameters.items():
        open_ended = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        required = parameter.default is parameter.empty and not open_ended
        if name in _CLASSES:
            if classes is not None:
                found[name] = classes
            elif required:
                raise UserError(f"{spec}: needs {name}; give the number of classes (--classes)")
        elif required and name not in given:
            raise UserError(
                f"{spec}: needs an argument {name!r}, but is called without arguments; "
                f"name a function that takes none and returns the model; {FUNCTION_ADVICE}"
            )
    return found


def keywords(factory: Any) -> list[str] | None:
    """Names of the keyword arguments of a callable, without the number of classes; None where it takes any."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return None
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [one.name for one in parameters if one.kind in by_name and one.name not in _CLASSES]
