"""Both sides on a scorecard: certified below, robust above, never crossed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from robustbench_lite import Scorecard, Target, evaluate
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating.measures import certified
from robustbench_lite.model.wrapping import WrappedTarget

NAMES = ["certified_accuracy", "certified_accuracy:0.05", "certified_accuracy:0.3"]


def layer() -> Target:
    """Class 0 where the mean is above a half; the distance to the other class is known."""
    module = nn.Linear(4, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[9.0, 9, 9, 9], [-9, -9, -9, -9]]))
        module.bias.copy_(torch.tensor([-18.0, 18]))
    return Target(module)


def data(number: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.rand(number, 4, generator=torch.Generator().manual_seed(0))
    return x, (x.mean(1) < 0.5).long()


def smoothed(**params: Any) -> WrappedTarget:
    made: WrappedTarget = registry.build("defenses", "smoothing", {"sigma": 0.1, **params}).wrap(layer(), "smoothing")
    return made


def numbers(card: Scorecard) -> dict[str, int]:
    return {one.name: one.count for one in card.measures if one.count is not None}


def codes(card: Scorecard) -> dict[str, str]:
    return {one.code: one.severity for one in card.validity}


def test_bounds_of_a_linear_model_are_its_robust_accuracy() -> None:
    x, labels = data()
    card = evaluate(layer(), (x, labels), ["pgd"], "Linf 0.1", measures=NAMES)
    stands = (x.mean(1) - 0.5).abs()  # a ball of radius r moves the mean by r, but for the walls of the box
    expected = {name: int((stands > radius).sum()) for name, radius in zip(NAMES, (0.1, 0.05, 0.3), strict=True)}
    found = numbers(card)
    for name, least in expected.items():
        assert found[name] >= least
    assert found["certified_accuracy"] == card.robust_accuracy.count
    assert found[NAMES[2]] < found[NAMES[0]] < found[NAMES[1]] <= card.clean_accuracy.count
    assert card.certified_accuracy is not None
    assert card.certified_accuracy.low < card.certified_accuracy.value < card.certified_accuracy.high
    assert not {"RB242", "RB243"} & codes(card).keys()


def test_a_smoothed_model_is_certified_below_what_attacks_leave() -> None:
    x, labels = data()
    card = evaluate(smoothed(), (x, labels), ["pgd"], "L2 0.15", measures=NAMES)
    found = numbers(card)
    distance = (x.sum(1) - 2).abs() / 2
    assert 0 < found["certified_accuracy"] <= card.robust_accuracy.count <= card.clean_accuracy.count
    assert found["certified_accuracy"] <= int((distance > 0.15).sum())
    assert found["certified_accuracy"] >= int((distance > 0.25).sum())
    assert found[NAMES[2]] <= found["certified_accuracy"] <= found[NAMES[1]]
    assert "RB242" not in codes(card)
    assert card.verdict == "MEASURED"


def test_few_draws_that_give_no_answer_in_the_ball_are_not_certified_and_told() -> None:
    target, measures = smoothed(n0=20, sigma=0.2, n=4000), ["certified_accuracy"]
    card = evaluate(target, data(120), ["pgd"], "L2 0.12", measures=measures, anyway=True)
    assert codes(card)["RB243"] == "info"
    assert numbers(card)["certified_accuracy"] <= card.robust_accuracy.count
    assert "RB242" not in codes(card)


def test_a_certificate_that_says_too_much_makes_the_card_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    target = smoothed()
    right = target.wrapper.certified_radii
    monkeypatch.setattr(target.wrapper, "certified_radii", lambda *given: 3 * right(*given))
    card = evaluate(target, data(), ["pgd"], "L2 0.25", measures=["certified_accuracy"])
    assert codes(card)["RB242"] == "error"
    assert card.verdict == "INVALID"
    assert numbers(card)["certified_accuracy"] <= card.robust_accuracy.count


def test_bounds_that_say_too_much_make_the_card_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified, "margin_bounds", lambda target, low, high, labels: torch.ones(len(low), 2))
    card = evaluate(layer(), data(), ["pgd"], "Linf 0.2", measures=["certified_accuracy"])
    assert codes(card)["RB242"] == "error"
    assert card.verdict == "INVALID"
    [told] = [one.message for one in card.validity if one.code == "RB242"]
    broken = [row.index for row in card.outcomes if row.correct and not row.robust]
    assert f"the first is sample {broken[0]}" in told


def test_an_attack_out_of_its_ball_is_contradicted_by_the_bounds() -> None:
    # The other of the two wrong: a witness is counted though it is none.
    card = evaluate(layer(), data(), ["pgd"], "Linf 0.3", measures=[])
    wider = [row for row in card.outcomes if row.breaks and row.breaks[0].distance > 0.2]
    assert wider
    near = tuple(
        row.model_copy(update={"breaks": (row.breaks[0].model_copy(update={"distance": 0.01}),)}) if row.breaks else row
        for row in card.outcomes
    )
    lied = card.model_copy(update={"outcomes": near})
    subject = certified.Subject(lied, layer(), load(data()))
    found = certified.at_radius("0.01").of(subject)
    assert isinstance(found, certified.Found)
    assert [one.code for one in found.findings] == ["RB242"]


def load(pair: tuple[Tensor, Tensor]) -> Any:
    return as_data(pair)


def test_every_norm_counts_by_the_ball_around_it() -> None:
    x, labels = data()
    by_norm = {
        threat: numbers(evaluate(smoothed(), (x, labels), ["fgsm"], threat, measures=["certified_accuracy"]))
        for threat in ("L2 0.1", "Linf 0.05")
    }
    counts = [found["certified_accuracy"] for found in by_norm.values()]
    assert counts[0] == counts[1] > 0  # the ball around both has radius 0.1: sqrt(4) * 0.05


def test_what_cannot_be_certified_is_told_and_costs_no_card() -> None:
    purified = registry.build("defenses", "bit_depth", {}).wrap(layer(), "bit_depth")
    for target, why in (
        (purified, "wrapped by bit_depth"),
        (Target(nn.Sequential(layer().module, nn.GELU())), "GELU"),
    ):
        card = evaluate(target, data(), ["fgsm"], "Linf 0.1", measures=["certified_accuracy"])
        [told] = [one for one in card.validity if one.code == "RB303"]
        assert why in told.message
        assert card.certified_accuracy is None
    with pytest.raises(UserError, match="abc"):
        evaluate(layer(), data(), ["fgsm"], "Linf 0.1", measures=["certified_accuracy:abc"])


def test_it_is_gated_and_shown_by_every_report(tmp_path: Path) -> None:
    gates = {"min_certified_accuracy": 0.2}
    card = evaluate(layer(), data(), ["pgd"], "Linf 0.1", gates=gates)
    assert card.verdict == "PASS"
    failed = evaluate(layer(), data(), ["pgd"], "Linf 0.1", gates={"min_certified_accuracy": 0.99})
    assert failed.verdict == "FAIL"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(registry.find("reports", "terminal")([card]))
    share = f"{card.certified_accuracy.value:.1%}" if card.certified_accuracy else "?"
    assert any(line.startswith("certified ") and share in line for line in console.export_text().splitlines())
    page = registry.find("reports", "html")([card])
    assert "Certified accuracy" in page
    assert "what no attack can break" in page
    assert f"| Certified | **{share}**" in registry.find("reports", "markdown")([card])
    assert "Certified" in registry.find("reports", "html")([card, failed])


def test_witnesses_that_it_needs_are_not_left_on_the_card() -> None:
    card = evaluate(layer(), data(), ["pgd"], "Linf 0.1", measures=["certified_accuracy"])
    assert card.witnesses is None
    kept = evaluate(layer(), data(), ["pgd"], "Linf 0.1", measures=["certified_accuracy"], keep_witnesses=True)
    assert kept.witnesses is not None


def test_a_file_in_which_the_two_cross_is_refused(tmp_path: Path) -> None:
    card = evaluate(layer(), data(), ["pgd"], "Linf 0.1", measures=["certified_accuracy"])
    path = card.save(tmp_path / "card.json")
    assert Scorecard.load(path) == card
    raw = json.loads(path.read_text())
    raw["measures"][0] |= {"count": card.robust_accuracy.count + 1}
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match="what is broken isn't certified"):
        Scorecard.load(path)


def test_a_sequential_card_tells_of_the_samples_it_saw() -> None:
    gates = {"min_robust_accuracy": 0.01}
    card = evaluate(
        layer(), data(400), ["pgd"], "Linf 0.05", gates=gates, sequential=True, measures=["certified_accuracy"]
    )
    [number] = card.measures
    assert number.total == len(card.outcomes) < 400
