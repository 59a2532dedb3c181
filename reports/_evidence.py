"""What the formats for other tools share: the tags of a card, its numbers by slice, and what they are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from robustbench_lite.results.attestation import NOTICE as NOTICE
from robustbench_lite.results.scorecard import Interval, Scorecard

from ._format import plain
from ._words import threat_words


class Share(NamedTuple):
    """An accuracy of a card, with what it is about."""

    name: str
    """``clean accuracy`` or ``robust accuracy``."""
    accuracy: Interval
    slice: str = ""
    """Threat model or class; empty where it is about all."""


def tags(card: Scorecard) -> list[str]:
    """What its attacks are in the words of MITRE ATLAS and NIST AI 100-2."""
    return [plain(tag) for tag in dict.fromkeys(tag for one in card.attacks for tag in one.tags)]


def shares(card: Scorecard) -> Iterator[Share]:
    """The accuracies: clean, robust under all threat models together and under each, and of each class."""
    yield Share("clean accuracy", card.clean_accuracy)
    yield Share("robust accuracy", card.robust_accuracy)
    for one in card.threats:
        yield Share("robust accuracy", one.robust_accuracy, plain(str(one.threat)))
    for kind in card.by_class():
        name = f"class {plain(kind.name)}"
        yield Share("clean accuracy", kind.clean_accuracy, name)
        yield Share("robust accuracy", kind.robust_accuracy, name)


def reservations(card: Scorecard) -> list[str]:
    """What to know before the numbers are used: what they are not, the adversary, the verdict and its reasons."""
    found = [NOTICE, *(threat_words(one.threat, card.data) for one in card.threats)]
    if card.verdict == "INVALID":
        found.append("The verdict is INVALID: a check of the evaluation itself failed, and no number can be trusted.")
    if card.interrupted:
        found.append("The run stopped early: robust accuracy is at most what is told.")
    for finding in card.validity:
        if finding.severity != "info":
            where = f"{finding.where}: " if finding.where else ""
            found.append(plain(f"{finding.code}: {where}{finding.message}"))
    return list(dict.fromkeys(found))


def digits(value: float) -> str:
    """A number as text, with the digits that it has: ``0.876``."""
    return f"{value:.6g}"


def is_moment(created: str) -> bool:
    """Whether a card tells when it was made in the form that others read: date, time and offset."""
    try:
        return datetime.fromisoformat(created).tzinfo is not None and "T" in created
    except ValueError:
        return False


def unlike(names: Sequence[str]) -> list[str]:
    """Names as identifiers: text without blanks, each with its place."""
    return [f"{place}-{'-'.join(plain(name).split())}" for place, name in enumerate(names, 1)]
