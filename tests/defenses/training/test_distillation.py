from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.hardening.interface import Batch, Defense, Stage
from robustbench_lite.hardening.recipe import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.target import Target
from tests.support import FGSM_AND_PGD

THREAT = ThreatModel.parse("Linf 0.15")
BATCH = Batch(torch.tensor([[1.0, 0.5], [0.25, 0.5]]), torch.tensor([0, 0]), torch.tensor([1, 2]))


def defense(**params: Any) -> Defense:
    built: Defense = registry.build("defenses", "distillation", params)
    return built


def diagonal(first: float, second: float) -> Target:
    """Logits (first * x0, second * x1)."""
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.diag(torch.tensor([first, second])))
    return Target(module)


def log_odds(difference: float) -> float:
    """Cross-entropy of the class whose logit is larger by so much."""
    return math.log1p(math.exp(-difference))


def test_the_teacher_learns_the_labels_at_temperature_t() -> None:
    stage = Stage(name="teacher", target=diagonal(4, 2), trained={}, threat=THREAT)
    loss = defense(temperature=2).loss(BATCH, stage)
    # logits / T: (2, 0.5) and (0.5, 0.5), label 0
    assert loss.item() == pytest.approx((log_odds(1.5) + log_odds(0.0)) / 2)


def test_the_student_learns_the_teachers_probabilities_at_temperature_t() -> None:
    teacher, student = diagonal(8, 4), diagonal(4, 2)
    stage = Stage(name="student", target=student, trained={"teacher": teacher}, threat=THREAT)
    loss = defense(temperature=2).loss(BATCH, stage)
    # teacher / T: (4, 1), (1, 1): probabilities of class 0; student / T: as above. The labels play no part.
    p = 1 / (1 + math.exp(-3.0))
    first = p * log_odds(1.5) + (1 - p) * log_odds(-1.5)
    assert loss.item() == pytest.approx((first + log_odds(0.0)) / 2)
    loss.backward()
    assert student.module.weight.grad is not None
    assert teacher.module.weight.grad is None


def test_teacher_before_student() -> None:
    assert defense().stages == ("teacher", "student")


@pytest.mark.parametrize("temperature", [0, -1, "inf", "warm"])
def test_a_temperature_that_is_none_is_refused(temperature: Any) -> None:
    with pytest.raises(UserError, match="temperature"):
        defense(temperature=temperature)


def input_gradient(target: Target, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(target(x), y, reduction="sum"), x)
    return grad.flatten(1).abs().amax(1)


def spread(target: Target, x: Tensor) -> float:
    """Median gap between the two largest logits."""
    top = target(x).detach().topk(2).values
    return float((top[:, 0] - top[:, 1]).median())


@pytest.fixture(scope="module")
def digits() -> tuple[Data, Data]:
    return load_data("digits", split="train").split(0.1, 0)


@pytest.fixture(scope="module")
def networks(digits: tuple[Data, Data]) -> dict[str, Target]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    schedule = Schedule(epochs=40, batch_size=64, lr=0.02, optimizer="adam", decay="one_cycle", keep="last")
    algorithms: dict[str, Defense] = {
        "plain": registry.build("defenses", "standard", {}),
        "distilled": defense(temperature=40),
    }
    return {name: train(Target(module), one, schedule, THREAT, *digits).target for name, one in algorithms.items()}


def test_at_temperature_1_the_students_logits_are_large_and_its_gradients_vanish(
    networks: dict[str, Target], digits: tuple[Data, Data]
) -> None:
    data, _ = digits
    x, y = data.fetch(range(300)), data.labels[:300]
    assert spread(networks["distilled"], x) > 10 * spread(networks["plain"], x)
    gradients = {name: input_gradient(target, x, y) for name, target in networks.items()}
    assert (gradients["plain"] == 0).float().mean() < 0.01
    assert (gradients["distilled"] == 0).float().mean() > 0.5


def test_it_looks_robust_to_the_cross_entropys_gradient_and_falls_to_the_margins(
    networks: dict[str, Target],
) -> None:
    cards = {
        name: evaluate(target, "digits", FGSM_AND_PGD, THREAT, independent=True, limit=200)
        for name, target in networks.items()
    }
    alone = {
        name: {attack.name: attack.alone.value for attack in card.attacks if attack.alone}
        for name, card in cards.items()
    }
    assert cards["distilled"].clean_accuracy.value > 0.85
    assert alone["plain"]["pgd"] < 0.3
    assert alone["distilled"]["pgd"] > 0.6
    assert alone["distilled"]["pgd-margin"] < 0.3
    # The harness tells of it.
    assert any(finding.code == "RB201" for finding in cards["distilled"].validity)
    # And why the number that its cross-entropy suggests is not to be believed.
    [told] = [finding for finding in cards["distilled"].validity if finding.code == "RB226"]
    looks, left = (
        int(number) for number in re.findall(r"leave (\d+) of them standing, this suite (\d+)", told.message)[0]
    )
    assert looks > 16 * 0.6
    assert left < 16 * 0.35
    assert "distillation" in told.cure
    assert not any(finding.code == "RB226" for finding in cards["plain"].validity)
