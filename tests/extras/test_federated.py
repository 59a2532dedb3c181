"""Federations with Flower itself: its simulation, and a SuperLink with SuperNodes over TLS.

Run by ``make test-federated``, in an environment of its own: Flower needs older versions of rich and Ray.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("flwr")

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.load import as_data
from robustbench_lite.defenses.federated.partition import dirichlet
from robustbench_lite.hardening.folder import recipe_text
from robustbench_lite.hardening.pipeline import Hardened, harden
from robustbench_lite.hardening.recipe import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray and Flower warn of their own
]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def recipe(schedule: dict[str, Any] | None = None, **params: Any) -> Recipe:
    given = {"defense": "standard", "params": {}, "clients": 3, "alpha": 10.0} | params
    plain = {"epochs": 3, "batch_size": 16, "lr": 0.2, "held_out": 0.2}
    return Recipe.model_validate(
        {
            "threat": "Linf 0.05",
            "suite": "linf_quick",
            "steps": [{"name": "federated", "params": given, "schedule": plain | (schedule or {})}],
        }
    )


def federation(given: Recipe, **more: Any) -> Hardened:
    return harden(network(), "digits", given, limit=20, limit_train=500, **more)


def measures(made: Hardened) -> dict[str, float]:
    return {one.name: one.value for one in made.after.measures}


def weights(made: Hardened) -> dict[str, torch.Tensor]:
    return dict(made.target.module.state_dict())


def test_one_step_of_each_client_is_one_step_of_all_together() -> None:
    """Without momentum: the weighted mean of the clients' steps is a step down the mean gradient."""
    whole = {"epochs": 1, "batch_size": 10_000, "momentum": 0.0, "weight_decay": 0.0, "decay": "constant", "lr": 0.5}
    made = federation(recipe(whole))
    data = as_data("digits", split="train").stratified(500, 0).split(0.2, 0)[0]
    module = network()
    # Each client holds a part of its samples out, so the step is over those that they learn from.
    parts = [data.take(rows) for rows in dirichlet(data.labels, 3, 10.0, least=10, seed=0)]
    learnt = [as_data((one.fetch(range(len(one))), one.labels)).split(0.2, 0)[0] for one in parts]
    x, y = (
        torch.cat(group) for group in zip(*((one.fetch(range(len(one))), one.labels) for one in learnt), strict=True)
    )
    nn.functional.cross_entropy(module(x), y).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.5 * parameter.grad
    for name, value in module.state_dict().items():
        torch.testing.assert_close(weights(made)[name], value, atol=1e-5, rtol=1e-4)


def test_what_a_federation_costs_and_gives_each_client_is_on_the_card() -> None:
    made = federation(recipe())
    found = measures(made)
    size = sum(value.nbytes for value in network().state_dict().values())
    assert found["bytes_down"] == found["bytes_up"] == 3 * 3 * size
    assert 0 < found["heterogeneity"] < 0.5
    shares = [found[f"client_{number}_clean"] for number in range(3)]
    assert found["worst_client_clean"] == min(shares)
    assert found["worst_client_robust"] <= found["worst_client_clean"]
    assert len(made.log) == 3
    assert made.log[-1].clean > 0.2
    assert made.steps[0].name == "federated"


@pytest.mark.parametrize("secure", [False, True])
def test_a_killed_federation_goes_on_as_if_it_had_not_been(secure: bool, tmp_path: Path) -> None:
    """With Adam at the server, whose moments must be found again."""
    given = recipe(strategy="fedadam", secure=secure)
    whole = federation(given, out=tmp_path / "whole")

    def kill(line: Any) -> None:
        if line.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federation(given, out=tmp_path / "cut", on_epoch=kill)
    assert (tmp_path / "cut" / "federation.pt").is_file()
    again = federation(given, out=tmp_path / "cut", resume=True)
    assert len(again.log) == len(whole.log) == 3
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    assert not (tmp_path / "cut" / "federation.pt").exists()


@pytest.mark.parametrize("params", [{}, {"strategy": "fedprox", "strategy_params": {"proximal_mu": 0.5}}])
def test_a_secure_federation_ends_where_a_plain_one_does(params: dict[str, Any]) -> None:
    plain, secure = federation(recipe(**params)), federation(recipe(**params, secure=True))
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(secure)[name], value, atol=1e-5, rtol=0)  # 3 rounds; a step is 64 / 2**30
    told = [note for note in secure.notes if "secure aggregation" in note]
    assert len(told) == 1
    assert "could not check that each one is finite and cut at 64, nor whether one points away" in told[0]
    assert not any("secure" in note for note in plain.notes)
    size = measures(plain)["bytes_up"]
    assert all(size < measures(secure)[name] < size + 50_000 for name in ("bytes_up", "bytes_down"))
    meant = {one.name: one.definition for one in secure.after.measures}
    assert "masked updates and keys" in meant["bytes_up"]


@pytest.mark.parametrize("secure", [False, True])
def test_weights_that_are_no_numbers_are_left_out_and_told(secure: bool) -> None:
    made = federation(recipe(liars=1, lie="nan", secure=secure))
    assert any(re.search(r"weights that are not finite, 3 times \(clients 0\)", note) for note in made.notes)
    assert all(value.isfinite().all() for value in weights(made).values())


def test_a_client_that_turns_its_update_around_is_told_of() -> None:
    made = federation(recipe({"epochs": 4}, clients=5, liars=1, lie="sign_flip", alpha=100.0))
    told = [note for note in made.notes if "point away" in note]
    assert len(told) == 1
    assert "client 0" in told[0]


@pytest.mark.parametrize(
    ("strategy", "params", "holds"), [("fedavg", {}, False), ("trimmed_mean", {"beta": 0.2}, True)]
)
def test_one_large_lie_ruins_the_mean_alone(strategy: str, params: dict[str, Any], holds: bool) -> None:
    lie = {"liars": 1, "lie": "sign_flip", "lie_scale": 20.0}
    made = federation(recipe(clients=5, alpha=100.0, strategy=strategy, strategy_params=params, **lie))
    clean = made.after.clean_accuracy.value
    assert clean >= 0.5 if holds else clean <= 0.3
    told = [note for note in made.notes if "point away" in note]
    assert len(told) == 1
    assert "client 0" in told[0]


def test_privacy_is_accounted_for() -> None:
    """Epsilon of the Gaussian mechanism over two rounds, by its Renyi divergence."""
    made = federation(recipe({"epochs": 2}, noise=2.0, clip=0.5))
    epsilon = measures(made)["privacy_epsilon"]
    delta = 1e-5
    orders = np.linspace(1.01, 200, 20_000)
    renyi = 2 * orders / (2 * 2.0**2)  # two rounds, noise of twice what one client can change
    bound = float((renyi + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)).min())
    assert epsilon == pytest.approx(bound, rel=0.05)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"strategy": "fedavgg"}, "did you mean fedavg"),
        ({"strategy": "fedprox", "strategy_params": {"mu": 1}}, "its parameters are those of Flower's FedProx"),
        ({"defense": "distillation"}, "can't be federated"),
        ({"liars": 3}, "all of 3 clients lie"),
        ({"defense": "pgd_trainin"}, "did you mean pgd_training"),
        ({"secure": True, "strategy": "krum"}, "strategy krum must see each one: take one of fedavg, fedprox, fedadam"),
        ({"secure": True, "strategy": "fedmedian"}, "strategy fedmedian must see each one"),
        ({"secure": True, "noise": 1.5}, "noise 1.5 needs each update clipped at the server.*leave noise"),
        ({"secure": True, "clients": 1}, "needs 2 clients or more"),
    ],
)
def test_what_can_not_be_run_is_told_before_anything_runs(params: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        federation(recipe(**params))


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A certificate authority of the test's own, and a certificate for the loopback address."""
    folder = tmp_path / "tls"
    folder.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    authority = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test")
    openssl(*authority, "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1", encoding="utf-8")
    signing = ("x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    openssl(*signing, "-in", "request", "-extfile", "names", "-out", "server.pem")
    return folder


@pytest.fixture
def cluster(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A SuperLink on the loopback address; it gives a function that starts a SuperNode."""
    binaries = Path(sys.executable).parent
    port = 20_000 + os.getpid() % 10_000
    home = tmp_path / "home"
    home.mkdir()
    address = f'[superlink.here]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{certificates / "ca.pem"}"\n'
    (home / "config.toml").write_text(address, encoding="utf-8")
    monkeypatch.setenv("FLWR_HOME", str(home))
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))\n",
        encoding="utf-8",
    )
    running = ExitStack()

    def start(name: str, *words: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                words, cwd=tmp_path, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        running.callback(end, process)
        return process

    def node(number: int) -> subprocess.Popen[bytes]:
        mine = f'partition-id={number} model="net.py:build" data="digits"'
        trust = ("--root-certificates", str(certificates / "ca.pem"))
        where = ("--superlink", f"127.0.0.1:{port}", "--port", str(port + 1 + number))
        return start(f"node{number}", "flower-supernode", *where, *trust, "--node-config", mine)

    files = {"certfile": "server.pem", "keyfile": "key.pem", "ca-certfile": "ca.pem"}
    tls = [word for name, file in files.items() for word in (f"--ssl-{name}", str(certificates / file))]
    with running:
        start("link", "flower-superlink", *tls, "--port", str(port), "--disable-runtime-dependency-installation")
        yield node


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("secure", [False, True])
def test_supernodes_over_tls_of_which_one_is_killed_and_started_again(
    secure: bool, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [cluster(number) for number in range(3)]
    given = recipe({"epochs": 4}, superlink="here", timeout=600, secure=secure)
    (tmp_path / "recipe.toml").write_text(recipe_text(given), encoding="utf-8")
    words = ("harden", "net.py:build", "--data", "digits", "--recipe", "recipe.toml", "--out", "out", "--limit", "20")
    with (tmp_path / "harden.log").open("wb") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "robustbench_lite", *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    lines = tmp_path / "out" / "log.jsonl"
    until = time.monotonic() + 300
    while not lines.is_file() and run.poll() is None and time.monotonic() < until:
        time.sleep(0.5)
    end(nodes[0])
    cluster(0)
    code = run.wait(timeout=600)
    told = (tmp_path / "harden.log").read_text(encoding="utf-8")
    assert code == 0, told
    assert len(lines.read_text(encoding="utf-8").splitlines()) == 4
    assert "Hardening" in told
    assert ("federation: secure aggregation" in told) == secure


def test_a_superlink_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UserError, match="Flower takes no run on 'nowhere'"):
        federation(recipe(superlink="nowhere"), out=tmp_path / "out")
