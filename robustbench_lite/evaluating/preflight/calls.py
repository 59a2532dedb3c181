"""Whether the answer to an input is a function of this input alone: no dice, no batch, no memory, no training."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustbench_lite.core.cost import Stop
from robustbench_lite.core.errors import UserError
from robustbench_lite.evaluating.preflight.check import STRAY, Check, CountedModel, check, found, some, words
from robustbench_lite.results.scorecard import Finding

_log = logging.getLogger(__name__)

_SAME = 1e-3
"""Share of a row's largest logit by which two identical calls may differ: rounding, and no more."""
_SAME_BATCH = 1e-2
"""The same of two batch sizes, whose kernels add up in another order."""
_FAR_BATCH = 0.1
"""From here on it is no quantisation of activations by the batch's range either, which moves logits a little."""


def behaviour(
    model: CountedModel, rows: Tensor, x: Tensor, logits: Tensor, before: dict[str, str], training: list[str]
) -> Iterator[Check]:
    """Whether the answer to an input is a function of this input alone."""
    again = model.logits(rows, x)
    random = int(_unlike(logits, again, max(_SAME, model.precision)).sum())
    unstable = random > max(1.0, STRAY * len(rows))
    batched = _by_batch(model, rows, x, logits)
    depends = batched.unlike > batched.stray
    changed = [] if model.function else _changed(before, digests(model.target.module))
    wrong = unstable or depends or bool(changed)
    if training and wrong:
        yield check("eval mode reaches every module", "", _trains(training, unstable, depends, changed))
        return
    drawn, normalised = _operations(model, rows, x) if wrong else ([], [])
    flipped = int((again.argmax(1) != logits.argmax(1)).sum())
    yield check(
        "two identical calls agree",
        f"{len(rows)} samples",
        _random(random, len(rows), flipped, drawn) if unstable else None,
    )
    name = "no answer depends on its batch"
    if unstable:  # random answers differ from batch to batch as well
        yield Check(name, "not asked, as they are random", asked=False)
    elif len(rows) == 1 and not depends:
        yield Check(name, "can't be told from one sample", asked=False)
    else:
        saw = f"{batched.asked} samples, alone, by 8 and together"
        yield check(name, saw, _depends(batched, len(rows), normalised) if depends else _refuses_small(model))
    notes = model.target.predictor.notes()
    yield check("it is asked as it is", "in batches of any size, by one tensor of logits", _adapted(notes))
    if not model.function:
        if before:
            yield check("a forward pass changes nothing", f"{len(before)} tensors", _changes(changed))
        else:
            yield Check("a forward pass changes nothing", "it holds no tensors that could be compared", asked=False)
        yield check("eval mode reaches every module", f"{sum(1 for _ in model.target.module.modules())} modules")


def _unlike(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    """Whether two answers to each sample differ by more than a share of their largest logit, shape (n,)."""
    return ~((a - b).abs().amax(1) <= tolerance * a.abs().amax(1))  # NaN is unlike anything


class _Batched(NamedTuple):
    """How answers in small batches differ from those in a large one."""

    asked: int
    unlike: int
    far: int
    flipped: int
    fault: str = ""

    @property
    def stray(self) -> float:
        """So many may differ all the same."""
        return max(1.0, STRAY * self.asked)


def _by_batch(model: CountedModel, rows: Tensor, x: Tensor, logits: Tensor) -> _Batched:
    alone, small = (16, 64) if model.thorough else (4, 16)
    asked = min(small, len(x))
    unlike = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    far, flipped = torch.zeros_like(unlike), torch.zeros_like(unlike)
    parts = [slice(at, at + 1) for at in range(min(alone, len(x)))]
    parts += [slice(at, at + 8) for at in range(0, asked, 8)]
    for part in parts:
        try:
            answer = model.logits(rows[part], x[part])
        except (UserError, Stop):
            raise
        except Exception as fault:  # batch norm in train mode refuses a single sample
            return _Batched(
                asked, asked, asked, asked, f"the model fails on {len(rows[part])} of its samples: {words(fault)}"
            )
        unlike[part] |= _unlike(logits[part], answer, max(_SAME_BATCH, 8 * model.precision))
        far[part] |= _unlike(logits[part], answer, _FAR_BATCH)
        flipped[part] |= answer.argmax(1) != logits[part].argmax(1)
    return _Batched(asked, int(unlike.sum()), int(far.sum()), int(flipped.sum()))


def _random(count: int, asked: int, flipped: int, drawn: list[str]) -> Finding:
    ops = f"; its forward pass draws random numbers ({some(drawn)})" if drawn else ""
    return found(
        "RB101",
        "error",
        f"{count} of {asked} samples get other logits when the same batch is asked about twice, {flipped} another "
        f"class{ops}",
        "make the forward pass deterministic (no dropout, no random transforms in eval mode), with a fixed seed where "
        "it needs draws, or average over them",
    )


def _depends(seen: _Batched, together: int, normalised: list[str]) -> Finding:
    why = f"; {some(normalised)} uses the statistics of the batch" if normalised else ""
    told = seen.fault or (
        f"{seen.unlike} of {seen.asked} samples get other logits alone or by 8 than among {together}, {seen.flipped} "
        "another class"
    )
    return found(
        "RB103",
        "error" if normalised or max(seen.far, seen.flipped) > seen.stray else "warning",
        f"{told}{why}",
        "make every answer a function of its own input: batch norm in eval mode, no statistics over the batch",
    )


def _refuses_small(model: CountedModel) -> Finding | None:
    """Finding of a model that fails on small batches, though its answers don't depend on the batch."""
    batching = model.target.predictor.batching
    if batching.least == 1:
        return None
    return found(
        "RB103",
        "warning",
        f"the model fails on batches of fewer than {batching.least} samples: {batching.fault}; they are filled with "
        "copies of their last sample, and then its answers are those that it gives in large batches",
        "make the forward pass work for a batch of one",
    )


def _adapted(notes: tuple[str, ...]) -> Finding | None:
    if not notes:
        return None
    return found(
        "RB107",
        "info",
        f"the model is not asked as it is: {'; '.join(notes)}",
        "nothing to do where this is what is meant; else return one tensor of logits, (N, K), for batches of any size",
    )


def _changes(changed: list[str]) -> Finding | None:
    if not changed:
        return None
    return found(
        "RB102",
        "error",
        f"a forward pass in eval mode changes the model: {some(changed)}",
        "make sure that its forward pass trains nothing and updates no buffer in eval mode",
    )


def _trains(training: list[str], random: bool, batched: bool, changed: list[str]) -> Finding:
    effects = [
        "two identical calls differ" if random else "",
        "answers depend on the batch" if batched else "",
        f"it changes {some(changed, 2)}" if changed else "",
    ]
    return found(
        "RB104",
        "error",
        f"modules that run in train mode though the model is in eval mode: {some(training)}; "
        f"{', '.join(filter(None, effects))}",
        "don't set training in forward, and let train() and eval() reach every module; batch norm that is to keep its "
        "statistics, and dropout that is to be off, need eval mode",
    )


def digests(module: nn.Module) -> dict[str, str]:
    """Hash of each parameter and buffer, also of buffers that are not saved."""
    held = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    held |= dict(module.named_buffers())
    return {
        name: hashlib.blake2b(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
        for name, value in held.items()
        if value.layout == torch.strided
    }


def _changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


@contextmanager
def modes(module: nn.Module) -> Iterator[list[str]]:
    """Names of the modules that run in train mode."""
    seen: list[str] = []
    handles = []
    compiled = any(hasattr(part, "_orig_mod") for part in module.modules())  # a hook would compile it anew
    for name, part in module.named_modules():
        told = f"{name or 'itself'} ({type(part).__name__})"
        if part.training:
            seen.append(told)
        elif not (compiled or isinstance(part, torch.jit.ScriptModule)):

            def note(part: nn.Module, _: Any, told: str = told) -> None:
                if part.training and told not in seen:
                    seen.append(told)

            handles.append(part.register_forward_pre_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations that draw random numbers, and batch norms in train mode."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn: dict[str, None] = {}
        self.normalised: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.drawn[name.rstrip("_")] = None
        if "batch_norm" in name and any(argument is True for argument in args[5:6]):
            self.normalised["batch norm"] = None
        return func(*args, **(kwargs or {}))


def _operations(model: CountedModel, rows: Tensor, x: Tensor) -> tuple[list[str], list[str]]:
    """Name the operations that draw random numbers, and those that use the batch's statistics."""
    few = slice(0, 2)
    try:
        with _Operations() as seen:
            model.logits(rows[few], x[few])
    except (UserError, Stop):
        raise
    except Exception:  # compiled and scripted modules may not let themselves be watched
        _log.debug("the operations of %s can't be seen", model.target.name, exc_info=True)
        return [], []
    return list(seen.drawn), list(seen.normalised)
