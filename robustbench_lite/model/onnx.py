"""A model in an ONNX file, answered by ONNX Runtime. The file is looked through before it is run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.core import extras
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import file_sha256
from robustbench_lite.model.black_box import BlackBox
from robustbench_lite.model.predictor import FunctionPredictor
from robustbench_lite.model.size import Size

_LARGEST = 2**31  # bytes of a file: protobuf holds no more
_WIDEST = 2**33  # bytes of one value inside, for one sample
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_INTEGERS = ("tensor(int64)", "tensor(int32)")
_COUNTED = ("Conv", "Gemm", "MatMul")
INSTALL = "install robustbench_lite[onnx]"


class OnnxPredictor(FunctionPredictor):
    """The answers of an ONNX file: scores or labels, and no gradient.

    Parameters
    ----------
    path
        The file. Its input is one tensor of floats, (N, *shape), its output scores, (N, K), or labels, (N,). Tensors
        that lie in files beside it must lie in its folder.
    device
        ``cpu``; with any other, ONNX Runtime uses a GPU where it can (``onnxruntime-gpu``).

    Raises
    ------
    UserError
        For a file that is missing, damaged, reaches out of its folder, or is no classifier.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        self.file = OnnxFile(Path(path), device)
        super().__init__(BlackBox(self.file, name=self.file.path.name, access=self.file.access))
        self.batching.fixed = self.file.batch

    def notes(self) -> tuple[str, ...]:
        """What is done to its batches, and what can't be checked."""
        return (
            *self.batching.notes(),
            f"ONNX Runtime answers ({', '.join(self.file.providers)}): no gradient is seen, and it isn't asked in "
            "float64, so rounding is a part of what is judged",
        )

    def held(self) -> str:
        """Hash of the file and of those that hold its tensors."""
        return self.file.sha256

    def parameters(self) -> int:
        """As `size` counts them."""
        return self.file.size.parameters

    def size(self) -> Size:
        """Bytes of the files, and the numbers in the tensors that the graph holds (but for scales and shapes)."""
        return self.file.size

    def multiply_adds(self, x: Tensor) -> int:
        """Of convolutions and matrix products, by the shapes in the file."""
        return len(x) * self.file.multiply_adds(tuple(x.shape[1:]))


class OnnxFile:
    """A file and its session: float32 arrays, (N, *shape), to scores, (N, K), or labels, (N,).

    It is opened again where it is copied or sent to another process.
    """

    known_by_its_answers = True  # the file's hash tells all

    def __init__(self, path: Path, device: str) -> None:
        self.path, self._device = path.resolve(), device
        self._open()

    def __reduce__(self) -> tuple[type[OnnxFile], tuple[Path, str]]:
        return type(self), (self.path, self._device)

    def _open(self) -> None:
        onnxruntime = library("onnxruntime")
        self._beside = checked(self.path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what matters is raised
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        if self._device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(self.path, options, providers=providers)
        except Exception as fault:  # its exceptions have no base of their own
            raise UserError(f"onnx:{self.path}: ONNX Runtime can't run it ({_line(fault)}); export it again") from None
        self.providers = tuple(name.removesuffix("ExecutionProvider") for name in self._session.get_providers())
        self._input = self._only_input()
        self._output, self.access = self._answer()
        first = self._input.shape[0] if self._input.shape else None
        self.batch = first if isinstance(first, int) and first > 0 else None
        """The only size of batch that it takes; None where it takes any."""

    def _only_input(self) -> Any:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs) or "none"
            raise UserError(
                f"onnx:{self.path}: its inputs are {told}: expected one tensor of floats in [0, 1], (N, *shape); "
                "export it with the preprocessing inside"
            )
        return inputs[0]

    def _answer(self) -> tuple[str, Any]:
        """Name of the output that answers, and whether it shows scores or labels."""
        outputs = self._session.get_outputs()
        scores = [one for one in outputs if one.type in _TYPES and len(one.shape) in (0, 2)]
        if len(scores) > 1:
            scores = [one for one in scores if one.name in ("logits", "scores", "probabilities")][:1] or scores
        labels = [one for one in outputs if one.type in _INTEGERS and len(one.shape) == 1]
        if len(scores) == 1:
            return scores[0].name, "scores"
        if not scores and len(labels) == 1:
            return labels[0].name, "labels"
        told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in outputs) or "none"
        raise UserError(
            f"onnx:{self.path}: its outputs are {told}: expected scores, (N, K), or labels, (N,); where there are "
            "several, call the one that is meant logits"
        )

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        expected = self._input.shape
        fits = len(expected) in (0, x.ndim) and all(
            not isinstance(one, int) or one in (0, given) for one, given in zip(expected[1:], x.shape[1:], strict=False)
        )
        if not fits:
            raise UserError(
                f"onnx:{self.path}: takes inputs of shape {_words(expected)}, and was given {x.shape}; give data of "
                "that shape, or export it for these"
            )
        answer: NDArray[Any] = self._session.run(
            [self._output], {self._input.name: np.ascontiguousarray(x, _TYPES[self._input.type])}
        )[0]
        return answer

    @cached_property
    def sha256(self) -> str:
        """Hash of the file, as any tool gives it; with those beside it, where it has its tensors there."""
        digests = [file_sha256(file) for file in (self.path, *self._beside)]
        return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()

    @cached_property
    def size(self) -> Size:
        """What it takes."""
        onnx = library("onnx")
        model = onnx.load(self.path)
        total = nonzero = 0
        for tensor in _tensors(model):
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim and values.dtype != np.int64:
                # What is quantised has its zero elsewhere than at 0, but for weights, which are symmetric.
                total, nonzero = total + values.size, nonzero + int(np.count_nonzero(values))
        return Size(sum(file.stat().st_size for file in (self.path, *self._beside)), total, nonzero)

    def multiply_adds(self, shape: tuple[int, ...]) -> int:
        """Of one sample of a shape."""
        onnx = library("onnx")
        model = onnx.load(self.path)
        dims = model.graph.input[0].type.tensor_type.shape.dim
        if len(dims) == len(shape) + 1:
            for dim, size in zip(dims, (1, *shape), strict=True):
                dim.dim_value = size
        graph = onnx.shape_inference.infer_shapes(model).graph
        shapes = {one.name: _shape(one) for one in (*graph.value_info, *graph.input, *graph.output)}
        shapes |= {one.name: tuple(one.dims) for one in graph.initializer}
        total = 0
        for node in graph.node:
            if node.op_type in _COUNTED:
                weight, out = shapes.get(node.input[1]), shapes.get(node.output[0])
                if not weight or not out or 0 in out:
                    raise UserError(f"onnx:{self.path}: the shapes at {node.name or node.op_type} can't be told")
                turned = any(one.name == "transB" and one.i for one in node.attribute)
                inner = weight[1:] if node.op_type == "Conv" or turned else weight[-2:-1]
                total += math.prod(out) * math.prod(inner)
        return total


def checked(path: Path) -> tuple[Path, ...]:
    """Look through a file before anything runs it.

    Returns
    -------
    tuple[Path, ...]
        The files beside it that hold tensors, each within its folder.

    Raises
    ------
    UserError
        For a file that is missing, damaged, or wants files that aren't in its folder or more memory than is sane.
    """
    onnx = library("onnx")
    if not path.is_file():
        raise UserError(f"onnx:{path}: no such file; expected one that an export wrote, such as model.onnx")
    if path.stat().st_size >= _LARGEST:
        raise UserError(
            f"onnx:{path}: has {path.stat().st_size:,} bytes; expected less than 2 GiB, with the tensors beside"
        )
    cure = "get it again from where you trust it, or export it again"
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as fault:  # google.protobuf's DecodeError, and others
        raise UserError(f"onnx:{path}: damaged, or no ONNX file ({_line(fault)}); {cure}") from None
    if not model.graph.node:
        raise UserError(f"onnx:{path}: damaged, or no ONNX file (it holds no graph); {cure}")
    beside = {
        _external(path, tensor) for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    try:
        onnx.checker.check_model(str(path))
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as fault:  # its exceptions have no base of their own
        raise UserError(f"onnx:{path}: not a valid model ({_line(fault)}); {cure}") from None
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        if 8 * math.prod(_shape(value) or (0,)) > _WIDEST:
            raise UserError(
                f"onnx:{path}: {value.name} in it has shape {_words(_shape(value))}, too large to run; {cure}"
            )
    return tuple(sorted(beside))


def _external(path: Path, tensor: Any) -> Path:
    """The file that holds a tensor: within the folder of the model, and long enough."""
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    told = f"onnx:{path}: its tensor {tensor.name!r:.60} lies in {location!r:.99}"
    parts = PurePosixPath(location.replace("\\", "/"))
    inside = bool(location) and not parts.is_absolute() and ".." not in parts.parts and ":" not in location
    try:
        file = (path.parent / location).resolve() if inside else path
        inside = inside and file.is_relative_to(path.parent.resolve())
        there = inside and file.is_file()
    except (OSError, ValueError):
        inside = there = False
    if not inside:
        raise UserError(f"{told}, which is not in the model's folder: expected a file beside it; nothing was read")
    if not there:
        raise UserError(f"{told}, which isn't there; put it back beside the model")
    try:
        offset, length = int(about.get("offset", 0)), int(about.get("length", 0))
    except ValueError:
        offset = length = -1
    if min(offset, length) < 0 or offset + length > file.stat().st_size:
        raise UserError(f"{told}, beyond its end; copy both files again")
    return file


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor that a model holds: of its graph, of those within, and of its functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Sequence[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _of_graph(graph)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of a value in a graph; 1 where a size is open."""
    return tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)


def _words(shape: Sequence[Any]) -> str:
    return f"({', '.join('any' if one is None else str(one) for one in shape)})"


def _line(fault: Exception) -> str:
    text = str(fault).strip()
    return f"{type(fault).__name__}: {text.splitlines()[0] if text else 'no message'}"[:300]


def library(name: str) -> Any:
    """Import a library of the extra."""
    return extras.library(name, "an ONNX file", INSTALL)
