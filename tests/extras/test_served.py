"""MLServer, a real server of the Open Inference Protocol, attacked over loopback, and killed in mid-run."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from robustbench_lite import Target, evaluate, load_target
from robustbench_lite.core.errors import UserError

START = shutil.which("mlserver", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
if START is None:
    pytest.skip("MLServer isn't installed: pip install 'robustbench_lite[served]'", allow_module_level=True)

SUITE = [{"attack": "square", "params": {"steps": 40}}]
RUNTIME = """
from pathlib import Path
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Linear(MLModel):
    async def load(self):
        self.folder = Path(__file__).parent
        held = np.load(self.folder / "weights.npz")
        self.weight, self.bias = held["weight"], held["bias"]
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        if x.ndim != 4:
            raise ValueError("expected four axes")
        with (self.folder / "asked.txt").open("a") as told:
            told.write(f"{len(x)}\\n")
        scores = x.reshape(len(x), -1) @ self.weight + self.bias
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", scores)])
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Serving:
    """A folder that MLServer serves, and its process."""

    def __init__(self, folder: Path, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self.folder, self.port = folder, free_port()
        np.savez(folder / "weights.npz", weight=weight, bias=bias)
        (folder / "runtime.py").write_text(RUNTIME)
        tensors = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        }
        settings = {"host": "127.0.0.1", "http_port": self.port, "grpc_port": free_port(), "metrics_endpoint": None}
        settings |= {"parallel_workers": 0, "metrics_port": free_port()}
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(
            json.dumps({"name": "digits", "implementation": "runtime.Linear", **tensors})
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert START is not None
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen([START, "start", "."], cwd=self.folder, stdout=log, stderr=log)
        until = time.monotonic() + 120
        while not self._ready():
            told = (self.folder / "log.txt").read_text()
            assert self.process.poll() is None, told
            assert time.monotonic() < until, told
            time.sleep(0.2)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v2/models/digits/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def address(self, manners: str = "retries=1&parallel=1") -> str:
        return f"http://127.0.0.1:{self.port}/v2/models/digits#{manners}"

    def asked(self) -> int:
        """Samples that it was asked about so far."""
        told = self.folder / "asked.txt"
        return sum(map(int, told.read_text().split())) if told.is_file() else 0


@pytest.fixture(scope="module")
def model() -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], Any, Any]:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    fitted = LogisticRegression(max_iter=300).fit(x[:800], y[:800])
    return fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32), (x[800:840], y[800:840])


@pytest.fixture(scope="module")
def data(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = model[2]
    return torch.from_numpy(x).reshape(-1, 1, 8, 8), torch.from_numpy(y)


@pytest.fixture(scope="module")
def here(model: Any) -> Target:
    weight, bias, _ = model
    return Target.from_callable(lambda x: x.reshape(len(x), -1) @ weight + bias, name="digits")


@pytest.fixture(scope="module")
def serving(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    server = Serving(tmp_path_factory.mktemp("served"), *model[:2])
    try:
        server.start()
        yield server
    finally:
        server.kill()


def test_what_the_metadata_say_is_taken(serving: Serving, here: Target, data: Any) -> None:
    target = load_target(serving.address())
    assert (target.name, target.probe(data[0][:2]), target.access) == ("digits", 10, "scores")
    assert torch.equal(target(data[0]), here(data[0]))
    assert torch.equal(load_target(serving.address("batch=7&parallel=4"))(data[0]).argmax(1), here(data[0]).argmax(1))


def test_outcomes_are_those_of_the_model_in_process(serving: Serving, here: Target, data: Any) -> None:
    expected = evaluate(here, data, SUITE, "Linf 0.1", batch_size=8)
    found = evaluate(load_target(serving.address()), data, SUITE, "Linf 0.1", batch_size=8)
    assert [row.breaks for row in found.outcomes] == [row.breaks for row in expected.outcomes]
    assert 0 < found.robust_accuracy.count < found.clean_accuracy.count
    assert found.verdict == "MEASURED", found.validity


def test_its_own_refusals_are_told(serving: Serving) -> None:
    with pytest.raises(UserError, match=r"HTTP 404.*with a NAME that the server has"):
        load_target(serving.address().replace("digits", "letters"))
    with pytest.raises(UserError, match=r"takes inputs of shape \(-1, 1, 8, 8\), and was given \(2, 3, 8, 8\)"):
        load_target(serving.address()).probe(torch.rand(2, 3, 8, 8))


def test_it_is_killed_in_mid_run_and_the_same_command_goes_on(
    model: Any, here: Target, data: Any, tmp_path: Path
) -> None:
    expected = evaluate(here, data, SUITE, "Linf 0.1", batch_size=8)
    whole = expected.passes.total
    (tmp_path / "served").mkdir()
    server = Serving(tmp_path / "served", *model[:2])
    try:
        server.start()
        target = load_target(server.address())

        def kill_halfway(_: Any) -> None:
            if server.asked() > whole / 2:
                server.kill()

        cut = evaluate(
            target, data, SUITE, "Linf 0.1", batch_size=8, cache=tmp_path / "cache", on_progress=kill_halfway
        )
        assert server.process is None
        before = server.asked()
        assert cut.verdict == "INVALID"
        assert any("run it again once it is back" in one.message for one in cut.validity)

        server.start()
        found = evaluate(load_target(server.address()), data, SUITE, "Linf 0.1", batch_size=8, cache=tmp_path / "cache")
    finally:
        server.kill()
    assert [row.breaks for row in found.outcomes] == [row.breaks for row in expected.outcomes]
    assert found.verdict == "MEASURED", found.validity
    # What was done is not asked again; of the 8 samples under way when it died the search starts anew.
    under_way = 8 * SUITE[0]["params"]["steps"]  # type: ignore[index]
    assert server.asked() - before < whole - before + under_way + 200
    assert server.asked() - before < 0.8 * whole
