"""The Markdown report: tables that hold together whatever the names, and nothing that GitHub acts on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustbench_lite.core.cost import Passes
from robustbench_lite.reports import markdown
from robustbench_lite.results.scorecard import Audit, Denied, Finding, Plot

GOLDEN = Path(__file__).parents[1] / "golden" / "card.md"


def tables(text):
    """Rows of each table, split at the pipes that GitHub splits at."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            found.append(rows)
            rows = []
    return found


def test_says_what_the_card_says(make_card, make_gate):
    gates = (make_gate("max_drop", 0.1, 0.4, passed=False), make_gate("min_clean_accuracy", 0.9, 0.91, decided=False))
    card = make_card(verdict="FAIL", gates=gates)
    accuracies, attacks, demands = tables(markdown.render([card]))
    assert accuracies[2][1] == f"**{card.clean_accuracy.value:.1%}**"
    assert accuracies[3][:2] == ["Robust, Linf 0.3", f"**{card.robust_accuracy.value:.1%}**"]
    assert [row[1:4] for row in attacks[2:]] == [
        [result.name.replace("_", r"\_"), f"{result.attempted}", f"{result.broken}"] for result in card.attacks
    ]
    assert demands[2:] == [
        ["drop at most 10.0%", "40.0% [38.0, 42.0]", "failed"],
        ["clean accuracy at least 90.0%", "91.0% [89.0, 93.0]", "undecided"],
    ]


def test_accuracy_against_eps_is_a_small_table(make_card):
    card = make_card(threats=["L2 0.5", "Linf 8/255"], curve=True)
    text = markdown.render([card])
    _, table, _, _ = tables(text)
    assert table[0] == ["Threat model", "eps", "Robust", "95% interval"]
    assert {row[0] for row in table[2:]} == {"L2", "Linf"}
    for threat, accuracy in ((row.threat, row.robust_accuracy) for row in card.threats):
        row = next(row for row in table if row[:2] == [threat.norm, threat.eps_text])
        assert row[2] == f"**{accuracy.value:.1%}**"
    assert (
        f"L2: Half of the samples that are right when clean are broken within {card.curve('L2 1').median:.3g}" in text
    )
    assert "against eps" not in markdown.render([make_card()])


@pytest.mark.parametrize("hostile", ["a|b", "a\nb|c", "a\\|b", "<script>x</script>", "`a|b`", "\u2028|\x1b"])
def test_hostile_names_break_no_table(make_card, hostile):
    text = markdown.render([make_card(hostile, breaks={hostile: 0.3}), make_card("b", breaks={hostile: 0.1})])
    for table in tables(text):
        assert len({len(row) for row in table}) == 1
    assert "<" not in text
    assert not {"\x1b", "\u2028"} & set(text)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("@team", "@&#8203;team"),
        ("a_b*c", r"a\_b\*c"),
        ("[x](y)", r"\[x\](y)"),
        ("# head", r"\# head"),
        ("- item", r"\- item"),
        ("12. item", r"12\. item"),
        ("a & b", "a &amp; b"),
        ("2.5", "2.5"),
    ],
)
def test_escape(given, shown):
    assert markdown.escape(given) == shown


def test_the_audit_and_the_checks_are_a_line_each_and_a_plot_is_none(make_card):
    plot = Plot(x="distance", y="margin", points=((0.0, 1.0), (1.0, 2.0)))
    finding = Finding(code="RB223", severity="error", message="up and down", cure="c", plot=plot)
    hostile = Denied(index=3, attack="*pgd*", threat="Linf 0.3", reason="<b>no</b>")
    audit = Audit(asked=20, confirmed=19, precise=True, images=19, rounded=18, denied=(hostile,))
    checks, passes = Passes(forward=90), Passes(forward=1000)
    text = markdown.render([make_card(validity=(finding,), audit=audit, checks=checks, passes=passes)])
    assert "Witnesses: 20 asked again in another batch, in float64: 19 confirmed; 18 of 19 stay adversarial" in text
    assert r"; denied, &lt;b&gt;no&lt;/b&gt;: \*pgd\* under Linf 0.3, sample 3" in text
    assert "\nChecks: 90 passes, 9.0% of all\n" in text
    assert "distance" not in text.partition("### Findings")[2]
    assert "Checks:" not in markdown.render([make_card()])


def test_code_spans_can_not_be_left(make_card):
    finding = Finding(code="RB`<b>", severity="warning", message="m", cure="c")
    assert "`RBb` m" in markdown.render([make_card(validity=(finding,))])


def test_an_interrupted_run_is_an_upper_bound(make_card):
    text = markdown.render([make_card(interrupted="seconds")])
    assert "**≤ " in text
    assert "only an upper bound" in text


def test_two_cards_are_paired_and_unlike_ones_told(make_card):
    text = markdown.render([make_card("a"), make_card("b", threats=["L2 1"])], title="Both", story=["One.", "Two."])
    assert text.startswith("## Both\n\nOne.\n\nTwo.\n")
    assert "> - Threat models differ: Linf 0.3 in the first, L2 1 in the second." in text
    assert [row[0] for row in tables(text)[-1]] == ["Accuracy", "---", "Clean", "Robust"]


def test_cards_without_a_common_sample(make_card):
    assert "no sample in common" in markdown.render([make_card(samples=5), make_card(samples=5, first=5)])


def test_a_summary_is_the_golden_one(make_card, make_gate):
    gates = (make_gate("max_drop", 0.1, 0.4, passed=False), make_gate("min_clean_accuracy", 0.9, 0.91, decided=False))
    card = make_card(verdict="FAIL", gates=gates, threats=["L2 0.5", "Linf 8/255"], samples=50)
    told = markdown.render([card], title="Both norms", story=["Once."])
    assert told == GOLDEN.read_text(encoding="utf-8"), f"where this is meant, write the new text to {GOLDEN.name}"
