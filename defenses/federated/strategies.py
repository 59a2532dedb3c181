"""How the clients' weights are put together: Flower's strategies, by name, watched."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from flwr.supercore.privacy_accounting import NeighboringRelation, PrivacyConfig, SamplingMethod
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.defenses.federated.client import NOT_FINITE

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": flower.FedAvg,
    "fedprox": flower.FedProx,
    "fedadam": flower.FedAdam,
    "fedmedian": flower.FedMedian,
    "trimmed_mean": flower.FedTrimmedAvg,
    "krum": flower.Krum,
    "multi_krum": flower.MultiKrum,
}

_MOMENTS = ("m_t", "v_t")  # what a strategy carries from round to round


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Client-level differential privacy: each update is clipped, and noise added to their mean."""

    noise: float
    """Standard deviation of the noise, as a multiple of what one client can change."""
    clip: float
    """Largest L2 norm of an update."""
    clients: int
    delta: float


@dataclass(kw_only=True)
class Watch:
    """What is seen of the rounds so far."""

    quorum: int
    """Answers below which a round is worth nothing."""
    secure: bool = False
    """Whether the sum of the updates alone is seen: then `secure.Sums` tells what is seen on the way to it."""
    sent: int = 0
    """Bytes of weights that went to the clients; with secure aggregation, of keys too."""
    received: int = 0
    """Bytes of weights that came back; with secure aggregation, of masked updates and keys."""
    cut: list[int] = field(default_factory=list)
    """With secure aggregation, clients that say that they cut values of an update, once a round."""
    faults: dict[str, list[int]] = field(default_factory=dict)
    """What went wrong with answers, with the clients' numbers or, where there was no answer, the rounds."""
    answers: list[Mapping[str, Any]] = field(default_factory=list)
    """Of the last round, what the clients told of themselves."""
    against: dict[int, list[float]] = field(default_factory=dict)
    """By client, the cosine of each of its updates with the mean direction of the others'."""

    def note(self, what: str, number: int) -> None:
        """Remember a fault."""
        self.faults.setdefault(what, []).append(number)

    def checked(self, number: int, asked: int, before: ArrayRecord, replies: Iterable[Message]) -> list[Message]:
        """Leave out answers that are none and weights that aren't finite; the others in the order of the clients.

        Raises
        ------
        UserError
            Where fewer are left than the quorum.
        """
        replies = list(replies)
        good = []
        for _ in range(asked - len(replies)):
            self.note("no answer", number)
        for reply in replies:
            if reply.has_error():
                self.note("no answer", number)
                continue
            told = dict(reply.content["metrics"])
            self.received += size_of(reply.content["arrays"])
            if all(np.isfinite(one).all() for one in reply.content["arrays"].to_numpy_ndarrays()):
                good.append((told, reply))
            else:
                self.note(NOT_FINITE, int(told["client"]))
        if len(good) < self.quorum:
            raise UserError(
                f"round {number}: {len(good)} of {asked} clients gave weights that can be used, and at least "
                f"{self.quorum} are needed; the same command with --resume tries again"
            )
        good.sort(key=lambda pair: int(pair[0]["client"]))
        self.answers = [told for told, _ in good]
        self._compare(before, good)
        return [reply for _, reply in good]

    def _compare(self, before: ArrayRecord, good: list[tuple[dict[str, Any], Message]]) -> None:
        start = _flat(before)
        updates = np.stack([_flat(reply.content["arrays"]) - start for _, reply in good])
        lengths = np.linalg.norm(updates, axis=1, keepdims=True)
        # Of directions alone: a client that makes its update large must not decide where the others seem to point.
        updates = np.divide(updates, lengths, out=np.zeros_like(updates), where=lengths > 0)
        total = updates.sum(0)
        for (told, _), update in zip(good, updates, strict=True):
            others = total - update
            scale = np.linalg.norm(others)
            self.against.setdefault(int(told["client"]), []).append(float(update @ others / scale) if scale else 0.0)


def make(name: str, params: Mapping[str, Any], clients: int, watch: Watch, privacy: Privacy | None) -> Strategy:
    """Make a strategy that tells a watch of every round.

    Raises
    ------
    UserError
        For an unknown name, and parameters that the strategy doesn't take.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it tells of every message
    if name not in STRATEGIES:
        raise UserError(unknown("strategy", name, STRATEGIES))
    counts = {"min_train_nodes": watch.quorum, "min_available_nodes": watch.quorum, "fraction_evaluate": 0.0}
    weight = "one" if privacy else "num-examples"
    try:
        if privacy is None:
            return _watched(STRATEGIES[name], watch)(**counts, weighted_by_key=weight, **params)
        inner = STRATEGIES[name](**counts, weighted_by_key=weight, **params)
    except (TypeError, ValueError) as fault:
        theirs = STRATEGIES[name].__name__
        raise UserError(f"strategy {name}: {fault}; its parameters are those of Flower's {theirs}") from None
    config = PrivacyConfig(
        target_delta=privacy.delta,
        population_size=clients,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
    )
    noisy = _watched(flower.DifferentialPrivacyServerSideFixedClipping, watch)
    return noisy(inner, privacy.noise, privacy.clip, clients, accountant=RdpAccountant(config))


def state(strategy: Strategy) -> dict[str, Any]:
    """What a strategy needs to go on after a kill."""
    inner = getattr(strategy, "strategy", strategy)
    found = {name: getattr(inner, name) for name in _MOMENTS if getattr(inner, name, None)}
    accountant = getattr(strategy, "accountant", None)
    return {"moments": found, "privacy": accountant.state_dict() if accountant else None}


def restore(strategy: Strategy, kept: Mapping[str, Any]) -> None:
    """Go on from what `state` gave."""
    inner = getattr(strategy, "strategy", strategy)
    for name, value in kept["moments"].items():
        setattr(inner, name, value)
    if kept["privacy"]:
        strategy.accountant.load_state_dict(kept["privacy"])


def _watched(kind: type[Strategy], watch: Watch) -> Callable[..., Strategy]:
    class Watched(kind):  # type: ignore[misc]
        _before: ArrayRecord
        _asked: int

        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            random.seed(int(config["epoch"]))  # Flower draws who takes part, where not all do
            messages = list(super().configure_train(server_round, arrays, config, grid))
            self._before, self._asked = arrays, len(messages)
            watch.sent += 0 if watch.secure else len(messages) * size_of(arrays)
            self._epoch = int(config["epoch"])
            return messages

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            if not watch.secure:
                replies = watch.checked(self._epoch + 1, self._asked, self._before, replies)
            return super().aggregate_train(server_round, replies)

    return Watched


def size_of(arrays: ArrayRecord) -> int:
    """Bytes of arrays."""
    return sum(one.nbytes for one in arrays.to_numpy_ndarrays())


def _flat(arrays: ArrayRecord) -> np.ndarray:
    return np.concatenate([one.ravel() for one in arrays.to_numpy_ndarrays()])
