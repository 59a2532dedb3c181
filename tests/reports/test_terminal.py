"""The terminal report: at 80 columns, without colour, without Unicode, and with hostile names."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from robustbench_lite.core.cost import Passes
from robustbench_lite.reports import terminal
from robustbench_lite.results.scorecard import Audit, Denied, Finding, Plot

FINDING = Finding(code="RB201", severity="error", message="the gradient is zero", cure="attack without gradients")
PLOT = Plot(
    x="distance along the gradient (Linf)", y="margin", points=((0.0, -2.0), (0.2, 5.0), (0.1, -1.0), (0.3, 1.5))
)


def show(cards, *, width=80, encoding="utf-8", **options):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    Console(file=stream, width=width, color_system=None, legacy_windows=False).print(terminal.render(cards, **options))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("threats", [["Linf 0.3"], ["Linf 8/255", "L2 0.5"]])
def test_fits_80_columns_one_line_an_attack(make_card, threats):
    card = make_card(breaks={"pgd": 0.3, "foolbox:L2DeepFoolAttack": 0.1}, threats=threats, samples=1000)
    lines = show([card]).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.startswith("foolbox:L2DeepFoolAttack ")]
    assert len(rows) == len(threats)  # the name isn't folded
    assert [row[1:3] for row in rows] == [
        [f"{result.attempted}", f"{result.broken}"] for result in card.attacks if result.name.startswith("foolbox")
    ]


def test_the_verdict_comes_first_with_its_reason(make_card, make_gate):
    gate = make_gate("min_robust_accuracy", 0.3, 0.1, passed=False)
    lines = show([make_card(verdict="FAIL", gates=(gate,))], title="A title").splitlines()
    assert lines[0].rstrip() == "A title"
    assert lines[2].startswith(" FAIL       Robust accuracy ")
    assert "Demanded robust accuracy at least 30.0%, found 10.0% [8.0, 12.0]." in lines[3]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_accuracy_against_eps_is_a_line_each_with_its_interval(make_card, encoding):
    card = make_card(threats=["L2 0.5", "Linf 8/255 targeted next"], samples=1000, curve=True)
    lines = [line.rstrip() for line in show([card], encoding=encoding).splitlines()]
    assert max(map(len, lines)) <= 80
    start = lines.index("Robust accuracy against eps, L2")
    second = lines.index("Robust accuracy against eps, Linf targeted next")
    rows = [line.split() for line in lines[start + 1 : second] if line.startswith("  ")]
    assert 5 <= len(rows) <= 12
    assert rows[0][0] == "0"
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=float)
    asked = next(row for row in rows if row[0] == "0.5")
    accuracy = card.threats[0].robust_accuracy
    assert asked[2:] == [f"{accuracy.value:.1%}", f"[{100 * accuracy.low:.1f},", f"{100 * accuracy.high:.1f}]"]
    shares = [float(row[2].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert f"are broken within {card.curve().median:.3g}." in " ".join(lines)
    assert any(line.startswith("  8/255 ") for line in lines[second:])


def test_several_eps_of_one_norm_are_points_of_a_curve(make_card):
    text = show([make_card(threats=["Linf 8/255", "L2 1", "Linf 4/255"])])
    block = text[text.index("against eps, Linf") :].splitlines()[1:4]
    assert [line.split()[0] for line in block] == ["0", "4/255", "8/255"]
    assert "Between these eps nothing was attacked" in text
    assert "against eps, L2" not in text
    assert "against eps" not in show([make_card()])


def test_findings_tell_the_cure_and_make_the_verdict_s_reason(make_card):
    text = show([make_card(verdict="INVALID", validity=(FINDING,))])
    assert "RB201: the gradient is zero" in text
    assert "→ attack without gradients" in text


def test_a_finding_with_a_plot_has_it_as_a_line_of_blocks(make_card):
    drawn = FINDING.model_copy(update={"plot": PLOT})
    card = make_card(verdict="INVALID", validity=(drawn,))
    lines = [line.strip() for line in show([card]).splitlines()]
    at = lines.index("margin ▁▂█▅ against distance along the gradient (Linf)")
    assert lines[at - 1] == "→ attack without gradients"
    assert lines[2].startswith("INVALID")
    assert lines[3] == "RB201: the gradient is zero"
    assert "margin _.#= against distance along the gradient (Linf)" in show([card], encoding="ascii")
    assert "against" not in show([make_card(verdict="INVALID", validity=(FINDING,))])


@pytest.mark.parametrize(
    ("points", "blocks"),
    [
        ([(0.0, 3.0), (1.0, 3.0)], "▁▁"),
        ([(0.0, 0.0), (1.0, float("nan")), (2.0, 7.0), (3.0, float("inf"))], "▁█"),
        ([(-1e308, 0.0), (0.0, 1e308), (1.0, -1e308), (2.0, 1e299), (3.0, -1e299)], "█▁"),
        ([(float(place), float(place % 2)) for place in range(500)], None),
    ],
    ids=["flat", "no numbers", "too large", "many"],
)
def test_any_plot_is_a_line(make_card, points, blocks):
    plot = Plot(x="x", y="y", points=tuple(points))
    text = show([make_card(validity=(FINDING.model_copy(update={"plot": plot}),))])
    row = next(line.strip() for line in text.splitlines() if line.strip().endswith("against x"))
    assert len(row) <= 50
    assert blocks is None or row == f"y {blocks} against x"


@pytest.mark.parametrize("points", [(), ((float("nan"), 1.0), (1.0, float("inf")))], ids=["none", "no numbers"])
def test_a_plot_of_nothing_is_none(make_card, points):
    drawn = FINDING.model_copy(update={"plot": Plot(x="x", y="y", points=points)})
    assert show([make_card(validity=(drawn,))]) == show([make_card(validity=(FINDING,))])


@pytest.mark.parametrize(
    ("attack", "threat", "place"),
    [
        ("pgd", "Linf 0.3", "in pgd under Linf 0.3: "),
        (None, "Linf 0.3", "under Linf 0.3: "),
        (None, None, "RB201 error: "),
    ],
)
def test_a_finding_says_what_it_is_about(make_card, attack, threat, place):
    finding = FINDING.model_copy(update={"attack": attack, "threat": threat})
    row = next(line for line in show([make_card(validity=(finding,))]).splitlines() if line.startswith("RB201"))
    assert place in row
    assert "in Linf" not in row


def test_the_audit_and_what_the_checks_cost_are_told(make_card):
    denied = [
        Denied(index=place, attack="pgd", threat="Linf 0.3", reason="not adversarial in float64") for place in (4, 9)
    ]
    audit = Audit(asked=1256, confirmed=1254, precise=True, images=250, rounded=1, denied=tuple(denied))
    card = make_card(
        audit=audit, checks=Passes(forward=3000, backward=405), passes=Passes(forward=20000, backward=18000)
    )
    text = show([card])
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    asked = "witnesses 1,256 asked again in another batch, in float64: 1,254 confirmed; 1 of 250 stays adversarial"
    assert f"{asked} as 8-bit images denied, not adversarial in float64: pgd under Linf 0.3, samples 4, 9 " in words
    assert "checks 3,405 passes, 9.0% of all" in words
    assert "float64" not in show(
        [card.model_copy(update={"audit": Audit(asked=9, confirmed=9, precise=False, images=9, rounded=9)})]
    )


def test_a_card_of_before_the_audit_looks_as_it_did(make_card):
    text = show([make_card()])
    assert "witnesses" not in text
    assert "checks" not in text
    gate, blank, cost = (line.split() for line in text.splitlines()[-3:])
    assert gate[0] == "met"
    assert not blank
    assert cost[1] == "forward"


def test_an_interrupted_run_is_an_upper_bound(make_card):
    text = show([make_card(interrupted="seconds")])
    assert "Robust accuracy at most" in text
    assert "only an upper bound" in " ".join(text.split())
    assert "upper bound" not in show([make_card()])


def test_alone_is_a_dash_where_the_attack_did_not_see_all(make_card):
    card = make_card()
    rows = {line.split()[0]: line.split() for line in show([card]).splitlines() if line[:1].isalpha()}
    assert rows["pgd"][4] == f"{card.attacks[0].alone.value:.1%}"
    assert rows["square"][4] == "–"


def test_ascii_terminals_get_ascii_of_the_same_layout(make_card):
    cards = [make_card("größe 模型"), make_card("b")]
    for shown in (cards, cards[:1]):
        unicode, ascii_ = show(shown), show(shown, encoding="ascii")
        assert ascii_.isascii()
        assert len(ascii_.splitlines()) == len(unicode.splitlines())
    assert "gr??e ????" in ascii_  # a wide character is two


def test_names_are_neither_markup_nor_control_sequences(make_card):
    text = show([make_card("[red]evil[/red]\x1b[2J\r\nnext\u202e", breaks={"[bold]pgd[/]": 0.5})])
    assert "[red]evil[/red] [2J  next" in text
    assert "[bold]pgd[/]" in text
    assert not {"\x1b", "\r", "\u202e"} & set(text)


def test_story_is_shown(make_card):
    assert "Once [upon] a time." in show([make_card()], story=["Once [upon] a time."])


def test_two_cards_are_paired(make_card):
    text = show([make_card("before", breaks={"pgd": 0.9}), make_card("after", breaks={"pgd": 0.1})])
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.startswith("robust accuracy"))
    assert "points" in row
    assert row.rstrip().endswith("p < 0.001")


def test_unlike_cards_are_told_loudly(make_card):
    text = show([make_card(threats=["Linf 0.3"]), make_card(threats=["Linf 0.1"])])
    assert "Compare with care" in text
    assert "Threat models differ: Linf 0.3 in the first, Linf 0.1 in the second." in text
    assert "Compare with care" not in show([make_card(), make_card()])
    three = show([make_card("a"), make_card("b", seed=3), make_card("c", seed=3)])
    assert "a and each of b and c" in three
    assert three.count("Seeds differ: 0 in the first, 3 in the second.") == 1


@pytest.mark.parametrize(
    ("names", "heads"),
    [(("a (before)", "b (after)"), ["before", "after"]), (("a", "b (after)"), ["first", "second"])],
)
def test_only_cards_that_are_before_and_after_are_called_so(make_card, names, heads):
    text = show([make_card(names[0]), make_card(names[1], seed=3)])
    [row] = [line.split() for line in text.splitlines() if " common samples " in line]
    assert row[4:6] == heads
    assert ("Seeds differ: 0 before, 3 after." in text) == (heads[0] == "before")


def test_findings_of_a_comparison_are_told_in_full(make_card):
    message = " ".join(f"word{place}" for place in range(40))
    finding = Finding(code="RB201", severity="warning", attack="pgd", message=message, cure="none")
    text = show([make_card("a", validity=(finding,)), make_card("b")])
    assert f"RB201 warning in pgd: {message}" in " ".join(text.split())
    assert "…" not in text


def test_long_names_break_between_words(make_card):
    name = "an_attack_with_a_very_long-name.and:some_more_words"
    card = make_card("folder/of_models:with_a_long_name", breaks={name: 0.2}, threats=("Linf 0.3",))
    for cards in ([card], [card, make_card("other", breaks={name: 0.1})], [card] * 3):
        words = set(show(cards).split())
        assert max(map(len, show(cards).splitlines())) <= 80
        pieces = [one for one in words if one.startswith("an_attack")]
        assert pieces
        assert all(one == name or one[-1] in "_-.:" for one in pieces)


def test_cards_without_a_common_sample_are_still_shown(make_card):
    text = show([make_card(samples=5), make_card(samples=5, first=5)])
    assert "no sample in common" in " ".join(text.split())


@pytest.mark.parametrize("count", [3, 7])
def test_many_cards_fit(make_card, count):
    text = show([make_card(f"model_{place}", samples=20) for place in range(count)])
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"model_{place}" in text for place in range(count))


def test_a_card_of_nothing_is_shown(make_card):
    assert "0 samples" in show([make_card(samples=0, interrupted="interrupt", verdict="INVALID", attacks=())])
