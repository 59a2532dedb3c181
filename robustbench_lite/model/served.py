"""A model behind a server of the Open Inference Protocol (KServe, Triton, MLServer, OVMS), asked over HTTP.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_lite.core.cost import Stop
from robustbench_lite.core.errors import ModelError, UserError, faults
from robustbench_lite.model.answer_log import AnswerLog
from robustbench_lite.model.black_box import BlackBox
from robustbench_lite.model.predictor import FunctionPredictor

TOKEN = "RBLITE_SERVED_TOKEN"
"""Environment variable of the bearer token; it stands on no card and in no message."""
_TYPES = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64}
_INTEGERS = {"INT64", "INT32", "INT16", "INT8", "UINT8", "UINT16", "UINT32", "UINT64"}
_AGAIN = (429, 500, 502, 503, 504)
_LARGEST = 2**26  # bytes of an answer
_PROBES = 4


class Manners(BaseModel):
    """How a server is asked: what stands after ``#`` in its address, as ``key=value`` with ``&`` between."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    batch: int = Field(default=64, ge=1)
    """Most samples in a request."""
    parallel: int = Field(default=4, ge=1, le=64)
    """Requests at once."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds that an answer may take."""
    retries: int = Field(default=5, ge=0, le=20)
    """How often a request is made again, after 0.2 s, and each time after twice as long."""
    rate: float = Field(default=0.0, ge=0)
    """Most requests a second; 0 for no limit."""
    budget: int = Field(default=0, ge=0)
    """Most samples that it is asked about; 0 for no limit. The evaluation ends there, with what it has."""


class ServedPredictor(FunctionPredictor):
    """The answers of a served model: scores or labels, and no gradient.

    Parameters
    ----------
    address
        ``http://HOST/v2/models/NAME`` or with ``/versions/V``, and ``#batch=64&rate=50`` for its `Manners`.

    Raises
    ------
    UserError
        For an address that is none, a server that doesn't answer, and a model that is no classifier.
    """

    def __init__(self, address: str) -> None:
        self.server = Server(address)
        super().__init__(BlackBox(self.server, name=self.server.name))
        self.batching.fixed = self.server.fixed

    def keep_answers(self, log: AnswerLog) -> None:
        """Ask nothing that a log knows the answer to, and add to it what is asked."""
        self.server.log = log

    def notes(self) -> tuple[str, ...]:
        """What is done to its batches, and what can't be checked."""
        return (
            *self.batching.notes(),
            "a server answers: no gradient is seen, it isn't asked in float64, and its hash is that of what it says of "
            f"itself and of its answers to {_PROBES} inputs",
        )

    def held(self) -> str:
        """Hash of the metadata and of the answers to a few fixed inputs; empty where their shape can't be told."""
        return self.server.fingerprint()


class Server:
    """A client: float32 arrays, (N, *shape), to scores, (N, K), or labels, (N,). Another process may have a copy."""

    known_by_its_answers = True  # not by what it holds: connections, counts

    def __init__(self, address: str) -> None:
        self.address = address
        self.log: AnswerLog | None = None
        """Where answers are kept, and looked for first."""
        self._open()

    def __reduce__(self) -> tuple[type[Server], tuple[str]]:
        return type(self), (self.address,)

    def _open(self) -> None:
        self._scheme, self._host, self._path, self.manners = _parted(self.address)
        self.name = self._path.removeprefix("/v2/models/").partition("/")[0]
        self._lock = threading.Lock()
        self._open_connections: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close, self._open_connections)
        self._asked, self._next, self._gave_up, self._known = 0, 0.0, "", ""
        self.metadata = self._request("GET", self._path)
        self._input = self._only_input()
        self._output = self._answering()
        first = self._input["shape"][0]
        self.fixed = first if first > 0 else None
        """The only size of batch that it takes; None where it takes any."""

    def _fault(self, text: str) -> UserError:
        return UserError(f"served model {self.name} at {self._host}: {text}")

    def _only_input(self) -> Mapping[str, Any]:
        inputs = _tensors(self.metadata, "inputs")
        if len(inputs) != 1 or inputs[0]["datatype"] not in _TYPES or not inputs[0]["shape"]:
            raise self._fault(f"its inputs are {_words(inputs)}: expected one tensor of FP32, (N, *shape)")
        return inputs[0]

    def _answering(self) -> str:
        outputs = _tensors(self.metadata, "outputs")
        scores = [one for one in outputs if one["datatype"] in _TYPES]
        if len(scores) > 1:
            scores = [one for one in scores if one["name"] in ("logits", "scores", "probabilities")][:1]
        found = scores or [one for one in outputs if one["datatype"] in _INTEGERS]
        if len(found) != 1:
            raise self._fault(
                f"its outputs are {_words(outputs)}: expected scores, (N, K), or labels, (N,); where there are "
                "several, call the one that is meant logits"
            )
        return str(found[0]["name"])

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        expected = self._input["shape"]
        if len(expected) != x.ndim or any(0 < e != g for e, g in zip(expected[1:], x.shape[1:], strict=True)):
            raise self._fault(
                f"takes inputs of shape {tuple(expected)}, and was given {x.shape}; give data of that shape"
            )
        if self.log is None:
            return self._ask(x)
        known = self.log.recall(x)
        # A batch of a fixed size can't be asked in part.
        unknown = [row for row, answer in enumerate(known) if answer is None or self.fixed]
        if all(answer is not None for answer in known):
            return np.array(known)
        asked = self._ask(x[unknown])
        for row, answer in zip(unknown, asked.tolist(), strict=True):
            known[row] = answer
        return np.array(known, asked.dtype)

    def _ask(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """Ask the server, several requests at once."""
        with self._lock:
            if self.manners.budget and self._asked + len(x) > self.manners.budget:
                raise Stop("passes")
            self._asked += len(x)
        size = self.fixed or self.manners.batch
        parts = [x[at : at + size] for at in range(0, len(x), size)]
        if len(parts) == 1:
            return self._answered(parts[0])
        with ThreadPoolExecutor(min(self.manners.parallel, len(parts))) as threads:
            return np.concatenate(list(threads.map(self._answered, parts)))

    def _answered(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """The answer to one request, kept as soon as it is there."""
        found = self._infer(x)
        if self.log is not None:
            self.log.add(x, found)
        return found

    def _infer(self, x: NDArray[np.float32]) -> NDArray[Any]:
        tensor = {
            "name": self._input["name"],
            "shape": list(x.shape),
            "datatype": self._input["datatype"],
            "data": x.ravel().tolist(),
        }
        body = json.dumps({"inputs": [tensor], "outputs": [{"name": self._output}]}).encode()
        told = self._request("POST", f"{self._path}/infer", body)
        found = [one for one in _tensors(told, "outputs", ("name", "data")) if one["name"] == self._output]
        if len(found) != 1:
            raise self._fault(f"its answer holds no output {self._output!r}: expected the one that its metadata names")
        try:
            integers = str(found[0].get("datatype")) in _INTEGERS
            values = np.array(found[0]["data"], np.int64 if integers else np.float64).ravel()
            shape = tuple(int(one) for one in found[0].get("shape", ()))
            if math.prod(shape) != len(values) or shape[0] != len(x):
                raise ValueError(f"{len(values)} values for shape {shape} and {len(x)} inputs")
        except (ValueError, TypeError, IndexError, OverflowError) as fault:
            raise self._fault(f"its answer is no tensor of numbers, one row a sample ({fault!s:.120})") from None
        if integers and shape[1:] in ((), (1,)):
            return values
        return values.astype(np.float32).reshape(shape)

    def fingerprint(self) -> str:
        """Hash of what it says of itself and of its answers to fixed inputs; the last known one where it is gone."""
        shape = self._input["shape"][1:]
        if not shape or min(shape) < 1:
            return ""
        x = np.random.default_rng(0).random((self.fixed or _PROBES, *shape), np.float32)
        try:
            said = self._infer(x).tobytes()
        except (UserError, ModelError):
            return self._known
        about = json.dumps([self.name, self.metadata], sort_keys=True).encode()
        self._known = hashlib.sha256(about + said).hexdigest()
        return self._known

    def _request(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Ask, and ask again where that may help.

        Raises
        ------
        UserError
            For an answer that will be the same the next time.
        ModelError
            For a server that doesn't answer: those after it are not tried again.
        """
        if self._gave_up:
            raise ModelError(self._gave_up)
        why = ""
        for attempt in range(self.manners.retries + 1):
            if attempt:
                time.sleep(0.2 * 2 ** (attempt - 1))
            self._wait()
            try:
                status, content = self._once(method, path, body)
            except (OSError, http.client.HTTPException) as fault:
                why = f"{type(fault).__name__}: {fault}"
                continue
            if status == 200:
                return self._json(content)
            why = f"HTTP {status}{_told(content)}"
            if status not in _AGAIN:
                break
        else:
            told = (
                f"the served model {self.name} at {self._host} doesn't answer, asked {self.manners.retries + 1} times "
                f"({why}); what was answered is kept where there is a cache (--cache): run it again once it is back"
            )
            if body is None:
                raise UserError(told)
            self._gave_up = told
            raise ModelError(told)
        cure = {
            401: f"; set {TOKEN} in the environment",
            403: f"; set {TOKEN} in the environment",
            404: "; give http://HOST/v2/models/NAME with a NAME that the server has",
        }
        raise self._fault(f"refuses with {why}{cure.get(status, '')}")

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """One request, on a connection that is kept open for the next one."""
        with self._lock:
            connection = self._open_connections.pop() if self._open_connections else None
        if connection is None:
            kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
            connection = kind(self._host, timeout=self.manners.timeout)
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        if token := os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                connection.close()  # the rest is still on its way; the next request opens it anew
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._open_connections.append(connection)
        return response.status, content

    def _wait(self) -> None:
        """Keep to the rate."""
        if not self.manners.rate:
            return
        with self._lock:
            now = time.monotonic()
            at = max(now, self._next)
            self._next = at + 1 / self.manners.rate
        time.sleep(max(0.0, at - now))

    def _json(self, content: bytes) -> Any:
        try:
            if len(content) > _LARGEST:
                raise ValueError(f"more than {_LARGEST} bytes")
            found = json.loads(content)
            if not isinstance(found, dict):
                raise ValueError(f"a {type(found).__name__}")
        except (ValueError, RecursionError) as fault:
            raise self._fault(f"its answer is no JSON object ({fault!s:.120}); is it a server of /v2?") from None
        return found


def _close(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _parted(address: str) -> tuple[str, str, str, Manners]:
    expected = "expected http://HOST/v2/models/NAME, with #batch=64&rate=50&budget=10000 where wanted"
    try:
        parts = urlsplit(address)
        host = parts.hostname and (f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname)
    except ValueError:
        raise UserError(f"a served model's address is none: {expected}") from None
    if parts.username or parts.password:
        raise UserError(f"a served model's address holds a password, which would be seen: set {TOKEN} in its place")
    path = parts.path.rstrip("/")
    steps = path.split("/")
    good = steps[:3] == ["", "v2", "models"] and len(steps) in (4, 6) and all(steps[3:])
    if not host or parts.query or not good or (len(steps) == 6 and steps[4] != "versions"):
        raise UserError(f"model {address!r:.200}: {expected}")
    try:
        manners = Manners.model_validate(dict(parse_qsl(parts.fragment, keep_blank_values=True)))
    except ValidationError as fault:
        raise UserError(f"model {address!r:.200}: after # it says\n{faults(fault, Manners)}") from None
    return parts.scheme, host, path, manners


def _tensors(told: Any, which: str, needed: tuple[str, ...] = ("name", "datatype", "shape")) -> list[dict[str, Any]]:
    """The well-formed tensors of an answer."""
    found = told.get(which) if isinstance(told, dict) else None
    listed = found if isinstance(found, list) else []
    good = [one for one in listed if isinstance(one, dict) and all(name in one for name in needed)]
    return [one for one in good if "shape" not in needed or _is_shape(one["shape"])]


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) for one in value)


def _words(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(f"{one['name']} {one['datatype']} {one['shape']}"[:80] for one in tensors[:4]) or "none"


def _told(content: bytes) -> str:
    """What the server says is wrong."""
    try:
        text = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = content[:200].decode("utf-8", "replace")
    text = " ".join(text.split())[:200]
    token = os.environ.get(TOKEN)
    text = text.replace(token, "***") if token else text
    return f": {text}" if text else ""
