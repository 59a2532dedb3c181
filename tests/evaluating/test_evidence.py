"""After the attacks: broken evaluations are told from honest ones, and witnesses are asked about again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite import Budget, Target, evaluate
from robustbench_lite.attacking.active_batch import ActiveBatch
from robustbench_lite.attacking.record import RunResult, Samples
from robustbench_lite.attacks.pgd import PGD
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.evaluating.attack_run import AttackRun
from robustbench_lite.evaluating.evidence import LEAST, MOST, SurvivorGroup, as_images, ask_survivors, audit
from robustbench_lite.evaluating.evidence.probes import _ups_and_downs
from robustbench_lite.evaluating.evidence.survivors import AttackRecord, Survivors
from robustbench_lite.evaluating.preflight.check import CountedModel
from robustbench_lite.evaluating.validity import clearly_more
from robustbench_lite.results.compare import compare
from robustbench_lite.results.scorecard import IN_FLOAT64, OUTSIDE, Finding

pytestmark = pytest.mark.evidence

CRAWL = {"attack": "pgd", "params": {"steps": 2, "step_size": 1e-6, "random_start": False}}
ZOO = Path(__file__).parents[1] / "zoo"
_SPEC = importlib.util.spec_from_file_location("rblite_evidence_zoo", ZOO / "zoo.py")
zoo = importlib.util.module_from_spec(_SPEC)
sys.modules["rblite_evidence_zoo"] = zoo
_SPEC.loader.exec_module(zoo)
zoo.effort = 3 / 8
LARGE = ("PGD-trained", "robust linear")
"""Cases on all test samples. The rest takes 64, of which the least that is asked (450 passes each) is more."""

# The zoo


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_broken_evaluations_are_invalid_and_honest_ones_are_not(case, monkeypatch):
    monkeypatch.chdir(ZOO)
    large = case.name in LARGE
    data = case.data() if large else case.data().stratified(64, 0)
    card = evaluate(case.make(), data, case.suite, case.threat)
    assert (card.verdict == "INVALID") == case.broken, card.validity
    assert card.passes.total > 20_000 or not large
    # Where samples fell, more are asked.
    share, least = (0.25, MOST) if "RB211" in {one.code for one in card.validity} else (0.1, LEAST)
    assert card.checks.total <= max(share * card.passes.total, 450 * least)


# Linear models, of which everything is known


@pytest.fixture
def linear():
    """Two classes, a margin that is linear: inputs in the middle of the box, all of class 0."""
    dice = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 16, generator=dice))
        model[1].bias.zero_()
    x = 0.4 + 0.2 * torch.rand(40, 1, 4, 4, generator=dice)
    y = model(x).argmax(1)
    return model, from_arrays(x, y.numpy(), "linear")


def ground(model, data, threat, attacks=()):
    look = CountedModel(Target(model), data, 0, BudgetTracker(), gradients=True, thorough=False)
    samples = Samples(data, torch.arange(len(data)), data.labels)
    return Survivors.of(look, samples, ThreatModel.parse(threat), attacks, torch.arange(len(data)), 64)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_climb_reaches_the_optimum_of_a_linear_model(linear, norm):
    model, data = linear
    here = ground(model, data, f"{norm} 0.05")
    slope = model[1].weight[1] - model[1].weight[0]
    length = slope.abs().sum() if norm == "Linf" else slope.norm()
    found = here.climb(norm, 0.05, 20)
    torch.testing.assert_close(found.margin - here.start, (0.05 * length).expand(40), rtol=1e-3, atol=0)
    assert int(here.model.forward.sum()) == 40 * 21
    assert int(here.model.backward.sum()) == 40 * 20


@pytest.mark.parametrize("norm", ["L1", "L0"])
def test_a_climb_stays_in_sparse_balls_and_rises(linear, norm):
    model, data = linear
    here = ground(model, data, f"{norm} 3")
    found = here.climb(norm, 3, 20)
    change = (found.x - here.x).flatten(1)
    assert ((change != 0).sum(1) <= 3).all() if norm == "L0" else (change.abs().sum(1) <= 3 + 1e-5).all()
    assert (found.margin > here.start).all()


@pytest.mark.parametrize("limit", [50, 1000])
def test_margins_at_several_points_are_asked_in_batches_that_memory_holds(linear, limit):
    model, data = linear
    here = ground(model, data, "Linf 0.05")
    here.model.budget.batch_limit = limit
    sizes = []
    with model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0]))):
        seen = here.margins(here.x, here.x.flip(0))
    assert sizes == ([50, 30] if limit == 50 else [80])
    torch.testing.assert_close(seen, torch.stack([here.start, here.margins(here.x.flip(0))[0]]))
    assert here.model.forward.tolist() == [4] * 40  # by `ground`, at two points, and at one


def test_nothing_is_asked_where_nothing_stands(linear):
    model, data = linear
    look = CountedModel(Target(model), data, 0, BudgetTracker(), gradients=True, thorough=False)
    samples = Samples(data, torch.arange(40), data.labels)
    group = SurvivorGroup(ThreatModel.parse("Linf 0.1"), samples, (), torch.arange(0))
    assert list(ask_survivors(look, [group], 64)) == []
    assert look.passes.total == 0


def test_where_one_of_a_few_falls_more_are_asked_and_none_twice(linear):
    """An eps by which a climb breaks the nearest sample alone, which is not enough to accuse the suite."""
    model, data = linear
    look = CountedModel(Target(model), data, 0, BudgetTracker(), gradients=True, thorough=False)
    samples = Samples(data, torch.arange(40), data.labels)
    logits = model(data.fetch(range(40))).detach()
    reach = (logits[:, 0] - logits[:, 1]).abs() / (model[1].weight[1] - model[1].weight[0]).detach().abs().sum()
    order = reach.argsort()
    threat = ThreatModel.parse(f"Linf {reach[order[:2]].mean().item():.6f}")
    attacks = (AttackRecord("pgd", PGD(steps=5), np.arange(0)),)

    def asked(survivors, least=LEAST):
        look.forward[:] = look.backward[:] = 0
        return list(ask_survivors(look, [SurvivorGroup(threat, samples, attacks, survivors)], 64, least))

    asked(order[:8])
    once = look.forward[order[:8]].tolist()
    more = asked(order)
    assert look.forward[order[:8]].tolist() == once
    assert (look.forward[order[8:32]] > 150).all()
    assert (look.forward[order[32:]] == 0).all()
    most = asked(order, MOST)
    assert (look.forward[order[32:]] == 0).all()
    told = [one.message for one in [*more, *most] if isinstance(one, Finding) and one.code == "RB211"]
    assert [" ".join(one.split()[6:10]) for one in told] == ["break 1 of 8", "break 1 of 32", "break 1 of 32"]


# How jagged a line is


@pytest.mark.parametrize(
    ("line", "extra"),
    [([0, 1, 2, 3], 0), ([0, 2, 3, 1], 0), ([3, 2, 1, 0], 0), ([0, 2, 0, 2], 2), ([0, 1, 0, 1, 0, 1], 4), ([1, 1], 0)],
)
def test_ups_and_downs_beyond_one_of_each(line, extra):
    assert float(_ups_and_downs(torch.tensor(line, dtype=torch.float32)[:, None])) == pytest.approx(extra)


def test_few_of_few_are_no_evidence():
    assert not clearly_more(0, 0.05, 0)
    assert not clearly_more(1, 0.05, 8)
    assert not clearly_more(2, 0.05, 32)
    assert clearly_more(4, 0.2, 4)
    assert clearly_more(8, 0.05, 32)


# What the lanes tell of a climb


def test_a_climb_is_told_by_its_margins():
    some = ActiveBatch.start(
        *(torch.arange(3) for _ in range(2)), torch.rand(3, 4), *(torch.arange(3) for _ in range(4)), 10
    )
    rows = [
        [-1.0] * 11,  # flat
        [-1 + 0.1 * step for step in range(11)],  # at an even pace
        [-1.0, *[-0.5] * 10],  # at once
    ]
    some.margin.copy_(torch.tensor(rows))
    flat, late = some.margin_rise()
    assert flat.tolist() == [True, False, False]
    np.testing.assert_allclose(late, [0, 0.2, 0], atol=1e-6)


def test_a_lane_that_was_never_looked_at_tells_nothing():
    some = ActiveBatch.start(
        *(torch.arange(2) for _ in range(2)), torch.rand(2, 4), *(torch.arange(2) for _ in range(4)), 5
    )
    flat, late = some.margin_rise()
    assert not flat.any()
    assert np.isfinite(late).all()


# What the evidence breaks, and what is told of the witnesses


def test_what_breaks_a_survivor_while_it_is_asked_counts(linear):
    """The suite hardly moves, and a plain climb breaks what it left: such a sample is no survivor."""
    model, data = linear
    crawling = Suite(name="crawling", threats=["Linf 0.3"], attacks=[CRAWL])
    card = evaluate(model, data, crawling, keep_witnesses=True)
    assert card.verdict == "INVALID"
    pgd, found = card.attacks
    assert (found.name, found.attack) == ("evidence", "replay")
    assert found.broken == found.attempted == len(card.witnesses.x) > 0
    assert pgd.broken == 0
    assert card.robust_accuracy.count == pgd.robust_accuracy.count - found.broken
    assert all(one.attack != "evidence" for one in card.validity), "what a probe broke accuses nobody"
    known = dict(zip(card.witnesses.index.tolist(), card.witnesses.x, strict=True))
    x = torch.from_numpy(np.stack(list(known.values())))
    assert (model(x).argmax(1) != data.labels[list(known)]).all()
    assert ((x - data.fetch(list(known))).abs().flatten(1).amax(1) <= 0.3 + 1e-6).all()


class Fussy(nn.Module):
    """Fails on images that no ball holds: what asks about these comes after the plain climb."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        if bool(((x == 0) | (x == 1)).all()):
            raise RuntimeError("no such image")
        return self.model(x)


def test_what_was_found_stays_where_a_later_probe_fails(linear):
    model, data = linear
    crawling = Suite(name="crawling", threats=["Linf 0.3"], attacks=[CRAWL])
    whole, card = (evaluate(one, data, crawling) for one in (model, Fussy(model)))
    assert {"RB105", "RB211"} <= {one.code for one in card.validity}
    assert card.verdict == "INVALID"
    assert card.robust_accuracy.count == whole.robust_accuracy.count < 40
    assert card.attacks[-1].name == "evidence"


def test_two_cards_are_paired_by_what_the_suite_left(linear):
    """How many survivors are asked about depends on more than the model."""
    model, data = linear
    card = evaluate(model, data, Suite(name="crawling", threats=["Linf 0.3"], attacks=[CRAWL]))
    assert sum(row.stood for row in card.outcomes) == 40 > sum(row.robust for row in card.outcomes)
    before = card.model_copy(update={"outcomes": tuple(row.model_copy(update={"breaks": ()}) for row in card.outcomes)})
    assert compare(before, card).robust.only_before == 0


@pytest.mark.parametrize("name", ["evidence", "replay"])
def test_a_suite_has_no_attack_of_a_name_that_the_card_adds(name):
    with pytest.raises(ValueError, match=f"the name {name} is that of what every scorecard may add"):
        Suite(name="mine", threats=["Linf 0.3"], attacks=[{"attack": "pgd", "name": name}])


def test_samples_that_fall_at_the_end_of_the_budget_are_told():
    """Steps that reach the ball's edge with the last one: samples that are 31 of them away, or more, fall late."""

    class Sum(nn.Module):
        def forward(self, x):
            total = x.flatten(1).mean(1) - 0.5
            return torch.stack([-total, total], 1)

    far = torch.linspace(0.001, 0.2, 100)
    data = from_arrays((0.5 - far).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4).numpy(), [0] * 100, "at every distance")
    slow = {"attack": "pgd", "params": {"steps": 40, "step_size": 0.0025, "random_start": False}}
    (late,) = (
        one
        for one in evaluate(Sum(), data, Suite(name="slow", threats=["Linf 0.1"], attacks=[slow])).validity
        if one.code == "RB225"
    )
    assert late.severity == "warning"
    assert late.message.startswith("11 of 100 samples fell in the last fifth of the 81 passes")
    search = {"attack": "square", "params": {"steps": 100}}
    each = Suite(name="each", threats=["Linf 0.1"], attacks=[slow, search], independent=True)
    assert "RB225" not in {one.code for one in evaluate(Sum(), data, each).validity}, "what follows a break is no break"
    fast = evaluate(Sum(), data, Suite(name="fast", threats=["Linf 0.1"], attacks=["pgd"]))
    assert "RB225" not in {one.code for one in fast.validity}


def run(data, witnesses, denied=None, threat="Linf 0.3"):
    run = RunResult.empty(len(data), 1)
    run.broken[list(witnesses)] = True
    run.witnesses.update({row: x.numpy() for row, x in witnesses.items()})
    run.denial_reasons.update(denied or {})
    attack = PGD()
    return AttackRun("attack", "pgd", attack, ThreatModel.parse(threat), np.arange(len(data)), run)


def test_the_audit_counts_what_was_confirmed_and_lists_the_rest(linear):
    data = linear[1]
    found = audit([run(data, {1: data.fetch([1])[0]}, {3: OUTSIDE, 2: IN_FLOAT64})], data.index + 100, precise=True)
    assert (found.asked, found.confirmed, found.precise) == (3, 1, True)
    assert [(one.index, one.reason) for one in found.denied] == [(102, IN_FLOAT64), (103, OUTSIDE)]
    assert audit([run(data, {})], data.index, precise=True) is None


def test_an_example_that_rounding_undoes_is_told_and_counts(linear):
    model, data = linear
    x = (data.fetch(range(40)) * 255).round() / 255
    slope = (model[1].weight[1] - model[1].weight[0]).detach()
    step = 0.3 / 255  # less than half a grey level
    with torch.no_grad():  # the first sample lies so near to the boundary
        logits = model(x[:1])[0]
        model[1].bias[1] += logits[0] - logits[1] - 0.9 * step * slope.abs().sum()
    exact = from_arrays(x, model(x).argmax(1).numpy(), "on the grid")
    assert int(exact.labels[0]) == 0
    small = x[0] + step * slope.sign().reshape(1, 4, 4)
    large = x[0] + 30 * step * slope.sign().reshape(1, 4, 4)
    look = CountedModel(Target(model), exact, 0, BudgetTracker(), gradients=True, thorough=False)
    runs = [run(exact, {0: small}), run(exact, {0: large})._replace(name="other")]
    runs.append(runs[0].at(ThreatModel.parse("Linf 0.4")))  # which is no further witness
    assert as_images(look, runs, np.arange(40), everything=True) == (2, 1)
    assert look.passes.total == 2


# What cuts it short


class Wrapped(nn.Module):
    """A model that does something else at one of its calls."""

    def __init__(self, model, at, what):
        super().__init__()
        self.model, self.at, self.what, self.calls = model, at, what, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            raise self.what
        return self.model(x)


@pytest.fixture
def calls(linear):
    """Calls before the last attack ends, and in all."""
    model, data = linear
    counting = Wrapped(model, 0, None)
    card = evaluate(counting, data, ["pgd"], "Linf 0.05")
    assert card.verdict == "MEASURED"
    return counting.calls


def test_ctrl_c_while_survivors_are_asked_is_no_pass(linear, calls, tmp_path):
    model, data = linear
    card = evaluate(Wrapped(model, calls - 1, KeyboardInterrupt()), data, ["pgd"], "Linf 0.05", cache=tmp_path)
    assert (card.interrupted, card.verdict) == ("interrupt", "INVALID")
    assert [one.code for one in card.validity if one.severity == "error"] == ["RB301"]


def test_a_budget_that_ends_the_evidence_is_told(linear):
    model, data = linear
    whole = evaluate(model, data, ["pgd"], "Linf 0.05")
    card = evaluate(model, data, ["pgd"], "Linf 0.05", budget=Budget(passes=whole.passes.total - 50))
    assert (card.interrupted, card.verdict) == ("passes", "MEASURED")
    assert [(one.code, one.severity) for one in card.validity] == [("RB301", "warning")]
    assert card.robust_accuracy == whole.robust_accuracy


def test_a_model_that_fails_while_survivors_are_asked_loses_no_result(linear, calls):
    model, data = linear
    whole = evaluate(model, data, ["pgd"], "Linf 0.05")
    card = evaluate(Wrapped(model, calls - 1, RuntimeError("no more")), data, ["pgd"], "Linf 0.05")
    assert card.robust_accuracy == whole.robust_accuracy
    assert [(one.code, one.severity) for one in card.validity] == [("RB105", "warning")]
    assert "no more" in card.validity[0].message
