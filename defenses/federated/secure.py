"""The server's side of secure aggregation: it learns the sum of the clients' updates, and no client's own.

Flower's ``SecAggPlusWorkflow`` is for its older interface alone, and ends where a client is lost before the keys are
shared. So the four stages of the protocol are driven here, with Flower's own primitives; ``masking`` has the clients'
side. Every client shares keys with every other one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from robustbench_lite.core.errors import UserError
from robustbench_lite.defenses.federated.client import CUT, NOT_FINITE
from robustbench_lite.defenses.federated.masking import MODULUS, masks, mean_of, steps_for
from robustbench_lite.defenses.federated.strategies import Watch, size_of

_OF_SUMS = ("fedavg", "fedprox", "fedadam")  # strategies that need no more than the mean
_LOST = "no answer in the middle of secure aggregation"
_KEYS = (Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2)


def unfit(strategy: str, noise: float, clients: int) -> str | None:
    """Why a federation can't be secure, or None."""
    if strategy not in _OF_SUMS:
        return (
            f"secure aggregation shows the server the sum of the updates alone, and strategy {strategy} must see each "
            f"one: take one of {', '.join(_OF_SUMS)}, or leave secure (--secure) out"
        )
    if noise:
        return (
            f"noise {noise:g} needs each update clipped at the server, and secure aggregation hides them from it: "
            "leave noise (--noise) or secure (--secure) out"
        )
    if clients < 2:
        return "secure aggregation needs 2 clients or more: the sum of one update is that update"
    return None


class Sums:
    """A way to the clients, in the place of Flower's grid, that brings one answer of all of them to a strategy.

    Parameters
    ----------
    grid
        Flower's way to the clients. All but training goes through it as it is.
    watch
        Is told what travels, who is lost, and what the clients tell of themselves.
    """

    def __init__(self, grid: Grid, watch: Watch) -> None:
        self._grid, self._watch = grid, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Ask clients; of training, their mean alone comes back.

        Raises
        ------
        UserError
            Where too few clients are left to go on, and where the sum can't be that of what clients should send.
        """
        messages = list(messages)
        if not messages or messages[0].metadata.message_type != MessageType.TRAIN:
            return list(self._grid.send_and_receive(messages, timeout=timeout))
        nodes = [message.metadata.dst_node_id for message in messages]
        mean, samples = _Round(self._grid, self._watch, messages[0].content, nodes, timeout).run()
        told = {"arrays": mean, "metrics": MetricRecord({"num-examples": samples})}
        return [Message(content=RecordDict(told), reply_to=messages[0])]


class _Round:
    """One run of the protocol."""

    def __init__(self, grid: Grid, watch: Watch, order: RecordDict, nodes: list[int], timeout: float | None) -> None:
        self.grid, self.watch, self.order, self.nodes, self.timeout = grid, watch, order, nodes, timeout
        self.number = int(order["config"]["epoch"]) + 1
        # More than half must put their shares together to know a secret.
        self.threshold = len(nodes) // 2 + 1
        self.known: dict[int, int] = {}  # number of the client at a node

    def run(self) -> tuple[ArrayRecord, int]:
        """The new weights, and how many samples they are of."""
        config, steps = self.order["config"], steps_for(len(self.nodes))
        parameters = {
            Key.SAMPLE_NUMBER: len(self.nodes),
            Key.SHARE_NUMBER: len(self.nodes),
            Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: 1.0,
            Key.TARGET_RANGE: steps,
            Key.MOD_RANGE: MODULUS,
            Key.MAX_WEIGHT: 1.0,
        }
        there = self._ask(Stage.SETUP, dict.fromkeys(self.nodes, parameters), {"config": config})
        self.known = {node: int(told["metrics"]["client"]) for node, told in there.items()}
        samples = {node: int(told["metrics"]["num-examples"]) for node, told in there.items()}
        keys = {node: [told[RECORD_KEY_CONFIGS][key] for key in _KEYS] for node, told in there.items()}

        public = {str(node): pair for node, pair in keys.items()}
        shared = self._ask(Stage.SHARE_KEYS, dict.fromkeys(keys, public), {"config": config})

        most = max(samples[node] for node in shared)
        asked = ConfigRecord({**config, "steps": steps, "most-examples": most})
        given = self._ask(
            Stage.COLLECT_MASKED_VECTORS, _letters(shared), {"arrays": self.order["arrays"], "config": asked}
        )

        left, lost = list(given), [node for node in shared if node not in given]
        lists = {Key.ACTIVE_NODE_ID_LIST: left, Key.DEAD_NODE_ID_LIST: lost}
        answers = self._ask(Stage.UNMASK, dict.fromkeys(left, lists), {"config": config})
        shares: dict[int, list[bytes]] = {node: [] for node in shared}
        for told in answers.values():
            record = told[RECORD_KEY_CONFIGS]
            for owner, share in zip(record[Key.NODE_ID_LIST], record[Key.SHARE_LIST], strict=True):
                shares[owner].append(share)

        weight = sum(samples[node] for node in left)
        try:
            secrets = {node: combine_shares(found[: self.threshold]) for node, found in shares.items()}
            whole = _unmasked(given, lost, secrets, keys)
        except ValueError:  # shares that are of no secret, keys that are none, vectors of several lengths
            whole = np.zeros(1)
        mean = mean_of(whole[1:], len(left), weight / most, steps)
        # Each client puts the number of steps first. A sum of something else is seen by that, or by a mean that updates
        # that were cut can't have; a lie within these bounds isn't seen.
        rounding = len(left) / steps / (weight / most)
        if whole[0] != len(left) * steps or np.abs(mean).max(initial=0) > CUT * (1 + rounding):
            raise UserError(
                f"round {self.number}: what was added up is no sum of updates from {-CUT:g} to {CUT:g}: a client sent "
                "something else, and secure aggregation can't tell which: a run without secure (--secure) can"
            )
        metrics = sorted((dict(told["metrics"]) for told in given.values()), key=lambda one: int(one["client"]))
        self.watch.answers = metrics
        self.watch.cut += [int(one["client"]) for one in metrics if one["cut"]]
        return _moved(self.order["arrays"], mean), weight

    def _ask(
        self, stage: str, orders: Mapping[int, Mapping[str, Any]], rest: Mapping[str, Any]
    ) -> dict[int, RecordDict]:
        """Have a stage done at nodes, and give the answers of those that do it."""
        messages = [
            Message(
                content=RecordDict({**rest, RECORD_KEY_CONFIGS: ConfigRecord({Key.STAGE: stage, **order})}),
                message_type=MessageType.TRAIN,
                dst_node_id=node,
            )
            for node, order in orders.items()
        ]
        self.watch.sent += sum(_travels(one.content) for one in messages)
        found, reasons = {}, {}
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout):
            if reply.has_error():
                reasons[reply.metadata.src_node_id] = reply.error.reason
            else:
                found[reply.metadata.src_node_id] = reply.content
                self.watch.received += _travels(reply.content)
        for node in orders if stage != Stage.UNMASK else ():  # whoever is lost then is in the sum
            if node not in found and node in self.known:
                self.watch.note(NOT_FINITE if reasons.get(node) == NOT_FINITE else _LOST, self.known[node])
            elif node not in found:
                self.watch.note("no answer", self.number)
        if len(found) < (needed := max(self.threshold, self.watch.quorum)):
            said = next(iter(reasons.values()), "").strip().rpartition("\n")[2]  # the rest is where it was raised
            raise UserError(
                f"round {self.number}: {len(found)} of {len(self.nodes)} clients are left in secure aggregation (stage "
                f"{stage}), and at least {needed} are needed; the same command with --resume tries again"
                + (f"; a client answered: {said}" if said else "")
            )
        # In the same order whoever is first, so that a run can be repeated.
        return {node: found[node] for node in orders if node in found}


def _letters(shared: Mapping[int, RecordDict]) -> dict[int, dict[str, Any]]:
    """For each node the encrypted shares that the others sent for it, with who sent them."""
    letters: dict[int, dict[int, bytes]] = {node: {} for node in shared}
    for writer, told in shared.items():
        record = told[RECORD_KEY_CONFIGS]
        for reader, letter in zip(record[Key.DESTINATION_LIST], record[Key.CIPHERTEXT_LIST], strict=True):
            if reader in letters:
                letters[reader][writer] = letter
    return {
        node: {Key.CIPHERTEXT_LIST: list(one.values()), Key.SOURCE_LIST: list(one)} for node, one in letters.items()
    }


def _unmasked(
    given: Mapping[int, RecordDict], lost: list[int], secrets: Mapping[int, bytes], keys: Mapping[int, list[bytes]]
) -> np.ndarray:
    """The sum of the vectors without their masks, modulo 2**32; the number of steps stands first."""
    vectors = [
        np.concatenate([bytes_to_ndarray(one) for one in told[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]])
        for told in given.values()
    ]
    total = np.sum(vectors, axis=0, dtype=np.int64)
    shape = [total.shape]
    for node in given:
        total -= masks(secrets[node], MODULUS, shape)[0]
    for one in lost:  # its vector isn't in the sum, but those of the others have the masks that they share with it
        private = bytes_to_private_key(secrets[one])
        for other in given:
            mask = masks(generate_shared_key(private, bytes_to_public_key(keys[other][0])), MODULUS, shape)[0]
            total += mask if one > other else -mask
    whole: np.ndarray = total % MODULUS
    return whole


def _moved(arrays: ArrayRecord, update: np.ndarray) -> ArrayRecord:
    """Weights, moved by an update."""
    moved, start = {}, 0
    for name, array in arrays.items():
        was = array.numpy()
        by = update[start : start + was.size].reshape(was.shape)
        moved[name], start = Array(np.asarray(was + by, was.dtype)), start + was.size
    return ArrayRecord(moved)


def _travels(content: RecordDict) -> int:
    """Bytes of weights, masked updates, keys and shares in a message."""
    given = [value for value in content[RECORD_KEY_CONFIGS].values() if isinstance(value, bytes | list)]
    flat = [one for value in given for one in (value if isinstance(value, list) else [value])]
    secret = sum(len(one) for one in flat if isinstance(one, bytes))
    arrays: int = sum(size_of(record) for record in content.array_records.values())
    return secret + arrays
