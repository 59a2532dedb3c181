"""Scorecards as SARIF 2.1.0, for code scanning: findings and failed gates as results, each with its rule.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import robustbench_lite
from robustbench_lite.results.scorecard import Finding, Gate, Scorecard

from . import _evidence as evidence
from . import _format as fmt
from . import _view as view

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

MOST_RESULTS, MOST_TAGS = 25_000, 20
"""What GitHub takes of a run, and of a rule. It shows the 5,000 results that are the most severe."""

_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_SEVERITY = ("error", "warning", "note", "none")
_Json = dict[str, Any]

Place = tuple[str, int | None]
"""File of a user's repo, from its root, and the line in it, where it is known."""


def render(
    cards: Sequence[Scorecard],
    *,
    title: str | None = None,
    story: Sequence[str] = (),
    places: Sequence[Place | None] = (),
) -> str:
    """Write scorecards as a SARIF log with one run.

    A gate that is undecided is told as such (``kind`` ``open``), one that is met not at all. What makes a card INVALID
    is suppressed, with the reason, where the card says that it was let through (``RB901``). Results come in the order
    of the cards; where there are more than GitHub takes, the most severe are kept, and a notification tells the rest.
    Rules are tagged with the techniques of the attacks that they are about (`results.taxonomy`).

    Parameters
    ----------
    cards
        One or more scorecards.
    title
        Name of the run among others of its kind; by default none.
    story
        Paragraphs about the run.
    places
        Where each card's evaluation is written in the user's repo. GitHub shows no result without a place.

    Returns
    -------
    str
        JSON.
    """
    known = [*places, *[None] * (len(cards) - len(places))]
    results = [
        {**result, **_where(card, name, place)}
        for card, name, place in zip(cards, view.labels(cards), known, strict=True)
        for result in _results(card)
    ]
    results, left_out = _most_severe(results)
    rules = list({result["ruleId"]: _rule(result["ruleId"], cards) for result in results}.values())
    position = {rule["id"]: place for place, rule in enumerate(rules)}
    for result in results:
        result["ruleIndex"] = position[result["ruleId"]]
    run: _Json = {
        "tool": {
            "driver": {
                "name": "robustbench_lite",
                "version": robustbench_lite.__version__,
                "semanticVersion": robustbench_lite.__version__,
                "rules": rules,
            }
        },
        "invocations": [_invocation(cards, left_out)],
        "columnKind": "utf16CodeUnits",
        "results": results,
        "properties": {
            "scorecards": [_summary(card, name) for card, name in zip(cards, view.labels(cards), strict=True)]
        },
    }
    if title:
        run["automationDetails"] = {"id": f"{fmt.plain(title)}/"}
    if story:
        run["properties"]["story"] = [fmt.plain(paragraph) for paragraph in story]
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _most_severe(results: list[_Json]) -> tuple[list[_Json], int]:
    """The results that GitHub takes, in their order, and how many are left out."""
    kept = sorted(range(len(results)), key=lambda place: _SEVERITY.index(results[place]["level"]))[:MOST_RESULTS]
    return [results[place] for place in sorted(kept)], len(results) - len(kept)


def _invocation(cards: Sequence[Scorecard], left_out: int) -> _Json:
    found: _Json = {"executionSuccessful": not any(card.interrupted for card in cards)}
    if left_out:
        text = f"{left_out:,} results of the lowest severity are left out: GitHub takes {MOST_RESULTS:,} a run"
        found["toolExecutionNotifications"] = [{"level": "warning", "message": {"text": text}}]
    return found


def _results(card: Scorecard) -> Iterator[_Json]:
    for finding in card.validity:
        yield _finding(card, finding)
    for gate in card.gates:
        if not gate.passed:
            text = f"{fmt.gate_demand(gate)} demanded, found {fmt.gate_found(gate)}"
            yield _result(card, gate.name, text, level="error")
        elif not gate.decided:
            text = f"{fmt.gate_demand(gate)}, found {fmt.gate_found(gate)}: {gate.words}"
            yield _result(card, gate.name, text, kind="open")


def _finding(card: Scorecard, finding: Finding) -> _Json:
    where = f"{finding.where}: " if finding.where else ""
    text = f"{where}{finding.message}. Cure: {finding.cure}"
    if finding.severity == "info":
        return _result(card, finding.code, text, kind="informational", about=finding.where)
    result = _result(card, finding.code, text, level=_LEVELS[finding.severity], about=finding.where)
    reason = next((one.message for one in card.validity if one.code == "RB901"), None)
    if reason and finding.severity == "error":
        result["suppressions"] = [{"kind": "external", "justification": fmt.plain(reason)}]
    return result


def _result(card: Scorecard, rule: str, text: str, *, about: str = "", **how: str) -> _Json:
    # The same problem of the same target, however the numbers move from run to run.
    mark = hashlib.sha256(f"{card.target.name}\n{card.suite.name}\n{rule}\n{about}".encode()).hexdigest()
    # A kind other than "fail" has no level, says the standard.
    told = how if "level" in how else {**how, "level": "none"}
    return {
        "ruleId": fmt.plain(rule),
        **told,
        "message": {"text": fmt.plain(text)},
        "partialFingerprints": {"robustnessResult/v1": mark},
    }


def _where(card: Scorecard, name: str, place: Place | None) -> _Json:
    logical = {"name": fmt.plain(name), "fullyQualifiedName": f"{fmt.plain(card.suite.name)}::{fmt.plain(name)}"}
    location: _Json = {"logicalLocations": [logical]}
    if place is not None:
        path, line = place
        artifact = {"uri": _uri(path), "uriBaseId": "%SRCROOT%"}
        location["physicalLocation"] = {"artifactLocation": artifact, "region": {"startLine": line or 1}}
    return {"locations": [location]}


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path.replace("\\", "/"))


def _rule(name: str, cards: Sequence[Scorecard]) -> _Json:
    finding = next((one for card in cards for one in card.validity if fmt.plain(one.code) == name), None)
    if finding is not None:
        level, short, help_ = _LEVELS[finding.severity], f"Validity of the evaluation, {name}", finding.cure
    else:
        gate = next(one for card in cards for one in card.gates if fmt.plain(one.name) == name)
        level, short, help_ = "error", f"Gate: {_subject(gate)}", _advice(gate)
    rule: _Json = {
        "id": name,
        "name": "".join(part[:1].upper() + part[1:] for part in name.split("_")),
        "shortDescription": {"text": fmt.plain(short)},
        "help": {"text": fmt.plain(help_)},
        "defaultConfiguration": {"level": level},
    }
    if tags := _tags(name, cards):
        rule["properties"] = {"tags": tags}
    return rule


def _tags(rule: str, cards: Sequence[Scorecard]) -> list[str]:
    """Tags of the attacks that a finding is about; of all attacks for a finding about all, and for a gate."""
    findings = [one for card in cards for one in card.validity if fmt.plain(one.code) == rule]
    about = {(one.attack, one.threat) for one in findings if one.attack}
    attacks = [one for card in cards for one in card.attacks]
    meant = [one for one in attacks if (one.name, str(one.threat)) in about] or attacks
    return [fmt.plain(tag) for tag in dict.fromkeys(tag for one in meant for tag in one.tags)][:MOST_TAGS]


def _subject(gate: Gate) -> str:
    return gate.name.partition("_")[2].replace("_", " ") or gate.name


def _advice(gate: Gate) -> str:
    return (
        f"The gate {gate.name} is decided on a 95 % interval: it fails only where the whole interval is on the wrong "
        "side. Harden the model, or demand what it can hold."
    )


def _summary(card: Scorecard, name: str) -> _Json:
    return {
        "target": fmt.plain(name),
        "verdict": card.verdict,
        "cleanAccuracy": card.clean_accuracy.value,
        "robustAccuracy": card.robust_accuracy.value,
        "interval": [card.robust_accuracy.low, card.robust_accuracy.high],
        "passes": card.passes.total,
        "tags": evidence.tags(card),
    }
