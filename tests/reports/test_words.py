"""What a page says in sentences: threat models, what numbers and gates come to, how to run it again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.reports import _again, _codes, _words
from robustbench_lite.results.scorecard import Finding, Interval, Measured

FINDINGS = Path(__file__).parents[2] / "docs" / "findings.md"

RENEW = (
    'python -c "from pathlib import Path; from robustbench_lite.reports._codes import FILE, from_table; '
    "FILE.write_text(from_table(Path('docs/findings.md').read_text('utf-8')), 'utf-8')\""
)


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        ("Linf 8/255", "may change every pixel value by at most 8/255 of its range; any wrong class will do"),
        ("L2 0.5", "may move the input by at most 0.5 in Euclidean distance, values in [0, 1]; any"),
        ("L1 12", "may change values in [0, 1] by at most 12 in all"),
        ("L0 24", "may replace at most 24 of the 64 values of the input"),
        ("Spatial 30", "may rotate the image by at most 30° and shift it"),
        ("Corruption 3", "is nature: common corruptions, such as noise and blur, up to severity 3 of 5"),
        ("L2 1 targeted next", "must be taken for one wrong class, the next one by number"),
    ],
)
def test_a_threat_model_in_words(make_card, threat, words):
    assert words in _words.threat_words(ThreatModel.parse(threat), make_card(samples=2).data)


def test_what_is_no_image_has_no_pixels(make_card):
    data = make_card(samples=2).data.model_copy(update={"shape": (12,)})
    assert "change every value by" in _words.threat_words(ThreatModel.parse("Linf 0.1"), data)


def test_the_numbers_in_a_sentence(make_card):
    shares = {"clean_accuracy": Interval.of(180, 200), "robust_accuracy": Interval.of(90, 200)}
    card = make_card(**shares)
    told = "Of 200 samples the model gets 180 right; the attacks break 50.0% of these, and 90 withstand them all."
    assert _words.meaning(card) == told
    assert "at most 90 of them" in _words.meaning(make_card(**shares, interrupted="seconds"))
    assert "can't be trusted" in _words.meaning(make_card(**shares, verdict="INVALID"))
    assert "No sample" in _words.meaning(make_card(samples=0, attacks=()))


def test_what_the_gates_decided(make_card, make_gate):
    met, failed = make_gate("min_clean_accuracy", 0.5, 0.9), make_gate("max_drop", 0.2, 0.4, passed=False)
    open_ = make_gate("min_robust_accuracy", 0.5, 0.51, decided=False)

    def ruling(*gates):
        return _words.ruling(make_card(gates=gates))

    assert ruling() == "No gate was set: nothing was demanded of the model."
    assert ruling(met) == "The gate is met."
    assert ruling(met, met, met) == "All 3 gates are met."
    assert ruling(failed) == "The gate is missed."
    assert ruling(met, open_, failed) == "1 of 3 gates is missed."
    assert ruling(met, open_) == "Too few samples to tell. 1 of 2 gates is undecided."
    assert _words.gates_first(make_card(gates=(met, open_, failed))) == [failed, open_, met]


def test_the_command_that_repeats_a_run(make_card, make_gate):
    gates = (
        make_gate("min_robust_accuracy", 0.3, 0.5),
        make_gate("max_latency", 5.0, 3.0).model_copy(update={"unit": "ms"}),
        make_gate("max_regression", 0.1, 0.0),
    )
    size = Measured(name="parameters", value=3, unit="parameters", better="lower", definition="d")
    card = make_card(gates=gates, measures=(size,), seed=7)
    data = card.data.model_copy(update={"name": "npz:my data.npz/test", "limit": 100})
    words = shlex.split(_again.command(card.model_copy(update={"data": data})).replace("\\\n", " "))
    assert words[:7] == ["rblite", "evaluate", "MODEL", "--data", "npz:my data.npz", "--suite", "suite.toml"]
    assert words[7:] == [
        *("--seed", "7", "--batch-size", "128", "--limit", "100"),
        *("--min-robust-accuracy", "0.3", "--gate", "latency <= 5.0", "--measure", "parameters"),
    ]
    compile(_again.python(card), "again", "exec")


def test_a_hostile_name_of_data_is_one_word_of_the_command(make_card):
    card = make_card(samples=2)
    data = card.data.model_copy(update={"name": "$(rm -r .); `x`\n'\""})
    words = shlex.split(_again.command(card.model_copy(update={"data": data})).replace("\\\n", " "))
    assert words[4] == "$(rm -r .); `x` '\""


def test_every_code_is_explained_as_in_the_table_of_findings():
    told = _codes.from_table(FINDINGS.read_text("utf-8"))
    assert told.count("\n") > 50
    assert _codes.FILE.read_text("utf-8") == told, f"write it anew: {RENEW}"


def test_only_known_codes_are_explained(make_card):
    findings = [Finding(code=code, severity="info", message="m", cure="c") for code in ("RB202", "MINE", "RB202")]
    [(code, text)] = _codes.explained([make_card(validity=tuple(findings))])
    assert code == "RB202"
    assert text.startswith("Adversarial examples were not")
    assert _codes.code_anchor("RB202") == "code-RB202"
    assert _codes.code_anchor("<MINE>") == "codes"
