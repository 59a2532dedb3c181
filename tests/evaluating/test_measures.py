"""Measures: found by name, put on the card, shown by every report, gated by every face."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from robustbench_lite import Gates, Scorecard, Target, evaluate
from robustbench_lite.core import registry
from robustbench_lite.evaluating.measures.interface import Measure
from robustbench_lite.faces.cli import main
from robustbench_lite.results.scorecard import Interval

OWN = """
from robustbench_lite.evaluating.measures.interface import Measure
from robustbench_lite.results.scorecard import Interval


def sure(subject):
    x = subject.data.fetch(range(len(subject.data)))
    return Interval.of(int((subject.target(x).softmax(1).amax(1) > 0.9).sum()), len(x))


def broken(subject):
    raise RuntimeError("no such sensor")


SURE = Measure(unit="share", better="higher", definition="predictions of more than 0.9", of=sure)
BYTES = Measure(unit="bytes", better="lower", definition="size of the weights", of=lambda subject: 4096)
BROKEN = Measure(unit="s", better="lower", definition="fails", of=broken)
"""
TABLE = 'CATALOGUE = {"sure": "own:SURE", "bytes": "own:BYTES", "broken": "own:BROKEN"}\n'
MODEL = """
import torch
from torch import nn
def build():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[9.0, 9, 9, 9], [-9, -9, -9, -9]]))
        layer.bias.copy_(torch.tensor([-18.0, 18]))
    return layer
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(60, 4, generator=generator)
    return x, (x.mean(1) < 0.5).long()
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "measures").mkdir()
    (tmp_path / "measures" / "__init__.py").write_text(TABLE, encoding="utf-8")
    (tmp_path / "measures" / "own.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def linear() -> tuple[Target, tuple[torch.Tensor, torch.Tensor]]:
    names: dict[str, object] = {}
    exec(MODEL, names)
    return Target(names["build"]()), names["data"]()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["clean_accuracy", "robust_accuracy", "drop", "passes", "seconds", "parameters"])
def test_the_numbers_of_every_card_are_measures(name: str, repo: Path) -> None:
    assert isinstance(registry.find("measures", name), Measure)
    target, data = linear()
    card = evaluate(target, data, ["fgsm"], "Linf 0.05", measures=[name])
    [number] = card.measures
    expected = {
        "clean_accuracy": card.clean_accuracy.value,
        "robust_accuracy": card.robust_accuracy.value,
        "drop": card.clean_accuracy.value - card.robust_accuracy.value,
        "passes": card.passes.total / 60,
        "seconds": card.seconds,
        "parameters": 10,
    }
    assert number.value == pytest.approx(expected[name])
    assert number.definition
    assert (number.low is not None) == (number.unit == "share")


def test_a_card_without_measures_is_written_as_before() -> None:
    target, data = linear()
    card = evaluate(target, data, ["fgsm"], "Linf 0.05")
    assert card.measures == ()
    assert "measures" not in json.loads(card.model_dump_json())


def test_a_measure_of_ones_own_is_on_the_card_and_in_every_report(repo: Path) -> None:
    run = CliRunner().invoke(
        main,
        [
            *(
                "evaluate",
                "model.py:build",
                "--data",
                "model.py:data",
                "--threat",
                "Linf 0.05",
                "--suite",
                "linf_quick",
            ),
            *("--measure", "sure", "--gate", "bytes <= 5000", "--gate", "sure >= 0.2"),
            *("--json", "card.json", "--html", "card.html", "--markdown", "card.md"),
        ],
        env={"COLUMNS": "80"},
    )
    assert run.exit_code == 0, run.output
    card = Scorecard.load("card.json")
    assert [(number.name, number.unit) for number in card.measures] == [("sure", "share"), ("bytes", "bytes")]
    assert [(gate.name, gate.passed, gate.unit) for gate in card.gates] == [
        ("max_bytes", True, "bytes"),
        ("min_sure", True, "share"),
    ]
    for text in (run.output, Path("card.html").read_text(), Path("card.md").read_text()):
        assert "bytes (lower is better)" in text.replace("\\", "")
        assert "4,096 bytes" in text
        assert "sure (higher is better)" in text.replace("\\", "")


def test_a_gate_on_a_number_is_compared_and_one_on_a_share_is_decided_on_its_interval(repo: Path) -> None:
    target, data = linear()
    share = evaluate(target, data, ["fgsm"], "Linf 0.05", measures=["sure"]).measures[0]
    assert Interval.of(share.count or 0, share.total or 0).low == share.low
    near = share.value + 0.01
    demands = {"max_bytes": 4095, "min_sure": near}
    gates = {gate.name: gate for gate in evaluate(target, data, ["fgsm"], "Linf 0.05", gates=demands).gates}
    assert (gates["max_bytes"].passed, gates["max_bytes"].decided) == (False, True)
    assert (gates["min_sure"].passed, gates["min_sure"].decided) == (True, False)


def test_a_measure_that_fails_loses_no_result_and_meets_no_gate(repo: Path) -> None:
    target, data = linear()
    card = evaluate(target, data, ["fgsm"], "Linf 0.05", measures=["broken", "bytes"])
    assert [number.name for number in card.measures] == ["bytes"]
    [finding] = [one for one in card.validity if one.code == "RB303"]
    assert "no such sensor" in finding.message
    assert (finding.severity, card.verdict) == ("warning", "MEASURED")
    assert evaluate(target, data, ["fgsm"], "Linf 0.05", gates={"max_broken": 1}).verdict == "INVALID"


@pytest.mark.parametrize(
    ("demands", "told"),
    [
        ({"max_byte": 1}, "unknown gate 'max_byte': did you mean max_bytes"),
        ({"max_bytes": float("nan")}, "max_bytes is nan: expected a finite number"),
        ({"max_bytes": "many"}, "max_bytes is 'many': expected a finite number"),
    ],
)
def test_a_gate_that_is_none_is_refused(repo: Path, demands: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Gates.of(demands)


def test_an_unknown_measure_is_told_before_the_run(repo: Path) -> None:
    with pytest.raises(ValueError, match="unknown measure 'sur': did you mean sure"):
        evaluate(nn.Linear(4, 2), (torch.rand(4, 4), torch.zeros(4, dtype=torch.int64)), ["fgsm"], measures=["sur"])
    wrong = CliRunner().invoke(main, ["evaluate", "model.py:build", "--data", "model.py:data", "--gate", "bytes < 3"])
    assert wrong.exit_code == 2
    assert "expected 'NAME >= X' or 'NAME <= X'" in wrong.output
