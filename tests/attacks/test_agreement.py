"""Our attacks against foolbox's and ART's with the same parameters, sample by sample, on a small trained network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import RunResult, Samples
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target


@dataclass(frozen=True)
class Trained:
    """A network, and test samples that it classifies as they should be."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def attack(self, name: str, threat: str, *, early_stop: bool = True, **params: Any) -> RunResult:
        """Run an attack on all samples, and keep every witness."""
        data = as_data((self.x, self.y))
        return run_attack(
            registry.build("attacks", name, params),
            Target(self.model),
            Samples(data, torch.arange(len(data)), data.labels),
            np.arange(len(data)),
            ThreatModel.parse(threat),
            RunOptions(early_stop=early_stop, keep=range(len(data))),
        )


@pytest.fixture(scope="module")
def digits(train_on_digits: Any) -> Trained:
    model, x, y = train_on_digits(1400, epochs=20, channels=16, lr=3e-3)
    with torch.no_grad():
        right = 1400 + (model(x[1400:]).argmax(1) == y[1400:]).nonzero()[:, 0]
    return Trained(model, x[right[:200]], y[right[:200]])


EPS = {"Linf": 0.1, "L2": 0.6}
"""Where about half of the samples break."""


def agreement(ours: RunResult, theirs: RunResult) -> float:
    """Share of the samples with the same outcome; on an all-broken or an unbroken set it would say nothing."""
    assert 0.2 < ours.broken.mean() < 0.9
    return float((ours.broken == theirs.broken).mean())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("library", ["foolbox", "art"])
def test_fgsm(digits, norm, library):
    theirs = {"foolbox": f"foolbox:{norm}FastGradientAttack", "art": "art:FastGradientMethod"}[library]
    threat = f"{norm} {EPS[norm]}"
    ours, peer = digits.attack("fgsm", threat), digits.attack(theirs, threat)
    assert agreement(ours, peer) >= 0.99
    both = ours.witnesses.keys() & peer.witnesses.keys()
    assert len(both) > 40
    for row in both:
        np.testing.assert_allclose(ours.witnesses[row], peer.witnesses[row], atol=1e-5)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("library", ["foolbox", "art"])
@pytest.mark.parametrize("ours", ["bim", "pgd"])
def test_iterative_attacks(digits, ours, norm, library):
    # Ours stops a sample at its first success where the peers go on, and are judged by their last candidate alone. So a
    # sample may break for us and be lost again by them on the way, but none the other way round.
    steps, length = 10, EPS[norm] / 4
    threat = f"{norm} {EPS[norm]}"
    params = {"steps": steps, "step_size": length} | ({"random_start": False} if ours == "pgd" else {})
    mine = digits.attack(ours, threat, **params)
    if library == "foolbox":
        name = "BasicIterativeAttack" if ours == "bim" else "ProjectedGradientDescentAttack"
        peer = digits.attack(f"foolbox:{norm}{name}", threat, steps=steps, abs_stepsize=length, random_start=False)
    else:
        peer = digits.attack("art:ProjectedGradientDescentPyTorch", threat, max_iter=steps, eps_step=length)
    assert agreement(mine, peer) >= 0.99
    assert mine.passes.total < peer.passes.total, "only ours drops what is broken"


def test_carlini_wagner_finds_examples_as_near_with_no_more_passes(digits):
    part = Trained(digits.model, digits.x[:12], digits.y[:12])
    threat = f"L2 {EPS['L2']}"
    ours = part.attack("carlini_wagner", threat, early_stop=False)
    assert np.isfinite(ours.distance).all()
    peers = (
        (
            "foolbox:L2CarliniWagnerAttack",
            {"binary_search_steps": 6, "steps": 100, "stepsize": 0.1, "initial_const": 1},
        ),
        ("foolbox:L2CarliniWagnerAttack", {"binary_search_steps": 9, "steps": 200, "stepsize": 0.01}),
        ("art:CarliniL2Method", {"binary_search_steps": 4, "max_iter": 40}),
    )
    for name, params in peers:
        theirs = part.attack(name, threat, **params)
        assert np.median(ours.distance) <= 1.02 * np.median(theirs.distance)
        assert ours.passes.total <= theirs.passes.total
