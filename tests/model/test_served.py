"""Served models: a real server of the Open Inference Protocol over loopback, attacked, killed, and spoiled."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import Target, evaluate, load_target
from robustbench_lite.core.cost import Stop
from robustbench_lite.core.errors import ModelError, UserError
from robustbench_lite.model.served import TOKEN, ServedPredictor

SUITE = [{"attack": "square", "params": {"steps": 15}}]


class Serving:
    """A server of one model; `spoil` may answer in its place."""

    def __init__(
        self, model: Callable[[Tensor], Tensor], shape: tuple[int, ...], port: int = 0, classes: int = 10
    ) -> None:
        self.model, self.shape, self.classes = model, shape, classes
        self.requests: list[tuple[str, str, str | None]] = []
        self.samples, self.connections, self.batch, self.labels = 0, 0, -1, False
        self.spoil: Callable[[str, int], tuple[int, bytes] | None] = lambda path, number: None
        self.dies_after: int | None = None
        serving = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                serving.connections += 1

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(200 if self.path == "/v2/models/net" else 404, serving.metadata())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if serving.dies_after is not None and serving.samples >= serving.dies_after:
                    self.close_connection = True
                    return
                self._answer(200, serving.infer(body))

            def _answer(self, status: int, content: Any) -> None:
                serving.requests.append((self.command, self.path, self.headers.get("Authorization")))
                status, body = serving.spoil(self.path, len(serving.requests)) or (status, json.dumps(content).encode())
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def address(self, manners: str = "retries=1") -> str:
        return f"http://127.0.0.1:{self.port}/v2/models/net#{manners}"

    def metadata(self) -> dict[str, Any]:
        output = {
            "name": "out",
            "datatype": "INT64" if self.labels else "FP32",
            "shape": [-1] if self.labels else [-1, self.classes],
        }
        given = {"name": "in", "datatype": "FP32", "shape": [self.batch, *self.shape]}
        return {"name": "net", "versions": ["1"], "platform": "torch", "inputs": [given], "outputs": [output]}

    def infer(self, body: Any) -> dict[str, Any]:
        [given] = body["inputs"]
        x = torch.tensor(given["data"], dtype=torch.float32).reshape(given["shape"])
        self.samples += len(x)
        with torch.no_grad():
            scores = self.model(x)
        found = scores.argmax(1) if self.labels else scores
        kind = "INT64" if self.labels else "FP32"
        output = {"name": "out", "datatype": kind, "shape": list(found.shape), "data": found.flatten().tolist()}
        return {"model_name": "net", "outputs": [output]}

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def digits(train_on_digits: Callable[..., Any]) -> tuple[nn.Module, Tensor, Tensor]:
    model, x, y = train_on_digits(600, 6)
    return model.eval(), x[600:640], y[600:640]


@pytest.fixture
def serving(digits: Any) -> Iterator[Serving]:
    server = Serving(digits[0], (1, 8, 8))
    yield server
    server.close()


def own(model: nn.Module) -> Target:
    def answer(x: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    return Target.from_callable(answer, name="net")


@pytest.mark.parametrize("batch", [-1, 8])
@pytest.mark.parametrize("labels", [False, True])
def test_it_answers_as_the_model_does(serving: Serving, digits: Any, batch: int, labels: bool) -> None:
    model, x, _ = digits
    serving.batch, serving.labels = batch, labels
    target = load_target(serving.address("batch=16&parallel=3"))
    target.predictor.expect(10)
    with torch.no_grad():
        expected = model(x)
    found = target(x)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert target.access == ("labels" if labels else "scores")
    if not labels:
        assert torch.allclose(found, expected, atol=1e-5)
    assert target.predictor.batching.fixed == (None if batch == -1 else 8)
    assert target.name == "net"
    again = pickle.loads(pickle.dumps(target))
    assert torch.equal(again(x), found)


def test_outcomes_are_those_of_the_model_in_process_and_connections_are_kept(serving: Serving, digits: Any) -> None:
    model, x, y = digits
    here = evaluate(own(model), (x, y), SUITE, "Linf 0.1")
    there = evaluate(load_target(serving.address("parallel=1")), (x, y), SUITE, "Linf 0.1")
    assert [row.breaks for row in there.outcomes] == [row.breaks for row in here.outcomes]
    assert 0 < there.robust_accuracy.count < there.clean_accuracy.count
    assert serving.connections <= 2
    assert len(serving.requests) > 20
    assert there.target.access == "scores"
    assert there.target.weights_sha256


@pytest.mark.parametrize(("batch_size", "fixed"), [(8, -1), (64, -1), (64, 8)])
def test_a_server_that_dies_loses_nothing_and_the_same_command_goes_on(
    digits: Any, tmp_path: Path, batch_size: int, fixed: int
) -> None:
    model, x, y = digits
    expected = evaluate(own(model), (x, y), SUITE, "Linf 0.1", batch_size=batch_size)
    server = Serving(model, (1, 8, 8))
    server.batch, server.dies_after = fixed, 450
    address, port = server.address("retries=1&parallel=1"), server.port
    cut = evaluate(load_target(address), (x, y), SUITE, "Linf 0.1", cache=tmp_path, batch_size=batch_size)
    server.close()
    assert cut.verdict == "INVALID"
    told = next(one.message for one in cut.validity if one.code == "RB302")
    assert "doesn't answer, asked 2 times" in told
    assert "run it again once it is back" in told

    again = Serving(model, (1, 8, 8), port)
    again.batch = fixed
    try:
        card = evaluate(load_target(address), (x, y), SUITE, "Linf 0.1", cache=tmp_path, batch_size=batch_size)
    finally:
        again.close()
    assert [row.breaks for row in card.outcomes] == [row.breaks for row in expected.outcomes]
    assert card.verdict == "MEASURED"
    if fixed == -1:  # else batches are filled up, and asked whole
        checks = 2 * len(x)  # before the attacks, made a second time
        assert server.samples + again.samples <= expected.passes.total + checks
    assert not list(tmp_path.glob("*/*.jsonl"))


def test_a_model_that_is_exchanged_is_noticed(serving: Serving, digits: Any) -> None:
    _, x, y = digits
    first = load_target(serving.address()).weights_sha256()
    model = serving.model
    serving.model = lambda x: model(x) + torch.arange(10.0)
    assert load_target(serving.address()).weights_sha256() != first
    target = load_target(serving.address())
    calls = iter(range(10**6))
    other = serving.model
    serving.model = lambda x: other(x) if next(calls) < 30 else model(x)
    card = evaluate(target, (x, y), SUITE, "Linf 0.1")
    assert card.verdict == "INVALID"


def test_the_token_comes_from_the_environment_and_is_never_told(
    serving: Serving, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, x, y = digits
    monkeypatch.setenv(TOKEN, "s3cret")
    card = evaluate(load_target(serving.address()), (x, y), SUITE, "Linf 0.1")
    assert {sent for _, _, sent in serving.requests} == {"Bearer s3cret"}
    assert "s3cret" not in card.model_dump_json()
    serving.spoil = lambda path, number: (401, b'{"error": "s3cret is no token of mine"}')
    with pytest.raises(UserError, match=r"HTTP 401: \*\*\* is no token of mine; set RBLITE_SERVED_TOKEN"):
        load_target(serving.address())
    with pytest.raises(UserError, match="holds a password") as told:
        load_target("http://me:s3cret@localhost/v2/models/net")
    assert "s3cret" not in str(told.value)


def test_budget_and_rate_are_kept(serving: Serving, digits: Any) -> None:
    _, x, y = digits
    predictor = ServedPredictor(serving.address("budget=50&rate=20"))
    predictor.server(x[:40].numpy())
    with pytest.raises(Stop):
        predictor.server(x[:40].numpy())
    started = time.monotonic()
    for _ in range(4):
        predictor.server(x[:1].numpy())
    assert time.monotonic() - started > 0.14
    card = evaluate(load_target(serving.address("budget=400")), (x, y), SUITE, "Linf 0.1")
    assert card.interrupted == "passes"
    assert card.clean_accuracy.total == len(y)


def answer(**changes: Any) -> bytes:
    output = {"name": "out", "datatype": "FP32", "shape": [2, 10], "data": [0.5] * 20} | changes
    return json.dumps({"outputs": [output]}).encode()


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ((200, b"<html>a proxy</html>"), "is no JSON object"),
        ((200, b"[1, 2]"), "is no JSON object .a list"),
        ((200, b'{"outputs": 3}'), "holds no output 'out'"),
        ((200, answer(name="other")), "holds no output 'out'"),
        ((200, answer(shape=[3, 10])), "no tensor of numbers, one row a sample"),
        ((200, answer(shape=["a"])), "no tensor of numbers"),
        ((200, answer(data=["x"] * 20)), "no tensor of numbers"),
        ((200, answer(data=[[0.5] * 10, [0.5] * 9])), "no tensor of numbers"),
        ((400, b'{"error": "expected 3 channels"}'), "HTTP 400: expected 3 channels"),
    ],
)
def test_garbage_is_a_clear_error(serving: Serving, digits: Any, spoilt: tuple[int, bytes], told: str) -> None:
    target = load_target(serving.address())
    serving.spoil = lambda path, number: spoilt
    with pytest.raises(UserError, match=told):
        target.probe(digits[1][:2])


def test_what_may_pass_is_asked_again(serving: Serving, digits: Any) -> None:
    target = load_target(serving.address("retries=2"))
    broken = iter([(503, b""), (500, b'{"error": "busy"}')])
    serving.spoil = lambda path, number: next(broken, None)
    assert target.probe(digits[1][:2]) == 10
    serving.spoil = lambda path, number: (500, b'{"error": "out of memory"}')
    with pytest.raises(ModelError, match=r"asked 3 times .HTTP 500: out of memory"):
        target.predictor.answer(digits[1][:2])
    serving.spoil = lambda path, number: None
    with pytest.raises(ModelError, match="asked 3 times"):  # those after it aren't kept waiting
        target.predictor.answer(digits[1][:2])


def test_a_slow_server_is_given_up(serving: Serving, digits: Any) -> None:
    target = load_target(serving.address("retries=0&timeout=0.2"))
    fast, serving.model = serving.model, lambda x: time.sleep(0.6) or fast(x)  # type: ignore[func-returns-value]
    with pytest.raises(ModelError, match=r"TimeoutError|timed out"):
        target.predictor.answer(digits[1][:2])


def test_wrong_names_shapes_and_addresses(serving: Serving) -> None:
    target = load_target(serving.address())
    with pytest.raises(UserError, match=r"takes inputs of shape \(-1, 1, 8, 8\), and was given \(2, 3, 8, 8\)"):
        target.probe(torch.rand(2, 3, 8, 8))
    with pytest.raises(UserError, match=r"HTTP 404.*with a NAME that the server has"):
        load_target(serving.address().replace("net", "nest"))
    with pytest.raises(UserError, match="doesn't answer, asked 1 times"):
        load_target("http://127.0.0.1:9/v2/models/net#retries=0")
    for wrong in (
        "http://127.0.0.1/net",
        "http://127.0.0.1/v2/models/",
        "http:///v2/models/net",
        "http://a/v2/models/n?x=1",
    ):
        with pytest.raises(UserError, match="expected http://HOST/v2/models/NAME"):
            load_target(wrong)
    with pytest.raises(UserError, match="rates: unknown key"):
        load_target(serving.address("rates=3"))
    with pytest.raises(UserError, match="batch"):
        load_target(serving.address("batch=0"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": []}, "its inputs are none: expected one tensor of FP32"),
        ({"inputs": [{"name": "a", "datatype": "BYTES", "shape": [-1]}]}, "its inputs are a BYTES"),
        ({"outputs": [{"name": "s", "datatype": "BYTES", "shape": [-1]}]}, "its outputs are s BYTES"),
        ({"outputs": "none"}, "its outputs are none"),
    ],
)
def test_a_model_that_is_no_classifier_is_refused(serving: Serving, change: Any, told: str) -> None:
    content = json.dumps(serving.metadata() | change).encode()
    serving.spoil = lambda path, number: (200, content)
    with pytest.raises(UserError, match=told):
        load_target(serving.address())


def test_answers_survive_the_way_there_and_back(serving: Serving, digits: Any) -> None:
    x = digits[1].numpy()
    first = ServedPredictor(serving.address("batch=7&parallel=4")).server(x)
    assert np.array_equal(first, ServedPredictor(serving.address("batch=7&parallel=1")).server(x))
