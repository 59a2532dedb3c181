"""Suites, recipes, scorecards and baselines that are damaged or made to do harm: told as such, and nothing else."""

from __future__ import annotations

import copy
import json
import re

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import read_json
from robustbench_lite.core.suite import Suite, load_suite
from robustbench_lite.faces.cli import main
from robustbench_lite.hardening.recipe import load_recipe
from robustbench_lite.results import baseline
from robustbench_lite.results.scorecard import Scorecard

SUITE = """name = "mine"
threats = ["Linf 8/255", { norm = "L2", eps = 0.5 }]
independent = true
attacks = ["fgsm", { attack = "pgd", name = "longer", params = { steps = 3, step_size = 0.01 } }]
[budget]
seconds = 60.0
passes = 1000
"""
RECIPE = """name = "mine"
defense = "pgd_training"
threat = "Linf 8/255"
suite = "linf_quick"
[params]
steps = 3
[schedule]
epochs = 2
lr = 0.1
"""
LOADERS = {"suite": (SUITE, load_suite), "recipe": (RECIPE, load_recipe)}
READERS = pytest.mark.parametrize("kind", LOADERS)

some_cases = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
odd = st.sampled_from(
    [None, True, -1, 0, 2**63, 10**400, 5e-324, 1e308, -1e308, "", "\ud800", "\x00", "../../x", [], [[]], {}, {"a": {}}]
)
cuts = st.tuples(st.sampled_from(["cut", "flip", "drop", "double"]), st.floats(0, 1), st.integers(0, 255))


def damaged(content: bytes, how: tuple[str, float, int]) -> bytes:
    """A file's bytes after a mishap."""
    what, share, byte = how
    at = int(share * (len(content) - 1))
    if what == "cut":
        return content[:at]
    if what == "flip":
        return content[:at] + bytes([byte]) + content[at + 1 :]
    if what == "drop":
        return content[:at] + content[at + 1 + byte :]
    return content[:at] + content[at - byte :]


def places(value, place=()):
    """Ways to everything in a tree of dicts and lists, of a list to its first entry alone."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*place, key)
        yield from places(entry, (*place, key))


def changed(tree, place, value):
    """A tree in which one thing is another one."""
    tree = copy.deepcopy(tree)
    *way, last = place
    holder = tree
    for key in way:
        holder = holder[key]
    holder[last] = value
    return tree


def refused(read, path):
    """The message with which a file is refused; it names the file."""
    with pytest.raises(UserError) as caught:
        read(path)
    told = str(caught.value)
    assert str(path) in told
    return told


# --- suites and recipes


@READERS
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"x = " + b"[" * 5000 + b"]" * 5000, "nested too deep"),
        (b"x = " + b"{a = " * 5000 + b"1" + b"}" * 5000, "nested too deep"),
        (b"x = " + b"9" * 5000, "can't be read as TOML"),
        (b"x = 0x" + b"f" * 50_000, "unknown key"),
        (b"\xef\xbb\xbfname = 'x'", "is missing"),  # a byte order mark is read over
        ("name = 'é'".encode("utf-16"), "can't be read as TOML"),
        (b"name = '\xff'", "can't be read as TOML"),
        (b"name = 1\nname = 2", "can't be read as TOML"),
        (b"name = 2020-13-41", "can't be read as TOML"),
        (b"name = '\x00'", "can't be read as TOML"),
        (b"\x00" * 1000, "can't be read as TOML"),
        (b"", "is missing"),
    ],
)
def test_a_file_that_is_no_toml_is_told(tmp_path, kind, content, told):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    assert re.search(told, refused(LOADERS[kind][1], path))


@READERS
def test_a_folder_in_the_place_of_a_file_is_told(tmp_path, kind):
    (tmp_path / "mine.toml").mkdir()
    refused(LOADERS[kind][1], tmp_path / "mine.toml")


@READERS
@given(how=cuts)
@some_cases
def test_damaged_bytes_give_a_whole_file_or_an_error(tmp_path, kind, how):
    text, load = LOADERS[kind]
    path = tmp_path / "mine.toml"
    path.write_bytes(damaged(text.encode(), how))
    try:
        load(path)
    except UserError as fault:
        told = str(fault)
    else:
        told = str(path)
    assert str(path) in told


@pytest.mark.parametrize("key", ["threats", "attacks", "independent", "budget.passes", "budget.seconds", "name"])
@pytest.mark.parametrize(
    "value",
    [f"0x{'f' * 50_000}", "nan", "inf", "-1", '"../../x"', "[]", "{}", "[[]]", "{ a = { b = 1 } }", "1979-05-27"],
)
def test_another_type_in_a_suite_is_told_with_its_key(tmp_path, key, value):
    path = tmp_path / "mine.toml"
    table = {"threats": '["Linf 0.1"]', "attacks": '["fgsm"]', key: value}
    path.write_text("".join(f"{name} = {text}\n" for name, text in table.items()))
    try:
        assert isinstance(load_suite(path), Suite)
    except UserError as fault:
        told = str(fault)
    else:
        told = str(path)
    assert str(path) in told
    assert told == str(path) or key.partition(".")[0] in told


def test_a_catalogue_that_is_nested_too_deep_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "__init__.py").write_text("CATALOGUE = " + "(" * 5000 + ")" * 5000)
    monkeypatch.chdir(tmp_path)
    assert "pgd" in registry.names("attacks")


# --- scorecards and baselines


@pytest.fixture
def card(make_card):
    return make_card(samples=6, breaks={"pgd": 0.5}, curve=True, gallery=1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
        ('{"a": NaN}', "no finite number"),
        ('{"a": -Infinity}', "no finite number"),
        ('{"a": 1e999}', "no finite number"),
        ('{"a": %s}' % ("9" * 30), "too large"),
        ('{"a": %s}' % ("9" * 5000), "digits"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_json_that_is_not_strict_is_refused(tmp_path, text, told):
    path = tmp_path / "card.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        read_json(path)
    assert "can't be read as JSON" in refused(Scorecard.load, path)


def test_strict_json_is_read_as_it_is(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, -2.5, 1e-400, true, null, "\\ud83d\\ude00"], "b": {"a": ""}}')
    assert read_json(path) == {"a": [1, -2.5, 0.0, True, None, "😀"], "b": {"a": ""}}


@given(how=cuts)
@some_cases
def test_damaged_bytes_give_a_whole_card_or_an_error(tmp_path, card, how):
    path = card.save(tmp_path / "card.json")
    path.write_bytes(damaged(path.read_bytes(), how))
    try:
        Scorecard.load(path)
    except UserError as fault:
        told = str(fault)
    else:
        told = str(path)
    assert str(path) in told


@given(data=st.data(), value=odd)
@some_cases
def test_a_card_that_loads_is_shown_and_saved_whatever_it_says(tmp_path, card, data, value):
    tree = json.loads(card.model_dump_json())
    place = data.draw(st.sampled_from([one for one in places(tree) if "eps_text" not in one]))
    path = tmp_path / "card.json"
    path.write_bytes(json.dumps(changed(tree, place, value)).encode())
    try:
        loaded = Scorecard.load(path)
    except UserError as fault:
        loaded, told = None, str(fault)
    else:
        told = str(path)
    assert str(path) in told
    if loaded is None:
        return
    for form in ("html", "markdown", "sarif", "annotations"):
        registry.find("reports", form)([loaded]).encode()
    assert Scorecard.load(loaded.save(tmp_path / "again.json")) == loaded


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("robust_accuracy", "value"), 5.0, "robust_accuracy: is 5.0"),
        (("threats", 0, "robust_accuracy", "low"), -0.1, "threats.0.robust_accuracy"),
        (("attacks", 0, "alone", "high"), 1e308, "attacks.0.alone"),
        (("clean_accuracy", "count"), 7, "counts 7 of 6 samples"),
        (("clean_accuracy", "total"), -1, "of -1 samples"),
        (("outcomes", 0, "nearest", 0, "distance"), -1.0, "outcomes.0: a distance is below 0"),
    ],
)
def test_what_no_evaluation_gives_is_told_with_its_key(tmp_path, make_card, place, value, told):
    card = make_card(samples=6, clean=1.0, breaks={"pgd": 1.0}, curve=True)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(changed(json.loads(card.model_dump_json()), place, value)))
    assert told in refused(Scorecard.load, path)


@pytest.mark.parametrize("threat", ["L2 5e-324", "L2 1e-310", "L2 1e-13", "L2 1e308"])
def test_a_curve_at_the_ends_of_what_floats_hold_is_shown(make_card, threat):
    card = make_card(samples=12, breaks={"pgd": 0.5}, threats=[threat], curve=True)
    for form in ("html", "markdown", "github"):
        assert registry.find("reports", form)([card])


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema_version": 1, "schema_version": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_baseline_is_told_and_stays(tmp_path, content):
    path = tmp_path / "main.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        baseline.load(tmp_path, "main")
    assert path.read_bytes() == content


def test_a_baseline_that_can_not_be_saved_leaves_the_one_before(tmp_path, card):
    path = baseline.save(card, tmp_path, "main")
    before = path.read_bytes()
    half = card.model_copy(update={"target": card.target.model_copy(update={"name": "\ud800"})})
    with pytest.raises(ValueError, match=r"surrogates|serializ"):
        baseline.save(half, tmp_path, "main")
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["main.json"]


# --- from outside


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": NaN}'])
def test_the_command_line_tells_a_damaged_card(tmp_path, content):
    (tmp_path / "card.json").write_bytes(content)
    (tmp_path / "page.html").write_text("yesterday's")
    asked = ["report", str(tmp_path / "card.json"), "--format", "html", "--out", str(tmp_path / "page.html")]
    seen = CliRunner().invoke(main, asked)
    assert seen.exit_code == 2
    assert "card.json" in seen.output
    assert "Traceback" not in seen.output
    assert (tmp_path / "page.html").read_text() == "yesterday's"


@pytest.mark.parametrize("content", [b"x = " + b"[" * 5000, b"x = " + b"9" * 5000, b"\xff"])
def test_the_command_line_tells_a_damaged_suite(tmp_path, content):
    (tmp_path / "mine.toml").write_bytes(content)
    asked = ["evaluate", "no:model", "--data", "digits", "--suite", str(tmp_path / "mine.toml"), "--json"]
    seen = CliRunner().invoke(main, [*asked, str(tmp_path / "card.json")])
    assert seen.exit_code == 2
    assert "mine.toml: can't be read as TOML" in seen.output
    assert "Traceback" not in seen.output
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mine.toml"]
