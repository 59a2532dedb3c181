"""`evaluate`: what the card says, whether it adds up, when it isn't to be believed, and what is refused."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from robustbench_lite import Budget, Gates, Scorecard, Suite, Target, ThreatModel, evaluate, load_suite
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.suite import AttackSpec
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating.preflight import preflight
from tests.support import Counting, Wrapped

PGD = {"attack": "pgd", "params": {"steps": 5}}
MARGIN = {"attack": "pgd", "name": "pgd-margin", "params": {"steps": 5, "loss": "margin", "restarts": 2}}
FAST = ["fgsm", PGD, MARGIN]
EPS = "Linf 0.08"


@dataclass(frozen=True)
class Trained:
    model: nn.Module
    x: Tensor
    y: Tensor

    def evaluate(self, suite=FAST, threat=EPS, **options) -> Scorecard:
        return evaluate(options.pop("model", self.model), (self.x, self.y), suite, threat, **options)


@pytest.fixture(scope="module")
def digits(train_on_digits) -> Trained:
    """A small convolutional network, trained on 900 digits, and 150 that it wasn't trained on."""
    model, x, y = train_on_digits(900, epochs=8)
    return Trained(model, x[900:1050], y[900:1050])


@pytest.fixture(scope="module")
def card(digits) -> Scorecard:
    return digits.evaluate(keep_witnesses=True)


class Before(NamedTuple):
    """What the model sees before the first attack: the clean pass, and the checks after it."""

    calls: int
    """Of a batch size of 150."""
    checks: Passes


@pytest.fixture(scope="module")
def before(digits) -> Before:
    model = Wrapped(digits.model, lambda model, x, call: model(x))
    prediction = digits.model(digits.x).argmax(1).numpy()
    seen = preflight(Target(model), as_data((digits.x, digits.y)), prediction=prediction, batch_size=150)
    in_float64 = Passes(forward=2 * 4)  # whether it is the same model there: a call of each
    checks = Passes(forward=int(seen.forward.sum()), backward=int(seen.backward.sum())) + in_float64
    return Before(4 + model.calls + 2, checks)


def codes(card):
    return {finding.code for finding in card.validity}


# The card


def test_the_public_names_of_the_card_hold_what_they_say(digits, card):
    with torch.no_grad():
        right = digits.model(digits.x).argmax(1) == digits.y
    assert card.clean_accuracy.value == pytest.approx(right.double().mean().item())
    assert 0 < card.clean_accuracy.low < card.clean_accuracy.value < card.clean_accuracy.high <= 1
    assert 0 < card.robust_accuracy.value < card.clean_accuracy.value
    assert card.robust_accuracy.low < card.robust_accuracy.value < card.robust_accuracy.high
    assert [attack.name for attack in card.attacks] == ["fgsm", "pgd", "pgd-margin"]
    assert all(attack.seconds > 0 and attack.finished for attack in card.attacks)
    assert card.verdict == "MEASURED"
    assert card.validity == ()
    assert card.interrupted is None
    assert card.seed == 0
    assert [str(threat.threat) for threat in card.threats] == [EPS]
    assert card.data.samples == 150
    assert card.data.shape == (1, 8, 8)
    assert len(card.target.weights_sha256) == 64
    assert datetime.fromisoformat(card.created).tzinfo is not None
    assert torch.__version__.startswith(card.environment.packages["torch"])


def test_robust_accuracy_is_the_pointwise_worst_case(digits, card):
    rows = card.outcomes
    assert [row.index for row in rows] == list(range(150))
    assert [row.label for row in rows] == digits.y.tolist()
    with torch.no_grad():
        assert [row.prediction for row in rows] == digits.model(digits.x).argmax(1).tolist()
    assert card.clean_accuracy.count == sum(row.correct for row in rows)
    assert card.robust_accuracy.count == sum(row.robust for row in rows)
    for row in rows:
        assert row.robust == (row.correct and not row.breaks)
        assert (row.distance is None) == (not row.breaks)
        if row.breaks:
            assert row.correct, "what is wrong from the start is not attacked"
            assert row.distance <= 0.08 + 1e-6
            assert row.breaks[0].prediction != row.label


def test_in_a_cascade_each_attack_sees_what_is_left(card):
    standing = card.clean_accuracy.count
    for attack in card.attacks:
        assert attack.attempted == standing
        standing -= attack.broken
        assert attack.robust_accuracy.count == standing
        assert attack.robust_accuracy.total == 150
    assert standing == card.robust_accuracy.count
    assert card.attacks[0].alone is not None
    assert [attack.alone for attack in card.attacks[1:]] == [None, None]
    assert all(len(row.breaks) <= 1 for row in card.outcomes)


def test_independent_attacks_each_see_everything(digits, card):
    alone = digits.evaluate(independent=True)
    for attack in alone.attacks:
        assert attack.attempted == alone.clean_accuracy.count
        assert attack.alone.count == alone.clean_accuracy.count - attack.broken
        assert attack.alone.count == sum(
            row.correct and attack.name not in {found.attack for found in row.breaks} for row in alone.outcomes
        )
    running = [attack.robust_accuracy.count for attack in alone.attacks]
    assert running == sorted(running, reverse=True)
    assert running[-1] == alone.robust_accuracy.count == sum(row.robust for row in alone.outcomes)
    assert any(len(row.breaks) == 3 for row in alone.outcomes)
    assert alone.attacks[0] == card.attacks[0].model_copy(update={"seconds": alone.attacks[0].seconds})
    assert alone.robust_accuracy == card.robust_accuracy, "a cascade finds the same worst case, for less"
    assert alone.passes.total > card.passes.total


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("batch_size", [16, 400])
def test_passes_add_up_and_are_those_that_the_model_saw(digits, before, independent, batch_size):
    model = Counting(digits.model)
    card = digits.evaluate(model=model, independent=independent, batch_size=batch_size)
    assert card.passes.forward == sum(row.passes.forward for row in card.outcomes)
    assert card.passes.backward == sum(row.passes.backward for row in card.outcomes)
    clean = 2 + 150 + min(batch_size, 150)  # the probe, one pass over all, and the first batch once more
    attacks = sum((attack.passes for attack in card.attacks), card.checks)
    assert card.passes == attacks + Passes(forward=clean)
    assert card.passes.backward == model.backwards
    assert card.passes.forward == model.forwards


def test_each_witness_is_adversarial_in_the_ball_and_in_the_box(digits, card):
    witnesses = card.witnesses
    broken = [row for row in card.outcomes if row.breaks]
    assert len(witnesses) == len(broken) > 20
    by_index = {row.index: row for row in broken}
    for index, attack, threat, x in zip(witnesses.index, witnesses.attack, witnesses.threat, witnesses.x, strict=True):
        row = by_index[int(index)]
        assert (attack, threat) == (row.breaks[0].attack, row.breaks[0].threat)
        assert x.min() >= 0
        assert x.max() <= 1
        distance = np.abs(x.astype(np.float64) - digits.x[row.index].double().numpy()).max()
        assert distance <= 0.08 + 1e-6
        assert distance == pytest.approx(row.distance, abs=1e-9)
        with torch.no_grad():
            assert digits.model(torch.from_numpy(x)[None]).argmax().item() == row.breaks[0].prediction != row.label


def test_witnesses_are_kept_on_request_alone_and_a_few_shown_all_the_same(digits):
    card = digits.evaluate()
    assert card.witnesses is None
    assert 0 < len(card.gallery) <= 12
    assert len({example.index for example in card.gallery}) == len(card.gallery)


def test_the_gallery_says_how_sure_the_model_is(digits):
    card = digits.evaluate(keep_witnesses=True)
    kept = {(int(index), attack): x for index, attack, x in zip(*_columns(card.witnesses), strict=True)}
    for one in card.gallery:
        pair = torch.stack([digits.x[one.index], torch.from_numpy(kept[one.index, one.attack])])
        with torch.no_grad():
            sure = digits.model(pair).softmax(1)
        assert one.confidence == pytest.approx(float(sure[0, one.prediction]), abs=1e-4)
        assert one.adversarial_confidence == pytest.approx(float(sure[1, one.adversarial_prediction]), abs=1e-4)
    assert sum((row.passes for row in card.outcomes), Passes()) == card.passes


def _columns(witnesses):
    return witnesses.index, witnesses.attack, witnesses.x


def test_an_interrupt_while_pictures_are_made_loses_nothing(digits):
    model, x, y = digits.model, digits.x[:20], digits.y[:20]
    passes = []

    def evaluated(last):
        def stop(*_):
            passes.append(1)
            if len(passes) == last:
                raise KeyboardInterrupt

        passes.clear()
        with model.register_forward_pre_hook(stop):
            return evaluate(model, (x, y), ["fgsm"], "Linf 0.2")

    whole = evaluated(0)
    card = evaluated(len(passes))
    assert card.interrupted is None
    assert card.outcomes == whole.outcomes
    assert [one.adversarial_confidence for one in card.gallery] == [None] * len(whole.gallery) != []


def test_a_gallery_of_labels_alone_says_no_confidence(digits):
    def labels(x):
        with torch.no_grad():
            return digits.model(torch.from_numpy(x)).argmax(1).numpy()

    card = evaluate(Target.from_callable(labels), (digits.x[:4], digits.y[:4]), "black_box", "Linf 0.3", seed=0)
    assert card.gallery
    assert {(one.confidence, one.adversarial_confidence) for one in card.gallery} == {(None, None)}


def test_independent_attacks_keep_a_witness_each(digits):
    card = digits.evaluate(independent=True, keep_witnesses=True)
    assert len(card.witnesses) == sum(len(row.breaks) for row in card.outcomes)


def test_a_saved_card_is_read_back_as_it_was(card, tmp_path):
    path = card.save(tmp_path / "deep" / "x.json")
    loaded = Scorecard.load(path)
    assert loaded == card
    assert loaded.witnesses == card.witnesses
    assert loaded.attacks[1].params["steps"] == 5
    assert loaded.suite.attacks[2].name == "pgd-margin"


def test_the_same_run_again_says_the_same_and_another_seed_draws_otherwise(digits, card):
    again = digits.evaluate(keep_witnesses=True)
    assert again.outcomes == card.outcomes
    assert again.witnesses == card.witnesses
    assert again.data.sha256 == card.data.sha256
    other = digits.evaluate(["pgd"], "L2 0.4", seed=1), digits.evaluate(["pgd"], "L2 0.4", seed=0)
    distances = [[row.distance for row in one.outcomes] for one in other]
    assert distances[0] != distances[1]


@pytest.mark.parametrize("batch_size", [7, 512])
def test_outcomes_do_not_depend_on_the_batch_size(digits, card, batch_size):
    other = digits.evaluate(batch_size=batch_size)
    assert sum(one.robust != two.robust for one, two in zip(other.outcomes, card.outcomes, strict=True)) <= 1


def test_outcomes_do_not_depend_on_the_order_of_the_data(digits, card):
    order = torch.randperm(150, generator=torch.Generator().manual_seed(5))
    mixed = evaluate(digits.model, (digits.x[order], digits.y[order]), FAST, EPS)
    by_key = {row.key: row for row in mixed.outcomes}
    assert len(by_key) == 150
    assert sum(by_key[row.key].robust != row.robust for row in card.outcomes) <= 1
    assert mixed.data.sha256 == card.data.sha256


def test_several_threat_models_are_each_told_and_all_count(digits):
    card = digits.evaluate(threat=["Linf 0.05", "L2 0.4"], keep_witnesses=True)
    assert [str(one.threat) for one in card.threats] == ["Linf 0.05", "L2 0.4"]
    assert [(attack.name, attack.threat.norm) for attack in card.attacks] == [
        (name, norm) for norm in ("Linf", "L2") for name in ("fgsm", "pgd", "pgd-margin")
    ]
    assert card.attacks[3].attempted == card.clean_accuracy.count, "each threat model starts from the clean samples"
    for one in card.threats:
        alone = digits.evaluate(threat=one.threat)
        assert alone.robust_accuracy == one.robust_accuracy
        broken = [row for row in card.outcomes if str(one.threat) in {found.threat for found in row.breaks}]
        assert one.robust_accuracy.count == card.clean_accuracy.count - len(broken)
    assert card.robust_accuracy.count <= min(one.robust_accuracy.count for one in card.threats)
    assert card.robust_accuracy.count == sum(row.robust for row in card.outcomes)
    assert set(card.witnesses.threat) == {"Linf 0.05", "L2 0.4"}


def test_a_suite_of_several_threat_models_is_run_under_all(digits):
    suite = Suite(name="both", threats=["Linf 0.03", "L2 0.2"], attacks=["fgsm"])
    assert [str(one.threat) for one in digits.evaluate(suite, None).threats] == ["Linf 0.03", "L2 0.2"]
    assert [str(one.threat) for one in digits.evaluate(suite, "Linf 0.1").threats] == ["Linf 0.1"]


def test_a_threat_model_given_twice_counts_once(digits):
    card = digits.evaluate(["fgsm"], ["Linf 8/255", "Linf 8/255", ThreatModel.parse("Linf 8/255")])
    assert len(card.threats) == len(card.attacks) == 1


@pytest.mark.parametrize("name", ["linf_quick", "l2_quick", "linf_classic"])
def test_built_in_suites_run(digits, name):
    card = evaluate(digits.model, (digits.x[:24], digits.y[:24]), suite=name)
    assert card.suite.name == name
    ran = [attack.name for attack in card.attacks if attack.attack != "replay"]  # what the evidence breaks comes last
    assert ran == [spec.name for spec in load_suite(name).attacks]
    assert card.suite.threats == load_suite(name).threats


@pytest.mark.parametrize("choice", ["random", "next", "least_likely"])
def test_a_targeted_goal_counts_only_the_class_that_is_wanted(digits, choice):
    card = digits.evaluate([MARGIN], f"Linf 0.3 targeted {choice}")
    untargeted = digits.evaluate([MARGIN], "Linf 0.3")
    reached = [row for row in card.outcomes if row.breaks]
    assert 10 < len(reached) < sum(1 for row in untargeted.outcomes if row.breaks)
    with torch.no_grad():
        logits = digits.model(digits.x)
    for row in reached:
        wanted = row.breaks[0].prediction
        assert wanted != row.label
        if choice == "next":
            assert wanted == (row.label + 1) % 10
        if choice == "least_likely":
            assert wanted == logits[row.index].argmin().item()
    if choice == "random":
        assert len({(row.breaks[0].prediction - row.label) % 10 for row in reached}) > 4


# Several eps of one norm: a witness at an eps is one at every larger eps

LADDER = ["Linf 0.08", "Linf 0.03", "L2 0.4", "Linf 0.05"]


def found_under(row, threat):
    return {found.attack: found for found in row.breaks if found.threat == threat}


@pytest.fixture(scope="module")
def ladder(digits) -> Scorecard:
    return digits.evaluate(threat=LADDER, keep_witnesses=True)


def test_what_is_broken_at_an_eps_is_broken_at_every_larger_one_by_the_same_witness(ladder):
    assert [str(one.threat) for one in ladder.threats] == LADDER
    assert list(dict.fromkeys(str(attack.threat) for attack in ladder.attacks)) == LADDER
    robust = {str(one.threat): one.robust_accuracy.count for one in ladder.threats}
    assert robust["Linf 0.03"] > robust["Linf 0.05"] > robust["Linf 0.08"] > 0
    inherited = 0
    for row in ladder.outcomes:
        for small, large in (("Linf 0.03", "Linf 0.05"), ("Linf 0.05", "Linf 0.08")):
            for attack, found in found_under(row, small).items():
                same = found_under(row, large)[attack]
                assert (same.prediction, same.distance) == (found.prediction, found.distance)
                inherited += 1
    assert inherited > 20
    by_place = {
        (int(index), attack, threat): x
        for index, attack, threat, x in zip(
            ladder.witnesses.index, ladder.witnesses.attack, ladder.witnesses.threat, ladder.witnesses.x, strict=True
        )
    }
    assert len(by_place) == len(ladder.witnesses) == sum(len(row.breaks) for row in ladder.outcomes)
    for (index, attack, threat), x in by_place.items():
        if threat == "Linf 0.03":
            assert np.array_equal(by_place[index, attack, "Linf 0.08"], x)


def test_what_is_broken_at_a_smaller_eps_costs_no_pass_at_a_larger_one(digits, ladder):
    falls = [place for place, row in enumerate(ladder.outcomes) if found_under(row, "Linf 0.03")]
    assert len(falls) > 10
    for threat in LADDER:
        mine = [attack for attack in ladder.attacks if str(attack.threat) == threat]
        alone = digits.evaluate(threat=threat)
        for attack, other in zip(mine, alone.attacks, strict=True):
            assert attack.broken <= attack.attempted
            assert attack.finished
            if threat in ("Linf 0.03", "L2 0.4"):
                assert attack == other.model_copy(update={"seconds": attack.seconds})
        passes = [sum(one.passes.total for one in attacks) for attacks in (mine, alone.attacks)]
        assert (passes[0] < passes[1]) == (threat in ("Linf 0.05", "Linf 0.08"))
        worst = next(one.robust_accuracy.count for one in ladder.threats if str(one.threat) == threat)
        assert worst <= alone.robust_accuracy.count
    assert ladder.attacks[0].alone is None, "it didn't see what others broke at a smaller eps"


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("batch_size", [64, 400])
def test_passes_add_up_with_several_eps_too(digits, before, independent, batch_size):
    model = Counting(digits.model)
    card = digits.evaluate(threat=LADDER, model=model, independent=independent, batch_size=batch_size)
    assert card.passes.forward == sum(row.passes.forward for row in card.outcomes) == model.forwards
    attacks = sum((attack.passes for attack in card.attacks), card.checks)
    assert card.passes.backward == attacks.backward == model.backwards


def test_the_order_of_the_threat_models_changes_nothing_but_the_order(digits, ladder):
    card = digits.evaluate(threat=LADDER[::-1], keep_witnesses=True)
    assert [str(one.threat) for one in card.threats] == LADDER[::-1]
    for row, other in zip(card.outcomes, ladder.outcomes, strict=True):
        assert row.model_copy(update={"breaks": other.breaks}) == other
        assert sorted(row.breaks, key=repr) == sorted(other.breaks, key=repr)


def test_independent_attacks_see_every_sample_at_every_eps(digits):
    card = digits.evaluate(threat=["Linf 0.08", "Linf 0.03"], independent=True)
    for attack in card.attacks:
        alone = digits.evaluate(threat=attack.threat, independent=True).attacks
        (other,) = (one for one in alone if one.name == attack.name)
        assert attack == other.model_copy(update={"seconds": attack.seconds})


def test_another_goal_inherits_nothing(digits):
    card = digits.evaluate(threat=["Linf 0.08", "Linf 0.03 targeted next", "Linf 0.05 targeted random"])
    for attack in card.attacks[::3]:
        assert attack.attempted == card.clean_accuracy.count
        assert attack.passes.forward > attack.attempted


@pytest.mark.parametrize("passes", [900, 2500, 6000])
def test_a_budget_that_ends_it_leaves_no_larger_eps_more_robust(digits, before, passes):
    model = Counting(digits.model)
    budget = Budget(passes=passes + before.checks.total)
    card = digits.evaluate(threat=LADDER, model=model, budget=budget, batch_size=32)
    assert card.interrupted == "passes"
    assert card.passes.forward == model.forwards == sum(row.passes.forward for row in card.outcomes)
    robust = {str(one.threat): one.robust_accuracy.count for one in card.threats}
    assert robust["Linf 0.03"] >= robust["Linf 0.05"] >= robust["Linf 0.08"]
    assert robust["Linf 0.08"] < card.clean_accuracy.count
    for attack in card.attacks:
        if not attack.passes.total:
            assert not attack.finished, "what was only inherited did not run"
    assert card.robust_accuracy.count == sum(row.robust for row in card.outcomes)


def test_an_attack_that_fails_at_one_eps_is_run_at_the_next(digits, before):
    def fails_once(model, x, call):
        if call == before.calls + 1:
            raise RuntimeError("of the user's")
        return model(x)

    card = digits.evaluate(threat=["Linf 0.08", "Linf 0.03"], model=Wrapped(digits.model, fails_once), batch_size=150)
    faults = {(attack.name, str(attack.threat)): attack.fault for attack in card.attacks}
    told = faults.pop(("fgsm", "Linf 0.03"))
    assert "RuntimeError: of the user's" in told
    assert not told.startswith("ModelError"), "what was raised is told, not our word for it"
    assert set(faults.values()) == {None}
    first = next(attack for attack in card.attacks if attack.name == "fgsm" and str(attack.threat) == "Linf 0.08")
    assert first.broken > 0


def test_a_search_that_fails_under_one_eps_is_made_under_the_next(digits, before):
    def fails_once(model, x, call):
        if call == before.calls + 16:  # of the search; before it come 7 of PGD
            raise RuntimeError("of the user's")
        return model(x)

    card = digits.evaluate(CURVE, ["L2 0.4", "L2 0.2"], model=Wrapped(digits.model, fails_once), batch_size=150)
    assert [(one.name, str(one.threat)) for one in card.attacks if one.fault] == [("carlini_wagner", "L2 0.2")]
    assert card.curve().at(0.4) == card.threats[0].robust_accuracy
    assert np.isfinite(card.curve().distances).mean() > 0.9


def test_parts_that_are_attacked_in_turn_inherit_as_a_whole_does(digits, ladder):
    card = digits.evaluate(threat=LADDER, sequential=True, gates={"max_drop": 0.99, "min_clean_accuracy": 0.9})
    by_key = {row.key: row for row in ladder.outcomes}
    assert 100 < len(card.outcomes) <= 150
    for row in card.outcomes:
        assert row.breaks == by_key[row.key].breaks
    robust = {str(one.threat): one.robust_accuracy.count for one in card.threats}
    assert robust["Linf 0.03"] >= robust["Linf 0.05"] >= robust["Linf 0.08"]


@pytest.mark.parametrize("passes", [900, 2500, 6000])
def test_a_run_with_several_eps_goes_on_where_it_was_stopped(digits, ladder, tmp_path, passes):
    cut = digits.evaluate(threat=LADDER, batch_size=32, budget=Budget(passes=passes), cache=tmp_path)
    assert cut.interrupted == "passes"
    model = Counting(digits.model)
    card = digits.evaluate(threat=LADDER, batch_size=32, cache=tmp_path, keep_witnesses=False)
    assert card.interrupted is None
    for row, other in zip(card.outcomes, ladder.outcomes, strict=True):
        assert [(one.attack, one.threat) for one in row.breaks] == [(one.attack, one.threat) for one in other.breaks]
        assert row.passes.backward == other.passes.backward
    again = digits.evaluate(model=digits.model, threat=LADDER, batch_size=32, cache=tmp_path)
    assert again == card
    assert model.forwards == 0


def test_witnesses_of_the_corpus_are_replayed_once_and_hold_at_every_larger_eps(digits, tmp_path):
    first = digits.evaluate(threat=["Linf 0.05"], corpus=tmp_path)
    card = digits.evaluate(threat=["Linf 0.08", "Linf 0.05"], corpus=tmp_path)
    assert [(one.name, str(one.threat)) for one in card.attacks[::4]] == [
        ("replay", "Linf 0.08"),
        ("replay", "Linf 0.05"),
    ]
    large, small = card.attacks[0], card.attacks[4]
    assert small.broken == large.broken == first.clean_accuracy.count - first.robust_accuracy.count > 0
    assert large.passes.total == 0 < small.passes.total


# Curves: the nearest adversarial example of every sample

NEAREST = {"attack": "carlini_wagner", "params": {"search_steps": 2, "iterations": 30}}
CURVE = Suite(name="curve", threats=["L2 0.4"], attacks=[PGD, NEAREST], curve=True)


@pytest.fixture(scope="module")
def curved(digits) -> Scorecard:
    return digits.evaluate(CURVE, None, keep_witnesses=True)


def test_a_curve_knows_the_nearest_example_of_every_sample(digits, curved):
    (curve,) = (curved.curve(),)
    assert curve.searched
    assert curve.at(0) == curved.clean_accuracy
    assert curve.at(0.4) == curved.robust_accuracy
    assert len(curve.distances) == curved.clean_accuracy.count
    assert np.isfinite(curve.distances).mean() > 0.95
    assert 0.1 < curve.median < 2
    assert curve.distances[-1] > 0.4, "also out of the ball"
    assert [attack.attempted for attack in curved.attacks] == [curved.clean_accuracy.count] * 2
    for row in curved.outcomes:
        assert row.correct or not row.nearest
        for found in row.nearest:
            assert found.threat == "L2 0.4"
            assert found.attack in ("pgd", "carlini_wagner")
            assert (found.distance <= 0.4 + 1e-6) == bool(row.breaks)
        if row.breaks:
            best = min(row.breaks, key=lambda one: one.distance)
            assert (row.nearest[0].distance, row.nearest[0].attack) == (best.distance, best.attack)
    assert len(curved.witnesses) == sum(len(row.breaks) for row in curved.outcomes)


def test_distances_of_a_curve_are_those_of_the_boundary():
    """On a linear model of two classes they are known."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.02 * torch.randn(50, 1, 5, 5, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 25, generator=generator))
        model[1].bias.copy_(-(model[1].weight * 0.5).sum(1))
        logits = model(x)
        exact = (logits[:, 0] - logits[:, 1]).abs() / (model[1].weight[0] - model[1].weight[1]).norm()
    middle = float(exact.median())
    card = evaluate(model, (x, logits.argmax(1)), ["carlini_wagner"], [f"L2 {middle}", f"L2 {middle / 2}"], curve=True)
    found = torch.tensor([row.nearest[0].distance for row in card.outcomes])
    assert (found >= exact * (1 - 1e-5)).all()
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)
    for threat in card.threats:
        assert card.curve(threat.threat).at(threat.threat.eps) == threat.robust_accuracy


def test_one_search_tells_of_every_eps(digits, before, curved):
    model = Counting(digits.model)
    eps = ["L2 0.4", "L2 0.8", "L2 0.2"]
    card = digits.evaluate(CURVE, eps, model=model, keep_witnesses=True)
    attacks = sum((attack.passes for attack in card.attacks), card.checks)
    assert card.passes.backward == attacks.backward == model.backwards
    searches = {str(attack.threat): attack for attack in card.attacks if attack.name == "carlini_wagner"}
    assert [searches[one].passes.total > 0 for one in eps] == [False, False, True]
    curve = card.curve()
    for one in card.threats:
        assert curve.at(one.threat.eps) == one.robust_accuracy
        assert card.curve(one.threat).distances == curve.distances
        attack = searches[str(one.threat)]
        assert attack.attempted == card.clean_accuracy.count
        assert attack.alone.count == card.clean_accuracy.count - attack.broken
    middle = next(attack for attack in curved.attacks if attack.name == "carlini_wagner")
    assert searches["L2 0.4"].broken == middle.broken, "whatever eps it was asked for"
    for index, threat, x in zip(card.witnesses.index, card.witnesses.threat, card.witnesses.x, strict=True):
        length = np.linalg.norm((x - digits.x[index].numpy()).astype(np.float64).ravel())
        assert length <= float(threat.split()[1]) + 1e-6
    assert len(card.witnesses) == sum(len(row.breaks) for row in card.outcomes)


def test_independent_attacks_have_a_curve_too(digits):
    card = digits.evaluate(CURVE, ["L2 0.4", "L2 0.2"], independent=True)
    assert [attack.attempted for attack in card.attacks] == [card.clean_accuracy.count] * 4
    assert card.curve().at(0.2) == card.threats[1].robust_accuracy


@pytest.mark.parametrize("passes", [1500, 4000])
def test_a_curve_that_a_budget_ends_keeps_what_was_confirmed(digits, before, tmp_path, passes):
    eps, budget = ["L2 0.4", "L2 0.2"], Budget(passes=passes + before.checks.total)
    cut = digits.evaluate(CURVE, eps, budget=budget, batch_size=32, cache=tmp_path)
    assert cut.interrupted == "passes"
    robust = [one.robust_accuracy.count for one in cut.threats]
    assert robust[0] <= robust[1] <= cut.clean_accuracy.count
    assert [cut.curve().at(one.threat.eps).count for one in cut.threats] == robust
    whole, card = digits.evaluate(CURVE, eps), digits.evaluate(CURVE, eps, cache=tmp_path)
    assert card.interrupted is None
    assert card.curve().distances == pytest.approx(whole.curve().distances, rel=1e-3)
    assert [attack.broken for attack in card.attacks] == [attack.broken for attack in whole.attacks]


def test_a_curve_is_another_question(digits, tmp_path):
    plain = digits.evaluate(CURVE, None, curve=False, cache=tmp_path)
    assert not any(row.nearest for row in plain.outcomes)
    assert not plain.curve().searched
    card = digits.evaluate(CURVE, None, cache=tmp_path)
    assert any(row.nearest for row in card.outcomes)
    assert card.robust_accuracy.count == plain.robust_accuracy.count
    assert card.suite.curve


@pytest.mark.parametrize("call", [5, 6, 8, 40])
def test_ctrl_c_leaves_a_curve_of_what_was_confirmed(digits, call):
    def interrupted(model, x, number):
        if number >= call:
            raise KeyboardInterrupt
        return model(x)

    card = digits.evaluate(CURVE, None, model=Wrapped(digits.model, interrupted), batch_size=150)
    assert card.interrupted == "interrupt"
    assert card.curve().at(0.4) == card.robust_accuracy
    assert not [row for row in card.outcomes if row.nearest and not row.breaks], "confirmed in a hurry: not at all"


# Verdict, gates


@pytest.mark.parametrize(
    ("gates", "verdict", "passed", "decided"),
    [
        ({"min_clean_accuracy": 0.5}, "PASS", True, True),
        ({"min_clean_accuracy": 1.0}, "FAIL", False, True),
        ({"min_robust_accuracy": 0.99}, "FAIL", False, True),
        ({"min_robust_accuracy": 0.0}, "PASS", True, True),
        ({"max_drop": 0.001}, "FAIL", False, True),
        ({"max_drop": 1.0}, "PASS", True, True),
    ],
    ids=str,
)
def test_gates_decide_between_pass_and_fail(digits, gates, verdict, passed, decided):
    card = digits.evaluate(gates=gates)
    (gate,) = card.gates
    assert card.verdict == verdict
    assert (gate.passed, gate.decided) == (passed, decided)
    assert gate.name in gates


def test_a_gate_inside_the_interval_passes_undecided(digits, card):
    near = card.robust_accuracy.value + 0.01
    judged = digits.evaluate(gates=Gates(min_robust_accuracy=near))
    assert judged.verdict == "UNDECIDED"
    assert digits.evaluate(gates={"min_robust_accuracy": near, "strict": True}).verdict == "FAIL"
    assert judged.gates[0].passed
    assert not judged.gates[0].decided
    assert judged.gates[0].value < near < judged.gates[0].high


def test_one_failed_gate_of_several_fails(digits):
    card = digits.evaluate(["fgsm"], gates={"min_clean_accuracy": 0.5, "min_robust_accuracy": 1.0, "max_drop": 1})
    assert card.verdict == "FAIL"
    assert [gate.name for gate in card.gates if not gate.passed] == ["min_robust_accuracy"]


# Evaluations that can't be trusted


def test_dropout_that_is_active_makes_it_invalid(digits):
    noisy = Wrapped(digits.model, lambda model, x, call: model(F.dropout(x, 0.4, training=True)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        card = digits.evaluate(model=noisy)
    assert card.verdict == "INVALID"
    assert "RB101" in codes(card)


def test_weights_that_change_make_it_invalid(digits):
    class Learns(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = digits.model
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.seen += len(x)
            return self.model(x)

    card = digits.evaluate(["fgsm"], model=Learns(), gates={"min_clean_accuracy": 0.1})
    assert card.verdict == "INVALID"
    assert codes(card) == {"RB102", "RB301"}


@pytest.mark.parametrize("cut", [lambda x: x.detach(), lambda x: (x * 16).round() / 16], ids=["detached", "rounded"])
def test_a_graph_that_is_cut_makes_it_invalid(digits, cut):
    card = digits.evaluate(model=Wrapped(digits.model, lambda model, x, call: model(cut(x))), anyway=True)
    assert card.verdict == "INVALID"
    assert codes(card) == {"RB131"}, "told once, not by every attack"


def test_a_gradient_that_is_not_a_number_is_never_green(digits):
    """``sqrt(x * x)`` at 0 has the gradient ``inf * 0``; most pixels of the digits are 0."""
    model = Wrapped(digits.model, lambda model, x, call: model((x * x).sqrt()))
    truth = digits.evaluate(threat="L2 1")
    card = digits.evaluate(model=model, threat="L2 1")
    assert card.clean_accuracy == truth.clean_accuracy
    assert card.verdict == "INVALID" or card.robust_accuracy.value <= truth.robust_accuracy.value + 0.02, (
        f"{card.verdict}: {card.robust_accuracy.value:.0%} robust, where it is {truth.robust_accuracy.value:.0%}"
    )


def test_logits_that_are_not_numbers_under_attack_are_never_green(digits):
    """A model that answers NaN to whatever it hasn't seen would else be perfectly robust."""
    known = digits.x.flatten(1)

    def only_the_known(model, x, call):
        is_known = torch.cdist(x.flatten(1), known).amin(1) < 1e-3
        return model(x) * torch.where(is_known, 1.0, torch.nan)[:, None]

    card = digits.evaluate(model=Wrapped(digits.model, only_the_known))
    assert card.clean_accuracy.value > 0.8
    assert card.verdict == "INVALID", f"{card.verdict}: {card.robust_accuracy.value:.0%} robust"


def test_one_flip_of_rounding_does_not_make_it_invalid(digits):
    """A sample on the boundary, whose answer differs by its batch, is no reason to throw a night's run away."""
    with torch.no_grad():
        right = (digits.model(digits.x).argmax(1) == digits.y).nonzero()[:, 0]
    on_the_edge = digits.x[right[0]]

    def by_batch(model, x, call):
        logits = model(x)
        touched = (x - on_the_edge).flatten(1).abs().amax(1) == 0
        wrong = F.one_hot((logits.argmax(1) + 1) % 10, 10) * 100.0
        return torch.where((touched & (len(x) < 150))[:, None], wrong, logits) if call > 3 else logits

    card = digits.evaluate(model=Wrapped(digits.model, by_batch), batch_size=150)
    assert card.verdict == "MEASURED", [finding.message for finding in card.validity]


def test_a_model_that_works_in_place_is_attacked_or_refused_with_advice(digits):
    """In-place normalisation is common; a bare RuntimeError from the depths of autograd helps nobody."""
    in_place = Wrapped(digits.model, lambda model, x, call: model(x.sub_(0.5).add_(0.5)))
    try:
        robust = digits.evaluate(["fgsm"], model=in_place).robust_accuracy
    except ValueError as fault:
        told = str(fault)
    else:
        told = "in place" if robust == digits.evaluate(["fgsm"]).robust_accuracy else f"attacked in vain: {robust}"
    assert re.search("in.place", told)


# Budget, interrupt, memory


def test_a_budget_keeps_what_was_found_and_warns(digits, before, card):
    first = card.attacks[0].passes.total + 150 * 2 + before.checks.total
    short = digits.evaluate(budget=Budget(passes=first + 400), batch_size=32)
    assert short.interrupted == "passes"
    assert codes(short) == {"RB301"}
    assert short.verdict == "MEASURED"
    assert not short.attacks[-1].finished
    assert short.robust_accuracy.value >= card.robust_accuracy.value
    assert short.passes.forward == sum(row.passes.forward for row in short.outcomes)
    assert any(row.breaks for row in short.outcomes)


def test_a_budget_that_no_attack_survives_is_invalid(digits):
    card = digits.evaluate(budget=Budget(passes=1))
    assert card.verdict == "INVALID"
    assert card.robust_accuracy == card.clean_accuracy


@pytest.mark.parametrize("call", [-10, 0, 1, 2, 3, 4, 6])
def test_ctrl_c_keeps_what_is_done_and_says_so(digits, before, call):
    """After the checks come two looks of FGSM, a confirmation, and PGD's."""

    def interrupted(model, x, number):
        if number == before.calls + call:
            raise KeyboardInterrupt
        return model(x)

    try:
        card = digits.evaluate(model=Wrapped(digits.model, interrupted), batch_size=150)
    except KeyboardInterrupt:
        pytest.fail("the whole run is lost")
    assert card.interrupted == "interrupt"
    assert card.verdict == "INVALID"
    assert "interrupted" in card.validity[-1].message
    assert (card.robust_accuracy.count < card.clean_accuracy.count) == (call >= 3)


@pytest.mark.parametrize("most", [40, 128])
def test_memory_that_does_not_do_for_the_batch_is_no_end(digits, card, most):
    def limited(model, x, call):
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(x)

    found = digits.evaluate(model=Wrapped(digits.model, limited), batch_size=150)
    assert found.clean_accuracy == card.clean_accuracy
    assert found.attacks[0].broken == card.attacks[0].broken
    assert found.verdict == "MEASURED"


def test_progress_is_told_by_attack(digits):
    events = []
    digits.evaluate(on_progress=events.append, batch_size=32)
    names = list(dict.fromkeys(event.name for event in events))
    assert names[:2] == ["clean predictions", "checks of the model"]
    assert [name for name in names if name.startswith(("fgsm", "pgd"))] == ["fgsm", "pgd", "pgd-margin"]
    assert {event.name for event in events if not event.threat} == {*names} - {"fgsm", "pgd", "pgd-margin"}
    clean = [(event.done, event.total) for event in events if event.name == "clean predictions"]
    assert (clean[0], clean[-1]) == ((0, clean[-1][1]), (clean[-1][1],) * 2)
    for name in ("fgsm", "pgd", "pgd-margin"):
        mine = [event for event in events if event.name == name]
        assert mine[-1].done == mine[-1].total
        assert [event.done for event in mine] == sorted(event.done for event in mine)


# What is left alone


def test_the_model_is_left_as_it_was(digits):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 10)
        )
    model.train()
    model[1].eval()
    model[5].bias.requires_grad_(False)
    before = [part.training for part in model.modules()], [item.requires_grad for item in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    card = evaluate(model, (digits.x, digits.y), ["fgsm"], EPS, anyway=True)
    assert ([part.training for part in model.modules()], [item.requires_grad for item in model.parameters()]) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert codes(card) <= {"RB201", "RB114"}, "dropout was off while it was attacked"


def test_the_users_generators_are_left_alone(digits):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    digits.evaluate(threat=["Linf 0.05", "L2 0.2 targeted random"], limit=40)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_the_data_are_left_alone(digits):
    x, y = digits.x.clone(), digits.y.clone()
    digits.evaluate()
    assert torch.equal(x, digits.x)
    assert torch.equal(y, digits.y)


# What is taken as data and as model


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: [x.numpy(), y.numpy()],
        lambda x, y: (x.double().numpy(), y.numpy().astype(np.uint8)),
        lambda x, y: (x, F.one_hot(y)),
        lambda x, y: (x, y.float()),
        lambda x, y: TensorDataset(x, y),
        lambda x, y: Pairs(x, y),
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True),
        lambda x, y: as_data((x, y)),
    ],
    ids=[
        "tensors",
        "arrays",
        "float64 and uint8",
        "one-hot",
        "float labels",
        "TensorDataset",
        "Dataset",
        "DataLoader",
        "Data",
    ],
)
def test_data_in_every_form_give_the_same_card(digits, form):
    x, y = digits.x[:60], digits.y[:60]
    plain = evaluate(digits.model, (x, y), ["fgsm"], EPS)
    card = evaluate(digits.model, form(x, y), ["fgsm"], EPS)
    assert card.outcomes == plain.outcomes
    assert card.data.sha256 == plain.data.sha256


def test_images_of_bytes_are_divided_by_255(digits):
    levels = (digits.x * 255).round().to(torch.uint8)
    card = evaluate(digits.model, (levels, digits.y), ["fgsm"], EPS)
    assert card.outcomes == evaluate(digits.model, (levels.float() / 255, digits.y), ["fgsm"], EPS).outcomes


def test_a_source_is_taken_by_name(digits):
    card = evaluate(digits.model, "digits", ["fgsm"], EPS, limit=50)
    assert card.data.samples == 50
    assert card.data.classes == tuple("0123456789")


def test_a_target_is_taken_as_it_is(digits):
    shifted = Target(nn.Sequential(*digits.model), name="mine", mean=[0.1], std=[0.9])
    with torch.no_grad():
        right = (digits.model((digits.x - 0.1) / 0.9).argmax(1) == digits.y).double().mean().item()
    card = digits.evaluate(["fgsm"], model=shifted)
    assert card.target.name == "mine"
    assert card.clean_accuracy.value == pytest.approx(right)


@pytest.mark.parametrize("shape", [(50,), (3, 4, 5, 2)])
def test_inputs_that_are_no_images_and_two_classes_are_evaluated(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(30, *shape, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(model[1].weight.shape, generator=generator))
        y = model(x.double()).argmax(1)
    card = evaluate(model, (x, y), FAST, "Linf 0.5")
    assert card.clean_accuracy.value == 1
    assert card.gallery == ()
    assert card.data.shape == shape


def test_nothing_is_attacked_where_everything_is_wrong_from_the_start(digits):
    model = Counting(digits.model)
    with torch.no_grad():
        wrong = (digits.model(digits.x).argmax(1) + 1) % 10
    card = evaluate(model, (digits.x, wrong), FAST, EPS, anyway=True)
    assert card.clean_accuracy.value == card.robust_accuracy.value == 0
    assert model.backwards == 0
    assert [attack.attempted for attack in card.attacks] == [0, 0, 0]
    assert all(attack.passes.total == 0 for attack in card.attacks)


def test_one_sample_is_enough(digits):
    card = evaluate(digits.model, (digits.x[:1], digits.y[:1]), FAST, EPS)
    assert card.clean_accuracy.total == 1


def test_a_limit_takes_a_stratified_seeded_sample(digits):
    cards = [digits.evaluate(["fgsm"], limit=50, seed=seed) for seed in (0, 0, 1)]
    taken = [[row.index for row in card.outcomes] for card in cards]
    assert taken[0] == taken[1] != taken[2]
    assert all(card.data.samples == card.data.limit == 50 for card in cards)
    shares = np.bincount([row.label for row in cards[0].outcomes], minlength=10) / 50
    whole = np.bincount(digits.y, minlength=10) / 150
    assert np.abs(shares - whole).max() <= 0.021
    assert digits.evaluate(["fgsm"], limit=1000).data.samples == 150


# What is refused: each a ValueError that says what was given, what was expected, what to do


class Constant(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output(x)


BAD_DATA = {
    "0 to 255": (lambda x, y: (x * 255, y), r"values range from 0 to 255.*expected \[0, 1\].*divide by 255"),
    "normalised": (lambda x, y: ((x - 0.5) / 0.25, y), r"range from -2 to 2.*look normalised.*inside the model"),
    "NaN": (lambda x, y: (torch.where(x == x[3, 0, 4, 4], torch.nan, x), y), r"NaN or infinity in"),
    "infinity": (lambda x, y: (x / 0, y), r"NaN or infinity in"),
    "channels": (lambda x, y: (x.repeat(1, 3, 1, 1), y), r"shape \(2, 3, 8, 8\).*in_channels=1"),
    "size": (lambda x, y: (x[..., :6], y), r"the forward pass fails"),
    "label too large": (lambda x, y: (x, y + 1), r"label 10\).*10 logits, so labels are 0 to 9"),
    "label negative": (lambda x, y: (x, y - 1), r"label -1\)"),
    "empty": (lambda x, y: (x[:0], y[:0]), r"holds no samples"),
    "lengths": (lambda x, y: (x, y[:-1]), r"150 samples and 149 labels"),
    "float labels": (
        lambda x, y: (x, y + 0.5),
        r"labels hold fractions.*expected the number of a class for each sample$",
    ),
    "no pair": (lambda x, y: x, r"expected a pair \(x, y\)"),
    "nothing": (lambda x, y: None, r"expected a pair \(x, y\)"),
    "unknown source": (lambda x, y: "digitz", r"did you mean digits"),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_bad_data_are_refused(digits, what):
    make, told = BAD_DATA[what]
    with pytest.raises(ValueError, match=re.compile(told, re.DOTALL)):
        evaluate(digits.model, make(digits.x, digits.y), ["fgsm"], EPS)


def test_a_bad_sample_late_in_the_data_is_found_before_the_first_attack(digits):
    x = digits.x.clone()
    x[-1, 0, 0, 0] = 7
    model = Counting(digits.model)
    with pytest.raises(ValueError, match="range from"):
        evaluate(model, (x, digits.y), ["fgsm"], EPS, batch_size=16)
    assert model.backwards == 0


BAD_MODELS = {
    "NaN logits": (lambda x: x.flatten(1)[:, :10] * torch.nan, r"NaN or infinity"),
    "one logit": (lambda x: x.flatten(1)[:, :1], r"labels have no logit.*has 2 logits"),
    "a feature map": (lambda x: x, r"shape \(2, 1, 8, 8\).*one row of logits"),
    "a tuple": (lambda x: (x.flatten(1), x), r"returns tuple with 2 tensors.*expected the logits"),
    "classes": (lambda x: x.flatten(1).long(), r"int64.*expected logits"),
    "batch lost": (lambda x: x.flatten(1)[:1, :10], r"shape \(1, 10\)"),
}


@pytest.mark.parametrize("what", BAD_MODELS)
def test_bad_answers_of_the_model_are_refused(digits, what):
    output, told = BAD_MODELS[what]
    with pytest.raises(ValueError, match=re.compile(told, re.DOTALL)):
        digits.evaluate(["fgsm"], model=Constant(output))


def test_logits_that_are_no_numbers_for_a_few_samples_are_refused_with_the_first(digits):
    def for_one(x):
        logits = digits.model(x)
        return torch.where((x == digits.x[77]).flatten(1).all(1)[:, None], torch.nan, logits)

    with pytest.raises(ValueError, match=r"1 clean samples \(the first is number 77\)"):
        digits.evaluate(["fgsm"], model=Constant(for_one), batch_size=20)


@pytest.mark.parametrize("model", [None, "resnet"])
def test_what_is_neither_module_nor_function_is_refused(digits, model):
    with pytest.raises(ValueError, match=r"expected a torch.nn.Module"):
        evaluate(model, (digits.x, digits.y), ["fgsm"], EPS)


BAD_OPTIONS = {
    "eps 0": ({"threat": "Linf 0"}, r"eps is 0: expected a finite number above 0"),
    "eps below 0": ({"threat": "Linf -0.1"}, r"eps is -0.1"),
    "eps above 1": ({"threat": "Linf 8"}, r"can't exceed 1.*8/255"),
    "eps NaN": ({"threat": "Linf nan"}, r"eps"),
    "eps beyond the box": ({"threat": "L2 9"}, r"no two inputs.*8 in L2"),
    "eps beyond the box in L1": ({"suite": ["pgd"], "threat": "L1 64"}, r"no two inputs.*64 in L1"),
    "more values than there are": ({"suite": ["pgd"], "threat": "L0 64"}, r"no two inputs.*64 in L0"),
    "norm": ({"threat": "L3 0.1"}, r"expected one of Linf, L2"),
    "threat's form": ({"threat": "0.1"}, r"expected 'NORM EPS"),
    "no threat": ({"threat": []}, r"expected at least one"),
    "threat a number": ({"threat": 0.1}, r"(?i)threat"),
    "unknown suite": ({"suite": "linf_standrad"}, r"did you mean linf_standard"),
    "no such file": ({"suite": "nowhere.toml"}, r"no such file"),
    "unknown attack": ({"suite": ["pdg"]}, r"unknown attack 'pdg': did you mean pgd"),
    "unknown parameter": ({"suite": [{"attack": "pgd", "params": {"stepz": 1}}]}, r"did you mean steps"),
    "parameter's value": ({"suite": [{"attack": "pgd", "params": {"steps": 0}}]}, r"steps"),
    "no attacks": ({"suite": []}, r"expected at least 1"),
    "a name twice": ({"suite": ["fgsm", "fgsm"]}, r"fgsm is taken twice"),
    "norm of an attack": ({"suite": ["carlini_wagner"], "threat": "Linf 0.1"}, r"carlini_wagner can't be run under"),
    "curve": ({"suite": ["pgd"], "curve": True}, r"suite 'custom' that can run looks for the smallest pert"),
    "limit 0": ({"limit": 0}, r"limit is 0"),
    "batch size 0": ({"batch_size": 0}, r"batch size is 0: expected at least 1"),
    "batch size below 0": ({"batch_size": -1}, r"batch size is -1"),
    "device": ({"device": "cuda:77"}, r"device 'cuda:77': can't be used"),
    "gate above 1": ({"gates": {"min_robust_accuracy": 45}}, r"min_robust_accuracy is 45: expected a share"),
    "gate below 0": ({"gates": {"max_drop": -0.1}}, r"max_drop is -0.1"),
    "gate NaN": ({"gates": {"max_drop": float("nan")}}, r"max_drop is nan"),
    "gate unknown": ({"gates": {"min_robust": 0.4}}, r"min_robust.*min_robust_accuracy"),
    "gate a text": ({"gates": {"min_robust_accuracy": "0.4"}}, r"min_robust_accuracy is '?0.4"),
}


@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_bad_options_are_refused_before_anything_runs(digits, what):
    options, told = BAD_OPTIONS[what]
    model = Counting(digits.model)
    with pytest.raises(ValueError, match=re.compile(told, re.DOTALL)):
        digits.evaluate(**{"model": model, "suite": ["fgsm"], **options})
    assert model.backwards == 0


def test_every_fault_of_a_suite_file_is_told_at_once_with_its_key(digits, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'threats = ["Linf 8"]\nindependant = true\n[[attacks]]\nattack = "pdg"\n'
        '[[attacks]]\nattack = "pgd"\nparams = { steps = 0 }\n'
    )
    with pytest.raises(ValueError, match=r"mine\.toml") as told:
        digits.evaluate(path, None)
    for part in ("threats.0", "independant", "attacks.0", "did you mean pgd", "attacks.1", "steps"):
        assert part in str(told.value)


def test_a_file_that_is_no_toml_is_refused(digits, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("threats = [")
    with pytest.raises(ValueError, match="can't be read as TOML"):
        digits.evaluate(path, None)


def test_an_attack_that_the_inputs_do_not_fit_is_left_out_and_told():
    torch.manual_seed(0)
    x, y = torch.rand(40, 12), torch.arange(40) % 3
    model = nn.Linear(12, 3)
    card = evaluate(model, (x, y), "linf_standard", "Linf 0.01", anyway=True)
    assert [(one.attack, one.reason) for one in card.skipped] == [
        ("square_ascent", "expected images (C, H, W) of at least 3x3 pixels")
    ]
    assert {result.name for result in card.attacks} == {"sprints", "apgd-ce"}
    with pytest.raises(ValueError, match=r"can run under Linf 0.01 on inputs of shape \(12,\): square expected"):
        evaluate(model, (x, y), ["square"], "Linf 0.01")


def test_independent_attacks_share_their_witnesses_with_every_larger_eps():
    torch.manual_seed(0)
    x, y = torch.rand(60, 1, 4, 4), torch.arange(60) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    y = model(x).argmax(1)
    weak_at_the_larger = Suite(
        name="weak",
        threats=("Linf 0.05", "Linf 0.06"),
        attacks=(AttackSpec(attack="pgd", params={"steps": 1, "step_size": 0.05, "random_start": False}),),
        independent=True,
    )
    small, large = (result.robust_accuracy.count for result in evaluate(model, (x, y), weak_at_the_larger).threats)
    assert 0 < small < 60
    assert large <= small


def test_a_curve_that_was_cut_short_goes_on_to_the_same_distances(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(30, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    y = model(x).argmax(1)
    suite = Suite(
        name="nearest", threats=("L2 0.3",), curve=True, attacks=(AttackSpec(attack="fmn", params={"steps": 60}),)
    )
    whole = evaluate(model, (x, y), suite)
    spent = whole.passes.total - whole.checks.total
    for share in (0.5, 0.9, 0.99):
        cut = evaluate(model, (x, y), suite, cache=tmp_path / str(share), budget=Budget(passes=int(share * spent)))
        assert cut.interrupted == "passes"
        for row in cut.outcomes:
            assert all(found.distance > 0.3 for found in row.nearest) or row.breaks, "what is in the ball is a break"
        resumed = evaluate(model, (x, y), suite, cache=tmp_path / str(share))
        assert [row.nearest for row in resumed.outcomes] == [row.nearest for row in whole.outcomes]
