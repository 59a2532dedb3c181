"""A model in an ExecuTorch program (``.pte``), answered by its runtime. Another process tries the file first.

The runtime is C++, which a damaged file may end by a signal; so what can't be answered in a process of its own is never
loaded in this one. A program names no other file: tensors that lie beside it would have to be given, and are not.
https://docs.pytorch.org/executorch
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.extras import library
from robustbench_lite.core.files import file_sha256
from robustbench_lite.model.black_box import BlackBox
from robustbench_lite.model.predictor import FunctionPredictor

INSTALL = "install robustbench_lite[executorch]"
_LARGEST = 2**31  # bytes of a file
_WIDEST = 2**31  # bytes of its input
_SECONDS = 120
_TRY = """
import json, sys, torch
from executorch.runtime import Runtime, Verification
program = Runtime.get().load_program(sys.argv[1], verification=Verification.InternalConsistency)
method = program.load_method("forward")
about = method.metadata
given = [about.input_tensor_meta(at) for at in range(about.num_inputs())]
shapes = [list(one.sizes()) for one in given]
told = {"inputs": shapes, "types": [one.dtype() for one in given], "outputs": about.num_outputs()}
def ask(samples):
    found = method.execute([torch.zeros(samples, *shapes[0][1:])])[0]
    return [str(found.dtype), list(found.shape)]
if len(given) == 1 and told["types"] == [6] and len(shapes[0]) > 1:  # 6: floats
    told["answer"] = ask(shapes[0][0])
    try:
        told["any_size"] = shapes[0][0] > 1 and ask(1)[1][0] == 1
    except RuntimeError:
        told["any_size"] = False
print("told " + json.dumps(told))
"""


class ExecutorchPredictor(FunctionPredictor):
    """The answers of an ExecuTorch program: scores or labels, and no gradient.

    Parameters
    ----------
    path
        The file. Its method ``forward`` takes one tensor of float32, (N, *shape), and returns scores, (N, K), or
        labels, (N,).

    Raises
    ------
    UserError
        For a file that is missing, damaged or no classifier.
    """

    def __init__(self, path: str | Path) -> None:
        self.file = ExecutorchFile(Path(path))
        super().__init__(BlackBox(self.file, name=self.file.path.name))
        self.batching.fixed = self.file.fixed

    def notes(self) -> tuple[str, ...]:
        """What is done to its batches, and what can't be checked."""
        return (
            *self.batching.notes(),
            "ExecuTorch answers, with as many threads as it likes: no gradient is seen, and it isn't asked in float64, "
            "so rounding is a part of what is judged",
        )

    def held(self) -> str:
        """Hash of the file."""
        return self.file.sha256


class ExecutorchFile:
    """A file and its program: float32 arrays, (N, *shape), to scores, (N, K), or labels, (N,).

    It is opened again where it is copied or sent to another process.
    """

    known_by_its_answers = True  # the file's hash tells all

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        told = _tried(self.path)
        self.shape: tuple[int, ...] = tuple(told["inputs"][0][1:])
        self.most: int = told["inputs"][0][0]
        """Largest batch that it takes."""
        self.fixed = None if told["any_size"] else self.most
        """The only size of batch that it takes; None where it takes smaller ones."""
        self.sha256 = file_sha256(self.path)
        runtime = _runtime()
        # The program must outlive its method.
        self._program = runtime.Runtime.get().load_program(
            self.path, verification=runtime.Verification.InternalConsistency
        )
        self._method = self._program.load_method("forward")

    def __reduce__(self) -> tuple[type[ExecutorchFile], tuple[Path]]:
        return type(self), (self.path,)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        if x.shape[1:] != self.shape:
            raise UserError(
                f"executorch:{self.path.name}: takes inputs of shape {self.shape}, and was given {x.shape[1:]}; give "
                "data of that shape, or export it for these"
            )
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(x, np.float32)), self.most)
        # A copy of its own: the runtime keeps the place of the input.
        return np.concatenate([self._method.execute([part.clone()])[0].numpy() for part in parts])


def _tried(path: Path) -> dict[str, Any]:
    """What another process that ran it once tells of a file."""
    if not path.is_file():
        raise UserError(f"executorch:{path}: no such file; expected one that an export wrote, such as model.pte")
    with path.open("rb") as stream:
        head = stream.read(8)
    if head[4:6] != b"ET" or path.stat().st_size >= _LARGEST:
        raise UserError(f"executorch:{path}: is no ExecuTorch program; expected a .pte of less than 2 GiB")
    _runtime()
    try:
        run = subprocess.run(
            [sys.executable, "-c", _TRY, str(path)], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        ended = f"ended by signal {-run.returncode}" if run.returncode < 0 else _last(run.stderr)
        lines = [line for line in run.stdout.splitlines() if line.startswith("told ")]
    except subprocess.TimeoutExpired:
        lines, ended = [], f"no answer in {_SECONDS} s"
    if not lines:
        raise UserError(
            f"executorch:{path}: damaged, or of another version of ExecuTorch ({ended}, in a process of its own); get "
            "it again from where you trust it, or export it again"
        )
    told: dict[str, Any] = json.loads(lines[-1].removeprefix("told "))
    answer = told.get("answer")
    if answer is None or 4 * math.prod(told["inputs"][0]) > _WIDEST:
        raise UserError(
            f"executorch:{path}: its inputs have shapes {told['inputs']}: expected one tensor of float32, (N, *shape)"
        )
    kind, shape = answer
    if told["outputs"] != 1 or len(shape) not in (1, 2) or shape[0] != told["inputs"][0][0]:
        raise UserError(
            f"executorch:{path}: has {told['outputs']} outputs, the first {kind} of shape {tuple(shape)}: expected one "
            "of scores, (N, K), or labels, (N,)"
        )
    return told


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"


def _runtime() -> Any:
    return library("executorch.runtime", "an ExecuTorch program", INSTALL, name="executorch")
