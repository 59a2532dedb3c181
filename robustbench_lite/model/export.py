"""Export: a target as a file of ONNX or ExecuTorch, verified on real samples before it is kept."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from robustbench_lite.core import extras
from robustbench_lite.core.cost import unheard
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import write_atomically
from robustbench_lite.model.executorch import INSTALL as EXECUTORCH
from robustbench_lite.model.executorch import ExecutorchPredictor
from robustbench_lite.model.onnx import OnnxPredictor, library
from robustbench_lite.model.predictor import ModulePredictor
from robustbench_lite.model.target import Target
from robustbench_lite.model.timing import call_times

Format = Literal["onnx", "onnx-int8", "executorch"]
FORMATS: tuple[Format, ...] = get_args(Format)
OPSET = 20
_LARGEST_BATCH = 64  # of ExecuTorch, which plans its memory beforehand
_ALIKE = 1e-3
"""Share of the largest logit by which those of a file of floats may differ: rounding, and no more."""
_BATCHES = (1, 64)


class Latency(BaseModel):
    """Times to answer a batch, in turn with the target that was exported."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    batch: int
    p50_ms: float
    p95_ms: float
    ratio: float
    """Median of the file's time to the exported target's own, in PyTorch."""


class ExportReport(BaseModel):
    """What was exported, and how it compares with what it was made from. Written beside the file as JSON."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    schema_version: Literal[1] = 1
    file: str
    """Name of the file, which lies beside the report."""
    format: Format
    opset: int | None
    """Of ONNX."""
    largest_batch: int | None
    """Of ExecuTorch; None where there is no limit."""
    sha256: str
    bytes: int
    source: str
    """Name of the target that was exported."""
    source_sha256: str
    """Hash of its weights, as scorecards have it."""
    calibrated_on: int
    """Samples that the ranges of int8 were taken from; 0 where there are none."""
    verified_on: int
    """Samples on which both were asked."""
    largest_logit_difference: float
    equal_predictions: float
    """Share of the samples."""
    latency: tuple[Latency, ...]
    threads: int
    torch: str
    runtime: str
    """Who answered, with its version."""


def export(
    target: Target,
    path: Path,
    format: Format,
    *,
    samples: Tensor,
    calibration: Tensor,
    min_agreement: float = 0.99,
    on_stage: Callable[[str], None] = unheard,
) -> ExportReport:
    """Write a target to a file that another runtime answers, its normalisation inside, and a report beside it.

    Parameters
    ----------
    target
        A PyTorch module.
    path
        Of the file. The report gets the same name with ``.json`` added.
    format
        ``onnx``: floats, batches of any size. ``onnx-int8``: weights by channel and activations in 8 bits, quantised
        after training. ``executorch``: floats, lowered to XNNPACK, batches of up to 64.
    samples
        Inputs in [0, 1], shape (N, *shape), on which the file must agree with the target.
    calibration
        The same from the training data, from which the ranges of int8 are taken.
    min_agreement
        Share of the samples that must get the same class.
    on_stage
        Told what is done next.

    Raises
    ------
    UserError
        For a target that can't be exported, and where the file disagrees with it: it is not kept then.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    report = path.with_name(f"{path.name}.json")
    if there := [one for one in (path, report) if one.exists()]:
        raise UserError(f"{there[0]}: is there already; give another --out, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    on_stage(f"writing {target.name} as {format}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        if format == "executorch":
            made = _program(target, Path(folder) / "float.pte", samples[:2])
        else:
            made = _exported(target, Path(folder) / "float.onnx", samples[:2])
        if format == "onnx-int8":
            on_stage(f"ranges of int8 from {len(calibration):,} samples")
            made = _in_int8(made, Path(folder), calibration)
        on_stage(f"asking both on {len(samples):,} samples, and measuring the time")
        told = _compared(target, made, path, format, samples, len(calibration), min_agreement)
        made.replace(path)
    write_atomically(report, told.model_dump_json(indent=1) + "\n")
    return told


class _Deployed(nn.Module):
    """A target as one module: inputs in [0, 1] to logits."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.module, self._target = target.module, target
        # What it declares may hold weights, which export looks for in the module.
        self.preprocessing = target.preprocessing if isinstance(target.preprocessing, nn.Module) else None

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self._target.predictor, ModulePredictor)
        return self._target.predictor.bare(self._target.normalised(x))


def _exported(target: Target, path: Path, x: Tensor) -> Path:
    onnx = library("onnx")
    library("onnxscript")
    with _exporting(target, x, "torch.onnx") as (module, given):
        program = torch.onnx.export(
            module,
            given,
            dynamo=True,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _without_traces(model)
    onnx.save(model, path)
    return path


def _program(target: Target, path: Path, x: Tensor) -> Path:
    exir, xnnpack = (
        extras.library(f"executorch.{module}", "this format", EXECUTORCH, name="executorch")
        for module in ("exir", "backends.xnnpack.partition.xnnpack_partitioner")
    )
    with _exporting(target, x, "ExecuTorch") as (module, given):
        sizes = ({0: torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)},)
        program = torch.export.export(module, given, dynamic_shapes=sizes)
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()]).to_executorch()
    path.write_bytes(lowered.buffer)
    return path


@contextmanager
def _exporting(target: Target, x: Tensor, exporter: str) -> Iterator[tuple[nn.Module, tuple[Tensor]]]:
    """The module to export and its input; what an exporter raises within is told."""
    if not isinstance(target.predictor, ModulePredictor):
        raise UserError(f"{target.name}: is no PyTorch module, so it can't be exported; give the model it came from")
    target.probe(x)
    with target.attacking(), _quietly():
        try:
            yield _Deployed(target).eval(), (x.to(target.device, target.dtype),)
        except Exception as fault:  # it raises what it meets in the model
            lines = [line for line in str(fault).splitlines() if line.strip()] or [type(fault).__name__]
            raise UserError(
                f"{target.name}: {exporter} can't export it for batches of any size ({lines[0][:200]}); the forward "
                "pass must not depend on values, nor on the size of the batch"
            ) from None


def _without_traces(model: Any) -> None:
    """Take out where in whose code each operation came from."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _in_int8(made: Path, folder: Path, calibration: Tensor) -> Path:
    library("onnxruntime")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._parts = iter(torch.split(calibration, 32))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self._parts, None)
            return None if part is None else {"input": part.numpy()}

    if not len(calibration):
        raise UserError("int8 takes its ranges from samples: expected some of the training data")
    prepared, done = folder / "prepared.onnx", folder / "int8.onnx"
    with _quietly():
        quant_pre_process(made, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            done,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    return done


def _compared(
    target: Target, made: Path, path: Path, format: Format, x: Tensor, calibrated: int, min_agreement: float
) -> ExportReport:
    predictor = ExecutorchPredictor(made) if format == "executorch" else OnnxPredictor(made)
    file = Target(predictor, name=path.name)
    with target.attacking(), torch.no_grad():
        parts = torch.split(x, 128)
        own = torch.cat([target(part).float().cpu() for part in parts])
        other = torch.cat([file(part).float() for part in parts])
    difference = float((own - other).abs().max())
    equal = int((own.argmax(1) == other.argmax(1)).sum()) / len(x)
    far = format != "onnx-int8" and difference > _ALIKE * float(own.abs().max())
    if far or equal < min_agreement or not other.isfinite().all():
        raise UserError(
            f"{target.name} as {format}: disagrees with the model that it was made from: on {len(x)} samples the "
            f"logits differ by up to {difference:.3g}, and {equal:.1%} get the same class (expected "
            f"{min_agreement:.1%}); it "
            "was not kept" + ("" if far else "; lower --min-agreement if that will do")
        )
    runtime = "executorch" if format == "executorch" else "onnxruntime"
    return ExportReport(
        file=path.name,
        format=format,
        opset=None if format == "executorch" else OPSET,
        largest_batch=_LARGEST_BATCH if format == "executorch" else None,
        sha256=predictor.file.sha256,
        bytes=made.stat().st_size,
        source=target.name,
        source_sha256=target.weights_sha256(),
        calibrated_on=calibrated if format == "onnx-int8" else 0,
        verified_on=len(x),
        largest_logit_difference=float(f"{difference:.4g}"),
        equal_predictions=equal,
        latency=tuple(_latency(file, target, x, batch) for batch in _BATCHES),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        runtime=" ".join((runtime, metadata.version(runtime))),
    )


def _latency(file: Target, target: Target, x: Tensor, batch: int) -> Latency:
    times = np.array(call_times([file, target], x[torch.arange(batch) % len(x)]))
    p50, p95 = 1e3 * np.percentile(times[:, 0], [50, 95])
    ratio = np.median(times[:, 0] / times[:, 1])
    return Latency(
        batch=batch, **{k: float(f"{v:.4g}") for k, v in (("p50_ms", p50), ("p95_ms", p95), ("ratio", ratio))}
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what exporters warn of and log to themselves: the file is verified, and what matters is raised."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
