"""The target: the model under test as the harness sees it."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import ModelError, UserError
from robustbench_lite.core.threat import Access
from robustbench_lite.model.black_box import BlackBox
from robustbench_lite.model.changes import Change
from robustbench_lite.model.normalisation import Channels, by_channel, mean_and_std
from robustbench_lite.model.output_form import NoLogitsError
from robustbench_lite.model.predictor import Predictor, frozen, predictor_of, tensors
from robustbench_lite.results.scorecard import TargetInfo

Preprocessing = Callable[[Tensor], Tensor]
"""Inputs in [0, 1], (N, C, H, W), to inputs of the same shape."""

FUNCTION_ADVICE = "a function of numpy arrays becomes a target by Target.from_callable(function)"


class Target:
    """The model under test: inputs in [0, 1], (N, C, H, W), out come logits, (N, K); normalisation is inside.

    Parameters
    ----------
    module
        Maps inputs to logits, to one logit z for two classes, or to something that holds the logits. Exported programs
        (``torch.export``), scripted and compiled modules will do. It isn't copied; with `device` given it is moved
        there. Or whatever else answers, as a `Predictor`.
    name
        What reports call it; by default the name of the module's class.
    mean, std
        By channel, or one value for all: the module gets ``(x - mean) / std``. Both or neither.
    preprocessing
        What is done to the inputs, in [0, 1], before the normalisation, such as a rounding or a compression: it keeps
        their shape. It is a part of the target, and attacks go through it as it is. Declared here, and not hidden in
        the module, an adaptive evaluation can take its gradient for the identity's where it has none (`adapt`).
    output
        Key, attribute or position of the logits in what the module returns; needed only where several tensors are
        returned and none is called ``logits``.
    device
        ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto`` (a GPU where there is one); by default where the module is.
    spec
        How the model can be made again, in the words of `load_target`; None where only the live object is known.
    classes
        What the outputs stand for, in their order, such as ``["cat", "dog"]``: labels of data are compared with it by
        name. By default what the module itself says (``config.id2label``), or nothing.

    Raises
    ------
    UserError
        For a model that is no ``nn.Module``, a normalisation that is no mean and standard deviation, and a device that
        isn't there.
    """

    def __init__(
        self,
        module: nn.Module | Predictor,
        *,
        name: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        preprocessing: Preprocessing | None = None,
        output: str | int | None = None,
        device: str | torch.device | None = None,
        spec: str | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        module = module_of(module)
        if not isinstance(module, nn.Module | Predictor):
            raise UserError(
                f"the model is of type {type(module).__name__}: expected a torch.nn.Module that maps inputs in [0, 1], "
                f"(N, C, H, W), to logits, (N, K); {FUNCTION_ADVICE}"
            )
        self.predictor = module if isinstance(module, Predictor) else predictor_of(module, output)
        """Who answers: what it shows, and how it is batched."""
        self.name = name or type(module).__name__
        self.spec = spec
        self.classes: int | None = None
        """Number of logits, once it is known: from `load_target` or `probe`."""
        self.said_classes: int | None = None
        """Number of logits that its user says it has; `probe` refuses another."""
        self.class_names: tuple[str, ...] = class_names(classes) or _own_names(self.module)
        """What the outputs stand for, in their order; empty where that isn't known."""
        self.arguments: dict[str, Any] = {}
        """Keyword arguments that the spec's callable was given, beside the number of classes."""
        self.changes: tuple[Change, ...] = ()
        """What compression made of the network that the spec makes, in order."""
        self.sparse: tuple[str, ...] = ()
        """Names of the parameters whose zeros stay when it is trained."""
        self.mean: Channels | None
        self.std: Channels | None
        self.mean, self.std = mean_and_std(mean, std)
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
        classes: int | Sequence[str] | None = None,
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
            K, or what the classes are called, in their order; by default as many as the scores tell, or as the data
            have.
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
        names = () if classes is None or isinstance(classes, int) else class_names(classes)
        number = classes if classes is None or isinstance(classes, int) else len(names)
        if number is not None and number < 2:
            raise UserError(f"classes is {number}: expected 2 or more")
        called = getattr(function, "__qualname__", type(function).__name__).rpartition(".")[2]
        name = name or ("function" if called == "<lambda>" else called)
        box = BlackBox(function, name=name, classes=number, access=access)
        return cls(box, name=name, device=device, classes=names)

    def fed(
        self,
        *,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        preprocessing: Preprocessing | None = None,
    ) -> Target:
        """The same model behind another normalisation, and another preprocessing where one is given."""
        other = copy.copy(self)
        other.mean, other.std = mean_and_std(mean, std)
        other.preprocessing = preprocessing or self.preprocessing
        return other

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        # Its tensors are elsewhere then, see `workers.gpus.or_memory`; a target without any computes where they would.
        if self._device.type == "cuda" and not torch.cuda.is_available():
            self._device = torch.device("cpu")

    def __repr__(self) -> str:
        return f"Target({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"

    @property
    def module(self) -> nn.Module:
        """What holds its state."""
        return self.predictor.module

    @property
    def device(self) -> torch.device:
        """Where the module's first parameter is."""
        return self._home()[0]

    @property
    def access(self) -> Access:
        """What can be seen of it: of a module its gradients; of a function scores or labels, once it was called."""
        return self.predictor.shows or "labels"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the module's first floating parameter or buffer; float32 where it has none."""
        return self._home()[1]

    def _home(self) -> tuple[torch.device, torch.dtype]:
        """Device and type, in one walk; nothing is kept, as the module may be moved by whoever holds it."""
        device: torch.device | None = None
        for tensor in tensors(self.module):
            device = tensor.device if device is None else device
            if tensor.is_floating_point():
                return device, tensor.dtype
        return self._device if device is None else device, torch.float32

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
        # A copy, as a module that works in place (a first ReLU, say) must not write into its caller's inputs; and
        # contiguous, as one that reshapes with `view` may be given data in channels_last memory.
        device, dtype = self._home()
        x = x.to(device=device, dtype=dtype, copy=True, memory_format=torch.contiguous_format)
        try:
            return self.predictor.answer(self.normalised(x))
        except NoLogitsError as fault:
            raise UserError(f"{self.name}: on inputs of shape {tuple(x.shape)} {fault}") from None

    def normalised(self, x: Tensor) -> Tensor:
        """What the model itself is given for inputs in [0, 1], (N, *shape)."""
        if self.preprocessing is not None:
            x = self._preprocessed(x)
        if self.mean is not None and self.std is not None:
            x = (x - by_channel(self.mean, x)) / by_channel(self.std, x)
        return x

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
        declared = [self.preprocessing] if isinstance(self.preprocessing, nn.Module) else []
        with frozen(*declared), self.predictor.evaluating():
            yield

    def weights_sha256(self) -> str:
        """Hash of the state dict (names, dtypes, shapes and values, in the order of the names) and of mean and std.

        It doesn't depend on the device. Entries that hold no tensors count with their name alone. Of a function it is
        the hash of what it holds, and empty where that can't be read.
        """
        return self.predictor.sha256(f"{self.mean} {self.std}")

    def nan_weights(self) -> list[str]:
        """Names of the module's parameters and buffers that hold NaN."""
        named = itertools.chain(self.module.named_parameters(), self.module.named_buffers())
        return [name for name, value in named if value.is_floating_point() and bool(value.isnan().any())]

    def info(self) -> TargetInfo:
        """Describe it, for the scorecard."""
        return TargetInfo(
            name=self.name,
            weights_sha256=self.weights_sha256(),
            parameters=self.predictor.parameters(),
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
        with self.attacking(), torch.no_grad():
            try:
                logits = self._forward(x)
            except ModelError as fault:
                raise UserError(f"{self.name}: {fault}{_advice(self.module, x, fault)}") from fault
        if complaint := _complaint(logits):
            nan = ", ".join(self.nan_weights())
            told = f"{self.name}: on inputs of shape {tuple(x.shape)} {complaint}"
            raise UserError(told + (f"; NaN stands in {nan}" if nan else ""))
        self.classes = logits.shape[1]
        if self.said_classes not in (None, self.classes):
            raise UserError(
                f"{self.name}: has {self.classes} outputs, and {self.said_classes} classes were given: leave the "
                "number away, or have what makes the model take it (num_classes)"
            )
        if self.class_names and len(self.class_names) != self.classes:
            raise UserError(
                f"{self.name}: has {self.classes} outputs, and {len(self.class_names)} names of classes were given "
                f"({', '.join(self.class_names[:4])}{', ...' if len(self.class_names) > 4 else ''}): expected one for "
                "each output, in their order"
            )
        return self.classes


def as_target(model: nn.Module | Target | Callable[..., Any], device: str | torch.device | None = None) -> Target:
    """Make a target of a module or a function of arrays; a `Target` is handed back, moved where a device is given."""
    model = module_of(model)
    if isinstance(model, Target):
        return model if device is None else model.to(device)
    if isinstance(model, nn.Module) or not callable(model):
        return Target(model, device=device)
    return Target.from_callable(model, device=device)


def module_of(model: Any) -> Any:
    """The module of an exported program (``torch.export``); anything else as it is."""
    # Looked at by name: to import its class takes long.
    return model.module() if type(model).__name__ == "ExportedProgram" else model


def class_names(given: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, checked.

    Raises
    ------
    UserError
        For what are no names, one for each of two classes or more, all different.
    """
    names = () if isinstance(given, str) else tuple(given)
    wrong = isinstance(given, str) or not all(isinstance(name, str) for name in names)
    if wrong or len(names) == 1 or len(set(names)) < len(names):
        raise UserError(f"classes are {given!r}: expected the names of the outputs, in their order, each one once")
    return names


def _own_names(module: nn.Module) -> tuple[str, ...]:
    """What a module says of its outputs, as those of Hugging Face do; nothing where these are mere numbers."""
    named = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(named, Mapping) or sorted(named) != list(range(len(named))):
        return ()
    names = tuple(str(named[number]) for number in range(len(named)))
    return () if all(name.startswith("LABEL_") for name in names) or len(set(names)) < len(names) else names


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


def _complaint(logits: Tensor) -> str | None:
    """Say what is wrong with rows of logits, to end a sentence with; None where nothing is."""
    if logits.shape[1] < 2:
        return (
            f"it returns {logits.shape[1]} logit a sample: expected one a class, two or more; "
            "for a binary model return the two logits (0, z)"
        )
    if not torch.isfinite(logits).all():
        return "its logits hold NaN or infinity; check the weights, and that the model takes inputs in [0, 1]"
    return None


def _advice(module: nn.Module, x: Tensor, fault: ModelError) -> str:
    """Say what the first layer takes where it was given something else; nothing where no shape is to blame."""
    cure = "give a model made for such inputs, or data of the shape it expects"
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            linear = isinstance(layer, nn.Linear)
            width = "in_features" if linear else "in_channels"
            takes = getattr(layer, width)
            if takes not in ({x.shape[-1], x[0].numel()} if linear else {x.shape[1]}):
                return f"\nits first layer ({name or 'itself'}, {type(layer).__name__}) has {width}={takes}; {cure}"
            break
    of_shapes = isinstance(fault.__cause__, RuntimeError) and re.search(r"shape|size|dimension", str(fault.__cause__))
    return f"\n{cure}" if of_shapes else ""
