"""What `rblite list` shows: every name that the registry knows, in full, with a line on each."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from robustbench_lite.core import registry
from robustbench_lite.data.sources import described
from robustbench_lite.faces.cli.tables.listing import KINDS, listing


def shown(kind: str | None = None, width: int = 80) -> list[str]:
    """Lines of the table on a terminal of a width."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(listing(kind))
    return buffer.getvalue().splitlines()


def rows(kind: str) -> dict[str, str]:
    """What is told of each name."""
    told: dict[str, str] = {}
    for line in shown(kind, width=500)[1:]:
        name, _, text = line.partition(" ")
        if not name and told and line:  # of an attack: what it does stands below its facts
            told[list(told)[-1]] += f" {line.strip()}"
        elif name and name not in ("attack", "sees:", "passes:"):
            told[name] = " ".join(text.split())
    return {name: text.strip() for name, text in told.items()}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _nothing_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "data"])
def test_every_name_has_a_row_and_a_line(kind: str) -> None:
    told = rows(kind)
    assert list(told) == [name.replace(":*", ":NAME") for name in registry.names(kind)]
    assert all(told.values())


def test_every_source_of_data_has_a_row_and_a_line() -> None:
    told = rows("data")
    assert list(told) == list(described())
    assert all(told.values())
    assert {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagenet"} <= set(told)
    assert any(name.startswith("imagefolder:") for name in told)
    assert any(name.startswith("npz:") for name in told)


def test_two_data_sets_are_not_told_with_one_line() -> None:
    told = rows("data")
    assert len(set(told.values())) == len(told)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_it_fits_80_columns_with_every_name_in_full(kind: str | None) -> None:
    lines = shown(kind)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for one in [kind] if kind else KINDS:
        names = described() if one == "data" else registry.names(one)
        assert one in text
        assert all(name.replace(":*", ":NAME") in text for name in names)
    assert "…" not in text


def test_an_attack_tells_its_norms_what_it_sees_its_cost_and_its_paper() -> None:
    told = rows("attacks")
    assert told["pgd"].startswith("Linf, L2 gradients 41 + 40 ")
    assert told["carlini_wagner"].startswith("L2 gradients 501 + 500 ")
    assert told["carlini_wagner_linf"].startswith("Linf gradients 101 + 100 ")
    assert told["foolbox:NAME"].startswith("varies varies varies ")
    for name in ("fgsm", "bim", "pgd", "carlini_wagner"):
        assert "https://arxiv.org/abs/" in told[name]
    assert "foolbox" in told["foolbox:NAME"]
    assert "art" in told["art:NAME"]


def test_the_columns_of_attacks_line_up_and_are_explained() -> None:
    head, *lines = shown("attacks")[1:]
    facts = [line for line in lines if line.startswith(tuple(registry.names("attacks")[:5]))]
    assert len(facts) >= 5
    for column in ("norms", "sees", "passes"):
        at = head.index(column)
        assert all(line[at - 1] == " " and line[at] != " " for line in facts)
    assert any(line.startswith("sees: ") for line in lines)
    assert any(line.startswith("passes: forward + backward") for line in lines)


def test_listing_runs_no_code_of_the_users(own: Path) -> None:
    trap = "from pathlib import Path\nPath('ran').touch()\n"
    for kind in ("attacks", "defenses", "reports"):
        (own / kind).mkdir()
        (own / kind / "__init__.py").write_text(f'{trap}CATALOGUE = {{"mine": "mine:Mine"}}\n')
        (own / kind / "mine.py").write_text(f'{trap}class Mine:\n    """What mine does."""\n')
    for kind in ("attacks", "defenses", "reports"):
        assert rows(kind)["mine"].endswith("What mine does.")
    assert not (own / "ran").exists()


def test_an_own_attack_is_listed_by_what_its_file_says(own: Path) -> None:
    own_attacks(
        own,
        '{"mine": "mine:Mine"}',
        mine="from dataclasses import dataclass\n"
        "from robustbench_lite.attacking.interface import Attack\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(Attack):\n    'Mine.'\n    access = 'scores'\n    steps: int\n",
    )
    assert rows("attacks")["mine"] == "- - - Mine."


def test_no_marks_of_the_source_are_left() -> None:
    assert "``" not in "\n".join(shown(width=500))


def test_all_is_the_kinds_one_after_the_other() -> None:
    together = [line for line in shown() if line.strip()]
    assert together == [line for kind in KINDS for line in shown(kind) if line.strip()]


def test_the_users_own_stand_first_and_are_taken_literally(own: Path) -> None:
    (own / "attacks" / "suites").mkdir(parents=True)
    (own / "attacks" / "suites" / "nightly.toml").write_text(
        'description = "All [bold]night[/bold] long."\nthreats = ["Linf 0.1"]\nattacks = ["fgsm"]\n'
    )
    (own / "attacks" / "suites" / "bare.toml").write_text('threats = ["Linf 0.1"]\nattacks = ["fgsm"]\n')
    told = rows("suites")
    assert list(told)[:2] == ["bare", "nightly"]
    assert told["nightly"] == "All [bold]night[/bold] long."
    assert told["bare"] == ""


def test_an_own_defense_without_a_docstring_is_listed(own: Path) -> None:
    (own / "defenses").mkdir()
    (own / "defenses" / "__init__.py").write_text('CATALOGUE = {"hope": "hope:hope"}\n')
    (own / "defenses" / "hope.py").write_text("def hope(): ...\n")
    assert rows("defenses")["hope"] == ""


def test_a_name_that_is_taken_over_is_listed_once(own: Path) -> None:
    (own / "attacks" / "suites").mkdir(parents=True)
    (own / "attacks" / "suites" / "linf_quick.toml").write_text('description = "Mine."\n')
    assert rows("suites")["linf_quick"] == "Mine. (yours, in place of the built-in one)"
    assert sum(line.startswith("linf_quick") for line in shown("suites")) == 1


def own_attacks(folder: Path, table: str, **files: str) -> None:
    (folder / "attacks").mkdir()
    (folder / "attacks" / "__init__.py").write_text(f"CATALOGUE = {table}\n")
    for name, text in files.items():
        (folder / "attacks" / f"{name}.py").write_text(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "attacks/mine.py: No such file"),
        ("class Mine(:\n", "SyntaxError"),
        ("Other = 1\n", "attacks/mine.py: there is no Mine in it"),
    ],
)
def test_an_entry_that_fails_is_told_in_its_row(own: Path, text: str | None, told: str) -> None:
    own_attacks(own, '{"mine": "mine:Mine"}', **({} if text is None else {"mine": text}))
    shown_rows = rows("attacks")
    assert shown_rows["mine"].startswith("can't be loaded: ")
    assert told in shown_rows["mine"]
    assert shown_rows["pgd"].startswith("Linf, L2 ")
    assert max(map(len, shown("attacks"))) <= 80


def test_a_table_that_fails_does_not_hide_the_built_in_ones(own: Path) -> None:
    own_attacks(own, "dict(mine=1)")
    told = rows("attacks")
    assert told["attacks/"].startswith("can't be loaded: ")
    assert "CATALOGUE must be a literal table" in told["attacks/"]
    assert told["pgd"].startswith("Linf, L2 ")


def test_a_file_that_is_no_toml_is_told_in_its_row(own: Path) -> None:
    (own / "defenses" / "recipes").mkdir(parents=True)
    (own / "defenses" / "recipes" / "bad.toml").write_text("defense = [")
    told = rows("recipes")
    assert told["bad"].startswith("can't be loaded: ")
    assert told["pgd_training"].startswith("Adversarial training")


def test_lines_end_without_blanks() -> None:
    assert all(line == line.rstrip() for line in shown())


def test_where_an_attack_is_not_its_paper_s_the_listing_says_so() -> None:
    told = rows("attacks")
    for name in ("apgd", "carlini_wagner", "ddn", "ead", "fab", "fmn", "sigma_zero"):
        assert "The own algorithm of the paper:" in told[name]
        assert "Other than in the paper" not in told[name]
    assert "paper:" not in told["pgd"]
