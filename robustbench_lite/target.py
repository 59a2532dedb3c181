"""The target: the model under test as the harness sees it, and the ways to name one."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite import registry
from robustbench_lite.black_box import BlackBox, state_sha256
from robustbench_lite.errors import UserError
from robustbench_lite.scorecard import Access as Access
from robustbench_lite.scorecard import TargetInfo
from robustbench_lite.usercode import MissingModuleError, change_path, import_object, users_code
from robustbench_lite.weights import MODEL_FILE, WEIGHTS_FILE, load_weights, read_model_file
from robustbench_lite.weights import save_model as save_model

_Channels = tuple[float, ...]
_MeanAndStd = tuple[_Channels, _Channels] | tuple[None, None]
Preprocessing = Callable[[Tensor], Tensor]
"""Inputs in [0, 1], (N, C, H, W), to inputs of the same shape."""

NORMALISATIONS: dict[str, _MeanAndStd] = {
    "none": (None, None),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
}
"""Mean and standard deviation by channel, of inputs in [0, 1]."""

_FUNCTION = "a function of numpy arrays becomes a target by Target.from_callable(function)"
_MODEL_FORMS = "package.module:callable, path/to/file.py:callable, torchvision:NAME, or a folder that harden wrote"


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
    preprocessing
        What is done to the inputs, in [0, 1], before the normalisation, such as a rounding or a compression: it keeps
        their shape. It is a part of the target, and attacks go through it as it is. Declared here, and not hidden in
        the module, an adaptive evaluation can take its gradient for the identity's where it has none (`adapt`).
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
        preprocessing: Preprocessing | None = None,
        device: str | torch.device | None = None,
        spec: str | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise UserError(
                f"the model is of type {type(module).__name__}: expected a torch.nn.Module that maps inputs in [0, 1], "
                f"(N, C, H, W), to logits, (N, K); {_FUNCTION}"
            )
        self.module = module
        self.name = name or type(module).__name__
        self.spec = spec
        self.classes: int | None = None
        """Number of logits, once it is known: from `load_target` or `probe`."""
        self.mean: _Channels | None
        self.std: _Channels | None
        self.mean, self.std = _mean_and_std(mean, std)
        if preprocessing is not None and not callable(preprocessing):
            raise UserError(
                f"preprocessing is of type {type(preprocessing).__name__}: expected a function from inputs in [0, 1], "
                "(N, C, H, W), to such inputs"
            )
        self.preprocessing = preprocessing
        self._device = torch.device("cpu")
        if device is not None:
            self.to(device)

    @classmethod
    def from_callable(
        cls,
        function: Callable[..., Any],
        *,
        classes: int | None = None,
        access: Access | None = None,
        name: str | None = None,
        device: str | torch.device | None = None,
    ) -> Target:
        """Make a target of a model that is no PyTorch module, of which only the outputs are seen.

        Parameters
        ----------
        function
            Takes a float32 numpy array in [0, 1], (N, C, H, W); returns scores (logits or probabilities) as floats,
            (N, K), or labels as integers from 0, (N,): an array, a tensor or nested lists.
        classes
            K; by default as many as the scores tell, or as the data have.
        access
            ``scores`` or ``labels``; by default what the function returns. ``labels`` hides the scores.
        name
            What reports call it; by default the function's name.
        device
            Where the attacks compute; by default the CPU.

        Raises
        ------
        UserError
            For what can't be called with arrays, and for an access or a number of classes that is none.
        """
        if not callable(function) or isinstance(function, nn.Module | Target | type):
            what = function.__name__ if isinstance(function, type) else f"an object of type {type(function).__name__}"
            raise UserError(
                f"{what} is no function of numpy arrays; give one such as lambda x: model.predict_proba(x.reshape("
                "len(x), -1)); a torch.nn.Module is a target as it is"
            )
        if access not in (None, "scores", "labels"):
            raise UserError(f"access is {access!r}: expected 'scores' or 'labels', or none, to see what is returned")
        if classes is not None and classes < 2:
            raise UserError(f"classes is {classes}: expected 2 or more")
        called = getattr(function, "__qualname__", type(function).__name__).rpartition(".")[2]
        name = name or ("function" if called == "<lambda>" else called)
        return cls(BlackBox(function, name=name, classes=classes, access=access), name=name, device=device)

    def __repr__(self) -> str:
        return f"Target({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"

    @property
    def device(self) -> torch.device:
        """Where the module's first parameter is."""
        first = next(_tensors(self.module), None)
        return self._device if first is None else first.device

    @property
    def access(self) -> Access:
        """What can be seen of it: of a module its gradients; of a function scores or labels, once it was called."""
        return (self.module.access or "labels") if isinstance(self.module, BlackBox) else "gradients"

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
        # A copy, as a module that works in place (a first ReLU, say) must not write into its caller's inputs.
        x = x.to(device=self.device, dtype=self.dtype, copy=True)
        if self.preprocessing is not None:
            x = self._preprocessed(x)
        if self.mean is not None and self.std is not None:
            x = (x - _by_channel(self.mean, x)) / _by_channel(self.std, x)
        logits: Tensor = self.module(x)
        return logits

    def _preprocessed(self, x: Tensor) -> Tensor:
        done = self.preprocessing(x) if self.preprocessing is not None else x
        if not isinstance(done, Tensor) or done.shape != x.shape:
            what = tuple(done.shape) if isinstance(done, Tensor) else type(done).__name__
            raise UserError(
                f"{self.name}: the preprocessing makes {what} of inputs of shape {tuple(x.shape)}: expected the same "
                "shape; what changes it belongs into the module"
            )
        return done

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """Switch to evaluation mode and freeze the parameters; leave every submodule and parameter as it came."""
        parts = [part for part in (self.module, self.preprocessing) if isinstance(part, nn.Module)]
        modes = [(module, module.training) for part in parts for module in part.modules()]
        trainable = [(parameter, parameter.requires_grad) for part in parts for parameter in part.parameters()]
        try:
            for part in parts:
                part.eval()
            for parameter, _ in trainable:
                parameter.requires_grad_(False)
            with torch.inference_mode(False):  # where the caller switched it on, there are no gradients
                yield
        finally:
            # One by one: `module.train()` would also switch on what was off, such as a frozen BatchNorm.
            for module, mode in modes:
                module.training = mode
            for parameter, was_trainable in trainable:
                parameter.requires_grad_(was_trainable)

    def weights_sha256(self) -> str:
        """Hash of the state dict (names, dtypes, shapes and values, in the order of the names) and of mean and std.

        It doesn't depend on the device. Entries that are no tensors count with their name alone. Of a function it is
        the hash of what it holds, and empty where that can't be read.
        """
        if isinstance(self.module, BlackBox):
            held = state_sha256(self.module.function)
            return held and hashlib.sha256(f"{self.mean} {self.std} {held}".encode()).hexdigest()
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
            access=self.access,
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


def as_target(model: nn.Module | Target | Callable[..., Any], device: str | torch.device | None = None) -> Target:
    """Make a target of a module or a function of arrays; a `Target` is handed back, moved where a device is given."""
    if isinstance(model, Target):
        return model if device is None else model.to(device)
    if isinstance(model, nn.Module) or not callable(model):
        return Target(model, device=device)
    return Target.from_callable(model, device=device)


def load_target(
    spec: str,
    *,
    weights: str | Path | None = None,
    normalize: str | None = None,
    classes: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> Target:
    """Make a target from its name. It runs the code that the name points at.

    Parameters
    ----------
    spec
        ``package.module:callable`` (the working directory is searched too), ``path/to/file.py:callable``,
        ``torchvision:NAME``, or a folder that `save_model` wrote. The callable is called without arguments, except for
        the number of classes where it has a parameter ``num_classes`` or ``classes``, and returns an ``nn.Module`` or a
        `Target`; an object that already is one is taken as it is. A function of arrays is handed over as
        ``Target.from_callable(function)``.
    weights
        A safetensors file or a torch state dict; by default the model's own.
    normalize
        ``imagenet``, ``cifar10``, ``mnist``, ``none``, or ``m1,m2,m3/s1,s2,s3``; by default none, except for
        torchvision's models (``imagenet``) and for a folder (as it was saved).
    classes
        Number of classes, where the architecture leaves it open.
    device
        As in `Target`.
    seed
        Of the draws of fresh weights; the caller's generator is left as it was.

    Raises
    ------
    UserError
        For a name that leads nowhere, for code behind it that fails, and for weights that don't fit.
    """
    if not str(spec).strip():
        raise UserError(f"model {str(spec)!r}: is empty; expected {_MODEL_FORMS}")
    spec, stored, folder = str(spec), None, Path(spec).resolve()
    if folder.is_dir():
        if not (folder / MODEL_FILE).is_file():
            raise UserError(f"model {folder}: holds no {MODEL_FILE}; expected {_MODEL_FORMS}")
        spec, stored = read_model_file(folder)
        weights, classes = weights or folder / WEIGHTS_FILE, classes or stored.classes
    try:
        made = _make(spec, classes, seed)
    except MissingModuleError as fault:
        if stored is None:
            raise
        raise UserError(
            f"model {folder}: its architecture is {spec}: {fault}; run it from the folder that holds "
            f"{spec.partition(':')[0].partition('.')[0]}, or give the architecture as MODEL, with --weights {weights}"
        ) from None
    if weights is not None:
        load_weights(made.module, weights)
    mean, std = made.mean, made.std
    if normalize is not None:
        mean, std = parse_normalisation(normalize)
    elif stored is not None:
        mean, std = (stored.normalize.mean, stored.normalize.std) if stored.normalize else (None, None)
    name = made.name if stored is None else folder.name
    spec = change_path(spec, Path.resolve)  # absolute, so that it outlives a change of directory
    target = Target(
        made.module, name=name, mean=mean, std=std, preprocessing=made.preprocessing, device=device, spec=spec
    )
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


def _make(spec: str, classes: int | None, seed: int) -> Target:
    """Make the target that a spec names, with its own normalisation, and its own weights or seeded fresh ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _made(spec, classes)


def _made(spec: str, classes: int | None) -> Target:
    kind, colon, rest = spec.partition(":")
    if not kind:
        raise UserError(f"model {spec!r}: nothing stands before the colon; expected {_MODEL_FORMS}")
    if not colon or not rest:
        raise UserError(f"model {spec!r}: {_spec_advice(spec.removesuffix(':'))}")
    if kind == "torchvision":
        mean, std = NORMALISATIONS["imagenet"]
        return Target(_make_torchvision(rest, classes), name=spec, mean=mean, std=std)
    with users_code(spec):
        found = import_object(spec, prefixes=["torchvision"])
        if not isinstance(found, nn.Module | Target):
            if not callable(found):
                raise UserError(f"{spec}: is of type {type(found).__name__}; expected a callable that makes the model")
            found = found(**_arguments(found, spec, classes))
    if not isinstance(found, nn.Module | Target):
        raise UserError(f"{spec}: returned {type(found).__name__}; expected a torch.nn.Module or a Target; {_FUNCTION}")
    return found if isinstance(found, Target) else Target(found, name=change_path(spec, lambda path: path.name))


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
                f"name a function that takes none and returns the model; {_FUNCTION}"
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
