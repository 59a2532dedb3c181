"""What a report says, before any format: the reasons of a verdict, the reservations, the lines of an overview."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.compare import (
    BEFORE_AFTER,
    FIRST_SECOND,
    Comparison,
    Sides,
    compare,
    differences,
    same_adversary,
)
from robustbench_lite.results.ranking import Ranking, rank
from robustbench_lite.results.scorecard import AttackResult, Audit, Gate, Interval, Plot, Scorecard

from ._format import count, gate_demand, gate_found, percent, plain, plural
from ._words import listed

RUNNING = "robust after: samples still right after this attack and those before it"
ALONE = "alone: samples this attack by itself leaves right; – where it didn't see all"
_NAMED = 8  # samples of those that the audit denied
_FAR = 1e300


@dataclass(frozen=True)
class Stage:
    """One line of an overview: a quantity, and its value in each scorecard."""

    label: str
    """Reads as a line under the heading of its threat model."""
    kind: Literal["clean", "attack", "worst", "certified"]
    threat: ThreatModel | None
    accuracy: tuple[Interval | None, ...]
    """One a scorecard; None where the scorecard has no such line."""


def stages(cards: Sequence[Scorecard]) -> list[Stage]:
    """Lines from clean accuracy down to the worst case, over the threat models and attacks of all the scorecards."""
    threats = _threats(cards)
    lines = [Stage("Clean", "clean", None, tuple(card.clean_accuracy for card in cards))]
    for threat in threats:
        lines += _attack_stages(cards, threat)
        lines.append(Stage("Worst case", "worst", threat, _worst(cards, threat)))
    if len(threats) > 1:
        overall = tuple(card.robust_accuracy for card in cards)
        lines.append(Stage("Worst case over all its threats", "worst", None, overall))
    certified = tuple(card.certified_accuracy for card in cards)
    if any(certified):
        lines.append(Stage("Certified", "certified", None, certified))
    return lines


def results_by_threat(card: Scorecard) -> list[tuple[ThreatModel, Interval, list[AttackResult]]]:
    """Each threat model with its worst case and its attacks, in the order they ran."""
    return [
        (
            row.threat,
            row.robust_accuracy,
            [result for result in card.attacks if same_adversary(result.threat, row.threat)],
        )
        for row in card.threats
    ]


def labels(cards: Sequence[Scorecard]) -> list[str]:
    """What each scorecard is called: its target's name.

    Where several share one, the weights or the folders that their commands name tell them apart, else a number does.
    """
    names = [plain(card.target.name).strip() or "unnamed" for card in cards]
    for name, several in Counter(names).items():
        if several > 1:
            alike = [place for place, one in enumerate(names) if one == name]
            made_of = _told_apart([_made_of(cards[place]) for place in alike])
            for number, place in enumerate(alike, 1):
                names[place] = f"{name} ({made_of[number - 1] if made_of else number})"
    return names


def _made_of(card: Scorecard) -> tuple[str, ...]:
    """Where the command of a card finds the weights: parts of the path of their file, or of the model."""
    words = card.command
    if words[:2] != ("rblite", "evaluate"):
        return ()
    named = [value for word, value in pairwise(words) if word == "--weights"] or words[2:3]
    return tuple(part for part in plain(named[-1]).split("/") if part.strip()) if named else ()


def _told_apart(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The shortest ends of paths that are all different; nothing where they aren't."""
    for parts in range(1, 1 + max(map(len, paths))):
        ends = ["/".join(path[-parts:]) for path in paths]
        if all(ends) and len(set(ends)) == len(ends):
            return ends
    return []


def heading(cards: Sequence[Scorecard], title: str | None) -> str:
    """Title of a report: the one given, or one made of the targets' names."""
    return plain(title or "").strip() or f"Adversarial robustness of {_and(labels(cards))}"


def reasons(card: Scorecard) -> list[str]:
    """Why the verdict is what it is, a sentence each."""
    if card.verdict == "INVALID":
        return _invalid(card) or ["The evaluation can't be trusted."]
    if not card.gates:
        return ["No gate was set: nothing was demanded of the model."]
    failed = [gate for gate in card.gates if gate.decided and not gate.passed]
    undecided = [gate for gate in card.gates if not gate.decided]
    met = [gate for gate in card.gates if gate.decided and gate.passed]
    return [
        *(f"Demanded {gate_demand(gate)}, found {gate_found(gate)}." for gate in failed),
        *(_undecided(gate) for gate in undecided),
        *_met(len(met), len(card.gates)),
    ]


def reservations(card: Scorecard) -> list[str]:
    """What a reader must know before believing the numbers, a sentence each."""
    checks = (_black_box, _adapted, _stopped, _settled, _unconfirmed)
    return [sentence for check in checks for sentence in check(card)]


def checked(card: Scorecard) -> list[tuple[str, list[str]]]:
    """What was checked beside the attacks, and sentences on it; nothing on a card of before it was told."""
    found: list[tuple[str, list[str]]] = []
    if card.audit is not None:
        found.append(("witnesses", [_audited(card.audit), *_denied(card.audit)]))
    if card.checks is not None:
        all_of_it = card.passes.total
        share = f", {percent(card.checks.total / all_of_it)} of all" if all_of_it else ""
        found.append(("checks", [f"{count(card.checks.total)} passes{share}"]))
    return found


def plotted(plot: Plot) -> list[tuple[float, float]]:
    """Points of a plot from left to right, without those that are no numbers or too large to take differences."""
    return sorted((x, y) for x, y in plot.points if abs(x) < _FAR and abs(y) < _FAR)


def left_out(card: Scorecard) -> list[str]:
    """Attacks of the suite that were not run, a sentence for each reason."""
    reasons: dict[str, dict[str, None]] = {}
    for one in card.skipped:
        reasons.setdefault(plain(one.reason), {})[plain(one.attack)] = None
    return [f"left out: {_and(list(names))} ({reason})" for reason, names in reasons.items()]


def paired(cards: Sequence[Scorecard]) -> Comparison | str | None:
    """The paired comparison of two scorecards, or why there is none; None for another number of scorecards."""
    if len(cards) != 2:
        return None
    try:
        return compare(cards[0], cards[1], sides(cards))
    except UserError as fault:
        return str(fault)


def ranked(cards: Sequence[Scorecard]) -> Ranking | str | None:
    """Three scorecards or more in order, or why they have none; None for fewer, which are compared as pairs."""
    if len(cards) < 3:
        return None
    try:
        return rank(cards)
    except UserError as fault:
        return str(fault)


def winner(ranking: Ranking, names: Sequence[str]) -> str:
    """Which is the best, and which can't be told from it, in a sentence."""
    best = ranking.best
    if best is None:
        return "None of them is the best: no evaluation can be trusted to its end."
    told = f"{names[best.position]} has the best robust accuracy, {percent(best.card.robust_accuracy.value)}"
    if not (level := [names[one.position] for one in ranking.level]):
        return f"{told}, and every other that can win is clearly below it."
    return f"{told}; {_and(level)} can't be told from it on these samples."


def sides(cards: Sequence[Scorecard]) -> Sides:
    """Before and after, where the names of two scorecards say so; else the first and the second."""
    marked = len(cards) == 2 and all(
        card.target.name.endswith(f" ({when})") for card, when in zip(cards, BEFORE_AFTER.heads, strict=True)
    )
    return BEFORE_AFTER if marked else FIRST_SECOND


def unlike(cards: Sequence[Scorecard]) -> list[tuple[str, tuple[str, ...]]]:
    """What makes each scorecard unlike the first: which two are meant, and a sentence for each difference."""
    names = labels(cards)
    told: dict[tuple[str, ...], list[str]] = {}  # said once of all whom it is true of
    for name, card in zip(names[1:], cards[1:], strict=True):
        told.setdefault(differences(cards[0], card, sides(cards)), []).append(name)
    pairs = ((f"{names[0]} and {'each of ' * (len(others) > 1)}{listed(others)}", why) for why, others in told.items())
    return [(pair, sentences) for pair, sentences in pairs if sentences]


def _threats(cards: Sequence[Scorecard]) -> list[ThreatModel]:
    found: list[ThreatModel] = []
    for card in cards:
        for row in card.threats:
            if not any(same_adversary(row.threat, threat) for threat in found):
                found.append(row.threat)
    return found


def _attack_stages(cards: Sequence[Scorecard], threat: ThreatModel) -> Iterator[Stage]:
    by_card = [
        {result.name: result.robust_accuracy for result in card.attacks if same_adversary(result.threat, threat)}
        for card in cards
    ]
    for name in dict.fromkeys(name for results in by_card for name in results):
        yield Stage(f"after {plain(name)}", "attack", threat, tuple(results.get(name) for results in by_card))


def _worst(cards: Sequence[Scorecard], threat: ThreatModel) -> tuple[Interval | None, ...]:
    return tuple(
        next((row.robust_accuracy for row in card.threats if same_adversary(row.threat, threat)), None)
        for card in cards
    )


def _met(met: int, gates: int) -> Iterator[str]:
    """How many gates are met, where any is; nothing is said of those that aren't."""
    if met == gates:
        yield {1: "The gate is met.", 2: "Both gates are met."}.get(gates, f"All {gates} gates are met.")
    elif met:
        yield f"{met} of {gates} gates {'is' if met == 1 else 'are'} met."


def _undecided(gate: Gate) -> str:
    seen = f" with {plural(gate.samples, 'sample')}" if gate.samples else ""
    more = f"about {gate.more_needed:,} more" if gate.more_needed else "more samples"
    strict = "" if gate.passed else " The gates are strict: undecided is missed."
    return f"Undecided{seen}: {gate_demand(gate)}, found {gate_found(gate)}; {more} needed to tell.{strict}"


def _invalid(card: Scorecard) -> list[str]:
    return [f"{finding.code}: {finding.message}" for finding in card.validity if finding.severity == "error"]


def _black_box(card: Scorecard) -> Iterator[str]:
    twin = card.adaptation is not None and any(one.name == "twin" for one in card.adaptation.measures)
    if card.target.access != "gradients" and not twin:  # a twin lends its gradient
        which = "score- and decision-based" if card.target.access == "scores" else "decision-based"
        yield f"Black box: only {which} attacks ran; an adversary who sees more may break more."


def _adapted(card: Scorecard) -> Iterator[str]:
    if (without := card.adaptation) is None:
        return
    numbers = [
        f"clean {percent(one.clean_accuracy.value)}, robust {percent(one.robust_accuracy.value)}"
        for one in (card, without)
    ]
    measures = "; ".join(plain(str(one)) for one in without.measures)
    yield f"Adapted ({measures}): {numbers[0]}; without: {numbers[1]} ({without.verdict})."
    yield from (f"{plain(one.name)} for {plain(one.reason)}." for one in without.measures)


def _stopped(card: Scorecard) -> Iterator[str]:
    if card.interrupted == "invalid":
        yield "No attack was run, as the evaluation is INVALID already: what is right when clean is told, and no more."
        return
    cut = [plain(result.name) for result in card.attacks if not result.finished]
    if card.interrupted or cut:
        why = f"The run stopped early ({plain(card.interrupted)})" if card.interrupted else f"{_and(cut)} stopped early"
        yield f"{why}: the robust accuracy is only an upper bound, a full run can only lower it."


def _settled(card: Scorecard) -> Iterator[str]:
    planned, seen = card.data.planned, card.data.samples
    if planned and seen < planned and not card.interrupted:
        yield f"Every gate was settled after {seen:,} of {planned:,} samples: the run ended there, its error kept."


def _unconfirmed(card: Scorecard) -> Iterator[str]:
    for result in card.attacks:
        if result.unconfirmed and card.audit is None:  # which lists them
            yield (
                f"{plain(result.name)}: {plural(result.unconfirmed, 'claim')} of success not confirmed by an "
                "independent forward pass, so not counted."
            )


def _audited(audit: Audit) -> str:
    how = "another batch, in float64" if audit.precise else "another batch"
    stay = "stays" if audit.rounded == 1 else "stay"
    images = f"; {audit.rounded:,} of {audit.images:,} {stay} adversarial as 8-bit images" if audit.images else ""
    return f"{audit.asked:,} asked again in {how}: {audit.confirmed:,} confirmed{images}"


def _denied(audit: Audit) -> Iterator[str]:
    groups: dict[tuple[str, str, str], list[int]] = {}
    for one in audit.denied:
        groups.setdefault((one.attack, one.threat, one.reason), []).append(one.index)
    for (attack, threat, reason), samples in groups.items():
        named = ", ".join(map(str, samples[:_NAMED]))
        more = f" and {len(samples) - _NAMED:,} more" if len(samples) > _NAMED else ""
        who = "sample" if len(samples) == 1 else "samples"
        yield f"denied, {plain(reason)}: {plain(attack)} under {plain(threat)}, {who} {named}{more}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
