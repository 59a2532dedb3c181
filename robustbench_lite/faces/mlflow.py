"""Scorecards as runs of MLflow; needs the extra ``mlflow``."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.extras import library

if TYPE_CHECKING:
    from robustbench_lite.results.scorecard import Scorecard

EXPERIMENT = "adversarial robustness"
_STRANGE = re.compile(r"[^\w./ -]")  # in names of metrics MLflow takes no other
_LONGEST = 500  # characters of a parameter


def log(cards: Sequence[Scorecard], uri: str, experiment: str = EXPERIMENT) -> list[str]:
    """Write each card as a run: parameters, metrics with the ends of their intervals, tags, and the card and its page.

    Parameters
    ----------
    cards
        The scorecards.
    uri
        Where MLflow keeps its runs: a folder (its ``mlflow.db`` and ``artifacts``), ``sqlite:///FILE``, or the address
        of a server.
    experiment
        Name of the experiment, made where there is none.

    Returns
    -------
    list of str
        The id of each run.

    Raises
    ------
    UserError
        Where the extra is missing, and where the store can't be written.
    """
    kind = client_class()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow's own libraries to one another
            client = kind(tracking_uri=_address(uri))
            found = client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else client.create_experiment(experiment, _artifacts(uri))
            return [_log(client, number, card) for card in cards]
    except Exception as fault:  # of a store, a network, a data base
        told = str(fault).partition("\n")[0]
        raise UserError(f"--mlflow {uri}: can't be written ({type(fault).__name__}: {told})") from fault


def _is_folder(uri: str) -> bool:
    return "://" not in uri and not uri.startswith("file:")


def _address(uri: str) -> str:
    """Where the numbers are kept: in a data base, where a folder is given, as MLflow keeps no runs in plain files."""
    if not _is_folder(uri):
        return uri
    Path(uri).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{Path(uri).absolute() / 'mlflow.db'}"


def _artifacts(uri: str) -> str | None:
    """Where cards and pages are kept: beside the data base of a folder; elsewhere MLflow knows."""
    return (Path(uri).absolute() / "artifacts").as_uri() if _is_folder(uri) else None


def _log(client: Any, experiment: str, card: Scorecard) -> str:
    run = client.create_run(experiment, run_name=card.target.name or None, tags=dict(_tags(card)))
    made: str = run.info.run_id
    for name, value in _parameters(card):
        client.log_param(made, name, value[:_LONGEST])
    for name, number in _metrics(card):
        client.log_metric(made, _STRANGE.sub("_", name), number)
    with tempfile.TemporaryDirectory() as folder:
        card.save(Path(folder) / "scorecard.json")
        page = registry.find("reports", "html")([card])
        (Path(folder) / "scorecard.html").write_text(page, encoding="utf-8")
        client.log_artifacts(made, folder)
    client.set_terminated(made)
    return made


def _tags(card: Scorecard) -> Iterator[tuple[str, str]]:
    yield "verdict", card.verdict
    yield "robustbench_lite", card.version
    if codes := [one.code for one in card.validity if one.severity == "error"]:
        yield "invalid_because", ", ".join(codes)
    if tags := list(dict.fromkeys(tag for one in card.attacks for tag in one.tags)):
        yield "taxonomy", ", ".join(tags)


def _parameters(card: Scorecard) -> Iterator[tuple[str, str]]:
    yield "target", card.target.name
    yield "weights_sha256", card.target.weights_sha256
    yield "data", card.data.name
    yield "samples", str(len(card.outcomes))
    yield "samples_sha256", card.data.sha256
    yield "suite", card.suite.name
    yield "threats", ", ".join(str(one.threat) for one in card.threats)
    yield "seed", str(card.seed)


def _metrics(card: Scorecard) -> Iterator[tuple[str, float]]:
    shares = {"clean_accuracy": card.clean_accuracy, "robust_accuracy": card.robust_accuracy}
    shares |= {f"robust_accuracy/{one.threat}": one.robust_accuracy for one in card.threats}
    for name, one in shares.items():
        yield from ((name, one.value), (f"{name}/low", one.low), (f"{name}/high", one.high))
    yield from ((f"measures/{one.name}", one.value) for one in card.measures)
    yield from (("passes", float(card.passes.total)), ("seconds", card.seconds))


def client_class() -> Any:
    """MLflow's client; refused with what to install where the extra is missing."""
    return library("mlflow", "--mlflow", "pip install 'robustbench_lite[mlflow]'", name="MLflow").MlflowClient
