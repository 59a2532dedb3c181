"""Secure aggregation: its maths, what the server gets to see, and who may be lost in the middle.

The app of the clients is the real one, called in this process, so that a client can be lost before any stage;
test_federated.py has the same over Flower's simulation and over SuperNodes. Run by ``make test-federated``.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as draw
from torch import nn

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.task_identity import TaskIdentity

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.defenses.federated import masking
from robustbench_lite.defenses.federated.client import CUT, Client, Order, client_app, floats
from robustbench_lite.defenses.federated.masking import MODULUS, masks, mean_of, rounded, steps_for
from robustbench_lite.defenses.federated.secure import Sums
from robustbench_lite.defenses.federated.strategies import Watch
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.model.target import Target

SIZES = (20, 40, 60, 90)  # samples of the clients
FIRST = 2**62  # Flower's node IDs are that large


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower tells the process of a server: whose messages it sends."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def provide(node: Context, share: float, seed: int) -> Client:
    number = int(node.node_config["partition-id"])
    data, held_out = (
        as_data("digits", split="train").take(torch.arange(SIZES[number]) + 100 * number).split(share, seed)
    )
    return Client(number, Target(network()), data, held_out)


class Here:
    """The clients, in this process: each answer is kept, some are lost or changed."""

    def __init__(self, lost: dict[str, tuple[int, ...]] | None = None, change: Any = None) -> None:
        self.app, self.lost, self.change = client_app(provide), lost or {}, change
        self.answers: dict[tuple[str, int], RecordDict] = {}
        self.orders: list[RecordDict] = []
        self.nodes = [
            Context(run_id=1, node_id=FIRST + i, node_config={"partition-id": i}, state=RecordDict(), run_config={})
            for i in range(len(SIZES))
        ]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [self.ask(message) for message in messages]

    def ask(self, message: Message) -> Message:
        number = message.metadata.dst_node_id - FIRST
        self.orders.append(copy.deepcopy(message.content))
        secure = message.content.config_records.get(RECORD_KEY_CONFIGS)
        stage = str(secure[Key.STAGE]) if secure else ""
        if number in self.lost.get(stage, ()):
            return Message(Error(5, "lost"), reply_to=message)
        reply = self.app(message, self.nodes[number])
        if reply.has_content():
            if self.change:
                self.change(stage, number, reply.content)
            self.answers[stage, number] = copy.deepcopy(reply.content)
        return reply


def a_round(**more: Any) -> list[Message]:
    """What a strategy sends."""
    order = Order(
        defense="standard",
        params={},
        schedule=Schedule.model_validate({"epochs": 1, "batch_size": 10, "lr": 0.2, "held_out": 0.2}),
        local_epochs=1,
        threat=ThreatModel.parse("Linf 0.05"),
        seed=0,
        **more,
    )
    config = ConfigRecord({"order": order.model_dump_json(), "epoch": 0})
    content = RecordDict({"arrays": ArrayRecord(floats(network())), "config": config})
    return [
        Message(content=content, message_type=MessageType.TRAIN, dst_node_id=FIRST + number)
        for number in range(len(SIZES))
    ]


def flat(arrays: ArrayRecord) -> np.ndarray:
    return np.concatenate([one.ravel() for one in arrays.to_numpy_ndarrays()]).astype(np.float64)


def secure(here: Here, **more: Any) -> tuple[np.ndarray, Watch]:
    watch = Watch(quorum=3, secure=True)
    (reply,) = Sums(here, watch).send_and_receive(a_round(**more, secure=True))
    return flat(reply.content["arrays"]), watch


def plain(numbers: Iterable[int]) -> np.ndarray:
    """The weighted mean of what clients send without secure aggregation."""
    contents = [here.content for here in Here().send_and_receive(a_round()[i] for i in numbers)]
    counts = [int(one["metrics"]["num-examples"]) for one in contents]
    mean: np.ndarray = np.average([flat(one["arrays"]) for one in contents], axis=0, weights=counts)
    return mean


@given(
    clients=draw.integers(2, 40),
    seed=draw.integers(0, 2**32 - 1),
    size=draw.sampled_from([1e-6, 1e-2, 1.0, CUT, 1e6]),
)
def test_the_mean_is_right_to_the_step(clients: int, seed: int, size: float) -> None:
    generator = np.random.default_rng(seed)
    updates = generator.normal(0, size, (clients, 5))
    counts = generator.integers(1, 1000, clients)
    steps, shares = steps_for(clients), counts / counts.max()
    sent = [rounded(one, share, steps) for one, share in zip(updates, shares, strict=True)]
    whole = [(one + 1) * (steps // 2) for one in sent]  # as the mod counts them
    assert all((one == np.rint(one)).all() and one.min() >= 0 and one.max() <= steps for one in whole)
    found = mean_of(np.sum(whole, axis=0), clients, shares.sum(), steps)
    expected = np.average(np.clip(updates, -CUT, CUT), axis=0, weights=counts)
    assert np.abs(found - expected).max() <= CUT * clients / steps / shares.sum() * (1 + 1e-6)


@given(clients=draw.integers(2, 10_000))
def test_the_sum_of_all_stays_below_the_modulus_and_no_step_is_wasted(clients: int) -> None:
    steps = steps_for(clients)
    assert clients * steps < MODULUS <= (clients + 1) * 2 * steps
    assert steps.bit_count() == 1


@given(seed=draw.binary(min_size=32, max_size=44), sizes=draw.lists(draw.integers(1, 50), min_size=1, max_size=4))
def test_masks_depend_on_the_seed_and_not_on_how_they_are_cut(seed: bytes, sizes: list[int]) -> None:
    parts = masks(seed, MODULUS, [(size,) for size in sizes])
    assert [len(part) for part in parts] == sizes
    whole = masks(seed, MODULUS, [(sum(sizes),)])[0]
    assert (np.concatenate(parts) == whole).all()
    assert (masks(seed, 2**20, [(sum(sizes),)])[0] == whole % 2**20).all()


def test_masks_are_those_of_the_whole_seed() -> None:
    """Flower 1.42 adds the words of a seed up to one, so these two make the same masks there."""
    one, other = b"abcd" + b"efgh" + bytes(24), b"efgh" + b"abcd" + bytes(24)
    assert (pseudo_rand_gen(one, MODULUS, [(9,)])[0] == pseudo_rand_gen(other, MODULUS, [(9,)])[0]).all()
    assert (masks(one, MODULUS, [(9,)])[0] != masks(other, MODULUS, [(9,)])[0]).any()
    drawn = masks(one, MODULUS, [(100_000,)])[0]
    bits = (drawn[:, None] >> np.arange(32)) & 1
    assert np.abs(bits.mean(0) - 0.5).max() < 0.01


def test_a_client_sends_no_update_where_flower_draws_its_masks_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_with_masks_from", lambda _: masking._FLOWERS)
    here = Here()
    with pytest.raises(UserError, match=r"0 of 4 .*answered: this version of flwr draws masks in another way"):
        secure(here)
    assert {stage for stage, _ in here.answers} == {Stage.SETUP, Stage.SHARE_KEYS}


def test_where_flowers_older_interface_is_missing_only_a_secure_federation_is_refused() -> None:
    """In a process of its own, as modules that are loaded stay loaded."""
    code = """
import sys
import torch
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.defenses.federated import client, deployment, server, simulation, strategies
from robustbench_lite.defenses.federated.step import Federated
from robustbench_lite.hardening.interface import Artifact
from robustbench_lite.model.target import Target

sys.modules["flwr.client.mod.secure_aggregation.secaggplus_mod"] = None
artifact = Artifact(target=Target(torch.nn.Linear(2, 2)), threat=ThreatModel.parse("Linf 0.05"))
print([name for name in sys.modules if name.endswith(("federated.masking", "federated.secure"))])
print(Federated(defense="standard").unfit(artifact))
print(Federated(defense="standard", secure=True).unfit(artifact))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, plain_one, secure_one = done.stdout.splitlines()
    assert loaded == "[]"
    assert plain_one == "None"
    assert "needs parts of flwr 1.42 that this version of it lacks" in secure_one
    assert "pip install 'flwr[simulation]==1.42.*'" in secure_one


def test_the_mean_is_that_of_plain_aggregation() -> None:
    here = Here()
    found, watch = secure(here)
    assert np.abs(found - plain(range(4))).max() < 1e-6
    assert [one["client"] for one in watch.answers] == [0, 1, 2, 3]
    assert watch.faults == {}
    assert watch.cut == []
    counted = [
        sum(len(blob) for value in record[RECORD_KEY_CONFIGS].values() for blob in blobs(value))
        for record in here.answers.values()
    ]
    assert watch.received == sum(counted)
    weights = flat(a_round()[0].content["arrays"]).size * 4
    assert 4 * weights < watch.sent < 4 * weights + 30_000  # some hundred bytes a key
    assert 4 * weights < watch.received < 4 * weights + 30_000


def blobs(value: Any) -> list[bytes]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, bytes)]


def vector(content: RecordDict) -> np.ndarray:
    parts = content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
    return np.concatenate([bytes_to_ndarray(part) for part in parts]).astype(np.int64)


def uniform(numbers: np.ndarray) -> bool:
    """Whether numbers below 2**32 fall alike into 16 boxes: chi-square below what one of a million random draws has."""
    counts = np.bincount(numbers % MODULUS >> 28, minlength=16)
    expected = len(numbers) / 16
    return bool(((counts - expected) ** 2 / expected).sum() < 60)


def test_no_single_update_reaches_the_server() -> None:
    first, second = Here(), Here()
    means = [secure(here)[0] for here in (first, second)]
    assert (means[0] == means[1]).all()  # the masks go without a trace
    answer = {number: first.answers[Stage.COLLECT_MASKED_VECTORS, number] for number in range(4)}
    update = {
        number: flat(Here().send_and_receive([a_round()[number]])[0].content["arrays"])
        - flat(a_round()[0].content["arrays"])
        for number in range(4)
    }
    shares: dict[int, list[bytes]] = {}
    for number in range(4):
        told = first.answers[Stage.UNMASK, number][RECORD_KEY_CONFIGS]
        for owner, share in zip(told[Key.NODE_ID_LIST], told[Key.SHARE_LIST], strict=True):
            shares.setdefault(owner - FIRST, []).append(share)
    for number, content in answer.items():
        assert list(content.array_records.values()) == [ArrayRecord()]  # Flower empties it
        sent, again = vector(content), vector(second.answers[Stage.COLLECT_MASKED_VECTORS, number])
        assert (sent != again).mean() > 0.99
        # The server knows the private masks of all who stayed: without those it is still hidden.
        known = masks(combine_shares(shares[number]), MODULUS, [sent.shape])[0]
        for seen in (sent, again, sent - known):
            assert uniform(seen)
            assert abs(np.corrcoef(seen[1:] % MODULUS, update[number])[0, 1]) < 0.15  # 1,210 numbers: 5 deviations
        told = dict(content["metrics"])
        assert set(told) == {"client", "num-examples", "one", "loss", "lr", "passes", "cut"}
    assert not uniform(np.rint(update[0] * 2**20).astype(np.int64))  # what the checks above would see of it


@pytest.mark.parametrize("stage", [Stage.SETUP, Stage.SHARE_KEYS, Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK])
@pytest.mark.parametrize("client", [0, 3])  # the least and the greatest node ID: masks have a sign by it
def test_a_client_that_is_lost_in_the_middle_is_left_out(stage: str, client: int) -> None:
    found, watch = secure(Here({stage: (client,)}))
    inside = [number for number in range(4) if number != client or stage == Stage.UNMASK]
    assert np.abs(found - plain(inside)).max() < 1e-6
    assert [one["client"] for one in watch.answers] == inside
    expected: dict[str, list[int]] = {"no answer in the middle of secure aggregation": [client]}
    if stage == Stage.SETUP:
        expected = {"no answer": [1]}
    assert watch.faults == (expected if stage != Stage.UNMASK else {})


@pytest.mark.parametrize("stage", Stage.all())
def test_too_few_clients_end_the_round(stage: str) -> None:
    with pytest.raises(UserError, match=rf"2 of 4 clients are left .*{stage}.*3 are needed.*--resume.*answered: lost"):
        secure(Here({stage: (0, 2)}))


def test_clients_go_on_after_a_round_that_was_broken_off() -> None:
    here = Here({Stage.COLLECT_MASKED_VECTORS: (0, 1)})
    with pytest.raises(UserError, match="2 of 4"):
        secure(here)
    here.lost = {}
    assert np.abs(secure(here)[0] - plain(range(4))).max() < 1e-6


def test_an_update_of_no_numbers_is_kept_back_by_its_client() -> None:
    found, watch = secure(Here(), liars={2: "nan"})
    assert watch.faults == {"weights that are not finite": [2]}
    assert np.abs(found - plain([0, 1, 3])).max() < 1e-6


def test_a_huge_update_is_cut_and_told() -> None:
    found, watch = secure(Here(), liars={0: "sign_flip"}, lie_scale=1e9)
    assert watch.cut == [0]
    counts = [one["num-examples"] for one in watch.answers]
    most = CUT * counts[0] / sum(counts)
    assert most / 2 < np.abs(found - flat(a_round()[0].content["arrays"])).max() < most + 1


def garbage(stage: str, number: int, content: RecordDict) -> None:
    if number == 1 and stage == Stage.COLLECT_MASKED_VECTORS:
        config = content[RECORD_KEY_CONFIGS]
        factor, values = (bytes_to_ndarray(one) for one in config[Key.MASKED_PARAMETERS])
        random = np.random.default_rng(0).integers(0, MODULUS, values.shape).astype(np.uint32)
        config[Key.MASKED_PARAMETERS] = [ndarray_to_bytes(factor), ndarray_to_bytes(random)]


def short(stage: str, number: int, content: RecordDict) -> None:
    if number == 1 and stage == Stage.COLLECT_MASKED_VECTORS:
        config = content[RECORD_KEY_CONFIGS]
        config[Key.MASKED_PARAMETERS] = config[Key.MASKED_PARAMETERS][:1]


def false_shares(stage: str, number: int, content: RecordDict) -> None:
    if number == 1 and stage == Stage.UNMASK:
        config = content[RECORD_KEY_CONFIGS]
        config[Key.SHARE_LIST] = [one[:4] + bytes(len(one) - 4) for one in config[Key.SHARE_LIST]]


@pytest.mark.parametrize("change", [garbage, short, false_shares])
def test_a_sum_of_something_else_is_refused(change: Any) -> None:
    with pytest.raises(UserError, match="no sum of updates from -64 to 64"):
        secure(Here(change=change))
