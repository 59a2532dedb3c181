"""How large a model is, and how much it computes for a sample."""

from __future__ import annotations

from robustbench_lite.evaluating.measures.interface import Measure, Subject


def _multiply_adds(subject: Subject) -> int:
    target = subject.target
    x = subject.data.fetch([0]).to(target.device, target.dtype)
    with target.attacking():
        return target.predictor.multiply_adds(target.normalised(x))


BYTES = Measure(
    unit="bytes",
    better="lower",
    definition="the model's file or, of a module, its state dict as a file of tensors, without the names",
    of=lambda subject: subject.target.predictor.size().bytes,
)
NONZERO_PARAMETERS = Measure(
    unit="parameters",
    better="lower",
    definition="numbers in the model's parameters that are not 0",
    of=lambda subject: subject.target.predictor.size().nonzero,
)
MULTIPLY_ADDS = Measure(
    unit="multiply-adds",
    better="lower",
    definition="multiplications with an addition in convolutions, matrix products and attention, for one sample; those "
    "with weights that are 0 count as well",
    of=_multiply_adds,
)
FLOPS = Measure(
    unit="operations",
    better="lower",
    definition="floating-point operations for one sample: two a multiply-add",
    of=lambda subject: 2 * _multiply_adds(subject),
)
