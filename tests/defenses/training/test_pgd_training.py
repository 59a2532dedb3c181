from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.interface import Batch, Defense

from .conftest import EPS, linear, on_digits, stage


def defense(**params: Any) -> Defense:
    built: Defense = registry.build("defenses", "pgd_training", params)
    return built


def batch() -> Batch:
    x = torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.95, 0.4], [0.02, 0.6, 0.3]])
    return Batch(x, torch.tensor([0, 1, 0]), torch.tensor([11, 12, 13]))


def worst_of_linear(module: nn.Linear, given: Batch) -> Tensor:
    """Every pixel at the wall of ball and box that brings the other class nearer: exact for two classes."""
    margin = module.weight[1 - given.y] - module.weight[given.y]
    return (given.x + EPS * margin.sign()).clamp(0, 1)


@pytest.mark.parametrize("attack_loss", ["cross_entropy", "margin"])
def test_on_a_linear_model_it_is_the_loss_at_the_worst_corner_of_the_ball(attack_loss: str) -> None:
    module, given = linear(), batch()
    loss = defense(attack_loss=attack_loss).loss(given, stage(module))
    expected = F.cross_entropy(module(worst_of_linear(module, given)), given.y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss > F.cross_entropy(module(given.x), given.y)


def test_on_a_linear_model_in_l2_it_moves_along_the_weights() -> None:
    module, given = linear(), batch()
    loss = defense(steps=20).loss(given, stage(module, "L2 0.01"))  # so small that no wall of the box is near
    margin = module.weight[1 - given.y] - module.weight[given.y]
    expected = F.cross_entropy(module(given.x + 0.01 * F.normalize(margin)), given.y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_clean_share_weighs_the_clean_loss() -> None:
    module, given = linear(), batch()
    clean = F.cross_entropy(module(given.x), given.y).item()
    worst = F.cross_entropy(module(worst_of_linear(module, given)), given.y).item()
    losses = [defense(clean_share=share).loss(given, stage(module)).item() for share in (0.0, 0.25, 1.0)]
    assert losses == pytest.approx([worst, 0.75 * worst + 0.25 * clean, clean], rel=1e-5)


def test_the_attack_leaves_modes_batch_statistics_and_gradients_alone() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    norm = module[2]
    assert isinstance(norm, nn.BatchNorm1d)
    loss = defense(steps=5).loss(batch(), stage(module))
    assert norm.num_batches_tracked == 1  # the training step's pass, and none of the attack's
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_batch_statistics_are_those_of_the_adversarial_batch() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(linear(), nn.BatchNorm1d(2, momentum=1.0))
    defense().loss(batch(), stage(module))
    seen = module[0](worst_of_linear(module[0], batch())).mean(0)
    norm = module[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(norm.running_mean, Tensor)
    torch.testing.assert_close(norm.running_mean, seen.detach())


def test_the_draws_depend_on_the_samples_keys_alone() -> None:
    torch.manual_seed(0)
    module, given = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)), batch()
    one = defense(steps=1).loss(given, stage(module))
    torch.manual_seed(1)
    turned = Batch(*(part.flip(0) for part in given[:3]))
    assert defense(steps=1).loss(turned, stage(module)).item() == pytest.approx(one.item(), rel=1e-6)
    assert defense(steps=1).loss(given._replace(draw_keys=given.draw_keys + 1), stage(module)).item() != pytest.approx(
        one.item()
    )


@pytest.mark.parametrize("params", [{"steps": 0}, {"step_size": -1}, {"clean_share": 1.5}, {"attack_loss": "hinge"}])
def test_a_bad_parameter_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(params))):
        defense(**params)


def test_it_raises_the_robust_accuracy_on_digits() -> None:
    plain, hardened = on_digits("standard", epochs=6), on_digits("pgd_training", epochs=6, steps=5)
    assert hardened.clean > 0.85
    assert hardened.robust > plain.robust + 0.2
