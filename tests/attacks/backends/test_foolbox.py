"""foolbox's attacks through our engine, on a linear model where the nearest adversarial example is known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError


def make(name: str, **params: Any) -> Any:
    return registry.build("attacks", f"foolbox:{name}", params)


def test_foolbox_imports_without_a_git_executable_and_without_a_warning(tmp_path):
    code = (
        "import os; from robustbench_lite.attacks.backends import foolbox; foolbox.find('FGSM'); "
        "assert 'GIT_PYTHON_REFRESH' not in os.environ"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GIT_PYTHON_REFRESH"}
    environment["PATH"] = str(tmp_path)
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)


@pytest.mark.parametrize(("name", "norm"), [("LinfFastGradientAttack", "Linf"), ("LinfPGD", "Linf"), ("L2PGD", "L2")])
def test_a_fixed_eps_attack_breaks_what_lies_within_eps(linear, name, norm):
    problem = linear(classes=2)
    distances = problem.distances(norm).numpy()
    eps = float(np.median(distances)) * 1.01
    found = problem.attack(make(name), f"{norm} {eps}")
    assert not found.broken[distances > eps * 1.001].any()
    # On two classes the gradient points straight at the boundary; PGD's random start may leave L2 a little short.
    assert found.broken[distances < eps * 0.98].all()
    assert found.unconfirmed == 0


@pytest.mark.parametrize(
    ("name", "norm", "params"),
    [
        ("L2DeepFoolAttack", "L2", {}),
        ("LinfDeepFoolAttack", "Linf", {}),
        (
            "L2CarliniWagnerAttack",
            "L2",
            {"binary_search_steps": 4, "steps": 300, "stepsize": 3e-4, "initial_const": 1},
        ),
    ],
)
def test_a_minimal_attack_finds_the_nearest_example(linear, name, norm, params):
    problem = linear()
    distances = problem.distances(norm).numpy()
    eps = float(np.median(distances)) * 1.1
    attack = make(name, **params)
    assert attack.minimal
    found = problem.attack(attack, f"{norm} {eps}")
    assert (found.distance >= distances * 0.999).all()
    assert np.median(found.distance / distances) < 1.1
    assert (found.distance > eps).any(), "an example outside the ball keeps its distance"
    assert not found.broken[found.distance > eps].any()


def test_passes_are_counted(linear):
    problem = linear(samples=10)
    steps = 7
    found = problem.attack(make("LinfPGD", steps=steps), "Linf 0.001", batch_size=4)
    # The engine asks about the input and the result, and once more at a result that broke the sample.
    assert (found.forward == 2 + steps + found.broken).all()
    assert (found.backward == steps).all()


def test_targeted_goals(linear):
    problem = linear(classes=2)
    target_class = 1 - problem.y
    eps = float(problem.distances("Linf", target_class).max()) * 1.1
    assert problem.attack(make("LinfPGD"), f"Linf {eps} targeted next").broken.all()


def l1_distances(problem: Any) -> Any:
    """Distance to the nearest boundary: one value changes, the one that the margin turns on most."""
    weight, logits = problem.model[1].weight.detach(), problem.model(problem.x).detach()
    steepest = (weight[problem.y][:, None] - weight).abs().amax(2)
    gaps = logits.gather(1, problem.y[:, None]) - logits
    return torch.where(steepest > 0, gaps / steepest, torch.inf).amin(1).numpy()


@pytest.mark.parametrize(("name", "params"), [("L1FMNAttack", {}), ("EADAttack", {"steps": 300})])
def test_a_minimal_attack_finds_the_nearest_example_in_l1(linear, name, params):
    problem = linear(samples=12)
    distances = l1_distances(problem)
    eps = float(np.median(distances)) * 1.1
    found = problem.attack(make(name, **params), f"L1 {eps}")
    assert (found.distance >= distances * 0.999).all()
    assert np.median(found.distance / distances) < 1.1
    assert found.broken[distances < eps / 1.1].mean() >= 0.8
    assert not found.broken[distances > eps * 1.001].any()


def test_a_fixed_eps_attack_of_l1_stays_in_the_ball(linear):
    problem = linear(classes=2, samples=20)
    distances = l1_distances(problem)
    eps = float(np.median(distances))
    found = problem.attack(make("SparseL1DescentAttack"), f"L1 {2 * eps}")
    assert found.broken.any()
    assert not found.broken[distances > 2 * eps * 1.001].any()
    assert (found.distance[found.broken] <= 2 * eps * 1.001).all()


def test_l0_counts_the_values_that_change(linear):
    problem = linear(samples=12)  # where the box is far, one value is enough
    attack = make("L0FMNAttack")
    assert attack.norms == ("L0",)
    found = problem.attack(attack, "L0 2")
    assert found.broken.all()
    assert set(found.distance) <= {1.0, 2.0}


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1", "L0"])
def test_an_attack_of_any_distance_gets_the_threat_models(linear, norm):
    attack = make("LinearSearchBlendedUniformNoiseAttack", directions=50, steps=20)
    assert set(attack.norms) == {"Linf", "L2", "L1", "L0"}
    assert np.isfinite(linear().attack(attack, f"{norm} {1 if norm == 'L0' else 0.001}").distance).any()


class NoGradients(nn.Module):
    """A model that cuts the graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


CHEAP = {"BoundaryAttack": {"steps": 5}, "HopSkipJumpAttack": {"steps": 1, "max_gradient_eval_steps": 20}}
CHEAP |= {"GenAttack": {"steps": 5, "population": 4}, "GaussianBlurAttack": {"steps": 5}}


def test_what_each_sees_of_the_target():
    seen = {name: make(name).access for name in listed()}
    assert seen["LinfProjectedGradientDescentAttack"] == seen["L2DeepFoolAttack"] == "gradients"
    assert seen["L1FMNAttack"] == seen["NewtonFoolAttack"] == seen["VirtualAdversarialAttack"] == "gradients"
    assert seen["GenAttack"] == "scores"
    assert seen["HopSkipJumpAttack"] == seen["SaltAndPepperNoiseAttack"] == seen["InversionAttack"] == "labels"
    assert sum(access == "labels" for access in seen.values()) >= 19


def listed() -> dict[str, tuple[str, ...]]:
    """Those that can be made at once: numba, where it is there, compiles the Brendel-Bethge attacks for a minute."""
    room = registry.find("attacks", "foolbox:FGSM").func.__globals__
    return {name: norms for name, norms in room["names"]().items() if name not in room["_NUMBA"]}


def test_one_that_sees_no_gradients_asks_for_none(linear):
    problem = linear(classes=2, samples=3)
    names = [name for name in listed() if make(name).access != "gradients"]
    assert len(names) >= 20
    for name in names:
        attack = make(name, **CHEAP.get(name, {}))
        threat = {"Linf": "Linf 0.3", "L2": "L2 2"}[attack.norms[0]] + " targeted" * (name == "GenAttack")
        found = problem.attack(attack, threat, model=NoGradients(problem.model))
        assert (found.backward == 0).all(), name


def test_hop_skip_jump_takes_the_norm_as_its_constraint(linear):
    problem = linear(samples=4)
    attack = make("HopSkipJumpAttack", steps=8, init_attack="SaltAndPepperNoiseAttack")
    assert attack.norms == ("Linf", "L2"), "foolbox refuses the others"
    ratio = {}
    for norm in ("Linf", "L2"):
        found = problem.attack(attack, f"{norm} 0.001")
        ratio[norm] = np.median(found.distance / problem.distances(norm).numpy())
    assert max(ratio.values()) < 2


def test_a_norm_that_it_cannot_do_is_refused(linear):
    with pytest.raises(UserError, match="it does L2"):
        linear().attack(make("L2DeepFoolAttack"), "Linf 0.1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("L2DeepFoolAttak", "did you mean"),
        ("FixedEpsilonAttack", "unknown attack"),
        ("Model", "unknown attack"),
        ("PointwiseAttack", "broken in foolbox"),
        ("SpatialAttack", "in no ball"),
        ("DatasetAttack", "fed with other samples"),
    ],
)
def test_names_that_are_not_offered(name, message):
    with pytest.raises(UserError, match=message):
        registry.find("attacks", f"foolbox:{name}")


def test_the_listed_names_can_all_be_made():
    assert len(listed()) > 30
    for name, norms in listed().items():
        assert make(name).norms == norms


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stpes": 3}, "did you mean steps"),
        ({"init_attack": 3}, "foolbox refuses"),
        ({"init_attack": "Nothing"}, "unknown attack"),
        ({"constraint": "l2"}, "set from the threat model"),
    ],
)
def test_parameters_that_are_refused(params, message):
    with pytest.raises(UserError, match=message):
        make("HopSkipJumpAttack", **params)


def test_fewer_steps_are_longer_so_that_they_still_cross_the_ball():
    assert make("LinfPGD", steps=10).params()["rel_stepsize"] == 0.25
    assert make("LinfPGD", steps=10, rel_stepsize=0.1).params()["rel_stepsize"] == 0.1
    assert make("LinfPGD", abs_stepsize="2/255").params()["abs_stepsize"] == 2 / 255


def test_an_attack_that_breaks_off_says_who_why_and_what_to_do(linear):
    with pytest.raises(
        UserError, match=r"foolbox:GenAttack broke off .* unsupported criterion.*population.*untargeted"
    ):
        linear().attack(make("GenAttack"), "Linf 0.1")


def test_where_memory_runs_out_the_batch_is_halved(linear):
    class Small(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 5 and x.requires_grad:
                raise torch.OutOfMemoryError("out of memory")
            return self.inner(x)

    problem = linear(samples=12)
    whole = problem.attack(make("L2DeepFoolAttack"), "L2 1")
    object.__setattr__(problem, "model", Small(problem.model))
    assert np.allclose(problem.attack(make("L2DeepFoolAttack"), "L2 1").distance, whole.distance, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu(linear):
    problem = linear()
    problem.model.cuda()
    before = torch.cuda.get_rng_state()
    assert problem.attack(make("LinfPGD"), "Linf 0.3").broken.all()
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_nothing_is_written(linear, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    linear().attack(make("FGSM"), "Linf 0.1")
    assert not list(Path(tmp_path).iterdir())
