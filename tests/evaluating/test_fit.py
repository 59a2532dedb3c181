"""Whether model and data fit: maps of labels are proposed, weak samples are told as such, and nothing unasked is ok."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_lite import Target, evaluate, load_data
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.label_map import relabelled
from robustbench_lite.evaluating.preflight import Preflight, preflight
from robustbench_lite.evaluating.preflight.check import Check

OURS = (3, 5, 8)
NAMES = ("zero", "one", "two", "ant", "four", "bee", "six", "seven", "cat", "nine")
LABELS = "labels are the model's classes"
INPUTS = "inputs are as the model expects them"
CHANCE = "accuracy is above chance"


def fitted(data: Data, classes: int) -> nn.Module:
    """A small model, trained on the data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = data.fetch([0]).numel()
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 32), nn.ReLU(), nn.Linear(32, classes))
        x, y = data.fetch(range(len(data))), data.labels
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return fitted(load_data("digits", split="train"), 10)


@pytest.fixture(scope="module")
def three() -> Data:
    """Digits 3, 5 and 8, in a folder's numbers: 0, 1, 2."""
    digits = load_data("digits")
    rows = [row for row, label in enumerate(digits.labels.tolist()) if label in OURS]
    labels = torch.tensor([OURS.index(int(digits.labels[row])) for row in rows])
    return from_arrays(digits.fetch(rows), labels, "folder", ["ant", "bee", "cat"])


def by_name(found: Preflight) -> dict[str, Check]:
    return {one.name: one for one in found.checks}


@pytest.mark.parametrize("thorough", [False, True])
def test_a_map_that_fits_is_proposed_and_nothing_beside_it_is_ok(model: nn.Module, three: Data, thorough: bool) -> None:
    found = by_name(preflight(Target(model), three, samples=256, thorough=thorough))
    [finding] = found[LABELS].findings
    assert (finding.code, finding.severity) == ("RB113", "error")
    assert "if the classes are renamed: ant (0) is 3, bee (1) is 5, cat (2) is 8" in finding.message
    assert "--label-map 0=3,1=5,2=8 " in finding.cure
    assert not found[INPUTS].asked
    assert not found[CHANCE].asked
    assert found[CHANCE].findings == ()


def test_with_the_map_the_labels_are_the_models(model: nn.Module, three: Data) -> None:
    found = preflight(Target(model), relabelled(three, "0=3,1=5,2=8"), samples=256)
    assert [one.code for one in found.findings] == ["RB142"]
    assert by_name(found)[LABELS].asked
    assert "3 classes among the labels and 10 outputs" in by_name(found)[LABELS].saw


def test_names_tell_without_any_prediction(model: nn.Module, three: Data) -> None:
    few = three.take(range(6))  # far too few to be told by agreement
    found = by_name(preflight(Target(model, classes=NAMES), few))
    [finding] = found[LABELS].findings
    assert "if they are taken by their names: ant (0) is 3 (ant), bee (1) is 5 (bee)" in finding.message
    found = by_name(preflight(Target(model, classes=NAMES), relabelled(three, "ant=ant,bee=bee,cat=cat", NAMES)))
    assert found[LABELS].findings == ()
    assert "the outputs' own" in found[LABELS].saw


def test_names_that_are_not_the_models_are_no_reason(model: nn.Module, three: Data) -> None:
    other = Target(model, classes=[name.upper() if name == "ant" else f"x{name}" for name in NAMES])
    assert "renamed" in by_name(preflight(other, three, samples=256))[LABELS].findings[0].message


def test_few_samples_are_no_good_answer(model: nn.Module, three: Data) -> None:
    found = by_name(preflight(Target(model), three.take(range(3))))
    names = (LABELS, INPUTS, CHANCE, "logits depend on the input", "logits, not probabilities")
    assert [found[name].asked for name in names] == [False] * len(names)
    assert all("can't be told" in found[name].saw for name in names)


def test_one_sample_says_nothing_of_batches(model: nn.Module, three: Data) -> None:
    found = by_name(preflight(Target(model), three.take([0])))
    assert not found["no answer depends on its batch"].asked


def test_what_follows_from_another_finding_is_not_ok(model: nn.Module, three: Data) -> None:
    digits = load_data("digits")

    class Softmax(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = torch.softmax(1e4 * model(x), 1)
            return scores

    found = by_name(preflight(Target(Softmax()), digits))
    assert [one.code for one in found["logits, not probabilities"].findings] == ["RB121"]
    assert all(one.asked or not one.findings for one in found.values())


@pytest.fixture(scope="module")
def colours() -> tuple[Data, nn.Module]:
    """Ten colours, so noisy that a model is right for most of them alone; and a model that is given BGR for RGB."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        centres = 0.3 + 0.4 * torch.rand(10, 3, 1, 1)
        y = torch.arange(1500) % 10
        x = (centres[y] + 0.08 * torch.randn(1500, 3, 1, 1)).clamp(0, 1)
    data = from_arrays(x, y, "colours")
    model = fitted(data, 10)

    class Reversed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(0.85 * x.flip(1) + 0.15 * x)
            return logits

    return data, Reversed()


def test_channels_are_looked_at_in_more_samples_where_the_first_hint_at_it(colours: tuple[Data, nn.Module]) -> None:
    data, model = colours
    for seed in range(3):
        target = Target(model)
        prediction = model(data.fetch(range(len(data)))).argmax(1).numpy()
        found = preflight(target, data, seed=seed, prediction=prediction)
        assert [one.code for one in found.findings] == ["RB112"], seed


def test_a_sample_that_is_too_small_says_so(colours: tuple[Data, nn.Module]) -> None:
    data, model = colours
    told = set()
    for seed in range(2):
        few = data.stratified(120, seed)
        found = preflight(Target(model), few, prediction=model(few.fetch(range(120))).argmax(1).numpy())
        told |= {(one.code, one.severity) for one in found.findings}
        for one in found.findings:
            if one.code == "RB115":
                assert "samples are too few to tell (p = 0.0" in one.message
                assert "x.flip(1)" in one.cure
    assert told == {("RB115", "info")}


def test_an_evaluation_of_few_samples_says_what_they_cannot_tell(model: nn.Module, three: Data) -> None:
    card = evaluate(model, three.take(torch.arange(9)), ["fgsm"], "Linf 0.01")
    assert (card.verdict, card.clean_accuracy.count) == ("MEASURED", 0)
    [told] = [one for one in card.validity if one.code == "RB116"]
    assert told.severity == "info"
    assert told.message.startswith("9 samples can't tell whether the model is better than guessing, and whether the")
    enough = evaluate(model, relabelled(three, dict(enumerate(OURS))).take(torch.arange(30)), ["fgsm"], "Linf 0.01")
    assert not [one for one in enough.validity if one.code == "RB116"]
