"""Scorecards as MLflow reads them back; `make test-mlflow` runs this in an environment of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces import mlflow as ours
from robustbench_lite.faces.cli import main
from robustbench_lite.results.scorecard import Finding, Measured, Scorecard

mlflow = pytest.importorskip("mlflow")
SIZE = Measured(name="bytes", value=4096, unit="bytes", better="lower", definition="of the weights")


def client(folder: Path) -> object:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder.absolute() / 'mlflow.db'}")


def test_a_card_is_a_run_with_its_intervals_and_its_page(make_card, tmp_path):
    fault = Finding(code="RB201", severity="error", message="m", cure="c")
    told = {"measures": (SIZE,), "verdict": "INVALID", "validity": (fault,)}
    card = make_card(threats=["Linf 8/255", "L2 0.5"], samples=20, **told)
    [made] = ours.log([card], str(tmp_path / "runs"))
    run = client(tmp_path / "runs").get_run(made)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["robust_accuracy"] == card.robust_accuracy.value
    assert run.data.metrics["robust_accuracy/low"] == card.robust_accuracy.low
    assert run.data.metrics["robust_accuracy/L2 0.5/high"] == card.threats[1].robust_accuracy.high
    assert run.data.metrics["robust_accuracy/Linf 8/255"] == card.threats[0].robust_accuracy.value
    assert run.data.metrics["measures/bytes"] == 4096
    assert run.data.params["threats"] == "Linf 8/255, L2 0.5"
    assert (run.data.tags["verdict"], run.data.tags["invalid_because"]) == ("INVALID", "RB201")
    files = {one.path for one in client(tmp_path / "runs").list_artifacts(made)}
    assert files == {"scorecard.json", "scorecard.html"}
    place = client(tmp_path / "runs").download_artifacts(made, "scorecard.json", str(tmp_path))
    assert Scorecard.load(place) == card


def test_runs_of_an_experiment_stand_together(make_card, tmp_path):
    runs = [ours.log([make_card(samples=4, seed=seed)], str(tmp_path / "runs"))[0] for seed in (0, 1)]
    numbers = {client(tmp_path / "runs").get_run(one).info.experiment_id for one in runs}
    assert len(numbers) == 1


def test_the_command_line(make_card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_card().save("card.json")
    result = CliRunner().invoke(main, ["report", "card.json", "--mlflow", "runs"])
    assert result.exit_code == 0, result.output
    [made] = [line.split()[1] for line in result.output.splitlines() if line.startswith("MLflow")]
    assert client(tmp_path / "runs").get_run(made).data.tags["verdict"] == "PASS"


def test_a_store_that_can_not_be_written_is_told(make_card, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--mlflow .* can't be written"):
        ours.log([make_card(samples=4)], str(tmp_path / "file" / "in"))
