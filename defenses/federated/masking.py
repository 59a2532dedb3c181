"""The client's side of secure aggregation: Flower's SecAgg+ mod masks an update before it leaves the client.

The mod is of Flower's older interface, so the answer of the train handler is put into that form. Two things are not
left to Flower 1.42. It draws masks from a Mersenne Twister with a seed of 32 bits, of which a key that two clients
share gives 28: a server could try them all, and read the updates of its clients. Here the whole key makes the masks,
by SHAKE-256. And it rounds at random, so that no run could be repeated: here a value is rounded to the nearest step
before the mod sees it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from flwr.app import Context as Node
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarray_to_bytes, ndarrays_to_parameters
from flwr.common.constant import ErrorCode
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

from robustbench_lite.defenses.federated.client import CUT, NOT_FINITE, Client

MODULUS = 2**32
_FLOWERS = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")


def steps_for(clients: int) -> int:
    """How many steps the values from -1 to 1 are rounded to: the most with which the sum of all stays below 2**32."""
    return MODULUS >> clients.bit_length()


def rounded(update: np.ndarray, share: float, steps: int) -> np.ndarray:
    """Cut an update, weight it, and round it.

    Parameters
    ----------
    update
        Change of each weight, (n,); finite.
    share
        Weight of the client, in (0, 1]: its samples, as a share of those of the client that has most.
    steps
        As `steps_for` gives.

    Returns
    -------
    numpy.ndarray
        Whole multiples of ``2 / steps``, from -1 to 1, (n,), float64.
    """
    half = steps // 2
    exact: np.ndarray = np.rint(np.clip(update.astype(np.float64) / CUT, -1, 1) * (share * half)) / half
    return exact


def mean_of(total: np.ndarray, clients: int, shares: float, steps: int) -> np.ndarray:
    """The mean update, from the sum of what clients sent: of each its rounded values, as steps above -1.

    Parameters
    ----------
    total
        The sum, (n,), whole numbers.
    clients
        How many it is of.
    shares
        Sum of their weights, as in `rounded`.
    steps
        As `steps_for` gives.
    """
    found: np.ndarray = (total * (2 / steps) - clients) * (CUT / shares)
    return found


def masks(seed: bytes, modulus: int, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Whole numbers that no one can tell from random ones without the seed; in the place of Flower's own.

    Parameters
    ----------
    seed
        A secret, which makes no other masks than these.
    modulus
        Power of two up to 2**32: the numbers are below.
    shapes
        Of the arrays.
    """
    sizes = [math.prod(shape) for shape in shapes]
    stream = hashlib.shake_256(seed).digest(4 * sum(sizes))
    numbers = np.frombuffer(stream, "<u4").astype(np.int64) & (modulus - 1)
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def masked(
    message: Message, node: Node, train: Callable[[Message, Node], Message], client: Callable[[], Client]
) -> Message:
    """Do one stage of the protocol at a client.

    Parameters
    ----------
    train
        The handler of the client's app; its update is what is masked.
    client
        Gives the client that the message is for.
    """
    config = message.content[RECORD_KEY_CONFIGS]
    stage, drawn = config[Key.STAGE], 0

    def draw(seed: bytes, modulus: int, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        nonlocal drawn
        drawn += 1
        return masks(seed, modulus, shapes)

    try:
        mod = _with_masks_from(draw).secaggplus_mod
        reply: Message = mod(message, node, lambda asked, at: _to_mask(asked, train(asked, at)))
    except FloatingPointError as fault:
        return _refusal(message, str(fault))
    if stage == Stage.SETUP:  # who has how many samples must be known before weights are given
        one = client()
        reply.content["metrics"] = MetricRecord({"client": one.number, "num-examples": len(one.data)})
    if stage == Stage.COLLECT_MASKED_VECTORS:
        if drawn != 1 + len(config[Key.SOURCE_LIST]):  # its own mask, and one with each of the others
            return _refusal(message, "this version of flwr draws masks in another way than 1.42; no update was sent")
        sent = reply.content[RECORD_KEY_CONFIGS]
        # Flower would send 8 bytes a number, of which 4 are zeros.
        packed = [bytes_to_ndarray(one).astype(np.uint32) for one in sent[Key.MASKED_PARAMETERS]]
        sent[Key.MASKED_PARAMETERS] = [ndarray_to_bytes(one) for one in packed]
    return reply


def _refusal(message: Message, why: str) -> Message:
    return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, why), reply_to=message)


def _with_masks_from(draw: Callable[..., list[np.ndarray]]) -> ModuleType:
    """A copy of the module of Flower's mod with other masks: whoever else uses it finds it unchanged."""
    spec: Any = _FLOWERS.__spec__
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    copy.pseudo_rand_gen = draw  # type: ignore[attr-defined]
    return copy


def _to_mask(asked: Message, answer: Message) -> Message:
    """The answer of the train handler as the mod wants it, with the rounded update in the place of the weights."""
    config, metrics = asked.content["config"], dict(answer.content["metrics"])
    before, after = (one.content["arrays"].to_torch_state_dict() for one in (asked, answer))
    update = np.concatenate([(after[name] - was).numpy().ravel() for name, was in before.items()])
    if not np.isfinite(update).all():
        raise FloatingPointError(NOT_FINITE)
    metrics["cut"] = int((np.abs(update) > CUT).sum())
    share = metrics["num-examples"] / int(config["most-examples"])
    values = ndarrays_to_parameters([rounded(update, share, int(config["steps"]))])
    # One example for each client: the weights are in the values already.
    content: RecordDict = fitres_to_recorddict(FitRes(Status(Code.OK, ""), values, 1, {}), keep_input=True)
    content["metrics"] = MetricRecord(metrics)
    return Message(content=content, reply_to=asked)
