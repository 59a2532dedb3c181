"""A pretrained start: a new head where it is asked for, and parameters that stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.hardening.pipeline import harden
from robustbench_lite.hardening.recipe import Recipe, load_recipe
from robustbench_lite.hardening.transfer import BACKBONE, freezing, frozen_names, load_with_head, train_mode

SUITE = Suite.model_validate({"name": "short", "threats": ["Linf 0.1"], "attacks": ["fgsm"]})
MODELS = """
from torch import nn
def fixed(): return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
def free(num_classes=9):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes))
"""


def samples(count: int = 40, classes: int = 2) -> Data:
    x = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return as_data((x, torch.arange(count) % classes))


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "m.py").write_text(MODELS)
    return f"{tmp_path / 'm.py'}"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def recipe(**schedule: Any) -> Recipe:
    given = {"epochs": 2, "batch_size": 8, "lr": 0.1} | schedule
    return Recipe.model_validate({"defense": "standard", "threat": "Linf 0.1", "schedule": given})


@pytest.mark.parametrize("made", ["fixed", "free"])
def test_weights_for_another_number_of_classes_get_a_new_head_and_it_is_told(
    spec: str, made: str, tmp_path: Path
) -> None:
    old = load_with_head(f"{spec}:{made}", samples(), 5).target
    torch.save(old.module.state_dict(), tmp_path / "five.pt")
    target, note = load_with_head(f"{spec}:{made}", samples(), 3, weights=tmp_path / "five.pt", seed=1)
    assert note == "4 is new, with fresh weights: 5 classes before, 3 now"
    assert target.probe(samples().fetch([0, 1])) == target.classes == 3
    kept = old.module.state_dict()
    state = target.module.state_dict()
    assert all(torch.equal(state[name], kept[name]) for name in kept if not name.startswith("4."))
    same, nothing = load_with_head(f"{spec}:{made}", samples(), 5, weights=tmp_path / "five.pt")
    assert nothing == ""
    assert same.weights_sha256() == old.weights_sha256()


def test_weights_of_another_architecture_are_refused_all_the_same(spec: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError, match="don't fit"):
        load_with_head(f"{spec}:free", samples(), 3, weights=tmp_path / "other.pt")


def test_labels_without_a_logit_are_refused_with_the_new_head_as_cure() -> None:
    with pytest.raises(UserError, match=r"have no logit.*--classes 3"):
        harden(network(), samples(classes=3), recipe(), suite=SUITE)


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((BACKBONE,), {"1.weight", "1.bias", "2.weight", "2.bias"}),
        (("1.*",), {"1.weight", "1.bias"}),
        (("*.bias",), {"1.bias", "2.bias", "4.bias"}),
        ((), set()),
    ],
)
def test_patterns_freeze_what_they_match(patterns: tuple[str, ...], frozen: set[str]) -> None:
    assert frozen_names(network(), patterns, 2) == frozen


def test_what_is_frozen_stays_to_the_bit_its_batch_statistics_too() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    out = harden(model, samples(), recipe(keep="last"), suite=SUITE, freeze=[BACKBONE])
    after = out.target.module.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"4.weight", "4.bias"}
    assert all(parameter.requires_grad for parameter in out.target.module.parameters())


def test_a_pattern_of_nothing_and_one_of_all_are_refused_before_anything_runs() -> None:
    def never(*_: object) -> None:
        raise AssertionError("the run had begun")

    for freeze, told in ((["conv*"], r"matches none of the parameters \(1.weight"), (["*"], "leaves nothing")):
        with pytest.raises(UserError, match=told):
            harden(network(), samples(), recipe(), suite=SUITE, freeze=freeze, on_attack=never)


def test_freezing_leaves_parameters_as_they_came() -> None:
    model = network()
    model[1].bias.requires_grad_(False)
    with freezing(model, {"1.weight", "1.bias", "2.weight", "2.bias"}):
        train_mode(model)
        assert [part.training for part in model] == [True, True, False, True, True]
        assert not model[1].weight.requires_grad
    assert model[1].weight.requires_grad
    assert not model[1].bias.requires_grad


def test_the_recipe_trains_the_head_first_and_then_all() -> None:
    head, whole = load_recipe("transfer").chain
    assert head.schedule is not None
    assert whole.schedule is not None
    assert (head.name, head.schedule.freeze) == ("standard", (BACKBONE,))
    assert (whole.name, whole.schedule.freeze, whole.schedule.decay) == ("pgd_training", (), "slow_start")
