"""Whether what comes out are logits, that say something about the input."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustbench_lite.evaluating.preflight.check import FEW, STRAY, Check, CountedModel, check, found
from robustbench_lite.results.scorecard import Finding


def not_finite(finite: Tensor) -> Finding | None:
    """Finding where logits of clean samples are no numbers; ``finite`` says of which they are, (n,)."""
    if finite.all():
        return None
    return found(
        "RB124",
        "error",
        f"the logits hold NaN or infinity for {int((~finite).sum())} of {len(finite)} clean samples",
        "check the weights, the normalisation and the precision: half precision overflows above 65,504",
    )


def outputs(model: CountedModel, x: Tensor, logits: Tensor, rows: Tensor) -> Iterator[Check]:
    """What kind of numbers come out."""
    few = len(logits) < FEW
    spread = float((logits.amax(0) - logits.amin(0)).max())
    # Of one class alone a good model may say the same to every sample.
    several = not few and len(set(model.data.labels[rows].tolist())) > 1
    constant = several and spread <= 1e-6 * float(logits.abs().max())
    name = "logits depend on the input"
    if several:
        yield check(name, f"they spread by {spread:.3g}", _constant(logits) if constant else None)
    else:
        yield Check(name, f"can't be told from {len(logits)} samples{'' if few else ' of one class'}", asked=False)
    if constant or model.function:
        return  # a function may well return probabilities, or votes that tie
    raw = _raw_dtype(model, rows, x)
    probabilities = not few and _is_distribution(logits)
    single = not few and _is_single(model) and bool(((logits >= 0) & (logits <= 1)).all())
    name, sums = "logits, not probabilities", logits.sum(1)
    if few:
        yield Check(name, f"can't be told from {len(logits)} samples", asked=False)
    else:
        yield check(
            name,
            f"rows sum to {float(sums.min()):.3g} to {float(sums.max()):.3g}",
            _probabilities(logits) if probabilities and (model.gradients or model.thorough) else None,
            _one_probability(logits) if single else None,
            _log_probabilities() if model.thorough and _is_distribution(logits.double().exp()) else None,
        )
    ties = int((gap(logits) == 0).sum())
    yield check(
        "no two classes tie",
        f"{ties} of {len(logits)} samples, {short(raw)}",
        _ties(ties, len(logits), raw) if ties > max(1.0, STRAY * len(logits)) else None,
        _half(raw) if model.thorough and raw in (torch.float16, torch.bfloat16) else None,
    )


def gap(logits: Tensor) -> Tensor:
    """The largest logit less the second, shape (n,)."""
    return -logits.topk(2, dim=1).values.diff(dim=1)[:, 0]


def _raw_dtype(model: CountedModel, rows: Tensor, x: Tensor) -> torch.dtype:
    if model.target.dtype not in (torch.float16, torch.bfloat16):
        return model.target.dtype
    with torch.no_grad(), model.counted(rows[:1]):
        return model.target._forward(x[:1]).dtype


def short(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``float32``."""
    return str(dtype).removeprefix("torch.")


def _is_distribution(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and bool(((rows.double().sum(1) - 1).abs() < 1e-3).all())


def _constant(logits: Tensor) -> Finding:
    return found(
        "RB123",
        "error",
        f"the logits are the same for all {len(logits)} samples, whatever the input: no attack can change them",
        "check that the weights are loaded, and that the input reaches the output",
    )


def _probabilities(logits: Tensor) -> Finding:
    top = float(logits.amax(1).median())
    return found(
        "RB121",
        "error",
        f"the outputs are probabilities: all {len(logits)} rows are at least 0 and sum to 1 (median of the largest "
        f"{top:.6g}); losses that expect logits take a second softmax, and lose the gradient where the first is sure",
        "return the logits: take the softmax off the end, or return the logarithm of the probabilities",
    )


def _is_single(model: CountedModel) -> bool:
    form = getattr(model.target.predictor, "form", None)
    return form is not None and form.single


def _one_probability(logits: Tensor) -> Finding:
    low, high = (float(end) for end in logits[:, 1].aminmax())
    return found(
        "RB121",
        "error",
        f"the one output a sample is a probability: all {len(logits)} are between {low:.3g} and {high:.3g}, and as a "
        "logit z of the two logits (0, z) none would ever say class 0",
        "return the logit: take the sigmoid off the end",
    )


def _log_probabilities() -> Finding:
    return found(
        "RB122",
        "info",
        "the outputs are log-probabilities; cross-entropy, margin and DLR are the same as on logits",
        "nothing to do; without the log-softmax a pass is a little cheaper",
    )


def _ties(ties: int, asked: int, dtype: torch.dtype) -> Finding:
    return found(
        "RB126",
        "warning",
        f"the two largest logits are equal for {ties} of {asked} samples ({short(dtype)}): which class is predicted "
        "there is chance, and small changes of the input are not seen",
        "return the logits in float32, before they are rounded or quantised",
    )


def _half(dtype: torch.dtype) -> Finding:
    return found(
        "RB127",
        "info",
        f"the model computes in {short(dtype)}: its margins and gradients are rounded to "
        f"{torch.finfo(dtype).eps:.1g} of their size",
        "evaluate it in float32 (model.float()) where the verdict is close",
    )
