"""The catalogue: whose room is searched, what is executed, and what is told when a name leads nowhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robustbench_lite.core import registry

KINDS = ("attacks", "defenses", "reports")
BUILT_IN = [
    pytest.param(kind, name, id=f"{kind}-{name}")
    for kind in KINDS
    for name in registry.names(kind)
    if not name.endswith(":*")  # the backends: their own tests load them
]

OWN_ATTACK = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Mine:
    strength: int = 3
    speed: float = 1.0

    def __post_init__(self):
        if self.strength < 0:
            raise ValueError(f"strength is {self.strength}: expected 0 or more")
"""


@pytest.fixture
def room(tmp_path, monkeypatch):
    """Write the files of a room in a repo of the user's, who stands in it."""
    monkeypatch.chdir(tmp_path)

    def write(kind="attacks", at=tmp_path, **files):
        for name, text in files.items():
            path = at / kind / f"{name.replace('__to__', '/')}.{'toml' if '__to__' in name else 'py'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


# Whose


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_built_in_name_leads_to_an_object(kind, name):
    assert callable(registry.find(kind, name))


@pytest.mark.parametrize(
    ("kind", "folder"), [("suites", "attacks"), ("recipes", "defenses"), *[(kind, kind) for kind in KINDS]]
)
def test_every_kind_is_found_from_anywhere(kind, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert registry.rooms(folder)
    assert isinstance(registry.names(kind), list)


def test_a_users_attack_is_found_as_ours_are(room):
    room(__init__='CATALOGUE = {"mine": "mine:Mine"}', mine=OWN_ATTACK)
    assert registry.names("attacks")[0] == "mine"
    assert "pgd" in registry.names("attacks")
    assert registry.find("attacks", "mine").__name__ == "Mine"
    assert registry.build("attacks", "mine", {"strength": 5}).strength == 5


def test_the_users_attack_wins_over_ours_of_the_same_name(room):
    room(__init__='CATALOGUE = {"pgd": "mine:Mine"}', mine=OWN_ATTACK)
    assert registry.find("attacks", "pgd").__name__ == "Mine"
    assert registry.names("attacks").count("pgd") == 1
    assert registry.find("attacks", "fgsm").__name__ == "FGSM"


def test_the_users_suite_wins_over_ours_of_the_same_name(room, tmp_path):
    room(suites__to__linf_quick="", suites__to__nightly="")
    assert registry.names("suites")[:2] == ["linf_quick", "nightly"]
    assert registry.find_file("suites", "linf_quick") == tmp_path / "attacks/suites/linf_quick.toml"
    assert registry.find_file("suites", "linf_standard").is_file()


def test_modules_of_a_users_room_may_import_one_another(room):
    room(
        __init__='CATALOGUE = {"mine": "mine:Mine"}',
        mine="from . import helper\n\nclass Mine:\n    word = helper.WORD\n",
        helper="WORD = 'hello'\n",
    )
    assert registry.find("attacks", "mine").word == "hello"


def test_another_folder_is_another_room(room, tmp_path, monkeypatch):
    # A notebook that changes its folder, or tests that do: the names must not lead to the first folder's objects.
    for place in ("one", "two"):
        room(at=tmp_path / place, __init__='CATALOGUE = {"mine": "mine:WHERE"}', mine=f"WHERE = {place!r}\n")
    found = []
    for place in ("one", "two", "one"):
        monkeypatch.chdir(tmp_path / place)
        found.append(registry.find("attacks", "mine"))
    assert found == ["one", "two", "one"]


def test_standing_in_a_checkout_our_rooms_are_not_the_users(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert [found.own for found in registry.rooms("attacks")] == [False]


# What is executed


def test_listing_and_finding_files_executes_nothing(room, tmp_path):
    leave_a_mark = "from pathlib import Path\nPath('executed').touch()\n"
    room(
        __init__=leave_a_mark + 'CATALOGUE = {"mine": "mine:Mine"}',
        mine=leave_a_mark,
        suites__to__nightly="",
    )
    assert "mine" in registry.names("attacks")
    assert "nightly" in registry.names("suites")
    registry.find_file("suites", "nightly")
    registry.find("attacks", "fgsm")
    with pytest.raises(ValueError, match="unknown attack"):
        registry.find("attacks", "no such attack")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "source",
    ["", "NAME = 'an unrelated package'\n", "def (", "x = '\x00'", "def CATALOGUE(): ..."],
    ids=["empty", "no catalogue", "syntax error", "null byte", "something else of that name"],
)
def test_a_folder_that_only_happens_to_bear_the_name_is_left_alone(room, source):
    before = registry.names("attacks")
    room(__init__=source)
    assert registry.names("attacks") == before
    assert registry.find("attacks", "fgsm").__name__ == "FGSM"


def test_a_folder_without_an_init_is_left_alone_but_its_suites_are_found(room):
    room(suites__to__nightly="")
    assert "nightly" in registry.names("suites")
    assert registry.find("attacks", "fgsm").__name__ == "FGSM"


# Faults of a table


def test_a_name_taken_twice_is_an_error_that_names_it_and_the_file(room, tmp_path):
    room(__init__='CATALOGUE = {"mine": "mine:Mine", "other": "mine:Mine", "mine": "yours:Yours"}')
    with pytest.raises(ValueError, match="'mine' is taken twice") as refused:
        registry.names("attacks")
    assert str(tmp_path / "attacks") in str(refused.value)


def test_an_annotated_table_is_read_too(room):
    room(__init__='CATALOGUE: dict[str, str] = {"mine": "mine:Mine"}')
    assert registry.names("attacks")[0] == "mine"


@pytest.mark.parametrize(
    "table",
    ['dict(mine="mine:Mine")', "{f'{__name__}': 'mine:Mine'}", "{'mine': Mine}", "{**OTHERS, 'mine': 'mine:Mine'}"],
)
def test_a_table_that_would_have_to_be_executed_is_an_error_that_names_the_file(room, tmp_path, table):
    room(__init__=f"CATALOGUE = {table}")
    with pytest.raises(ValueError, match="literal table") as refused:
        registry.names("attacks")
    assert str(tmp_path / "attacks") in str(refused.value)


@pytest.mark.parametrize("entry", ["3", "('mine', 'Mine')", "'mine'", "'missing:Mine'", "'mine:Missing'"])
def test_an_entry_that_leads_nowhere_is_an_error_that_names_the_folder(room, tmp_path, entry):
    room(__init__=f"CATALOGUE = {{'own': {entry}}}", mine=OWN_ATTACK)
    with pytest.raises(ValueError, match=r".") as refused:
        registry.find("attacks", "own")
    assert str(tmp_path / "attacks") in str(refused.value)


def test_an_init_that_fails_is_told_with_its_file_and_can_be_mended(room, tmp_path):
    room(__init__='CATALOGUE = {"mine": "mine:Mine"}\nraise RuntimeError("no licence")', mine=OWN_ATTACK)
    for _ in range(2):
        with pytest.raises(ValueError, match="RuntimeError: no licence") as refused:
            registry.find("attacks", "mine")
        assert str(tmp_path / "attacks") in str(refused.value)
    room(__init__='CATALOGUE = {"mine": "mine:Mine"}  # mended')
    assert registry.find("attacks", "mine").__name__ == "Mine"


# Unknown names


@pytest.mark.parametrize(
    ("name", "hint"), [("pdg", "did you mean pgd"), ("PGD", "did you mean pgd"), ("carlini-wagner", "carlini_wagner")]
)
def test_an_unknown_name_gets_the_nearest_ones(name, hint):
    with pytest.raises(ValueError, match=f"unknown attack '{name}'.*{hint}"):
        registry.find("attacks", name)


@pytest.mark.parametrize("name", ["zzzzzz", ""])
def test_a_name_like_none_gets_all_there_are(name):
    with pytest.raises(ValueError, match=f"unknown attack '{name}': expected one of .*fgsm.*pgd"):
        registry.find("attacks", name)


@pytest.mark.parametrize(("name", "words"), [("linf_quik", "did you mean linf_quick"), ("zzzz", "linf_standard")])
def test_an_unknown_suite_gets_the_nearest_ones(name, words):
    with pytest.raises(ValueError, match=f"unknown suite '{name}': .*{words}"):
        registry.find_file("suites", name)


# Files


def test_a_path_to_a_toml_file_is_taken_as_it_is(room, tmp_path):
    (tmp_path / "mine.toml").touch()
    assert registry.find_file("suites", "mine.toml") == Path("mine.toml")
    assert registry.find_file("suites", tmp_path / "mine.toml") == tmp_path / "mine.toml"


def test_a_missing_toml_file_is_an_error_that_names_it(room):
    with pytest.raises(ValueError, match=r"suite 'no/such\.toml': no such file"):
        registry.find_file("suites", "no/such.toml")


@pytest.mark.parametrize("name", ["../secret", "../../secret", "sub/../../secret", ".", "..", ""])
def test_a_name_can_not_lead_out_of_its_folder(room, tmp_path, name):
    room(suites__to__nightly="", suites__to__sub__to__inner="")
    (tmp_path / "attacks" / "secret.toml").touch()
    (tmp_path / "secret.toml").touch()
    with pytest.raises(ValueError, match="unknown suite"):
        registry.find_file("suites", name)


def test_an_absolute_name_is_no_name(room, tmp_path):
    (tmp_path / "secret.toml").touch()
    with pytest.raises(ValueError, match="unknown suite"):
        registry.find_file("suites", str(tmp_path / "secret"))


# Prefixes


def test_a_prefix_entry_is_called_with_the_rest_of_the_name(room):
    room(
        __init__='CATALOGUE = {"zoo:*": "zoo:find", "zoo": "zoo:plain"}',
        zoo="def find(rest):\n    return 'found ' + rest\n\ndef plain():\n    return 'plain'\n",
    )
    assert registry.find("attacks", "zoo:Lion") == "found Lion"
    assert registry.find("attacks", "zoo:Lion:cub") == "found Lion:cub"
    assert registry.find("attacks", "zoo")() == "plain"


def test_an_unknown_prefix_is_an_unknown_name():
    with pytest.raises(ValueError, match="unknown attack 'toolbox:PGD'"):
        registry.find("attacks", "toolbox:PGD")


# Parameters


def test_parameters_reach_the_object():
    attack = registry.build("attacks", "pgd", {"steps": 7, "step_size": "2/255"})
    assert (attack.steps, attack.step_size) == (7, 2 / 255)


def test_an_unknown_parameter_gets_the_nearest_ones():
    with pytest.raises(ValueError, match=r"pgd: unknown parameter 'stepsize': did you mean step_size"):
        registry.build("attacks", "pgd", {"stepsize": 0.1})


def test_every_refused_parameter_is_told_with_its_name():
    with pytest.raises(ValueError, match=r"^pgd: ") as refused:
        registry.build("attacks", "pgd", {"steps": 0, "momentum": 2, "loss": "hinge", "step_size": "1/0"})
    for name in ("steps", "momentum", "loss", "step_size"):
        assert f"{name}: " in str(refused.value)


def test_every_unknown_parameter_is_told():
    with pytest.raises(ValueError, match="'stpes'") as refused:
        registry.build("attacks", "pgd", {"stpes": 3, "los": "margin"})
    assert "'los'" in str(refused.value)


def test_a_number_too_large_for_a_float_is_refused_as_any_other():
    with pytest.raises(ValueError, match="pgd: step_size"):
        registry.build("attacks", "pgd", {"step_size": "1e400"})


def test_parameters_that_do_not_fit_one_another_are_told():
    with pytest.raises(ValueError, match="pgd: restarts is 3 without a random start"):
        registry.build("attacks", "pgd", {"restarts": 3, "random_start": False})


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"strength": -1}, "mine: strength is -1: expected 0 or more"),
        ({"strengt": 1}, "mine: unknown parameter 'strengt': did you mean strength"),
    ],
)
def test_refusals_of_a_users_own_attack_bear_its_name(room, params, words):
    room(__init__='CATALOGUE = {"mine": "mine:Mine"}', mine=OWN_ATTACK)
    with pytest.raises(ValueError, match=words):
        registry.build("attacks", "mine", params)
