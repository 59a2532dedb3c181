"""Names come from anywhere: in no report are they markup or commands, and no file is made of them elsewhere."""

from __future__ import annotations

import html.parser
import io
import json
import re
import tomllib
import unicodedata

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import load_suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating import cache, corpus
from robustbench_lite.faces.cli import main
from robustbench_lite.faces.cli.tables import cache as cache_table
from robustbench_lite.results import baseline
from robustbench_lite.results.scorecard import Finding, Skipped

PIECES = [
    "<script>alert(1)</script>",
    "</script>",
    "</title></style>",
    "<img src=x onerror=alert(1)>",
    "\" onload='x",
    "<!--",
    "-->",
    "]]>",
    "&lt;b&gt;",
    "{{ 7*7 }}",
    "{% raw %}",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r\n",
    "\n",
    "\x00",
    "\x08",
    "\x7f",
    "\x85",
    "\u2028",
    "\u202e",
    "\u2066",
    "\u200b",
    "\ufeff",
    "[bold]",
    "[/]",
    "[link=http://x]",
    "|",
    "\\|",
    "`",
    "```",
    "*_~#",
    "@everyone",
    "![i](http://x)",
    "::error::",
    "%0A",
    "../",
    "/etc/passwd",
    "é漢😀",
    "a",
    " ",
]
names = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
some_cases = settings(
    deadline=None,
    max_examples=12,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Page(html.parser.HTMLParser):
    """Elements and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = set(), set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_comment(self, data):
        self.tags.add("!--")

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def named(make_card):
    """Makes a card in which everything that has a name bears this one."""

    def make(name):
        finding = Finding(code=name, severity="error", message=name, cure=name, attack=name, threat=name)
        card = make_card(
            "seed",
            samples=6,
            breaks={name: 0.5},
            classes=[name, f"{name}1"],
            gallery=1,
            validity=(finding,),
            verdict="INVALID",
            version=name,
            created=name,
            interrupted=name,
            skipped=(Skipped(attack=name, threat=name, reason=name),),
        )
        attack = card.attacks[0].model_copy(update={"params": {name: name}, "fault": name, "finished": False})
        packages = {"python": name, "platform": name, "processor": name, "packages": {name: name}}
        return card.model_copy(
            update={
                "target": card.target.model_copy(update={"name": name, "device": name, "weights_sha256": name}),
                "data": card.data.model_copy(update={"name": name, "sha256": name}),
                "suite": card.suite.model_copy(update={"name": name, "description": name}),
                "environment": card.environment.model_copy(update=packages),
                "gates": (card.gates[0].model_copy(update={"name": name, "passed": False}),),
                "attacks": (attack,),
            }
        )

    return make


@pytest.fixture
def harmless(named):
    """What a page of the same cards with a harmless name is made of."""
    return Page(shown("html", [named("plain"), named("plain")], "plain"))


def steering(text):
    """Characters in a text, other than line feeds, that steer what shows it."""
    kinds = {"Cc", "Cf", "Zl", "Zp", "Cs"}
    return {one for one in text if unicodedata.category(one) in kinds and one not in "\n\u200b"}


def shown(form, cards, name):
    found = registry.find("reports", form)(cards, title=name, story=[name])
    if isinstance(found, str):
        return found
    stream = io.StringIO()
    Console(file=stream, width=80).print(found)
    return stream.getvalue()


@given(name=names)
@some_cases
def test_a_page_has_no_element_and_no_attribute_more(named, harmless, name):
    card = named(name)
    text = shown("html", [card, card], name)
    page = Page(text)
    assert page.tags <= harmless.tags
    assert page.attributes <= harmless.attributes
    assert not steering(text)


@pytest.mark.parametrize("form", ["terminal", "markdown", "github", "annotations", "sarif", "csv"])
@given(name=names)
@some_cases
def test_no_report_has_characters_that_steer(named, form, name):
    card = named(name)
    for cards in ([card], [card, card]):
        assert not steering(shown(form, cards, name))


@pytest.mark.parametrize("form", ["markdown", "github"])
@given(name=names)
@some_cases
def test_markdown_keeps_its_tables_and_has_no_markup_of_a_name(named, form, name):
    text = shown(form, [named(name)], name)
    assert set(re.findall(r"<(\w+)", text)) <= {"details", "summary"}
    assert not re.search(r"(?<!\\)!\[|@(?!&#8203;)\w|\]\(http", text.replace("\\]", ""))
    width = None
    for line in text.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))
        assert width in (None, cells)
        width = cells


@given(name=names)
@some_cases
def test_annotations_are_commands_of_ours_alone(named, name):
    lines = shown("annotations", [named(name)], name).split("\n")
    assert lines.pop() == ""
    assert all(re.match(r"::(error|warning|notice) title=[^:,]*::", line) for line in lines)


@given(name=names)
@some_cases
def test_sarif_stays_json_with_a_rule_for_each_result(named, name):
    [run] = json.loads(shown("sarif", [named(name)], name))["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])


@given(name=names)
@some_cases
def test_the_suite_of_a_page_is_toml_again(named, name):
    from robustbench_lite.reports._repeat import suite_toml

    suite = named(name).suite
    read = tomllib.loads(suite_toml(suite))
    assert read["name"] == name
    assert read["attacks"][0]["attack"] == name


# --- files that are made of names


def files(folder):
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


@given(name=names)
@some_cases
def test_a_baseline_stays_in_its_folder_or_is_refused(tmp_path_factory, make_card, name):
    here = tmp_path_factory.mktemp("baseline")
    try:
        path = baseline.save(make_card(samples=4), here / "in" / "kept", name)
    except UserError:
        assert files(here) == []
    else:
        assert files(here) == [f"in/kept/{path.name}"]


@given(attack=names, threat=names)
@some_cases
def test_a_journal_stays_in_its_slot_which_stays_in_its_cache(tmp_path, attack, threat):
    folder = tmp_path / "in" / "cache"
    with cache.slot(folder, {"target": attack, "suite": {"name": threat, "threats": []}, "data": attack}) as slot:
        assert slot.folder.parent == folder
        path = slot.journal(attack, threat)._path
    assert path.parent == slot.folder
    assert re.fullmatch(r"[a-z0-9-]+\.jsonl", path.name)
    assert [one.name for one in tmp_path.iterdir()] == ["in"]
    stream = io.StringIO()
    Console(file=stream, width=80).print(cache_table.table(cache.kept(folder)))
    assert not steering(stream.getvalue())


@pytest.mark.parametrize("goal", ["", " targeted random", " targeted next"])
def test_a_corpus_is_named_by_norm_goal_and_shape_alone(tmp_path, goal):
    corpus.keep(tmp_path / "in", ThreatModel.parse(f"L2 1/2{goal}"), {1: np.zeros((1, 2, 2), np.float32)})
    made = f"in/l2-{'targeted' if goal else 'untargeted'}-1x2x2.npz"
    assert set(files(tmp_path)) - {"in/.lock"} == {"in/.gitignore", made}


@pytest.mark.parametrize("name", ["../../suite", "/etc/passwd", "..", "a/../../b", "\x00", "a\n", "<b>", "*", "**/*"])
def test_a_name_of_a_suite_leads_to_no_file_elsewhere(tmp_path, monkeypatch, name):
    (tmp_path / "suite.toml").write_text('threats = ["Linf 0.1"]\nattacks = ["fgsm"]\n')
    (tmp_path / "repo" / "attacks" / "suites").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repo")
    with pytest.raises(UserError, match="unknown suite"):
        load_suite(name)


@pytest.mark.parametrize("name", ["../../x", "<script>", "\x1b[2J", "a\nb", "[bold]x[/]", "|"])
def test_a_page_of_the_command_line_is_written_where_it_was_asked_for(tmp_path, named, name):
    named(name).save(tmp_path / "in" / "card.json")
    out = tmp_path / "in" / "page.html"
    seen = CliRunner().invoke(
        main, ["report", str(tmp_path / "in" / "card.json"), "--format", "html", "--out", str(out)]
    )
    assert seen.exit_code == 0, seen.output
    assert files(tmp_path) == ["in/card.json", "in/page.html"]
    seen = CliRunner().invoke(main, ["report", str(tmp_path / "in" / "card.json")], color=True)
    assert seen.exit_code == 0, seen.output
    assert not steering(seen.output)


@pytest.mark.parametrize("name", ["..\\x", "a b", "<b>", "a\nb", "[bold]", "-x"])
def test_init_lays_its_files_in_the_folder_it_was_given(tmp_path, name):
    from robustbench_lite.faces.cli.init import lay

    laid = lay(tmp_path / name)
    assert len(laid) > 5
    assert files(tmp_path) == sorted(f"{name}/{one.path}" for one in laid)
