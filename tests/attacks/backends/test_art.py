"""ART's attacks through our engine, on a linear model where the nearest adversarial example is known."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError


def make(name: str, **params: Any) -> Any:
    return registry.build("attacks", f"art:{name}", params)


def python(code: str, **environment: str) -> int:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=os.environ | environment, check=False
    ).returncode


def test_the_import_leaves_home_environment_and_log_handlers_alone(tmp_path):
    log = tmp_path / "log.txt"
    code = (
        "import logging, os; from pathlib import Path\n"
        f"logging.basicConfig(filename={str(log)!r}, filemode='w', level='INFO')\n"
        "from robustbench_lite.attacks.backends import art\n"
        "art.find('SquareAttack')\n"
        f"assert os.environ['HOME'] == {str(tmp_path)!r} and not (Path.home() / '.art').exists()\n"
        f"import art; assert art.config.ART_DATA_PATH == str(Path.home() / '.art' / 'data')\n"
        "logging.info('still here')"
    )
    assert python(code, HOME=str(tmp_path)) == 0
    assert "still here" in log.read_text()


@pytest.mark.parametrize(
    ("name", "norm", "params"),
    [
        ("FastGradientMethod", "Linf", {}),
        ("FastGradientMethod", "L2", {}),
        ("ProjectedGradientDescentPyTorch", "Linf", {"max_iter": 20}),
        ("ProjectedGradientDescentPyTorch", "L2", {"max_iter": 20}),
        ("AutoProjectedGradientDescent", "Linf", {"max_iter": 20, "nb_random_init": 1}),
    ],
)
def test_a_fixed_eps_attack_breaks_what_lies_within_eps(linear, name, norm, params):
    problem = linear(classes=2)
    distances = problem.distances(norm).numpy()
    eps = float(np.median(distances)) * 1.01
    found = problem.attack(make(name, **params), f"{norm} {eps}")
    assert not found.broken[distances > eps * 1.001].any()
    assert found.broken[distances < eps * 0.99].all()
    assert found.unconfirmed == 0


def test_square_breaks_by_queries_alone(linear):
    problem = linear(shape=(1, 12, 12), samples=10, classes=2)
    eps = 4 * float(problem.distances("Linf").median())
    found = problem.attack(make("SquareAttack", max_iter=100), f"Linf {eps}")
    assert found.broken.sum() >= 5
    assert (found.backward == 0).all()
    assert (found.forward > 10).any()


@pytest.mark.parametrize(
    ("name", "norm", "params", "ratio"),
    [
        ("DeepFool", "L2", {}, 1.1),
        ("CarliniL2Method", "L2", {"max_iter": 20, "binary_search_steps": 4, "initial_const": 0.1}, 1.5),
        ("HopSkipJump", "L2", {"max_iter": 5, "max_eval": 200}, 1.6),
        ("HopSkipJump", "Linf", {"max_iter": 5, "max_eval": 200}, 2.5),
        ("BoundaryAttack", "L2", {"max_iter": 40}, 20),
    ],
)
def test_a_minimal_attack_nears_the_nearest_example(linear, name, norm, params, ratio):
    problem = linear(samples=6)
    distances = problem.distances(norm).numpy()
    attack = make(name, **params)
    assert attack.minimal
    found = problem.attack(attack, f"{norm} {np.median(distances)}")
    assert (found.distance >= distances * 0.999).all()
    assert np.median(found.distance / distances) < ratio
    assert not found.broken[found.distance > np.median(distances) * 1.001].any()
    assert found.forward.min() > 2


def l1_distances(problem: Any) -> Any:
    """Distance to the nearest boundary: one value changes, the one that the margin turns on most."""
    weight, logits = problem.model[1].weight.detach(), problem.model(problem.x).detach()
    steepest = (weight[problem.y][:, None] - weight).abs().amax(2)
    gaps = logits.gather(1, problem.y[:, None]) - logits
    return torch.where(steepest > 0, gaps / steepest, torch.inf).amin(1).numpy()


@pytest.mark.parametrize("name", ["ProjectedGradientDescentPyTorch", "FastGradientMethod"])
def test_a_fixed_eps_attack_of_l1_breaks_what_lies_well_within(linear, name):
    problem = linear(classes=2, samples=20)
    distances = l1_distances(problem)
    eps = 2 * float(np.median(distances))
    found = problem.attack(make(name), f"L1 {eps}")
    assert not found.broken[distances > eps * 1.001].any()
    assert found.broken[distances < eps / 4].all()
    assert found.broken.sum() >= 8


def test_elastic_net_nears_the_nearest_example_in_l1(linear):
    problem = linear(samples=4)
    distances = l1_distances(problem)
    found = problem.attack(make("ElasticNet", max_iter=50, binary_search_steps=5), f"L1 {np.median(distances)}")
    assert (found.distance >= distances * 0.999).all()
    assert np.median(found.distance / distances) < 1.5


def test_the_saliency_map_leaves_the_label_although_it_only_knows_where_to_go(linear):
    problem = linear(classes=3, samples=10)
    found = problem.attack(make("SaliencyMapMethod"), "L0 8")
    assert found.broken.sum() >= 8
    assert (found.distance[found.broken] <= 8).all()
    target_classes = (problem.y + 1) % 3
    reached = problem.attack(make("SaliencyMapMethod"), "L0 12 targeted", target_classes=target_classes)
    assert reached.broken.sum() >= 5
    assert (reached.prediction[reached.broken] == target_classes.numpy()[reached.broken]).all()


class NoGradients(nn.Module):
    """A model that cuts the graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


BLACK_BOX = {
    "BoundaryAttack": ("labels", {"max_iter": 5}),
    "HopSkipJump": ("labels", {"max_iter": 1, "max_eval": 20, "init_eval": 10}),
    "SignOPTAttack": ("labels", {"max_iter": 1, "num_trial": 5, "k": 5, "query_limit": 200}),
    "SimBA": ("scores", {"max_iter": 10}),
    "SquareAttack": ("scores", {"max_iter": 10}),
    "VirtualAdversarialMethod": ("scores", {"max_iter": 2}),
    "ZooAttack": ("scores", {"max_iter": 3, "binary_search_steps": 1}),
}


@pytest.mark.parametrize("name", BLACK_BOX)
def test_one_that_sees_no_gradients_asks_for_none(linear, name):
    access, params = BLACK_BOX[name]
    problem = linear(classes=3, samples=2)
    attack = make(name, **params)
    assert attack.access == access
    found = problem.attack(
        attack, {"Linf": "Linf 0.3", "L2": "L2 2"}[attack.norms[0]], model=NoGradients(problem.model)
    )
    assert (found.backward == 0).all()


def test_every_other_one_sees_gradients():
    listed = registry.find("attacks", "art:DeepFool").func.__globals__["names"]()
    for name in listed.keys() - BLACK_BOX.keys() - {"PixelAttack", "ThresholdAttack", "GeoDA"}:
        assert make(name).access == "gradients", name


def test_hop_skip_jump_ends_at_the_boundary_with_labels_alone(linear):
    class Labels(NoGradients):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(super().forward(x).argmax(1), 2).float()

    problem = linear(classes=2, samples=3)
    found = problem.attack(make("HopSkipJump", max_iter=15), "L2 0.001", model=Labels(problem.model))
    assert (found.distance < 1.03 * problem.distances("L2").numpy()).all()
    assert make("HopSkipJump").norms == ("Linf", "L2"), "ART refuses the others"
    assert make("HopSkipJump").params()["max_iter"] == 50


def test_passes_are_counted(linear):
    problem = linear(samples=10)
    steps = 7
    found = problem.attack(make("ProjectedGradientDescentPyTorch", max_iter=steps), "Linf 0.001", batch_size=5)
    # The engine asks about the input and the result, and once more at a result that broke the sample; ART, at its end,
    # at both for a line in its log.
    assert (found.forward == 2 + steps + 2 + found.broken).all()
    assert (found.backward == steps).all()


def test_targeted_goals(linear):
    problem = linear(classes=2, samples=10)
    target_class = 1 - problem.y
    eps = float(problem.distances("Linf", target_class).max()) * 1.1
    assert problem.attack(make("FastGradientMethod"), f"Linf {eps} targeted next").broken.all()
    with pytest.raises(UserError, match="no targeted form"):
        problem.attack(make("DeepFool"), f"L2 {eps} targeted next")


@pytest.mark.parametrize("name", ["NewtonFool", "VirtualAdversarialMethod"])
def test_attacks_that_want_probabilities_get_them(linear, name):
    problem = linear(classes=2)
    eps = 2 * float(problem.distances("L2").median())
    assert problem.attack(make(name), f"L2 {eps}").broken.any()


def test_no_progress_bar_is_shown(linear, capfd):
    linear(samples=2).attack(make("CarliniL2Method", max_iter=1), "L2 0.01")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["CarliniL2Method", "BoundaryAttack", "DeepFool"])
def test_a_norm_that_it_cannot_do_is_refused(linear, name):
    with pytest.raises(UserError, match="it does L2"):
        linear().attack(make(name), "Linf 0.1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SquareAttak", "did you mean"),
        ("EvasionAttack", "unknown attack"),
        ("AdversarialPatch", "it makes a patch"),
        ("DecisionTreeAttack", "more than a classifier"),
        ("UniversalPerturbation", "one perturbation for all samples"),
        ("AutoAttack", "pip install multiprocess"),
        ("CarliniL0Method", "use foolbox:L0FMNAttack"),
    ],
)
def test_names_that_are_not_offered(name, message):
    with pytest.raises(UserError, match=message):
        registry.find("attacks", f"art:{name}")


def test_the_listed_names_can_all_be_made():
    listed = registry.find("attacks", "art:DeepFool").func.__globals__["names"]()
    assert len(listed) >= 18
    for name, norms in listed.items():
        assert set(norms) <= set(make(name).norms)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_itr": 3}, "did you mean max_iter"),
        ({"eps": 0.1}, "set from the threat model"),
        ({"targeted": True}, "set from the threat model's goal"),
        ({"verbose": True}, "can't be given"),
    ],
)
def test_parameters_that_are_refused(params, message):
    with pytest.raises(UserError, match=message):
        make("ProjectedGradientDescent", **params)


def test_strong_parameters_give_way_to_the_users():
    assert make("CarliniL2Method").params()["max_iter"] == 100
    assert make("CarliniL2Method", max_iter=20).params()["max_iter"] == 20
    pgd = make("ProjectedGradientDescent").params()
    assert pgd["eps_step"] is None
    assert not pgd.keys() & {"eps", "norm", "targeted", "verbose", "estimator"}
    assert make("ProjectedGradientDescent", eps_step="2/255").params()["eps_step"] == 2 / 255


def test_an_attack_that_breaks_off_says_who_why_and_what_to_do(linear):
    with pytest.raises(UserError, match=r"art:DeepFool broke off .* iterations must be a positive.*Check its param"):
        linear().attack(make("DeepFool", max_iter=-1), "L2 0.1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu(linear):
    problem = linear()
    problem.model.cuda()
    assert problem.attack(make("ProjectedGradientDescent", max_iter=5), "Linf 0.3").broken.all()
