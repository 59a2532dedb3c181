"""Suites and recipes: what is read from TOML, and that every fault of a file is told at once with its key."""

from __future__ import annotations

import contextlib

import pytest
from pydantic import ValidationError

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import AttackSpec, Suite, load_suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.core.toml import describe
from robustbench_lite.hardening.recipe import Recipe, load_recipe

SUITES, RECIPES = registry.names("suites"), registry.names("recipes")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a TOML file in an empty folder, where the test then stands; no room of anyone's is near."""
    monkeypatch.chdir(tmp_path)

    def put(text, name="asked.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return put


def _refusal(read, path):
    with pytest.raises(UserError) as refused:
        read(path)
    return str(refused.value)


# Suites


@pytest.mark.parametrize("name", SUITES)
def test_every_built_in_suite_loads_and_its_attacks_do_its_norms(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = load_suite(name)
    assert suite.name == name
    assert suite.description
    for spec in suite.attacks:
        attack = registry.build("attacks", spec.attack, spec.params)
        assert {threat.norm for threat in suite.threats} <= set(attack.norms)


def test_the_built_in_suites_that_faces_name_by_default_are_there():
    assert {"linf_quick", "linf_standard"} <= set(SUITES)


def test_a_file_is_read_in_full(write):
    suite = load_suite(
        write("""
name = "nightly"
description = "Two losses."
threats = ["Linf 8/255", "L2 0.5 targeted next"]
independent = true
budget = { seconds = 60, passes = 10_000 }

[[attacks]]
attack = "pgd"
params = { steps = 5, step_size = "2/255" }

[[attacks]]
name = "pgd-margin"
attack = "pgd"
params = { loss = "margin" }
""")
    )
    assert (suite.name, suite.description, suite.independent) == ("nightly", "Two losses.", True)
    assert (suite.budget.seconds, suite.budget.passes) == (60, 10_000)
    assert [str(threat) for threat in suite.threats] == ["Linf 8/255", "L2 0.5 targeted next"]
    assert [(spec.name, spec.attack, spec.params) for spec in suite.attacks] == [
        ("pgd", "pgd", {"steps": 5, "step_size": "2/255"}),
        ("pgd-margin", "pgd", {"loss": "margin"}),
    ]


def test_short_forms_are_read_and_the_name_is_the_files(write):
    suite = load_suite(write('threats = "Linf 0.3"\nattacks = ["pgd", "fgsm"]', "short.toml"))
    assert suite.name == "short"
    assert suite.threats == (ThreatModel.parse("Linf 0.3"),)
    assert [spec.name for spec in suite.attacks] == ["pgd", "fgsm"]
    assert suite.independent is False
    assert (suite.budget.seconds, suite.budget.passes) == (None, None)


def test_a_threat_model_may_be_written_as_a_table(write):
    suite = load_suite(write('attacks = ["pgd"]\n[[threats]]\nnorm = "linf"\neps = "8/255"\ngoal = "targeted"'))
    assert suite.threats == (ThreatModel.parse("Linf 8/255 targeted"),)


@pytest.mark.parametrize("given", [["fgsm", "pgd"], ("fgsm", "pgd")])
def test_a_list_of_attacks_is_a_suite(given):
    suite = load_suite(given)
    assert [spec.attack for spec in suite.attacks] == ["fgsm", "pgd"]
    assert suite.threats
    assert suite.name


def test_a_suite_is_handed_back_as_it_is():
    suite = Suite(threats="Linf 0.3", attacks=(AttackSpec(attack="pgd"),))
    assert load_suite(suite) is suite


def test_a_suite_is_found_by_name_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attacks" / "suites").mkdir(parents=True)
    (tmp_path / "attacks" / "suites" / "mine.toml").write_text('threats = "L2 1"\nattacks = ["pgd"]')
    assert load_suite("mine").name == "mine"


def test_every_fault_of_a_suite_is_told_at_once_with_its_key(write):
    path = write("""
threats = ["Linf 8", "L7 1"]
colour = "red"
independent = "perhaps"

[[attacks]]
attack = "pdg"

[[attacks]]
attack = "pgd"
params = { stpes = 3 }

[[attacks]]
attack = "pgd"
name = "pgd again"
params = { steps = 0, momentum = 2 }

[[attacks]]
params = { steps = 3 }
""")
    message = _refusal(load_suite, path)
    assert str(path) in message
    for told in [
        "threats.0: eps is 8",
        "threats.1: norm is 'L7'",
        "colour: ",
        "independent: ",
        "attacks.0: unknown attack 'pdg': did you mean pgd",
        "attacks.1: pgd: unknown parameter 'stpes': did you mean steps",
        "attacks.2: pgd: steps: ",
        "momentum: ",
        "attacks.3.attack: ",
    ]:
        assert told in message


def test_unknown_attacks_of_a_list_are_all_told():
    message = _refusal(load_suite, ["pdg", "pgd", "fgsmm"])
    assert "attacks.0: unknown attack 'pdg'" in message
    assert "attacks.2: unknown attack 'fgsmm'" in message


def test_parameters_of_a_list_of_attacks_are_checked_too():
    assert "stpes" in _refusal(load_suite, [{"attack": "pgd", "params": {"stpes": 3}}])


def test_a_name_taken_twice_is_told_with_the_cure(write):
    message = _refusal(load_suite, write('threats = "Linf 0.3"\nattacks = ["pgd", "fgsm", "pgd"]'))
    assert "attacks: the name pgd is taken twice" in message
    assert "`name`" in message
    assert "fgsm" not in message


def test_a_threat_model_named_twice_is_not_run_twice(write):
    # Refused or taken once: run twice, every one of its attacks would stand on the scorecard four times.
    path = write('threats = ["Linf 0.3", "Linf 0.3"]\nattacks = ["pgd"]')
    with contextlib.suppress(UserError):
        assert len(load_suite(path).threats) == 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "threats"),
        ("", "attacks"),
        ('threats = []\nattacks = ["pgd"]', "threats"),
        ('threats = "Linf 0.3"\nattacks = []', "attacks"),
        ('threats = "Linf 0.3"\nattacks = "pgd"', "attacks"),
        ('threats = "Linf 0.3"\nattacks = [3]', "attacks.0"),
        ('threats = "Linf 0.3"\nattacks = [{ attack = "pgd", params = 3 }]', "attacks.0.params"),
        ('threats = "Linf 0.3"\nattacks = [{ attack = "pgd", paramz = {} }]', "attacks.0.paramz"),
        ('threats = 3\nattacks = ["pgd"]', "threats"),
        ('threats = [3]\nattacks = ["pgd"]', "threats.0"),
    ],
)
def test_what_is_missing_empty_or_of_the_wrong_type_is_told_with_its_key(write, text, key):
    assert f"\n  {key}: " in _refusal(load_suite, write(text))


@pytest.mark.parametrize(
    ("budget", "key"),
    [
        ("seconds = 0", "seconds"),
        ("seconds = -1", "seconds"),
        ("seconds = nan", "seconds"),
        ("seconds = inf", "seconds"),  # not to be told from none in JSON, which knows no infinity
        ("passes = 0", "passes"),
        ("passes = 1.5", "passes"),
        ("minutes = 3", "minutes"),
    ],
)
def test_a_budget_that_is_none_is_told_with_its_key(write, budget, key):
    text = f'threats = "Linf 0.3"\nattacks = ["pgd"]\nbudget = {{ {budget} }}'
    assert f"\n  budget.{key}: " in _refusal(load_suite, write(text))


@pytest.mark.parametrize("content", [b"threats = ", b"\xff\xfe", b"threats = 1\nthreats = 2"])
def test_a_file_that_is_no_toml_is_told_with_its_path(write, content):
    path = write("")
    path.write_bytes(content)
    assert str(path) in _refusal(load_suite, path)


@pytest.mark.parametrize("asked", ["no such suite", "no_such.toml"])
def test_a_suite_that_is_not_there_is_told(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert repr(asked) in _refusal(load_suite, asked)


def test_a_suite_is_frozen():
    suite = load_suite(["pgd"])
    with pytest.raises(ValidationError):
        suite.name = "other"
    with pytest.raises(ValidationError):
        suite.attacks[0].attack = "fgsm"


def test_json_gives_a_suite_back_equal():
    suite = load_suite("linf_standard")
    assert Suite.model_validate_json(suite.model_dump_json()) == suite


def test_describing_a_suite_loads_no_attack(write, tmp_path):
    (tmp_path / "attacks" / "suites").mkdir(parents=True)
    (tmp_path / "attacks" / "suites" / "mine.toml").write_text('description = "Mine."\nattacks = ["not there"]')
    assert describe("suites", "mine") == "Mine."
    assert all(describe("suites", name) for name in SUITES)


# Recipes

RECIPE = """
description = "Short."
defense = "pgd_training"
threat = "Linf 0.3"
suite = "linf_quick"

[schedule]
epochs = 2
lr = 0.05
optimizer = "adam"
"""


@pytest.mark.parametrize("name", RECIPES)
def test_every_built_in_recipe_loads_and_its_suite_does_its_threat_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    for spec in load_suite(recipe.suite).attacks:
        assert recipe.threat.norm in registry.build("attacks", spec.attack, spec.params).norms


def test_a_recipe_is_read_in_full(write):
    recipe = load_recipe(write(RECIPE, "mine.toml"))
    assert (recipe.name, recipe.defense, str(recipe.threat)) == ("mine", "pgd_training", "Linf 0.3")
    assert (recipe.schedule.epochs, recipe.schedule.lr, recipe.schedule.optimizer) == (2, 0.05, "adam")
    assert recipe.schedule.batch_size == 128


def test_a_recipe_is_handed_back_as_it_is():
    recipe = Recipe(defense="pgd_training", threat="Linf 0.3")
    assert load_recipe(recipe) is recipe


def test_every_fault_of_a_recipe_is_told_at_once_with_its_key(write):
    path = write("""
defense = "pgd_trainin"
threat = "Linf 9"
colour = "red"

[schedule]
epochs = 0
lr = 0
momentum = 1.0
optimiser = "adam"
held_out = 1.5
""")
    message = _refusal(load_recipe, path)
    assert str(path) in message
    for told in [
        "defense: unknown defense 'pgd_trainin'",
        "threat: eps is 9",
        "colour: ",
        "schedule.epochs: ",
        "schedule.lr: ",
        "schedule.momentum: ",
        "schedule.optimiser: ",
        "schedule.held_out: ",
    ]:
        assert told in message


def test_an_unknown_parameter_of_a_defense_is_told(write):
    text = RECIPE.replace('suite = "linf_quick"', "params = { no_such_parameter = 1 }")
    assert "no_such_parameter" in _refusal(load_recipe, write(text))


def test_a_suite_that_is_not_there_is_told_before_the_training(write):
    assert "linf_quik" in _refusal(load_recipe, write(RECIPE.replace("linf_quick", "linf_quik")))


def test_a_recipe_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unknown recipe 'no such'" in _refusal(load_recipe, "no such")
