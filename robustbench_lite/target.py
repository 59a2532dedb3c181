"""The target: the model under test as the harness sees it, and the ways to name, load and save one."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import itertools
import json
import math
import os
import re
import sys
import sysconfig
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from robustbench_lite import registry
from robustbench_lite.errors import UserError, faults
from robustbench_lite.files import write_atomically
from robustbench_lite.scorecard import TargetInfo

_Channels = tuple[float, ...]
_MeanAndStd = tuple[_Channels, _Channels] | tuple[None, None]

NORMALISATIONS: dict[str, _MeanAndStd] = {
    "none": (None, None),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
}
"""Mean and standard deviation by channel, of inputs in [0, 1]."""

WEIGHTS_FILE = "model.safetensors"
MODEL_FILE = "model.json"

_MODEL_FORMS = "package.module:callable, path/to/file.py:callable, torchvision:NAME, or a folder that harden wrote"
_WRAPPED_UNDER = ("state_dict", "model_state_dict", "model", "net")
_WRAPPER_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")  # DataParallel's and torch.compile's
_FAULTS_SHOWN = 8


class Target:
    """The model under test: inputs in [0, 1], (N, C, H, W), out come logits, (N, K); normalisation is inside.

    Parameters
    ----------
    module
        Maps inputs to logits. It isn't copied; with `device` given it is moved there.
    name
        What reports call it; by default the name of the module's class.
    mean, std
        By channel, or one value for all: the module gets ``(x - mean) / std``. Both or neither.
    device
        ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto`` (a GPU where there is one); by default where the module is.
    spec
        How the model can be made again, in the words of `load_target`; None where only the live object is known.

    Raises
    ------
    UserError
        For a model that is no ``nn.Module``, a normalisation that is no mean and standard deviation, and a device that
        isn't there.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str | torch.device | None = None,
        spec: str | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise UserError(
                f"the model is of type {type(module).__name__}: expected a torch.nn.Module that maps inputs in [0, 1], "
                "(N, C, H, W), to logits, (N, K)"
            )
        self.module = module
        self.name = name or type(module).__name__
        self.spec = spec
        self.classes: int | None = None
        """Number of logits, once it is known: from `load_target` or `probe`."""
        self.mean: _Channels | None
        self.std: _Channels | None
        self.mean, self.std = _mean_and_std(mean, std)
        self._device = torch.device("cpu")
        if device is not None:
            self.to(device)

    def __repr__(self) -> str:
        return f"Target({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"

    @property
    def device(self) -> torch.device:
        """Where the module's first parameter is."""
        first = next(_tensors(self.module), None)
        return self._device if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the module's first floating parameter or buffer; float32 where it has none."""
        return next((tensor.dtype for tensor in _tensors(self.module) if tensor.is_floating_point()), torch.float32)

    def to(self, device: str | torch.device) -> Target:
        """Move the module to a device, in place."""
        self._device = _checked_device(device)
        self.module.to(self._device)
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Logits, (N, K), of inputs in [0, 1], (N, C, H, W); float32, or wider where the module's are wider."""
        logits = self._forward(x)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def _forward(self, x: Tensor) -> Tensor:
        x = x.to(device=self.device, dtype=self.dtype)
        if self.mean is not None and self.std is not None:
            x = (x - _by_channel(self.mean, x)) / _by_channel(self.std, x)
        logits: Tensor = self.module(x)
        return logits

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """Switch to evaluation mode and freeze the parameters; leave every submodule and parameter as it came."""
        modes = [(module, module.training) for module in self.module.modules()]
        trainable = [(parameter, parameter.requires_grad) for parameter in self.module.parameters()]
        try:
            self.module.eval()
            for parameter, _ in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            # One by one: `module.train()` would also switch on what was off, such as a frozen BatchNorm.
            for module, mode in modes:
                module.training = mode
            for parameter, was_trainable in trainable:
                parameter.requires_grad_(was_trainable)

    def weights_sha256(self) -> str:
        """Hash of the state dict (names, dtypes, shapes and values, in the order of the names) and of mean and std.

        It doesn't depend on the device. Entries that are no tensors count with their name alone.
        """
        digest = hashlib.sha256(f"{self.mean} {self.std}".encode())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(f"\n{name}".encode())
            if isinstance(value, Tensor):
                digest.update(f" {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def info(self) -> TargetInfo:
        """Describe it, for the scorecard."""
        return TargetInfo(
            name=self.name,
            weights_sha256=self.weights_sha256(),
            parameters=sum(parameter.numel() for parameter in self.module.parameters()),
            device=str(self.device),
        )

    def probe(self, x: Tensor) -> int:
        """Try one forward pass.

        Parameters
        ----------
        x
            A few inputs in [0, 1], shape (N, C, H, W).

        Returns
        -------
        int
            The number of classes, K.

        Raises
        ------
        UserError
            Where the forward pass fails, or what comes out is not N rows of two or more finite logits.
        """
        given = f"inputs of shape {tuple(x.shape)}"
        with self.attacking(), torch.no_grad():
            try:
                logits = self._forward(x)
            except UserError:
                raise
            except Exception as fault:
                raise UserError(
                    f"{self.name}: the forward pass fails on {given}: {type(fault).__name__}: {fault}\n"
                    f"{_expectation(self.module)}give a model made for such inputs, or data of the shape it expects"
                ) from fault
        if complaint := _output_fault(logits, len(x)):
            raise UserError(f"{self.name}: on {given} {complaint}")
        self.classes = logits.shape[1]
        return self.classes


class Normalisation(BaseModel):
    """Mean and standard deviation by channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: _Channels
    std: _Channels


class ModelFile(BaseModel):
    """``model.json``: what a saved model's weights alone don't tell."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: Literal[1] = 1
    spec: str | None
    """How the module is made; a file's path is relative to the folder. None: it was a live object."""
    normalize: Normalisation | None
    classes: int | None
    """Number of logits, where it is known."""


def as_target(model: nn.Module | Target, device: str | torch.device | None = None) -> Target:
    """Make a target of a module; a `Target` is handed back as it is, moved where a device is given."""
    if isinstance(model, Target):
        return model if device is None else model.to(device)
    return Target(model, device=device)


def load_target(
    spec: str,
    *,
    weights: str | Path | None = None,
    normalize: str | None = None,
    classes: int | None = None,
    device: str | None = None,
) -> Target:
    """Make a target from its name. It runs the code that the name points at.

    Parameters
    ----------
    spec
        ``package.module:callable`` (the working directory is searched too), ``path/to/file.py:callable``,
        ``torchvision:NAME``, or a folder that `save_model` wrote. The callable is called without arguments, except for
        the number of classes where it has a parameter ``num_classes`` or ``classes``, and returns an ``nn.Module`` or a
        `Target`; an object that already is one is taken as it is.
    weights
        A safetensors file or a torch state dict; by default the model's own.
    normalize
        ``imagenet``, ``cifar10``, ``mnist``, ``none``, or ``m1,m2,m3/s1,s2,s3``; by default none, except for
        torchvision's models (``imagenet``) and for a folder (as it was saved).
    classes
        Number of classes, where the architecture leaves it open.
    device
        As in `Target`.

    Raises
    ------
    UserError
        For a name that leads nowhere, for code behind it that fails, and for weights that don't fit.
    """
    spec, stored, folder = str(spec), None, Path(spec).resolve()
    if folder.is_dir():
        stored = _read_folder(folder)
        spec, classes = _stored_spec(stored, folder), classes or stored.classes
        weights = weights or folder / WEIGHTS_FILE
    made = _make(spec, classes)
    if weights is not None:
        load_weights(made.module, weights)
    mean, std = made.mean, made.std
    if normalize is not None:
        mean, std = parse_normalisation(normalize)
    elif stored is not None:
        mean, std = (stored.normalize.mean, stored.normalize.std) if stored.normalize else (None, None)
    name = made.name if stored is None else folder.name
    target = Target(made.module, name=name, mean=mean, std=std, device=device, spec=_absolute(spec))
    target.classes = classes
    return target


def parse_normalisation(text: str) -> _MeanAndStd:
    """Mean and standard deviation by channel, from a known name or ``m1,m2,m3/s1,s2,s3``; None twice for ``none``.

    Raises
    ------
    UserError
        For an unknown name and for numbers that are no mean and standard deviation.
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    if "/" not in text:
        raise UserError(f"{registry.unknown('normalisation', text, NORMALISATIONS)}; or give m1,m2,m3/s1,s2,s3")
    try:
        mean, std = ([float(value) for value in half.split(",")] for half in text.split("/"))
    except ValueError:
        raise UserError(
            f"normalisation {text!r}: expected means, a slash and standard deviations, such as 0.5,0.5,0.5/0.2,0.2,0.2"
        ) from None
    return _mean_and_std(mean, std)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load weights into a module, in place. Nothing in the file is executed.

    Parameters
    ----------
    module
        The architecture.
    path
        A ``.safetensors`` file, or what ``torch.save(model.state_dict())`` wrote, alone or in a checkpoint under
        ``state_dict``, ``model_state_dict``, ``model`` or ``net``. Prefixes that ``DataParallel`` and
        ``torch.compile`` put before the names are dropped.

    Raises
    ------
    UserError
        For a file that is missing, damaged or would need to run code, and for weights that don't fit the module.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"weights {path}: is a folder; give the file in it, such as {path / WEIGHTS_FILE}")
    if not path.is_file():
        raise UserError(f"weights {path}: no such file; expected a .safetensors file or a torch state dict")
    own = module.state_dict()
    state = _state_dict(_read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path), path)
    if not state.keys() & own.keys():
        state = {_WRAPPER_PREFIXES.sub("", name): value for name, value in state.items()}
    if found := _misfits(own, state):
        shown = "\n".join(f"  {line}" for line in found[:_FAULTS_SHOWN])
        more = f"\n  and {len(found) - _FAULTS_SHOWN} more" if len(found) > _FAULTS_SHOWN else ""
        raise UserError(
            f"weights {path}: don't fit {type(module).__name__}; give the architecture that they were trained with\n"
            f"{shown}{more}"
        )
    module.load_state_dict(state)


def save_model(target: Target, folder: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``, from which `load_target` makes the target again.

    Each file is replaced in one step. A spec that names a file is stored relative to the folder, so that a repo can be
    moved or cloned; without a spec only the weights can be stored.

    Raises
    ------
    UserError
        For a module whose state holds more than tensors.
    """
    from safetensors.torch import save

    state = target.module.state_dict()
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise UserError(
            f"{target.name}: {', '.join(odd)} in its state dict are no tensors, so they can't be saved as safetensors; "
            "keep them out of the state (get_extra_state)"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as nearby:
        # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
        copies = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()
        }
        written = Path(nearby) / WEIGHTS_FILE
        written.write_bytes(save(copies))  # safetensors' own save_file would make it unreadable to others
        written.replace(folder / WEIGHTS_FILE)
    normalise = None
    if target.mean is not None and target.std is not None:
        normalise = Normalisation(mean=target.mean, std=target.std)
    stored = ModelFile(spec=_relative(target.spec, folder), normalize=normalise, classes=target.classes)
    write_atomically(folder / MODEL_FILE, stored.model_dump_json(indent=1) + "\n")


@contextmanager
def users_code(spec: str) -> Iterator[None]:
    """Import and call a user's code inside: their folders are searched, and what fails is told with its place.

    Raises
    ------
    UserError
        For any exception inside, with its type, message, and the line of the user's code.
    """
    path, _ = _file_and_name(spec)
    folders = [str(Path.cwd())] if path is None else [str(path.resolve().parent), str(Path.cwd())]
    sys.path[:0] = folders
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as fault:
        raise UserError(f"{spec}: {type(fault).__name__}: {fault}{_users_line(fault)}") from fault
    finally:
        for folder in folders:  # and nothing else: the user's code may have added folders of its own
            with suppress(ValueError):
                sys.path.remove(folder)


def import_object(spec: str) -> Any:
    """Import what ``package.module:name`` or ``path/to/file.py:name`` names; to be used inside `users_code`.

    Raises
    ------
    UserError
        For a module, a file or a name that isn't there.
    """
    path, name = _file_and_name(spec)
    place = spec.rpartition(":")[0]
    found: Any = _import_module(place) if path is None else _import_file(path)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [public for public in vars(found) if not public.startswith("_")]
            raise UserError(registry.unknown(f"object in {place}", part, known))
        found = getattr(found, part)
    return found


def _file_and_name(spec: str) -> tuple[Path | None, str]:
    """Part a spec in the file it names, None where it names a module, and the object in it."""
    place, _, name = spec.rpartition(":")
    return Path(place) if place.endswith(".py") else None, name


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{path}: no such file; it was looked for from {Path.cwd()}")
    # A private name, so that two files called model.py don't take each other's place.
    name = f"_rblite_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: can't be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as fault:
        if fault.name is None or not f"{name}.".startswith(f"{fault.name}."):
            raise  # the module is there; what it imports is not
        raise UserError(
            f"no module named {fault.name!r}; it was looked for in {Path.cwd()} and among the installed packages"
        ) from None


def _users_line(fault: BaseException) -> str:
    """Where in the user's code an exception came from; empty where none of it was on the way."""
    if isinstance(fault, SyntaxError) and fault.filename:
        return f" ({fault.filename}:{fault.lineno})"
    ours = [str(Path(__file__).parent), *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib"))]
    not_theirs = ("<", *(os.path.join(folder, "") for folder in ours))  # noqa: PTH118 (for its trailing separator)
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if not frame.filename.startswith(not_theirs)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _make(spec: str, classes: int | None) -> Target:
    """Make the target that a spec names, with its own weights and normalisation."""
    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise UserError(f"model {spec!r}: {_spec_advice(spec)}")
    if kind == "torchvision":
        mean, std = NORMALISATIONS["imagenet"]
        return Target(_make_torchvision(rest, classes), name=spec, mean=mean, std=std)
    with users_code(spec):
        found = import_object(spec)
        if not isinstance(found, nn.Module | Target):
            if not callable(found):
                raise UserError(f"{spec}: is of type {type(found).__name__}; expected a callable that makes the model")
            found = found(**_arguments(found, spec, classes))
    if not isinstance(found, nn.Module | Target):
        raise UserError(f"{spec}: returned {type(found).__name__}; expected a torch.nn.Module or a Target")
    return found if isinstance(found, Target) else Target(found, name=_short(spec))


def _spec_advice(spec: str) -> str:
    if spec.endswith(".py"):
        return f"name the object in it that makes the model, such as {spec}:make_model"
    if Path(spec).is_file():
        return "weights alone are no model; give the architecture as MODEL, and this file with --weights"
    return f"no such folder; expected {_MODEL_FORMS}"


def _arguments(factory: Any, spec: str, classes: int | None) -> dict[str, int]:
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError):  # some builtins tell no signature
        return {}
    arguments = {}
    for name, parameter in parameters.items():
        open_ended = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        required = parameter.default is parameter.empty and not open_ended
        if name in ("num_classes", "classes"):
            if classes is not None:
                arguments[name] = classes
            elif required:
                raise UserError(f"{spec}: needs {name}; give the number of classes (--classes)")
        elif required:
            raise UserError(
                f"{spec}: needs an argument {name!r}, but is called without arguments; "
                "name a function that takes none and returns the model"
            )
    return arguments


def _make_torchvision(name: str, classes: int | None) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(registry.unknown("torchvision model", name, known))
    with users_code(f"torchvision:{name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet and Inception announce a change of their initialisation
        module: nn.Module = models.get_model(name, weights=None, **({"num_classes": classes} if classes else {}))
    return module


def _absolute(spec: str) -> str:
    """Make a file's path in the spec absolute, so that it outlives a change of directory."""
    path, name = _file_and_name(spec)
    return spec if path is None else f"{path.resolve()}:{name}"


def _relative(spec: str | None, folder: Path) -> str | None:
    path, name = _file_and_name(spec or "")
    return spec if path is None else f"{Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()}:{name}"


def _short(spec: str) -> str:
    """Leave out the folders of a file's path: what reports call the model."""
    path, name = _file_and_name(spec)
    return spec if path is None else f"{path.name}:{name}"


def _read_folder(folder: Path) -> ModelFile:
    path = folder / MODEL_FILE
    if not path.is_file():
        raise UserError(f"model {folder}: holds no {MODEL_FILE}; expected {_MODEL_FORMS}")
    try:
        return ModelFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: not a valid model file\n{faults(error)}") from None
    except (OSError, ValueError) as fault:
        raise UserError(f"{path}: can't be read as JSON ({fault}); save the model again") from None


def _stored_spec(stored: ModelFile, folder: Path) -> str:
    cure = f"give the architecture as MODEL, with --weights {folder / WEIGHTS_FILE}"
    if stored.spec is None:
        raise UserError(f"model {folder}: was saved from a live object, so its architecture isn't stored; {cure}")
    path, name = _file_and_name(stored.spec)
    if path is None:
        return stored.spec
    path = (folder / path).resolve()
    if not path.is_file():
        raise UserError(f"model {folder}: its architecture is in {path}, which isn't there; put it back, or {cure}")
    return f"{path}:{name}"


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as fault:
        raise UserError(f"weights {path}: damaged, or not safetensors ({fault}); save or copy them again") from None


def _read_checkpoint(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; what matters is raised
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as fault:  # a damaged pickle can raise nearly anything
        raise UserError(f"weights {path}: {_refusal(fault)}") from None


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
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPED_UNDER if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"weights {path}: holds {_described(content)}; expected a state dict, names to tensors")
    if odd := [
        str(name) for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)
    ]:
        shown = ", ".join(odd[:_FAULTS_SHOWN])
        raise UserError(
            f"weights {path}: holds entries that are no tensors ({shown}); expected a state dict, alone or under "
            f"{', '.join(_WRAPPED_UNDER)}"
        )
    return dict(content)


def _described(content: Any) -> str:
    return "nothing" if isinstance(content, Mapping) else f"an object of type {type(content).__name__}"


def _misfits(own: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """List what keeps a state from being loaded, one line an entry."""
    lines = [f"missing: {name}" for name in own if name not in state]
    lines += [f"unexpected: {name}" for name in state if name not in own]
    for name, value in state.items():
        expected = own.get(name)
        if isinstance(expected, Tensor) and not nn.parameter.is_lazy(expected) and expected.shape != value.shape:
            lines.append(f"{name}: shape {tuple(value.shape)} in the file, {tuple(expected.shape)} in the model")
    return lines


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _checked_device(given: str | torch.device) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if given == "auto" else given)
        torch.empty(0, device=device)
    except Exception as fault:  # torch raises several kinds, none of its own
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise UserError(
            f"device {str(given)!r}: can't be used ({reason}); give cpu, cuda, cuda:1, ... or auto"
        ) from None
    return device


def _mean_and_std(mean: Sequence[float] | None, std: Sequence[float] | None) -> _MeanAndStd:
    if mean is None and std is None:
        return None, None
    if mean is None or std is None:
        raise UserError(f"normalisation has {'a std but no mean' if mean is None else 'a mean but no std'}; give both")
    mean, std = tuple(float(value) for value in mean), tuple(float(value) for value in std)
    finite = all(math.isfinite(value) for value in (*mean, *std))
    if len(mean) != len(std) or not mean or not finite or min(std) <= 0:
        raise UserError(
            f"normalisation is mean {mean}, std {std}: expected as many finite means as standard deviations above 0, "
            "one a channel"
        )
    return mean, std


def _by_channel(values: _Channels, x: Tensor) -> Tensor:
    # Checked, because one channel would silently be broadcast to three.
    if len(values) > 1 and (x.ndim < 2 or x.shape[1] != len(values)):
        raise UserError(
            f"the normalisation has {len(values)} channels, the inputs have shape {tuple(x.shape)}, (N, C, H, W); "
            "give one value a channel"
        )
    return _column(values, max(x.ndim - 2, 0), x.dtype, x.device)


@lru_cache(maxsize=16)
def _column(values: _Channels, trailing: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is kept, and a tensor born in inference mode couldn't be used in a gradient
        return torch.tensor(values, dtype=dtype, device=device).reshape(-1, *[1] * trailing)


def _output_fault(logits: Any, samples: int) -> str | None:
    """Say what is wrong with a forward pass's result, to end a sentence with; None where nothing is."""
    if not isinstance(logits, Tensor):
        return f"it returns {type(logits).__name__}: expected a tensor; wrap it so that it returns the logits alone"
    if logits.ndim != 2 or len(logits) != samples:
        return (
            f"it returns shape {tuple(logits.shape)}: expected one row of logits a sample, ({samples}, K); "
            "flatten or pool inside the model, and keep the batch dimension first"
        )
    if logits.shape[1] < 2:
        return (
            f"it returns {logits.shape[1]} logit a sample: expected one a class, two or more; "
            "for a binary model return the two logits (0, z)"
        )
    if not logits.is_floating_point():
        return f"it returns {logits.dtype}: expected logits, not predicted classes"
    if not torch.isfinite(logits).all():
        return "its logits hold NaN or infinity; check the weights, and that the model takes inputs in [0, 1]"
    return None


def _expectation(module: nn.Module) -> str:
    """Say what the first convolution or linear layer takes; empty where there is none."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            width = "in_features" if isinstance(layer, nn.Linear) else "in_channels"
            return f"its first layer ({name or 'itself'}, {type(layer).__name__}) has {width}={getattr(layer, width)}; "
    return ""
