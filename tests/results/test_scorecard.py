"""Scorecards: what is stored comes back, files of every version keep loading, and damage is told."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

from robustbench_lite import Target, evaluate
from robustbench_lite.core.cost import Passes
from robustbench_lite.results.scorecard import Break, Finding, Interval, Nearest, Outcome, Scorecard, Witnesses, median
from robustbench_lite.results.statistics import clopper_pearson

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "scorecard_v1.json"
SCHEMA = ROOT / "docs" / "scorecard.schema.json"
REGENERATE = (
    "python -c 'import json; from robustbench_lite.results.scorecard import Scorecard; "
    "print(json.dumps(Scorecard.model_json_schema(), indent=2))' > docs/scorecard.schema.json"
)


def _witnesses(seed=0, count=3):
    dice = np.random.default_rng(seed)
    return Witnesses(
        index=np.arange(count, dtype=np.int64),
        attack=np.array(["pgd", "square", "pgd"][:count], dtype=np.str_),
        threat=np.array(["Linf 8/255", "Linf 8/255", "L2 0.5 targeted next"][:count], dtype=np.str_),
        x=dice.random((count, 1, 8, 8), dtype=np.float32),
    )


def _same(first, second):
    return first.x.dtype == second.x.dtype and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in ("index", "attack", "threat", "x")
    )


@pytest.fixture
def card(make_card):
    return make_card(samples=30, gallery=2, threats=["Linf 8/255", "L2 0.5 targeted next"])


# Saving and loading


def test_what_is_saved_loads_equal(card, tmp_path):
    path = card.save(tmp_path / "new" / "folder" / "card.json")
    assert path == tmp_path / "new" / "folder" / "card.json"
    assert Scorecard.load(path) == card
    assert Scorecard.load(str(path)) == card


def test_a_loaded_card_is_saved_as_the_same_text(card, tmp_path):
    first = card.save(tmp_path / "first.json")
    second = Scorecard.load(first).save(tmp_path / "second.json")
    assert second.read_text(encoding="utf-8") == first.read_text(encoding="utf-8")


def test_the_file_is_strict_json(card, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.loads(card.save(tmp_path / "card.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_witnesses_are_saved_beside_the_card_and_load_equal(card, tmp_path):
    card = card.with_witnesses(_witnesses())
    path = card.save(tmp_path / "card.json")
    loaded = Scorecard.load(path)
    assert _same(loaded.witnesses, card.witnesses)
    assert len(loaded.witnesses) == 3
    assert loaded == card


def test_witnesses_are_part_of_equality(card):
    assert card.with_witnesses(_witnesses()) == card.with_witnesses(_witnesses())
    assert card.with_witnesses(_witnesses()) != card.with_witnesses(_witnesses(seed=1))


def test_no_witnesses_were_found_is_saved_too(card, tmp_path):
    path = card.with_witnesses(_witnesses(count=0)).save(tmp_path / "card.json")
    assert len(Scorecard.load(path).witnesses) == 0


def test_attaching_witnesses_leaves_the_card_as_it_was(card):
    assert card.with_witnesses(_witnesses()).witnesses is not None
    assert card.witnesses is None


def test_a_card_without_witnesses_does_not_get_those_of_the_one_it_replaces(card, tmp_path):
    card.with_witnesses(_witnesses()).save(tmp_path / "card.json")
    card.save(tmp_path / "card.json")
    assert Scorecard.load(tmp_path / "card.json").witnesses is None


@pytest.mark.parametrize("names", [("a.json", "b.json"), ("eps-0.1", "eps-0.2"), ("lenet.v1.json", "lenet.v2.json")])
def test_cards_of_one_folder_keep_their_own_witnesses(card, tmp_path, names):
    for seed, name in enumerate(names):
        card.with_witnesses(_witnesses(seed)).save(tmp_path / name)
    for seed, name in enumerate(names):
        assert _same(Scorecard.load(tmp_path / name).witnesses, _witnesses(seed))


def test_a_save_that_fails_leaves_the_old_card(card, tmp_path):
    old = card.with_witnesses(_witnesses())
    path = old.save(tmp_path / "card.json")
    unwritable = card.model_copy(update={"created": "\ud800"})  # a lone surrogate: no UTF-8
    with pytest.raises(ValueError, match="surrogate"):
        unwritable.with_witnesses(_witnesses(seed=1)).save(path)
    loaded = Scorecard.load(path)
    assert loaded.created == old.created
    assert _same(loaded.witnesses, old.witnesses)


# What can't be read


def test_a_missing_file_is_told_with_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match=r"no\.json: no such file; expected a scorecard"):
        Scorecard.load(tmp_path / "no.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b'"schema_version"', b"\xff\xfe\x00", b"<html>", b"[" * 100_000],
    ids=["empty", "half", "list", "null", "no version", "text", "no UTF-8", "HTML", "deeply nested"],
)
def test_a_file_that_is_no_scorecard_is_told_with_its_path(tmp_path, content):
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"card\.json: "):
        Scorecard.load(path)


def test_half_of_a_card_is_told(card, tmp_path):
    path = card.save(tmp_path / "card.json")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"card\.json: can't be read as JSON"):
        Scorecard.load(path)


def test_a_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match="expected a scorecard"):
        Scorecard.load(tmp_path)


ERROR = {"code": "RB101", "severity": "error", "message": "answers differ", "cure": "call eval()"}


def _edited(card, path, **changes):
    raw = json.loads(card.save(path).read_text(encoding="utf-8"))
    raw.update(changes)
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


@pytest.mark.parametrize("version", [2, 99, "1", None])
def test_another_schema_version_is_refused_with_the_cure(card, tmp_path, version):
    path = _edited(card, tmp_path / "card.json", schema_version=version)
    with pytest.raises(ValueError, match=f"schema_version is {version!r}.*reads 1; upgrade robustbench_lite"):
        Scorecard.load(path)


def test_every_fault_of_a_card_is_told_with_its_key(card, tmp_path):
    path = _edited(card, tmp_path / "card.json", seed="x", verdict="MAYBE", colour="red", clean_accuracy={"count": 3})
    with pytest.raises(ValueError, match="not a valid scorecard") as refused:
        Scorecard.load(path)
    for key in ("seed", "verdict", "colour", "clean_accuracy.total"):
        assert f"\n  {key}: " in str(refused.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda raw: raw.update(verdict="INVALID"), "verdict: is INVALID: expected PASS"),
        (lambda raw: raw.update(outcomes=raw["outcomes"][:1]), "clean_accuracy: counts"),
        (lambda raw: raw["robust_accuracy"].update(value=0.999), "robust_accuracy: is 0.999"),
        (lambda raw: raw["validity"].append(ERROR), "verdict: is PASS: expected INVALID"),
    ],
    ids=["verdict", "rows", "share", "findings"],
)
def test_a_card_that_contradicts_itself_is_refused(card, tmp_path, change, told):
    path = _edited(card, tmp_path / "card.json")
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ValueError, match="not a valid scorecard") as refused:
        Scorecard.load(path)
    assert f"\n  {told}" in str(refused.value)


def _npz(card, folder):
    path = card.with_witnesses(_witnesses()).save(folder / "card.json")
    (witnesses,) = folder.glob("*.npz")
    return path, witnesses


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not a zip",
        lambda content: content[: len(content) // 2],
        lambda content: content[:60] + b"\xff" * 20 + content[80:],
    ],
    ids=["empty", "something else", "half", "flipped"],
)
def test_damaged_witnesses_are_told_with_their_path(card, tmp_path, damage):
    path, witnesses = _npz(card, tmp_path)
    witnesses.write_bytes(damage(witnesses.read_bytes()))
    with pytest.raises(ValueError, match=witnesses.name):
        Scorecard.load(path)


def test_witnesses_without_their_arrays_are_told(card, tmp_path):
    path, witnesses = _npz(card, tmp_path)
    np.savez(witnesses, x=np.zeros(3))
    with pytest.raises(ValueError, match=witnesses.name):
        Scorecard.load(path)


def test_nothing_in_a_witness_file_is_executed(card, tmp_path):
    path, witnesses = _npz(card, tmp_path)
    mark = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (mark,))

    words = np.array(["a"])
    np.savez(witnesses, index=np.array([Payload()], dtype=object), attack=words, threat=words, x=np.zeros((1, 1)))
    with pytest.raises(ValueError, match=witnesses.name):
        Scorecard.load(path)
    assert not mark.exists()


# The golden file


@pytest.fixture(scope="module")
def golden():
    return Scorecard.load(GOLDEN)


def test_the_golden_card_loads_with_what_it_says(golden):
    assert (golden.schema_version, golden.target.name, golden.data.name) == (1, "tiny", "digits/test")
    assert golden.verdict == "FAIL"
    assert (golden.clean_accuracy.count, golden.robust_accuracy.count, golden.robust_accuracy.total) == (12, 2, 12)
    assert [str(result.threat) for result in golden.threats] == ["Linf 24/255", "L2 0.75 targeted next"]
    assert [(result.name, result.attempted, result.broken) for result in golden.attacks] == [
        ("fgsm", 12, 8),
        ("pgd-margin", 4, 2),
        ("fgsm", 12, 5),
        ("pgd-margin", 7, 0),
    ]
    assert [gate.passed for gate in golden.gates] == [True, True, False]
    assert golden.suite.attacks[1].params == {"steps": 4, "loss": "margin"}
    assert len(golden.outcomes) == 12
    assert golden.outcomes[0].breaks[0].distance == pytest.approx(24 / 255)
    assert golden.witnesses is not None
    assert golden.witnesses.x.shape == (15, 1, 8, 8)
    assert set(golden.witnesses.threat) == {"Linf 24/255", "L2 0.75 targeted next"}


def test_the_golden_card_agrees_with_itself(golden):
    assert golden.robust_accuracy.count == sum(outcome.robust for outcome in golden.outcomes)
    assert golden.clean_accuracy.count == sum(outcome.correct for outcome in golden.outcomes)
    assert golden.passes == sum((outcome.passes for outcome in golden.outcomes), Passes())
    assert len(golden.witnesses) == sum(len(outcome.breaks) for outcome in golden.outcomes)
    assert sum(found.clean_accuracy.count for found in golden.by_class()) == golden.clean_accuracy.count


def test_the_golden_card_round_trips(golden, tmp_path):
    path = golden.save(tmp_path / "card.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert len(written.pop("sha256")) == 64  # which cards of its time had not
    assert written == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert Scorecard.load(path).outcomes == golden.outcomes
    assert _same(Scorecard.load(path).witnesses, golden.witnesses)


def test_a_card_is_read_without_torch():
    program = (
        "import sys; from robustbench_lite.results.scorecard import Scorecard;"
        f"card = Scorecard.load({str(GOLDEN)!r}); "
        "card.by_class(); print({'torch', 'foolbox', 'art', 'scipy.stats', 'sklearn'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "set()"


# The schema in the docs


def test_the_published_schema_is_the_codes():
    published = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert published == Scorecard.model_json_schema(), f"{SCHEMA} is out of date; regenerate it:\n{REGENERATE}"


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_golden_file_follows_the_published_schema(validator):
    assert list(validator.iter_errors(json.loads(GOLDEN.read_text(encoding="utf-8")))) == []


def test_a_saved_card_follows_the_published_schema(validator, card, tmp_path):
    path = card.save(tmp_path / "card.json")
    assert list(validator.iter_errors(json.loads(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("changes", [{"verdict": "MAYBE"}, {"colour": "red"}, {"schema_version": 2}, {"outcomes": 3}])
def test_the_published_schema_refuses_what_the_code_refuses(validator, changes):
    raw = json.loads(GOLDEN.read_text(encoding="utf-8")) | changes
    assert list(validator.iter_errors(raw))
    with pytest.raises(ValidationError):
        Scorecard.model_validate(raw)


# What is read from it


def test_an_interval_is_the_share_with_its_exact_ends():
    interval = Interval.of(45, 100)
    assert (interval.count, interval.total, interval.value, interval.confidence) == (45, 100, 0.45, 0.95)
    assert (interval.low, interval.high) == clopper_pearson(45, 100)
    assert str(interval) == "45.0% [35.0%, 55.3%]"


def test_an_interval_of_nothing_says_nothing():
    interval = Interval.of(0, 0)
    assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 1.0)


def test_an_interval_of_zero_of_many_is_not_a_point():
    interval = Interval.of(0, 50)
    assert (interval.value, interval.low) == (0.0, 0.0)
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 50))


def test_an_interval_takes_another_confidence():
    assert (Interval.of(5, 9, 0.5).low, Interval.of(5, 9, 0.5).high) == clopper_pearson(5, 9, 0.5)
    assert Interval.of(5, 9, 0.5).confidence == 0.5


def _outcome(label=3, prediction=3, breaks=()):
    found = tuple(
        Break(attack=attack, threat="Linf 0.3", prediction=5, distance=distance) for attack, distance in breaks
    )
    return Outcome(index=0, key="0" * 16, label=label, prediction=prediction, breaks=found, passes=Passes())


def test_a_sample_that_stands_is_robust():
    row = _outcome()
    assert (row.correct, row.robust, row.broken_by, row.distance) == (True, True, None, None)


def test_a_sample_wrong_from_the_start_is_neither_correct_nor_robust():
    row = _outcome(prediction=4)
    assert (row.correct, row.robust, row.broken_by, row.distance) == (False, False, None, None)


def test_a_broken_sample_is_told_by_its_first_witness():
    row = _outcome(breaks=[("pgd", 0.2), ("square", 0.1)])
    assert (row.correct, row.robust, row.broken_by, row.distance) == (True, False, "pgd", 0.2)


def test_a_finding_says_where_it_is():
    def found(**about):
        return Finding(code="RB201", severity="error", message="m", cure="c", **about)

    assert found(attack="pgd", threat="Linf 0.3").where == "pgd under Linf 0.3"
    assert found(attack="pgd").where == "pgd"
    assert found().where == ""


def test_passes_add_up():
    total = Passes(forward=3, backward=2) + Passes(forward=10)
    assert (total.forward, total.backward, total.total) == (13, 2, 15)


def test_by_class_counts_each_class_that_occurs_in_order(make_card):
    rows = [
        _outcome(label=7),
        _outcome(label=2, prediction=2),
        _outcome(label=7, prediction=7, breaks=[("pgd", 0.1)]),
        _outcome(label=7, prediction=7),
    ]
    first, second = make_card(outcomes=tuple(rows)).by_class()
    assert (first.label, first.name, second.label, second.name) == (2, "two", 7, "seven")
    assert (first.clean_accuracy.count, first.robust_accuracy.count, first.robust_accuracy.total) == (1, 1, 1)
    assert (second.clean_accuracy.count, second.robust_accuracy.count, second.robust_accuracy.total) == (2, 1, 3)
    assert second.robust_accuracy == Interval.of(1, 3)


def test_by_class_adds_up_to_the_whole(card):
    found = card.by_class()
    assert sum(one.robust_accuracy.count for one in found) == card.robust_accuracy.count
    assert sum(one.clean_accuracy.total for one in found) == card.data.samples


def test_a_class_without_a_name_is_its_number(make_card):
    card = make_card(classes=("cat", "dog"))
    assert [card.class_name(label) for label in (0, 1, 2, -1)] == ["cat", "dog", "2", "-1"]


def test_a_card_is_frozen(card):
    with pytest.raises(ValidationError):
        card.verdict = "PASS"
    with pytest.raises(ValidationError):
        card.outcomes[0].label = 3


def test_the_rows_do_not_flood_what_is_printed(card):
    assert "outcomes" not in repr(card)
    assert "gallery" not in repr(card)


# Robust accuracy against eps


def _rows(distances, threat="L2 1", wrong=0):
    """Samples with these distances; inf where no adversarial example is known, and some wrong from the start."""
    eps = float(threat.split()[1])
    return tuple(
        Outcome(
            index=place,
            key=f"{place:016x}",
            label=1,
            prediction=0 if distance is None else 1,
            breaks=(Break(attack="pgd", threat=threat, prediction=2, distance=distance),)
            if distance is not None and distance <= eps
            else (),
            nearest=(Nearest(attack="cw", threat=threat, distance=distance),)
            if distance is not None and math.isfinite(distance)
            else (),
            passes=Passes(),
        )
        for place, distance in enumerate([*distances, *[None] * wrong])
    )


def _curve_card(make_card, distances, threat="L2 1", wrong=0):
    return make_card(threats=[threat], curve=True, outcomes=_rows(distances, threat, wrong))


def test_a_curve_starts_at_the_clean_accuracy_and_falls_at_each_distance(make_card):
    curve = _curve_card(make_card, [0.5, 2.0, 0.5, math.inf, 1.25], wrong=3).curve()
    assert curve.searched
    assert curve.distances == (0.5, 0.5, 1.25, 2.0, math.inf)
    assert [(eps, share.count) for eps, share in curve.steps()] == [(0.0, 5), (0.5, 3), (1.25, 2), (2.0, 1)]
    assert curve.at(0) == Interval.of(5, 8)
    for eps, count in [(0.49, 5), (0.5, 3), (1, 3), (1.25, 2), (1e9, 1), (math.inf, 1)]:
        assert curve.at(eps) == Interval.of(count, 8), eps


def test_a_curve_agrees_with_the_card_at_its_eps_and_never_rises(make_card):
    card = make_card(threats=["Linf 0.3", "L2 0.5 targeted next"], curve=True, samples=300)
    for row in card.threats:
        curve = card.curve(row.threat)
        assert curve.at(row.threat.eps) == row.robust_accuracy
        assert curve.at(0) == card.clean_accuracy
        counts = [share.count for _, share in curve.steps()]
        assert counts == sorted(counts, reverse=True)
        assert curve.at(100).count == sum(math.isinf(distance) for distance in curve.distances) > 0


def test_a_witness_that_rounding_carried_out_of_the_ball_counts_at_the_balls_eps(make_card):
    card = make_card(threats=["L2 1"], curve=True)
    inside = _rows([1 + 5e-7])[0]
    found = (Break(attack="cw", threat="L2 1", prediction=2, distance=1 + 5e-7),)
    card = card.model_copy(update={"outcomes": (inside.model_copy(update={"breaks": found}),)})
    assert card.curve().at(1).count == 0


@pytest.mark.parametrize(
    ("distances", "middle"),
    [
        ([3.0], 3.0),
        ([3.0, 1.0, 2.0], 2.0),
        ([1.0, 2.0, 3.0, math.inf], 2.0),
        ([1.0, 2.0, math.inf, math.inf], 2.0),
        ([1.0, math.inf, math.inf], None),
        ([math.inf], None),
        ([], None),
    ],
)
def test_median_distance_is_none_where_more_than_half_are_never_broken(make_card, distances, middle):
    assert _curve_card(make_card, distances, wrong=4).curve().median == middle


def test_quantiles_say_where_a_share_of_what_is_right_is_broken(make_card):
    curve = _curve_card(make_card, [place / 100 for place in range(1, 99)] + [math.inf] * 2, wrong=50).curve()
    for share, eps in [(0.01, 0.01), (0.07, 0.07), (0.29, 0.29), (0.295, 0.3), (0.98, 0.98), (0.99, None), (1, None)]:
        assert curve.quantile(share) == eps
    for share in (0, -0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match="share is"):
            curve.quantile(share)


@pytest.mark.parametrize("eps", [-0.1, math.nan])
def test_a_curve_has_no_accuracy_at_an_eps_that_is_none(make_card, eps):
    with pytest.raises(ValueError, match="expected 0 or a number above it"):
        make_card(curve=True).curve().at(eps)


def test_a_card_of_several_eps_without_a_search_has_a_point_at_each(make_card):
    card = make_card(threats=["Linf 0.3", "Linf 0.1", "L2 1"], samples=100)
    curve = card.curve("Linf 1")
    assert not curve.searched
    assert {eps for eps, _ in curve.steps()} == {0.0, 0.1, 0.3}
    assert curve.at(0) == card.clean_accuracy
    assert curve.at(0.1) == curve.at(0.2999) == card.threats[1].robust_accuracy
    assert curve.at(0.3).count == sum(
        row.correct and not {found.threat for found in row.breaks} & {"Linf 0.3", "Linf 0.1"} for row in card.outcomes
    )
    assert curve.at(0.3).count <= min(row.robust_accuracy.count for row in card.threats[:2])


def test_the_golden_card_has_a_point_too(golden):
    curve = golden.curve("Linf 0.1")
    assert [(eps, share.count) for eps, share in curve.steps()] == [(0.0, 12), (24 / 255, 2)]
    assert golden.curve() == curve
    assert golden.curve("L2 3 targeted next").at(0.75) == golden.threats[1].robust_accuracy


@pytest.mark.parametrize("threat", ["L2 1", "Linf 0.3 targeted random", "Linf 0.3 targeted next"])
def test_a_norm_and_goal_that_are_not_on_the_card_are_told(make_card, threat):
    with pytest.raises(
        ValueError, match=f"{threat}: nothing of this norm and goal is on the card, which holds Linf 0.3"
    ):
        make_card(curve=True).curve(threat)


def test_a_card_with_a_curve_loads_as_it_was_saved(make_card, validator, tmp_path):
    card = make_card(threats=["Linf 0.3", "L2 1"], curve=True, samples=30)
    path = card.save(tmp_path / "card.json")
    assert Scorecard.load(path) == card
    assert Scorecard.load(path).curve("L2 1") == card.curve("L2 1")
    assert list(validator.iter_errors(json.loads(path.read_text(encoding="utf-8")))) == []


def test_a_card_without_a_curve_says_nothing_of_it(card, tmp_path):
    text = card.save(tmp_path / "card.json").read_text(encoding="utf-8")
    assert '"nearest"' not in text
    assert '"curve"' not in text


@pytest.mark.parametrize(
    ("values", "middle"),
    [([], None), ([3.0], 3.0), ([5.0, 1.0, 2.0], 2.0), ([4.0, 1.0], 2.5), ([math.inf, 1.0, 3.0, math.nan], 2.0)],
)
def test_median_of_what_is_finite(values, middle):
    assert median(values) == middle


# What can be counted anew is


@pytest.fixture(scope="module")
def real(train_on_digits):
    """A card of a real evaluation, with gates of every kind, as plain JSON."""
    model, x, y = train_on_digits(400, 12)
    card = evaluate(
        Target(model, name="digits"),
        (x[1000:1120], y[1000:1120]),
        ["fgsm", {"attack": "pgd", "params": {"steps": 10}}],
        ["Linf 0.05", "Linf 0.1"],
        gates={"min_clean_accuracy": 0.5, "min_robust_accuracy": 0.4, "max_drop": 0.9, "max_parameters": 1e6},
    )
    assert 0 < card.robust_accuracy.count < card.clean_accuracy.count
    return json.loads(card.model_dump_json())


def _numbers(found, path=()):
    """Paths of all numbers, truths and words of a card that follow from others on it."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from _numbers(value, (*path, key))
    elif isinstance(found, list):
        for place, value in enumerate(found):
            yield from _numbers(value, (*path, place))
    elif isinstance(found, bool | int | float):
        yield path


_COUNTED = {"count", "total", "value", "low", "high", "confidence", "broken", "passed", "decided"}


def test_every_single_number_that_follows_from_others_is_counted_anew(real, tmp_path):
    path = tmp_path / "card.json"
    path.write_text(json.dumps(real), encoding="utf-8")
    Scorecard.load(path)
    places = [place for place in _numbers(real) if place[-1] in _COUNTED and not {"trace", "gallery"} & {*place}]
    places += [("data", "samples"), ("audit", "confirmed"), ("audit", "asked")]
    right = [at for at, row in enumerate(real["outcomes"]) if row["prediction"] == row["label"]]
    places += [("outcomes", at, "prediction") for at in right[::7]]
    assert len(places) > 90
    let_through = []
    for place in places:
        changed = copy.deepcopy(real)
        here = changed
        for key in place[:-1]:
            here = here[key]
        was = here[place[-1]]
        here[place[-1]] = (not was) if isinstance(was, bool) else was + (1 if isinstance(was, int) else 0.003)
        path.write_text(json.dumps(changed), encoding="utf-8")
        try:
            Scorecard.load(path)
        except ValueError:
            continue
        let_through.append(place)
    assert not let_through


@pytest.mark.parametrize("place", [("passes", "forward"), ("seconds",), ("attacks", 0, "seconds")], ids=str)
def test_a_cost_below_zero_is_refused(real, tmp_path, place):
    changed = copy.deepcopy(real)
    here = changed
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = -1
    (tmp_path / "card.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match="expected 0 or more"):
        Scorecard.load(tmp_path / "card.json")


def test_a_row_that_is_taken_out_is_missed(real, tmp_path):
    changed = copy.deepcopy(real)
    del changed["outcomes"][3]
    (tmp_path / "card.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match="there are 119 rows"):
        Scorecard.load(tmp_path / "card.json")


def test_a_models_file_is_told_apart_from_a_card(tmp_path):
    (tmp_path / "model.json").write_text('{"schema_version": 1, "spec": "m.py:build", "normalize": null, "classes": 3}')
    with pytest.raises(ValueError, match="a saved model's folder holds, not a scorecard"):
        Scorecard.load(tmp_path / "model.json")


def test_it_is_short_in_a_shell_and_a_page_in_a_notebook(card):
    assert len(repr(card)) < 200
    assert repr(card).startswith(f"Scorecard({card.verdict}, clean=")
    page = card._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "Robust accuracy" in page
