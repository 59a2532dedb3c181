"""Clients on machines of their own: Flower's SuperNodes, that a SuperLink leads to.

The server's part runs where the SuperLink runs, in a process that Flower starts. It finds the job in a folder of the
run, and leaves the outcome there: so the SuperLink must see that folder. The clients get weights and orders alone; the
model's code and the data are their own, as each SuperNode's ``--node-config`` names them::

    flower-supernode --superlink HOST:PORT --node-config 'partition-id=0 model="cnn.py:build" data="npz:mine.npz"'
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context as Node
from flwr.serverapp import Grid, ServerApp

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import write_atomically
from robustbench_lite.data.load import as_data
from robustbench_lite.defenses.federated.client import Client, client_app
from robustbench_lite.hardening.checkpoint import Checkpoint
from robustbench_lite.hardening.interface import Artifact, Context
from robustbench_lite.hardening.training import train_step
from robustbench_lite.model.loading import load_target
from robustbench_lite.workers.packing import all_users_modules, packed

if TYPE_CHECKING:
    from robustbench_lite.defenses.federated.step import Federated

_APP = "flower-app"
_JOB, _OUTCOME = "job.pickle", "outcome.pickle"
_EVERY = 0.5  # seconds between two looks at the outcome

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "federation"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "robustbench-lite"

[tool.flwr.app.components]
serverapp = "robustbench_lite.defenses.federated.deployment:server"
clientapp = "robustbench_lite.defenses.federated.deployment:client"

[tool.flwr.app.config]
job = ""
"""


def deployed(step: Federated, artifact: Artifact, context: Context) -> Artifact:
    """Run a federation on SuperNodes, and wait for its end.

    Raises
    ------
    UserError
        For a run without a folder, and where Flower refuses it or the server's part fails.
    """
    folder = context.checkpoint.folder
    if folder is None:
        raise UserError("a federation over a SuperLink leaves its work in a folder: give out (--out)")
    app = (folder / _APP).resolve()
    shutil.rmtree(app, ignore_errors=True)
    app.mkdir()
    write_atomically(app / "pyproject.toml", _PYPROJECT)
    quiet = dataclasses.replace(context, train=train_step, on_progress=None, checkpoint=Checkpoint())
    job = (step, artifact, quiet, folder.resolve(), context.checkpoint.fingerprint)
    (app / _JOB).write_bytes(packed(job, all_users_modules()))
    try:
        _submit(app, step.superlink)
        while not (app / _OUTCOME).is_file():
            time.sleep(_EVERY)
        outcome = pickle.loads((app / _OUTCOME).read_bytes())
    finally:
        shutil.rmtree(app)
    if isinstance(outcome, str):
        raise UserError(outcome)
    context.checkpoint.log[:] = outcome.log
    made: Artifact = outcome.artifact
    return made


def _submit(app: Path, superlink: str) -> None:
    """Hand the app to the SuperLink."""
    flwr = str(Path(sys.executable).with_name("flwr"))
    command = [flwr, "run", str(app), superlink, "--run-config", f'job="{app}"', "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"success": False, "error-message": done.stdout + done.stderr}
    if not answer.get("success"):
        told = str(answer.get("error-message")).strip().splitlines()
        raise UserError(f"Flower takes no run on {superlink!r}: {told[-1] if told else 'it tells no reason'}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the server's part leaves."""

    artifact: Artifact
    log: tuple[Any, ...]


server = ServerApp()


@server.main()  # type: ignore[untyped-decorator]
def _serve(grid: Grid, node: Node) -> None:
    app = Path(str(node.run_config["job"]))
    step, artifact, context, folder, fingerprint = pickle.loads((app / _JOB).read_bytes())
    outcome: Outcome | str
    try:
        checkpoint = Checkpoint.open(folder, fingerprint, resume=True)
        made = step.serve(grid, artifact, dataclasses.replace(context, checkpoint=checkpoint))
        outcome = Outcome(made, tuple(checkpoint.log))
    except Exception as fault:
        outcome = f"the server's part of the federation failed: {type(fault).__name__}: {fault}"
    part = app / f"{_OUTCOME}.part"
    part.write_bytes(packed(outcome, all_users_modules()))
    part.replace(app / _OUTCOME)


@lru_cache(maxsize=1)
def _own(model: str, data: str, number: int, share: float, seed: int) -> Client:
    held = as_data(data, split="train")
    return Client(number, load_target(model), *held.split(share, seed))


def _provide(node: Node, share: float, seed: int) -> Client:
    given = node.node_config
    missing = [name for name in ("partition-id", "model", "data") if name not in given]
    if missing:
        raise UserError(f"this SuperNode's --node-config lacks {', '.join(missing)}; see docs/federated.md")
    return _own(str(given["model"]), str(given["data"]), int(given["partition-id"]), share, seed)


client = client_app(_provide)
