"""Who answers for a target: a module or a function today; what it shows, how it is batched, what was asked of it."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from robustbench_lite.core.cost import Stop
from robustbench_lite.core.errors import ModelError, UserError, out_of_memory
from robustbench_lite.core.threat import Access
from robustbench_lite.core.usercode import ExitError, no_exit, users_line
from robustbench_lite.model import output_form
from robustbench_lite.model.answer_log import AnswerLog
from robustbench_lite.model.batching import Batching
from robustbench_lite.model.black_box import BlackBox, state_sha256
from robustbench_lite.model.output_form import NoLogitsError, OutputForm
from robustbench_lite.model.size import Size, multiply_adds, size_of


class Predictor(ABC):
    """Answers normalised inputs, (N, *shape), with rows of logits, (N, K).

    A `Target` is what the harness attacks; a predictor is what stands behind it. Nothing above this package asks of
    what kind it is, only what it shows. A new kind (a session of another runtime, a server) is a subclass of its own.
    """

    module: nn.Module
    """Holds parameters and buffers; empty for a function."""
    opaque: bool
    """Whether nothing is seen of it but its answers: no parameters, no modules within, no gradient."""
    batching: Batching
    """The sizes of batch it is asked with, and how often it was."""

    @property
    @abstractmethod
    def shows(self) -> Access | None:
        """What an attack may see: gradients, scores or labels; None until the first answer tells."""

    @abstractmethod
    def answer(self, x: Tensor, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Rows of logits, (N, K), in the type that the model computes in.

        Parameters
        ----------
        x
            Normalised inputs, (N, *shape), where the model is.
        state
            Parameters and buffers to use instead of the module's own.

        Raises
        ------
        ModelError
            For whatever the model raises, with its place in the user's code and the batch it happened on.
        UserError
            For an answer that is no row of logits a sample.
        """

    @abstractmethod
    def sha256(self, known: str) -> str:
        """Hash of all that the answers depend on, with what is known already; empty where it can't be read."""

    def expect(self, classes: int) -> None:  # noqa: B027 - only labels need it
        """Take in how many classes the data have."""

    def keep_answers(self, log: AnswerLog) -> None:  # noqa: B027 - what answers in this process is asked again
        """Ask nothing that a log knows the answer to, and add to it what is asked."""

    def notes(self) -> tuple[str, ...]:
        """What is done so that it can be asked, a line each; empty where nothing is."""
        return ()

    def parameters(self) -> int:
        """Numbers in its parameters; 0 where they aren't seen."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def size(self) -> Size:
        """Bytes and parameters.

        Raises
        ------
        UserError
            Where nothing is seen of the model but its answers.
        """
        raise UserError(f"nothing is seen of {type(self.module).__name__} but its answers: its size can't be told")

    def multiply_adds(self, x: Tensor) -> int:
        """Multiply-adds of a forward pass on normalised inputs, (N, *shape).

        Raises
        ------
        UserError
            Where nothing is seen of the model but its answers.
        """
        raise UserError(f"nothing is seen of {type(self.module).__name__} but its answers: none can be counted")

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode and freeze the parameters; leave every submodule and parameter as it came."""
        with frozen(self.module):
            yield


class FunctionPredictor(Predictor):
    """A function of arrays, see `BlackBox`."""

    opaque = True

    def __init__(self, module: BlackBox) -> None:
        self.module, self._box, self.batching = module, module, Batching()

    @property
    def shows(self) -> Access | None:
        """What the function returns; None until it was called."""
        return self._box.access

    def expect(self, classes: int) -> None:
        """Take in how many classes the data have, which labels alone don't tell."""
        self._box.expect(classes)

    def answer(self, x: Tensor, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Ask the function; it has no state that could be another."""
        if state is not None:
            raise TypeError(f"{self._box.name} is a function: it has no state to exchange")
        return self.batching.ask(lambda part: _told(self.module, part), x)

    def held(self) -> str:
        """Hash of what the function holds and refers to; empty where it can't be read."""
        return state_sha256(self._box.function)

    def sha256(self, known: str) -> str:
        """Hash of what is held, with what is known already."""
        held = self.held()
        return held and hashlib.sha256(f"{known} {held}".encode()).hexdigest()


class ModulePredictor(Predictor):
    """A ``nn.Module``, whatever the form of its answers and the sizes of batch that it takes.

    Parameters
    ----------
    module
        Maps inputs to logits, or to something that holds them.
    output
        Key, attribute or position of the logits in what it returns; by default it is found (`output_form.pick`).
    """

    opaque = False

    def __init__(self, module: nn.Module, output: str | int | None = None) -> None:
        self.module, self._output = module, output
        # A compiled module adapts itself to each new size.
        self.batching = Batching(few=any(hasattr(part, "_orig_mod") for part in module.modules()))
        self.form: OutputForm | None = None
        """Form of its answers; None until the first one."""
        _leave_inference_mode(module)

    @property
    def shows(self) -> Access:
        """Gradients: where there are none, the checks before the attacks tell."""
        return "gradients"

    def notes(self) -> tuple[str, ...]:
        """What is done to its batches and its answers."""
        return (*self.batching.notes(), *(self.form.notes() if self.form else ()))

    def answer(self, x: Tensor, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Ask the module, in batches of a size that it takes."""

        def rows(part: Tensor) -> Tensor:
            return self._rows(_told(self.module, part, state), len(part))

        try:
            return self.batching.ask(rows, x)
        except ModelError as fault:
            if fault.fatal or state is not None or not self.batching.mend(rows, x, fault):
                raise
            return self.batching.ask(rows, x)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode and freeze the parameters; refuse a lazy module, which has none yet."""
        _refuse_unbuilt(self.module)
        with super().evaluating():
            yield

    def bare(self, x: Tensor) -> Tensor:
        """What `answer` gives, without looking at it: for what follows the computation, as an export does.

        Its form is that of the first answer, which must have been asked for before.
        """
        picked, _ = output_form.pick(self.module(x), self._output)
        logits: Tensor = picked
        if self.form is not None and self.form.single:
            logits = logits.reshape(-1, 1)
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return logits

    def _rows(self, found: Any, samples: int) -> Tensor:
        picked, entry = output_form.pick(found, self._output)
        if isinstance(picked, Tensor) and picked.is_inference() and not torch.is_inference_mode_enabled():
            picked = picked.clone()  # born in the module's own inference mode, it could be used in no loss
        if self.form is None:
            learned = output_form.learn(picked, samples, entry)
            if isinstance(learned, str):
                raise NoLogitsError(learned)
            self.form = learned
        logits = output_form.rows(self.form, picked, samples)
        if logits is None:
            shape = tuple(picked.shape) if isinstance(picked, Tensor) else type(picked).__name__
            raise NoLogitsError(
                f"it returns {shape} for {samples} inputs, and other batches got {self.form.classes} logits a sample: "
                f"expected one row of logits a sample, ({samples}, K), for every batch"
            )
        if not self.form.single and isinstance(picked, Tensor) and picked.ndim == 1:
            self.form = replace(self.form, squeezed=True)
        return logits

    def size(self) -> Size:
        """Bytes and parameters of its state dict."""
        return size_of(self.module)

    def multiply_adds(self, x: Tensor) -> int:
        """As torch counts them, see `size.multiply_adds`."""
        return multiply_adds(self.module, x)

    def sha256(self, known: str) -> str:
        """Hash of the state dict: names, dtypes, shapes and values, in the order of the names."""
        _refuse_unbuilt(self.module)
        digest = hashlib.sha256(known.encode())
        if self._output is not None:
            digest.update(f" output {self._output!r}".encode())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(f"\n{name}".encode())
            _digest(digest.update, value)
        return digest.hexdigest()


def predictor_of(module: nn.Module, output: str | int | None = None) -> Predictor:
    """Find who answers for a module.

    Raises
    ------
    UserError
        For a module whose parameters or buffers hold no numbers.
    """
    if isinstance(module, BlackBox):
        return FunctionPredictor(module)
    _refuse_empty(module)
    return ModulePredictor(module, output)


def _refuse_unbuilt(module: nn.Module) -> None:
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        if is_lazy(value):
            raise UserError(
                f"{type(module).__name__}: {name} has no shape yet, as in a lazy module that was never called; call "
                "the model once, on inputs such as the data's, where it is built"
            )


def _refuse_empty(module: nn.Module) -> None:
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        if not is_lazy(value) and value.is_meta:
            raise UserError(
                f"{type(module).__name__}: {name} holds no numbers: it is on the device meta; build the model on the "
                "CPU or a GPU, or give it memory (to_empty) and load its weights, before it is handed over"
            )


def _told(module: nn.Module, x: Tensor, state: Mapping[str, Tensor] | None = None) -> Any:
    """Ask the module; whatever way out of its code is found is told with its place and the batch."""
    try:
        with no_exit():
            return module(x) if state is None else functional_call(module, dict(state), (x,))
    except (UserError, ModelError, Stop):
        raise
    except Exception as fault:
        if out_of_memory(fault):
            raise
        text, leaves = str(fault).strip(), isinstance(fault, ExitError)
        raise ModelError(
            f"the forward pass fails on inputs of shape {tuple(x.shape)}: "
            + (text if leaves else f"{type(fault).__name__}{f': {text}' if text else ''}{users_line(fault)}"),
            fatal=leaves,
        ) from fault


@contextmanager
def frozen(*parts: nn.Module) -> Iterator[None]:
    """Switch modules to evaluation mode and freeze their parameters; leave each as it came."""
    # Of a frozen TorchScript module the mode can't be read, and of an exported program it can't be changed.
    modes = [(module, module.training) for part in parts for module in part.modules() if hasattr(module, "training")]
    trainable = [(parameter, parameter.requires_grad) for part in parts for parameter in part.parameters()]
    try:
        for part in parts:
            _evaluate(part)
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False):  # where the caller switched it on, there are no gradients
            yield
    finally:
        # One by one: `module.train()` would also switch on what was off, such as a frozen BatchNorm.
        for module, mode in modes:
            if module.training != mode:
                module.training = mode
        for parameter, was_trainable in trainable:
            parameter.requires_grad_(was_trainable)


def _evaluate(module: nn.Module) -> None:
    # An exported program computes as it was exported: the checks tell where that was in train mode.
    with suppress(NotImplementedError, AttributeError):
        module.eval()


def _leave_inference_mode(module: nn.Module) -> None:
    """Replace parameters and buffers that were made in inference mode, through which there is no gradient."""
    with torch.inference_mode(False):
        usable: dict[int, Tensor] = {}
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, value in held.items() if isinstance(held, dict) else ():
                    if isinstance(value, Tensor) and not nn.parameter.is_lazy(value) and value.is_inference():
                        if id(value) not in usable:
                            copy = value.clone()
                            usable[id(value)] = nn.Parameter(copy) if isinstance(value, nn.Parameter) else copy
                        held[name] = usable[id(value)]  # type: ignore[assignment]


def tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    return itertools.chain(module.parameters(), module.buffers())


def _digest(update: Callable[[Any], None], value: Any) -> None:
    """Hash a tensor, or what holds some, as the packed weights of quantised layers do."""
    if isinstance(value, tuple | list):
        for entry in value:
            _digest(update, entry)
    elif isinstance(value, Tensor):
        if value.is_quantized:
            value = value.dequantize()
        update(f" {value.dtype} {tuple(value.shape)}\n".encode())
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
