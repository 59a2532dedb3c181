"""All clients on one machine, in Flower's simulation: the server in a thread of this process, the clients on Ray."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Context as Node
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.defenses.federated.client import Client, client_app
from robustbench_lite.model.target import Target
from robustbench_lite.workers.packing import all_users_modules, packed


def simulate(serve: Callable[[Grid], None], target: Target, parts: Sequence[Data]) -> None:
    """Run a federation to its end.

    Parameters
    ----------
    serve
        The server's part; what it raises is raised here.
    target
        Gives the clients their architecture.
    parts
        Samples of each client.
    """
    raised: list[BaseException] = []
    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, node: Node) -> None:
        try:
            serve(grid)
        except BaseException as fault:  # Flower would print it, and raise one of its own
            raised.append(fault)

    with tempfile.TemporaryDirectory(prefix="federation-") as folder:
        store(Path(folder), target, parts)

        def provide(node: Node, share: float, seed: int) -> Client:
            return stored(folder, int(node.node_config["partition-id"]), share, seed)

        run_simulation(
            server,
            client_app(provide),
            num_supernodes=len(parts),
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    if raised:
        raise raised[0]


def store(folder: Path, target: Target, parts: Sequence[Data]) -> None:
    """Write what the clients load."""
    (folder / "target.pickle").write_bytes(packed(target, all_users_modules()))
    for number, data in enumerate(parts):
        np.save(folder / f"{number}_x.npy", data.fetch(range(len(data))).numpy())
        np.save(folder / f"{number}_y.npy", data.labels.numpy())


@lru_cache(maxsize=8)
def stored(folder: str, number: int, share: float, seed: int) -> Client:
    """Read a client; its process keeps the last few."""
    target = pickle.loads((Path(folder) / "target.pickle").read_bytes())
    x, y = (np.load(Path(folder) / f"{number}_{name}.npy") for name in "xy")
    data, held_out = as_data((x, y)).split(share, seed)
    return Client(number, target, data, held_out)


os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do in future; else it warns
