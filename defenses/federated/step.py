"""The step of a recipe: train at clients, and put their weights together."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from robustbench_lite.core import launched, registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.parameters import Length, PositiveInt
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.defenses.federated.partition import dirichlet, heterogeneity
from robustbench_lite.hardening.interface import Artifact, Context, Defense, Step
from robustbench_lite.hardening.training import train_step, unfit_schedule

STATE_FILE = "federation.pt"

_LEAST = 10  # samples of a client


@dataclass(frozen=True, kw_only=True)
class Federated(Step):
    """Train at clients whose data stay with them; a server puts their weights together, round after round.

    An epoch of the schedule is a round: each client trains on all of its samples, ``local_epochs`` times, from the
    weights that the server sent. The server measures them on its own held-out samples and keeps the best round's, as
    any training does. The clients are simulated on this machine, each with a share of the data; or they are Flower's
    SuperNodes, which have data of their own, where a ``superlink`` is given.

    References
    ----------
    McMahan et al., *Communication-efficient learning of deep networks from decentralized data*, AISTATS 2017.
    https://arxiv.org/abs/1602.05629. With adversarial training: Zizzo et al. 2020. https://arxiv.org/abs/2012.01791
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1602.05629"
    trains: ClassVar[bool] = True

    defense: str = "pgd_training"
    """The training step that runs at each client, by name."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Its parameters."""
    clients: PositiveInt = 10
    """How many there are."""
    alpha: Length = 0.3
    """How alike the clients' classes are: the concentration of the Dirichlet distribution that shares out the data."""
    sources: tuple[str, ...] = ()
    """Data of each client, by the name of a source, in the place of shares of the recipe's data."""
    local_epochs: PositiveInt = 1
    """Epochs of a client in each round."""
    strategy: str = "fedavg"
    """How the weights are put together: ``fedavg``, ``fedprox``, ``fedadam``, ``fedmedian``, ``trimmed_mean``,
    ``krum``, ``multi_krum``."""
    strategy_params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of Flower's strategy, such as ``{ proximal_mu = 0.1 }`` or ``{ num_malicious_nodes = 2 }``."""
    noise: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Noise multiplier of client-level differential privacy, such as 1.0; 0 adds none."""
    clip: Length = 1.0
    """Largest L2 norm of a client's update, where noise is added."""
    secure: bool = False
    """Whether updates are masked at the clients, so that the server learns their sum alone. For ``fedavg``, ``fedprox``
    and ``fedadam``, without noise."""
    liars: int = Field(default=0, ge=0)
    """Simulated clients that lie, the first ones: a trial of what the strategy survives."""
    lie: Literal["label_flip", "sign_flip", "nan"] = "label_flip"
    """What they do: learn each class k as K - 1 - k, send their update with its sign turned, or send no numbers."""
    lie_scale: Length = 1.0
    """How many times as large they make their update. Two of ten that turn its sign stop a plain mean at 4."""
    timeout: Length = 3600.0
    """Seconds that a round waits for the clients' answers; whoever is later is left out of it."""
    superlink: str = ""
    """A connection of Flower's configuration, to run on SuperNodes in the place of the simulation."""

    def unfit(self, artifact: Artifact) -> str | None:
        if launched.processes() > 1:
            return "trains at clients that share the work, so it runs in one process: start it without torchrun"
        try:
            importlib.import_module("flwr")
        except ImportError as fault:
            return (
                f"needs flwr, which can't be imported ({fault}); in an environment of its own: pip install "
                "'robustbench_lite[federated]'"
            )
        from robustbench_lite.defenses.federated import strategies

        try:
            defense = registry.build("defenses", self.defense, self.params)
            watch = strategies.Watch(quorum=1)
            strategies.make(self.strategy, self.strategy_params, self._number(), watch, self._privacy())
        except UserError as fault:
            return str(fault)
        if self.secure and (unsafe := self._unfit_for_sums()):
            return unsafe
        if not isinstance(defense, Defense) or len(defense.stages) > 1 or defense.rehearses:
            return f"{self.defense} can't be federated: give a step that trains one network on the data alone"
        if self.liars >= self._number():
            return f"all of {self._number()} clients lie; some must be left to learn from"
        return defense.unfit(artifact)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        defense: Defense = registry.build("defenses", self.defense, self.params)
        if fault := unfit_schedule(defense, context.schedule):
            raise UserError(f"{self.defense}: {fault}")
        if self.superlink:
            from robustbench_lite.defenses.federated.deployment import deployed

            made: Artifact = deployed(self, artifact, context)
            return made
        from robustbench_lite.defenses.federated.simulation import simulate

        parts = self._parts(context)
        done: list[Artifact] = []
        simulate(lambda grid: done.append(self.serve(grid, artifact, context, parts)), artifact.target, parts)
        return done[0]

    def serve(self, grid: Any, artifact: Artifact, context: Context, parts: Sequence[Data] = ()) -> Artifact:
        """The server's part, in Flower's ServerApp.

        Parameters
        ----------
        grid
            Flower's way to the clients.
        parts
            Samples of each client, where they are known here.
        """
        from robustbench_lite.defenses.federated import server, strategies
        from robustbench_lite.defenses.federated.client import Order

        clients, folder, schedule = self._number(), context.checkpoint.folder, context.schedule
        watch, privacy = strategies.Watch(quorum=clients // 2 + 1, secure=self.secure), self._privacy()
        strategy = strategies.make(self.strategy, self.strategy_params, clients, watch, privacy)
        order = Order(
            defense=self.defense,
            params=self.params,
            schedule=schedule.model_copy(update={"epochs": schedule.epochs * self.local_epochs}),
            local_epochs=self.local_epochs,
            threat=artifact.threat.model_copy(update={"goal": "untargeted"}),
            seed=context.seed,
            liars=dict.fromkeys(range(self.liars), self.lie),
            lie_scale=self.lie_scale,
            secure=self.secure,
        )
        file = None if folder is None else folder / STATE_FILE
        server.wait(grid, clients, self.timeout)
        if self.secure:
            from robustbench_lite.defenses.federated.secure import Sums

            grid = Sums(grid, watch)
        rounds = server.Rounds(grid, strategy, watch, order, self.timeout, file)
        # The mean over the clients stands in the place of the mean over the steps, of which the server does none.
        schedule = schedule.model_copy(update={"average": 0.0})
        defense: Defense = registry.build("defenses", self.defense, self.params)
        made = train_step(defense, artifact, dataclasses.replace(context, schedule=schedule, learn=rounds))
        record = made.records[-1]
        spent = None if privacy is None else (strategy.privacy_spent().epsilon, privacy.delta)
        unlike = heterogeneity([one.labels for one in parts]) if parts else None
        numbers = server.measures(watch, rounds.everywhere(made.target), unlike, spent)
        record = dataclasses.replace(
            record,
            name=context.name,
            params=dataclasses.asdict(self),
            notes=(*record.notes, *server.notes(watch)),
            measures=tuple(numbers),
        )
        if file is not None:
            file.unlink(missing_ok=True)
        return artifact.after(made.target, record)

    def _number(self) -> int:
        return len(self.sources) or self.clients

    def _unfit_for_sums(self) -> str | None:
        try:
            from robustbench_lite.defenses.federated import secure
        except ImportError as fault:
            return (
                f"secure aggregation (--secure) needs parts of flwr 1.42 that this version of it lacks ({fault}): pip "
                "install 'flwr[simulation]==1.42.*'"
            )
        found: str | None = secure.unfit(self.strategy, self.noise, self._number())
        return found

    def _parts(self, context: Context) -> list[Data]:
        if self.sources:
            return [as_data(source, split="train") for source in self.sources]
        data = context.data
        drawn = dirichlet(data.labels, self.clients, self.alpha, least=_LEAST, seed=context.seed)
        return [data.take(torch.as_tensor(rows)) for rows in drawn]

    def _privacy(self) -> Any:
        from robustbench_lite.defenses.federated.strategies import Privacy

        clients = self._number()
        delta = min(1e-5, 1 / (10 * clients))
        return Privacy(noise=self.noise, clip=self.clip, clients=clients, delta=delta) if self.noise else None
