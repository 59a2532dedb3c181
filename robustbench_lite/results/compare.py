"""Two scorecards, sample by sample: what changed, whether it could be chance, whether they may be compared at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import AttackSpec
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.paired import mcnemar, p_in_words
from robustbench_lite.results.scorecard import AttackResult, Interval, Outcome, Scorecard

_Pair = tuple[Outcome, Outcome]


@dataclass(frozen=True)
class Sides:
    """What two scorecards are to each other, in words."""

    heads: tuple[str, str]
    """Of columns."""
    where: tuple[str, str]
    """After a verb: seen before, seen in the first."""
    card: tuple[str, str]
    """Before or after a noun: the scorecard before, the first scorecard; ``{}`` is the noun."""


BEFORE_AFTER = Sides(("before", "after"), ("before", "after"), ("{} before", "{} after"))
FIRST_SECOND = Sides(("first", "second"), ("in the first", "in the second"), ("first {}", "second {}"))


@dataclass(frozen=True)
class Change:
    """An accuracy before and after, on the same samples."""

    before: Interval
    """Share of the paired samples that is right in the first scorecard."""
    after: Interval
    """Share of the paired samples that is right in the second."""
    only_before: int
    """Samples that are right in the first alone: what was lost."""
    only_after: int
    """Samples that are right in the second alone: what was won."""
    p_value: float
    """Exact two-sided McNemar test: how likely a change this lopsided is where nothing but chance is at work."""

    @property
    def difference(self) -> float:
        """``after - before``, in [-1, 1]."""
        return self.after.value - self.before.value

    @property
    def told(self) -> str:
        """In words: ``41.0% to 60.0% (p < 0.001)``."""
        return f"{self.before.value:.1%} to {self.after.value:.1%} ({p_in_words(self.p_value)})"

    @property
    def both(self) -> int:
        """Samples that are right in both."""
        return self.before.count - self.only_before

    @property
    def neither(self) -> int:
        """Samples that are right in neither."""
        return self.before.total - self.both - self.only_before - self.only_after


@dataclass(frozen=True)
class AttackChange:
    """One attack that both scorecards ran, under the same threat model; each result is over its card's own samples."""

    before: AttackResult
    after: AttackResult


@dataclass(frozen=True)
class Comparison:
    """What two scorecards say about the samples they share."""

    samples: int
    """Samples that both have."""
    unpaired_before: int
    """Samples that only the first has."""
    unpaired_after: int
    """Samples that only the second has."""
    clean: Change
    robust: Change
    attacks: tuple[AttackChange, ...]
    """Attacks that both ran, in the order of the first."""
    differences: tuple[str, ...]
    """What is unlike in how the two came about, a sentence each: the change may then not be the model's."""


def compare(before: Scorecard, after: Scorecard, sides: Sides = BEFORE_AFTER) -> Comparison:
    """Compare two scorecards on the samples that both have; ``sides`` is how the differences speak of them.

    Samples are paired by the hash of their content and label, so neither order nor position matters; one that occurs
    several times is paired as often as both have it. Robust is what the suites left (`Outcome.stood`).

    Raises
    ------
    ValueError
        Where the two have no sample in common.

    References
    ----------
    McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947.
    https://doi.org/10.1007/BF02295996
    """
    pairs = _pairs(before, after)
    if not pairs:
        raise UserError(
            f"{before.target.name} and {after.target.name} were tested on different data ({before.data.name}, "
            f"{after.data.name}) and have no sample in common; evaluate both on the same samples"
        )
    return Comparison(
        samples=len(pairs),
        unpaired_before=len(before.outcomes) - len(pairs),
        unpaired_after=len(after.outcomes) - len(pairs),
        clean=_change([(first.correct, second.correct) for first, second in pairs]),
        robust=_change([(first.stood, second.stood) for first, second in pairs]),
        attacks=_attacks(before, after),
        differences=(*differences(before, after, sides), *_beside_the_suite(before, after, sides)),
    )


def differences(before: Scorecard, after: Scorecard, sides: Sides = BEFORE_AFTER) -> tuple[str, ...]:
    """Tell what is unlike in how two scorecards came about, a sentence each; nothing where only the model differs."""
    checks = (_trust, _stopped, _access, _threats, _data, _suite, _seed, _version)
    return tuple(sentence for check in checks for sentence in check(before, after, sides))


def same_adversary(first: ThreatModel, second: ThreatModel) -> bool:
    """Whether two threat models allow the same, however their ``eps`` was written."""
    return _adversary(first) == _adversary(second)


def _pairs(before: Scorecard, after: Scorecard) -> list[_Pair]:
    others = _by_content(after)
    return [(row, others[content]) for content, row in _by_content(before).items() if content in others]


def _by_content(card: Scorecard) -> dict[tuple[str, int], Outcome]:
    seen: Counter[str] = Counter()
    rows = {}
    for row in card.outcomes:
        rows[row.key, seen[row.key]] = row
        seen[row.key] += 1
    return rows


def _change(right: Sequence[tuple[bool, bool]]) -> Change:
    counts = Counter(right)
    only_before, only_after = counts[True, False], counts[False, True]
    return Change(
        before=Interval.of(counts[True, True] + only_before, len(right)),
        after=Interval.of(counts[True, True] + only_after, len(right)),
        only_before=only_before,
        only_after=only_after,
        p_value=mcnemar(only_before, only_after),
    )


def _attacks(before: Scorecard, after: Scorecard) -> tuple[AttackChange, ...]:
    others = {(result.name, _adversary(result.threat)): result for result in after.attacks}
    return tuple(
        AttackChange(result, others[key])
        for result in before.attacks
        if (key := (result.name, _adversary(result.threat))) in others
    )


def _adversary(threat: ThreatModel) -> tuple[str, float, str, str]:
    return threat.norm, threat.eps, threat.goal, threat.target_class if threat.goal == "targeted" else ""


def _trust(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    for which, card in zip(sides.card, (before, after), strict=True):
        if card.verdict == "INVALID":
            what = f"The {which.format('scorecard')} is INVALID"
            yield f"{what}: its robust accuracy can't be trusted, so neither can the change."


def _beside_the_suite(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    found = [sum(row.stood and not row.robust for row in card.outcomes) for card in (before, after)]
    if any(found):
        yield (
            f"The evidence broke {found[0]} samples {sides.where[0]} and {found[1]} {sides.where[1]} that the suite "
            "had left. Here they count as robust: how many survivors it asks about is no matter of the model alone."
        )


def _stopped(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    for which, card in zip(sides.card, (before, after), strict=True):
        cut = [result.name for result in card.attacks if not result.finished]
        if card.interrupted or cut:
            what = f"stopped early ({card.interrupted})" if card.interrupted else f"stopped early in {', '.join(cut)}"
            yield f"The {which.format('evaluation')} was {what}: its robust accuracy is only an upper bound."


def _access(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    first, second = before.target.access, after.target.access
    if first != second:
        one, two = sides.where
        yield f"Access differs: the targets' {first} were seen {one}, their {second} {two}, so other attacks ran."


def _threats(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    first, second = ([result.threat for result in card.threats] for card in (before, after))
    if {_adversary(threat) for threat in first} != {_adversary(threat) for threat in second}:
        yield f"Threat models differ: {_listed(first)} {sides.where[0]}, {_listed(second)} {sides.where[1]}."


def _data(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    first, second = _by_content(before).keys(), _by_content(after).keys()
    if first != second:
        one, two = sides.where
        yield (
            f"Data differ: {len(first & second):,} samples are common, {len(first - second):,} are only {one} "
            f"({before.data.name}), {len(second - first):,} only {two} ({after.data.name})."
        )


def _suite(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    if before.suite.independent != after.suite.independent:
        how = {False: "a cascade", True: "independent attacks"}
        one, two = (how[card.suite.independent] for card in (before, after))
        yield f"Suites differ: {one} {sides.where[0]}, {two} {sides.where[1]}."
    first, second = ({spec.name: spec for spec in card.suite.attacks} for card in (before, after))
    for when, mine, other in ((sides.where[0], first, second), (sides.where[1], second, first)):
        if alone := [name for name in mine if name not in other]:
            yield f"Suites differ: {', '.join(alone)} ran only {when}."
    for name in first:
        if name in second and (changes := "; ".join(_spec_changes(first[name], second[name], sides))):
            yield f"Suites differ in {name}: {changes}."


def _spec_changes(before: AttackSpec, after: AttackSpec, sides: Sides) -> Iterator[str]:
    first: dict[str, Any] = {"attack": before.attack, **before.params}
    second: dict[str, Any] = {"attack": after.attack, **after.params}
    for key in {**first, **second}:
        if first.get(key) != second.get(key):
            one, two = first.get(key, "by default"), second.get(key, "by default")
            yield f"{key} {one} {sides.where[0]}, {two} {sides.where[1]}"


def _seed(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    if before.seed != after.seed:
        yield f"Seeds differ: {before.seed} {sides.where[0]}, {after.seed} {sides.where[1]}."


def _version(before: Scorecard, after: Scorecard, sides: Sides) -> Iterator[str]:
    if before.version != after.version:
        one, two = sides.where
        yield f"Versions of robustbench_lite differ: {before.version} {one}, {after.version} {two}."


def _listed(threats: Sequence[ThreatModel]) -> str:
    return " and ".join(str(threat) for threat in threats)
