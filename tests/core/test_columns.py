"""Columns of a table: what is fixed stays, what holds whole numbers holds them, and no attack gets past it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.attacking.confirm import SuccessCheck
from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.query import Query
from robustbench_lite.attacking.record import Samples
from robustbench_lite.core import registry
from robustbench_lite.core.columns import Columns
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.norms import GEOMETRIES, project
from robustbench_lite.core.threat import NORMS, Norm, ThreatModel
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.dataset import Data
from robustbench_lite.model.target import Target

COLUMNS = Columns(
    fixed=torch.tensor([True, False, False, True, False, False]),
    whole=torch.tensor([0.0, 7.0, 100.0, 3.0, 0.0, 2.0], dtype=torch.float64),
)
"""One fixed, two of whole numbers, one that is both, one free, and a flag of three values."""
THREATS = {"Linf": "Linf 0.3", "L2": "L2 0.5", "L1": "L1 0.8", "L0": "L0 2"}


def rows(seed: int, count: int = 40) -> Tensor:
    """Clean rows, as a table of these columns holds them."""
    x = torch.rand(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    steps = COLUMNS.whole
    return torch.where(steps > 0, (x * steps).round() / steps.clamp_min(1), x).float()


def table(seed: int = 0) -> tuple[Data, Target]:
    """Rows with the labels that a network of random weights gives them."""
    torch.manual_seed(3)
    target = Target(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval())
    x = rows(seed)
    labels = target(x).argmax(1)
    return dataclasses.replace(from_arrays(x.numpy(), labels.detach().numpy(), "table"), columns=COLUMNS), target


def check(x: Tensor, origin: Tensor) -> None:
    assert torch.equal(x[:, COLUMNS.fixed], origin[:, COLUMNS.fixed])
    for number, steps in enumerate(COLUMNS.whole.tolist()):
        if steps:
            known = (torch.arange(int(steps) + 1, dtype=torch.float64) / steps).float()
            assert torch.isin(x[:, number], known).all()


@given(st.integers(0, 10_000), st.sampled_from(NORMS))
@settings(max_examples=40, deadline=None)
def test_what_is_allowed_lies_on_the_way_back_and_in_the_ball(seed: int, norm: Norm) -> None:
    origin = rows(seed)
    threat = ThreatModel.parse(THREATS[norm])
    wild = origin + torch.randn(origin.shape, generator=torch.Generator().manual_seed(seed))
    x = project(wild, origin, norm, threat.eps, COLUMNS)
    allowed = COLUMNS.allowed(x, origin)
    check(allowed, origin)
    assert COLUMNS.kept(allowed, origin).all()
    assert (GEOMETRIES[norm].distance(allowed.double() - origin.double()) <= threat.reach).all()
    assert ((allowed - origin).abs() <= (x - origin).abs() + 1e-6).all()
    assert torch.equal(COLUMNS.allowed(allowed, origin), allowed)
    assert torch.equal(COLUMNS.allowed(origin, origin), origin)


@pytest.mark.parametrize("steps", [1, 3, 7, 255, 99_991, 1_000_000])
def test_every_whole_number_of_a_column_is_allowed(steps: int) -> None:
    numbers = torch.arange(0, steps + 1, max(1, steps // 1000), dtype=torch.float64)
    x = (numbers / steps).float()[:, None]
    columns = Columns(fixed=torch.tensor([False]), whole=torch.tensor([float(steps)], dtype=torch.float64))
    for origin in (torch.zeros_like(x), torch.ones_like(x)):
        assert torch.equal(columns.allowed(x, origin), x)
        assert columns.kept(x, origin).all()
        between = (x + origin) / 2 + 0.3 / steps
        assert columns.kept(columns.allowed(between.clamp(0, 1), origin), origin).all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_attack_gets_past_the_columns(norm: Norm) -> None:
    data, target = table()
    threat = ThreatModel.parse(THREATS[norm])
    samples = Samples(data, sample_keys=data.index, target_classes=data.labels)
    few = {"steps": 12, "iterations": 12, "starts": 1, "sprints": 3}
    tried = 0
    for name in registry.names("attacks"):
        if ":" in name or name in ("transfer", "adversarial_patch"):  # needs a surrogate; needs images
            continue
        fields = {one.name for one in dataclasses.fields(registry.find("attacks", name))}
        attack = registry.build("attacks", name, {key: value for key, value in few.items() if key in fields})
        if norm not in attack.norms or attack.misfit(data.shape, threat, data.columns):
            continue
        tried += 1
        options = RunOptions(name=name, keep=range(len(data)), early_stop=not attack.minimal)
        done = run_attack(attack, target, samples, np.arange(16), threat, options)
        assert done.unconfirmed == 0, name
        found = sorted(done.witnesses)
        if found:
            x = torch.stack([torch.from_numpy(done.witnesses[row]) for row in found])
            origin = data.fetch(found)
            check(x, origin)
            assert (GEOMETRIES[norm].distance(x.double() - origin.double()) <= threat.reach).all()
            assert (target(x).argmax(1) != data.labels[found]).all()
    assert tried >= 2


def test_pgd_finds_nearly_all_that_a_search_of_every_row_finds() -> None:
    """The rounding doesn't hide examples from it: a grid of all that is allowed is the judge."""
    data, target = table()
    threat = ThreatModel.parse("Linf 0.3")
    samples = Samples(data, sample_keys=data.index, target_classes=data.labels)
    broken = run_attack(registry.build("attacks", "pgd", {"steps": 40}), target, samples, np.arange(40), threat).broken
    origin = data.fetch(range(40))
    axes = [torch.linspace(0, 1, int(steps) + 1 if steps else 61) for steps in COLUMNS.whole.tolist()]
    exists = []
    for row in range(40):
        near = [
            origin[row, number][None]
            if COLUMNS.fixed[number]
            else axes[number][(axes[number] - origin[row, number]).abs() <= 0.3]
            for number in range(6)
        ]
        exists.append(bool((target(torch.cartesian_prod(*near)).argmax(1) != data.labels[row]).any()))
    assert 5 <= sum(exists) <= 35
    assert sum(exists) - int(broken.sum()) <= 1


def test_the_judge_denies_what_breaks_the_rules() -> None:
    data, target = table()
    threat = ThreatModel.parse("Linf 1")
    query = Query(target, "margin", False, BudgetTracker(), 64)
    origin = data.fetch(range(40))
    x = torch.rand(origin.shape, generator=torch.Generator().manual_seed(1))
    free = SuccessCheck(query, threat, None, 64, "free").confirm(x, origin, data.labels, anywhere=False)
    held = SuccessCheck(query, threat, None, 64, "held", COLUMNS).confirm(x, origin, data.labels, anywhere=False)
    assert free.broken.any()
    assert not held.broken.any()


def test_training_examples_keep_to_the_columns() -> None:
    data, target = table()
    origin, threat = data.fetch(range(40)), ThreatModel.parse("Linf 0.3")
    attack = registry.build("attacks", "pgd", {"steps": 5})
    x = perturb(attack, target, origin, data.labels, threat, data.index, columns=COLUMNS)
    check(x, origin)
    assert (x != origin).any()


def test_an_attack_with_a_loop_of_its_own_is_refused() -> None:
    pytest.importorskip("foolbox")
    data, target = table()
    attack = registry.build("attacks", "foolbox:LinfPGD", {})
    threat = ThreatModel.parse("Linf 0.3")
    assert attack.misfit(data.shape, threat, None) is None
    samples = Samples(data, sample_keys=data.index, target_classes=data.labels)
    with pytest.raises(UserError, match="asks the model in a loop of its own, which knows nothing of columns"):
        run_attack(attack, target, samples, np.arange(4), threat)
