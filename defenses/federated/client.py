"""Flower's ClientApp: a round of training at a client, and what the model is worth there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app import Context as Node
from flwr.clientapp import ClientApp
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.hardening.held_out import HeldOut
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import learn_alone
from robustbench_lite.hardening.transfer import classes_of
from robustbench_lite.model.target import Target

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # nothing is sent to anyone without being asked

CUT = 64.0
"""Largest change of a weight, or of a running statistic, that a client sends of a round with secure aggregation."""
NOT_FINITE = "weights that are not finite"

Lie = Literal["label_flip", "sign_flip", "nan"]


class Order(BaseModel):
    """What a client is asked to do; it travels as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    defense: str
    params: dict[str, Any]
    schedule: Schedule
    """Of all rounds: its epochs are those that a client does in the whole."""
    local_epochs: int
    """Of a round."""
    threat: ThreatModel
    seed: int
    liars: dict[int, Lie] = {}
    """Clients that lie, for trials of what a strategy survives."""
    lie_scale: float = 1.0
    """How many times as large they make their update."""
    secure: bool = False
    """Whether a client masks its update, as `masking` does."""


@dataclasses.dataclass(frozen=True)
class Client:
    """What a client has of its own."""

    number: int
    target: Target
    """Gives the architecture; its weights are those of whoever asks."""
    data: Data
    held_out: Data
    """Samples of its own to measure on; none of them is trained on."""


def client_app(provide: Callable[[Node, float, int], Client]) -> ClientApp:
    """Make the app that answers at each client.

    Parameters
    ----------
    provide
        Gives the client of a node, from the share of its samples to hold out and the seed of that draw.
    """
    app = ClientApp()

    def whose(message: Message, node: Node) -> tuple[Order, Client]:
        order = Order.model_validate_json(str(message.content["config"]["order"]))
        return order, provide(node, order.schedule.held_out, order.seed)

    def asked(message: Message, node: Node) -> tuple[Order, Client]:
        order, client = whose(message, node)
        load(client.target.module, message.content["arrays"])
        return order, client

    def mod(message: Message, node: Node, call: Callable[[Message, Node], Message]) -> Message:
        if not Order.model_validate_json(str(message.content["config"]["order"])).secure:
            return call(message, node)
        # It needs Flower's older interface: a plain federation must not break where Flower drops that.
        from robustbench_lite.defenses.federated.masking import masked

        made: Message = masked(message, node, call, lambda: whose(message, node)[1])
        return made

    @app.train(mods=[mod])  # type: ignore[untyped-decorator]
    def train(message: Message, node: Node) -> Message:
        order, client = asked(message, node)
        done = int(message.content["config"]["epoch"]) * order.local_epochs
        mu = float(message.content["config"].get("proximal-mu", 0.0))
        module, lie = client.target.module, order.liars.get(client.number)
        before = {name: value.clone() for name, value in floats(module).items()}
        learnt = learn_alone(
            client.target,
            registry.build("defenses", order.defense, order.params),
            order.schedule,
            order.threat,
            _flipped(client) if lie == "label_flip" else client.data,
            range(done, done + order.local_epochs),
            seed=order.seed + client.number,
            pull=_towards([one.detach().clone() for one in module.parameters()], module, mu) if mu else None,
        )
        weights = floats(module)
        if lie == "nan":
            weights = {name: torch.full_like(value, torch.nan) for name, value in weights.items()}
        elif lie:
            scale = -order.lie_scale if lie == "sign_flip" else order.lie_scale
            weights = {name: was + scale * (weights[name] - was) for name, was in before.items()}
        told = {
            "client": client.number,
            "num-examples": len(client.data),
            "one": 1,
            "loss": learnt.loss,
            "lr": learnt.lr,
            "passes": learnt.passes,
        }
        return _reply(message, {"arrays": ArrayRecord(weights), "metrics": MetricRecord(told)})

    @app.evaluate()  # type: ignore[untyped-decorator]
    def evaluate(message: Message, node: Node) -> Message:
        order, client = asked(message, node)
        client.target.module.eval()
        held_out = HeldOut(client.held_out, order.schedule.batch_size)
        found = held_out.measure(client.target, order.threat, one_step=False)
        told = {"client": client.number, "clean": found.clean, "robust": found.robust, "total": found.total}
        return _reply(message, {"metrics": MetricRecord(told)})

    return app


def floats(module: nn.Module) -> dict[str, Tensor]:
    """The weights and statistics of a module that can be averaged, on the CPU."""
    return {name: value.detach().cpu() for name, value in module.state_dict().items() if value.is_floating_point()}


def load(module: nn.Module, arrays: ArrayRecord) -> None:
    """Put weights that were sent into a module; what is not sent stays."""
    module.load_state_dict({**module.state_dict(), **arrays.to_torch_state_dict()})


def _reply(message: Message, content: dict[str, Any]) -> Message:
    return Message(content=RecordDict(content), reply_to=message)


def _flipped(client: Client) -> Data:
    last = classes_of(client.target, client.data) - 1
    return dataclasses.replace(client.data, labels=last - client.data.labels)


def _towards(start: list[Tensor], module: nn.Module, mu: float) -> Callable[[torch.optim.Optimizer], None]:
    """The gradient of FedProx's term: half of mu times the squared distance from the weights that were sent."""

    def pull(_: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for now, then in zip(module.parameters(), start, strict=True):
                if now.grad is not None:
                    now.grad.add_(now - then, alpha=mu)

    return pull
