"""The server's side: the one training loop, whose epochs are rounds at the clients, and what it tells of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from robustbench_lite.core.errors import UserError
from robustbench_lite.defenses.federated import strategies
from robustbench_lite.defenses.federated.client import CUT, Order, floats, load
from robustbench_lite.hardening.checkpoint import store
from robustbench_lite.hardening.interface import Learnt, Stage
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Interval, Measured

_AWAY = -0.25  # mean cosine; honest clients with other classes are near right angles to one another
_EVERY = 0.2  # seconds between two looks for clients
_LISTED = 20  # clients whose own accuracies are told, each by itself


def wait(grid: Grid, clients: int, seconds: float) -> None:
    """Wait until all clients are there: those who come late would miss the first round.

    Raises
    ------
    UserError
        Where they aren't after so many seconds.
    """
    until = time.monotonic() + seconds
    while (there := len(list(grid.get_node_ids()))) < clients:
        if time.monotonic() > until:
            raise UserError(f"{there} of {clients} clients are connected after {seconds:g} s; start the others")
        time.sleep(_EVERY)


class Rounds:
    """Goes once through the data of all clients, round after round; what it needs to go on is kept in a file."""

    def __init__(
        self, grid: Grid, strategy: Strategy, watch: strategies.Watch, order: Order, timeout: float, file: Path | None
    ) -> None:
        self.grid, self.strategy, self.watch, self.order = grid, strategy, watch, order
        self.timeout, self.file = timeout, file

    def __call__(self, stage: Stage, epoch: int) -> Learnt:
        """One round, after ``epoch`` others."""
        states = self._states()
        if epoch and epoch in states and not self.watch.sent:  # the first round of a run that goes on
            self._restore(states[epoch])
        module = stage.target.module
        result = self.strategy.start(
            self.grid, ArrayRecord(floats(module)), 1, self.timeout, self._config(epoch), ConfigRecord()
        )
        if result.arrays is None:
            raise UserError(
                f"round {epoch + 1}: the strategy put no weights together; with differential privacy every client must "
                "answer in each round"
            )
        load(module, result.arrays)
        if self.file is not None:
            # The loop may be killed before it keeps this round.
            last = {epoch: states[epoch]} if epoch in states else {}
            store({**last, epoch + 1: self._state()}, self.file)
        told = self.watch.answers
        samples = sum(one["num-examples"] for one in told)
        loss = sum(one["loss"] * one["num-examples"] for one in told) / samples
        return Learnt(loss, told[0]["lr"], sum(int(one["passes"]) for one in told))

    def everywhere(self, target: Target) -> list[dict[str, int]]:
        """What a model is worth at each client that answers: counts of its held-out samples."""
        content = RecordDict({"arrays": ArrayRecord(floats(target.module)), "config": self._config(0)})
        messages = [
            Message(content=content, message_type=MessageType.EVALUATE, dst_node_id=node)
            for node in self.grid.get_node_ids()
        ]
        replies = list(self.grid.send_and_receive(messages, timeout=self.timeout))
        told = [reply.content["metrics"] for reply in replies if not reply.has_error()]
        counts = [{name: int(value) for name, value in one.items()} for one in told]
        return sorted(counts, key=lambda one: one["client"])

    def _config(self, epoch: int) -> ConfigRecord:
        return ConfigRecord({"order": self.order.model_dump_json(), "epoch": epoch})

    def _states(self) -> dict[int, Any]:
        if self.file is None or not self.file.is_file():
            return {}
        found: dict[int, Any] = torch.load(self.file, weights_only=True)
        return found

    def _state(self) -> dict[str, Any]:
        kept: dict[str, Any] = strategies.state(self.strategy)
        kept["moments"] = {
            name: {key: torch.from_numpy(value) for key, value in one.items()} for name, one in kept["moments"].items()
        }
        seen = {field.name: getattr(self.watch, field.name) for field in dataclasses.fields(self.watch)}
        return kept | {"watch": seen | {"answers": []}}

    def _restore(self, kept: dict[str, Any]) -> None:
        moments = {name: {key: one.numpy() for key, one in group.items()} for name, group in kept["moments"].items()}
        strategies.restore(self.strategy, {**kept, "moments": moments})
        for name, value in kept["watch"].items():
            setattr(self.watch, name, value)


def notes(watch: strategies.Watch) -> Iterator[str]:
    """What went wrong at the clients and was survived."""
    if watch.secure:
        yield (
            "federation: secure aggregation: the server saw the sum of each round's updates alone. It could not check "
            f"that each one is finite and cut at {CUT:g}, nor whether one points away from the others"
        )
    if watch.cut:
        listed = ", ".join(map(str, sorted(set(watch.cut))))
        times = len(watch.cut)
        yield f"federation: clients {listed} say that they cut values of their updates at {CUT:g}, {times} times"
    for what, numbers in sorted(watch.faults.items()):
        places = "rounds" if what == "no answer" else "clients"
        listed = ", ".join(map(str, sorted(set(numbers))))
        yield f"federation: {what}, {len(numbers)} times ({places} {listed}); left out of those rounds"
    for client, course in sorted(watch.against.items()):
        if len(course) > 1 and (mean := sum(course) / len(course)) < _AWAY:
            yield (
                f"federation: the updates of client {client} point away from those of the others (mean cosine "
                f"{mean:.2f}); it may lie, or have data of another kind"
            )


def measures(
    watch: strategies.Watch, found: Sequence[dict[str, int]], unlike: float | None, privacy: tuple[float, float] | None
) -> Iterator[Measured]:
    """The numbers of a federation, for the scorecard.

    Parameters
    ----------
    found
        Of each client, its number and counts of its held-out samples.
    unlike
        Heterogeneity of the clients' classes, where it is known.
    privacy
        Epsilon and delta, where the training was private.
    """
    down, up = ("weights and keys", "masked updates and keys") if watch.secure else ("weights", "weights")
    for name, value, what in (
        ("bytes_down", watch.sent, f"bytes of {down} that were sent to the clients in all rounds"),
        ("bytes_up", watch.received, f"bytes of {up} that the clients sent back in all rounds"),
    ):
        yield Measured(name=name, value=float(value), unit="bytes", better="lower", definition=what)
    if unlike is not None:
        yield Measured(
            name="heterogeneity",
            value=unlike,
            unit="distance",
            better="lower",
            definition="mean over the clients of the total variation distance of their classes from those of all",
        )
    if privacy is not None:
        yield Measured(
            name="privacy_epsilon",
            value=privacy[0],
            unit="epsilon",
            better="lower",
            definition=f"privacy of clients (one more or less) at delta {privacy[1]:g}, by Renyi accounting",
        )
    for kind in ("clean", "robust") if found else ():
        worst = min(found, key=lambda one: one[kind] / one["total"])
        yield _share(f"worst_client_{kind}", kind, worst)
        for one in found if len(found) <= _LISTED else ():
            yield _share(f"client_{one['client']}_{kind}", kind, one)


def _share(name: str, kind: str, one: dict[str, int]) -> Measured:
    what = "accuracy" if kind == "clean" else "accuracy under PGD of 10 steps"
    share = Interval.of(one[kind], one["total"])
    return Measured(
        name=name,
        unit="share",
        better="higher",
        definition=f"{what} on the samples held out at client {one['client']}",
        **{key: getattr(share, key) for key in ("value", "low", "high", "count", "total")},
    )
