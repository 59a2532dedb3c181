"""The twin: an artefact's own answers with the gradient of the model that it came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from robustbench_lite import Scorecard, Target, evaluate
from robustbench_lite.core.errors import UserError
from robustbench_lite.evaluating.adapt.twin import Twinned
from robustbench_lite.faces.cli import main

SUITE = [{"attack": "square", "params": {"steps": 10}}, {"attack": "apgd", "params": {"steps": 10}}]


@pytest.fixture(scope="module")
def trained(train_on_digits: Callable[..., Any]) -> tuple[nn.Module, Tensor, Tensor]:
    model, x, y = train_on_digits(800, 8)
    return model.eval(), x[800:860], y[800:860]


def rounded(model: nn.Module, step: float) -> Callable[[Any], Any]:
    """Scores in steps so wide that a small change of the input changes none."""

    def answer(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            scores = model(torch.from_numpy(x)).numpy()
        return np.round(scores / step) * step + 1e-3 * scores

    return answer


def labels(model: nn.Module) -> Callable[[Any], Any]:
    return lambda x: model(torch.from_numpy(x)).argmax(1).numpy()


def test_values_are_the_artefacts_and_the_gradient_is_the_twins(trained: Any) -> None:
    model, x, _ = trained
    artefact = Target.from_callable(rounded(model, 4.0))
    both = Target(Twinned(artefact, Target(model)))
    assert both.access == "gradients"
    assert torch.equal(both(x), artefact(x))
    asked = x.clone().requires_grad_()
    found = both(asked)
    assert torch.allclose(found, artefact(x), atol=1e-5)
    [slope] = torch.autograd.grad(found[:, 0].sum(), asked)
    own = x.clone().requires_grad_()
    [expected] = torch.autograd.grad(model(own)[:, 0].sum(), own)
    assert torch.allclose(slope, expected)


def test_of_labels_the_artefacts_class_is_the_largest_logit(trained: Any) -> None:
    model, x, _ = trained
    artefact = Target.from_callable(lambda x: (model(torch.from_numpy(x)).argmax(1).numpy() + 1) % 10, classes=10)
    artefact.probe(x[:2])
    both = Target(Twinned(artefact, Target(model)))
    asked = x.clone().requires_grad_()
    found = both(asked)
    assert torch.equal(found.argmax(1), artefact(x).argmax(1))
    assert float(torch.autograd.grad(found.sum(), asked)[0].abs().max()) > 0


@pytest.mark.parametrize("shown", ["scores", "labels"])
def test_what_rests_on_rounding_is_invalid_alone_and_counted_with_the_twin(trained: Any, shown: str) -> None:
    model, x, y = trained
    artefact = Target.from_callable(rounded(model, 4.0) if shown == "scores" else labels(model), name="artefact")
    other = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))  # a surrogate that knows nothing
    alone = {"attack": "transfer", "params": {"surrogate": other}} if shown == "labels" else SUITE[0]
    suite = [alone, SUITE[1]]
    card = evaluate(artefact, (x, y), suite, "Linf 0.1", twin=model)
    assert card.target.access == shown
    assert card.target.name == "artefact"
    assert card.adaptation is not None
    assert card.robust_accuracy.value < card.adaptation.robust_accuracy.value - 0.2
    assert card.adaptation.verdict == "INVALID"
    assert "RB216" in {one.code for one in card.adaptation.validity}
    assert card.verdict == "MEASURED"
    [measure] = card.adaptation.measures
    assert "of the clean samples get the same class" in measure.reason
    if shown == "scores":  # a live surrogate can't be written down
        assert Scorecard.model_validate_json(card.model_dump_json()) == card


def test_every_witness_is_one_of_the_artefact(trained: Any) -> None:
    model, x, y = trained
    answer = rounded(model, 4.0)
    card = evaluate(Target.from_callable(answer), (x, y), SUITE, "Linf 0.1", twin=model, keep_witnesses=True)
    assert card.witnesses is not None
    index = card.witnesses.index
    assert len(index)
    said = answer(np.asarray(card.witnesses.x, np.float32)).argmax(1)
    assert (said != y[torch.as_tensor(index)].numpy()).all()
    far = np.abs(np.asarray(card.witnesses.x) - x[torch.as_tensor(index)].numpy()).max()
    assert far <= 0.1 + 1e-6


def test_a_twin_that_is_none_is_refused(trained: Any) -> None:
    model, x, y = trained
    artefact = rounded(model, 4.0)
    with pytest.raises(UserError, match="tells 3 classes apart"):
        evaluate(artefact, (x, y), SUITE, "Linf 0.1", twin=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    torch.manual_seed(0)
    with pytest.raises(UserError, match="clean samples: give the model that it was made from"):
        evaluate(artefact, (x, y), SUITE, "Linf 0.1", twin=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(UserError, match="shows scores alone"):
        evaluate(artefact, (x, y), SUITE, "Linf 0.1", twin=_asked(Target.from_callable(artefact), x))


def _asked(target: Target, x: Tensor) -> Target:
    target.probe(x[:2])
    return target


def test_the_command_takes_a_twin_and_compares_the_speed_with_it(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, _ = trained
    monkeypatch.chdir(tmp_path)
    torch.save(model.state_dict(), "weights.pt")
    Path("model.py").write_text(
        """
import numpy as np, torch
from torch import nn
from robustbench_lite import Target
def build():
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    model.load_state_dict(torch.load("weights.pt"))
    return model.eval()
def artefact():
    model = build()
    def answer(x):
        with torch.no_grad():
            return np.round(model(torch.from_numpy(x)).numpy())
    return Target.from_callable(answer, name="artefact")
"""
    )
    Path("suite.toml").write_text(
        'threats = ["Linf 0.1"]\n[[attacks]]\nattack = "square"\nparams = { steps = 5 }\n'
        '[[attacks]]\nattack = "apgd"\nparams = { steps = 5 }\n'
    )
    options = ["--data", "digits", "--limit", "30", "--suite", "suite.toml", "--json", "card.json", "--html", "c.html"]
    run = CliRunner().invoke(
        main, ["evaluate", "model.py:artefact", *options, "--twin", "model.py:build", "--measure", "slowdown", "-q"]
    )
    assert run.exit_code == 0, run.output
    card = Scorecard.load("card.json")
    assert card.adaptation is not None
    assert card.adaptation.measures[0].name == "twin"
    assert "attacks ran" not in Path("c.html").read_text()  # that only those of a black box did would be untrue
    assert [one.name for one in card.measures] == ["slowdown"]
    both = CliRunner().invoke(main, ["evaluate", "model.py:artefact", *options, "--twin", "model.py:build", "--adapt"])
    assert both.exit_code == 2
    assert "give one of the two" in both.output
