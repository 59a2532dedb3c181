"""Transfer: what it makes on the surrogate is what the surrogate's own attack makes, and the target's alone counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.attacks.pgd import PGD
from robustbench_lite.attacks.transfer import Transfer
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating.cache import code_sha256
from robustbench_lite.model.loading import save_model
from robustbench_lite.model.target import Target


class Labels(nn.Module):
    """A model that cuts the graph, counts what it is asked, and tells its labels alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, 0

    @torch.no_grad()
    def forward(self, x):
        self.asked += len(x)
        return nn.functional.one_hot(self.model(x).argmax(1), self.model(x).shape[1]).float()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("batch_size", [7, 64])
def test_onto_the_same_linear_model_it_is_exact(linear, norm, batch_size):
    problem = linear(classes=2)
    exact = problem.distances(norm).numpy()
    eps = float(np.median(exact))
    target = Labels(problem.model)
    transfer = Transfer(surrogate=problem.model, attack="pgd")
    found = problem.attack(transfer, ThreatModel(norm=norm, eps=eps), model=target, batch_size=batch_size)
    sure = (exact > eps * 1.001) | (exact < eps / 1.02)
    np.testing.assert_array_equal(found.broken[sure], (exact < eps)[sure])
    assert (found.backward == 0).all()
    assert (found.forward == 2 + found.broken).all(), "the surrogate's passes are not the target's"
    assert target.asked == found.forward.sum()


def test_the_default_attack_breaks_what_is_in_reach(linear):
    problem = linear(classes=4)
    eps = float(problem.distances("Linf").max()) * 1.2
    found = problem.attack(Transfer(surrogate=problem.model), f"Linf {eps}", model=Labels(problem.model))
    assert found.broken.all()
    assert Transfer(surrogate=problem.model).params()["attack_params"]["loss"] == "margin"


def test_its_witnesses_are_the_surrogates_last_candidates(linear):
    problem, other = linear(classes=2), linear(classes=2, seed=1)
    transfer = Transfer(surrogate=other.model, attack="pgd", attack_params={"steps": 5, "random_start": False})
    threat = ThreatModel.parse("Linf 0.05")
    found = problem.attack(transfer, threat, keep=range(40), batch_size=9)
    keys = torch.zeros(40, dtype=torch.int64)  # no draws
    theirs = perturb(PGD(steps=5, random_start=False), Target(other.model), problem.x, problem.y, threat, keys)
    fooled = problem.model(theirs).argmax(1) != problem.y
    np.testing.assert_array_equal(found.broken, fooled.numpy())
    assert 0 < found.broken.sum() < 40
    for row, witness in found.witnesses.items():
        np.testing.assert_allclose(witness, theirs[row].numpy(), atol=1e-6)


def test_the_attacks_restarts_are_its_own(linear):
    problem, other = linear(classes=2), linear(classes=2, seed=1)
    params = {"steps": 1, "step_size": 1e-6, "restarts": 6}
    transfer = Transfer(surrogate=other.model, attack="pgd", attack_params=params)
    found = problem.attack(transfer, "Linf 0.02")
    stands = ~found.broken
    assert stands.any()
    assert (found.forward[stands] == 12).all()
    once = problem.attack(
        Transfer(surrogate=other.model, attack="pgd", attack_params=params | {"restarts": 1}), "Linf 0.02"
    )
    assert once.broken.sum() < found.broken.sum()


def test_the_surrogate_is_left_as_it_was(linear):
    problem = linear()
    surrogate = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(36, 4)).train()
    surrogate[1].eval()
    problem.attack(Transfer(surrogate=surrogate), "Linf 0.1")
    assert [part.training for part in surrogate] == [True, False, True]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in surrogate.parameters())


def test_a_surrogate_by_name_with_its_normalisation(linear, tmp_path, monkeypatch):
    problem = linear(classes=2, shape=(1, 6, 6))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))\n"
    )
    torch.save(problem.model.state_dict(), tmp_path / "weights.pt")
    eps = float(problem.distances("Linf").max()) * 1.05
    named = {"surrogate": "nets.py:make", "weights": "weights.pt", "normalize": "0.5/0.1"}
    transfer = registry.build("attacks", "transfer", named)
    assert transfer.params()["surrogate"] == "nets.py:make"
    found = problem.attack(transfer, f"Linf {eps}")
    assert found.broken.all(), "a linear model's gradient doesn't turn with the normalisation"
    save_model(Target(problem.model, spec="nets.py:make"), tmp_path / "saved")
    assert problem.attack(Transfer(surrogate=str(tmp_path / "saved")), f"Linf {eps}").broken.all()


def test_what_a_cache_asks_for_holds_the_surrogates_weights(linear):
    one, same, other = (linear(seed=seed).model for seed in (0, 0, 1))
    assert code_sha256(Transfer(surrogate=one)) == code_sha256(Transfer(surrogate=same))
    assert code_sha256(Transfer(surrogate=one)) != code_sha256(Transfer(surrogate=other))


def test_a_surrogate_with_other_classes_is_told(linear):
    with pytest.raises(UserError, match=r"Sequential tells 3 classes apart, the target 4: .*same classes"):
        linear(classes=4).attack(Transfer(surrogate=linear(classes=3).model), "Linf 0.1")


def test_a_surrogate_for_other_inputs_is_told(linear):
    with pytest.raises(UserError, match=r"forward pass fails on inputs of shape \(1, 1, 6, 6\)"):
        linear().attack(Transfer(surrogate=linear(shape=(3, 6, 6)).model), "Linf 0.1")


@pytest.mark.parametrize(
    ("threat", "params", "message"),
    [
        ("Linf 0.1 targeted", {}, "expected an untargeted threat model"),
        ("L0 3", {"attack": "pgd_nowhere"}, "unknown attack"),
        ("L2 0.1", {"attack": "carlini_wagner_linf"}, "it does Linf"),
        ("L2 0.1", {"attack": "carlini_wagner"}, "expected one that stays in it"),
        ("L2 0.1", {"attack": "sprints"}, "widest = 1"),
        ("Linf 0.1", {"attack_params": {"stpes": 3}}, "did you mean steps"),
        ("Linf 0.1", {"normalize": "mnist"}, "give a Target"),
    ],
)
def test_what_it_cannot_do_is_refused(linear, threat, params, message):
    problem = linear(classes=2)
    with pytest.raises(ValueError, match=message):
        problem.attack(Transfer(surrogate=problem.model, **params), threat)


def test_a_name_that_leads_nowhere_is_told_where_the_suite_is_read():
    with pytest.raises(UserError, match="transfer: model 'nowhere'"):
        registry.build("attacks", "transfer", {"surrogate": "nowhere"})
