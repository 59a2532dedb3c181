"""What no evaluation can have written: a card whose numbers contradict one another is refused.

Whatever follows from the rows of the samples is counted anew: accuracies, what each attack broke, intervals, gates and
the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

from robustbench_lite.core.suite import adversary
from robustbench_lite.core.threat import NORMS
from robustbench_lite.results.scorecard.attacks import AttackResult, Trace
from robustbench_lite.results.scorecard.contents import Contents
from robustbench_lite.results.scorecard.gate import Gate
from robustbench_lite.results.scorecard.measured import CERTIFIED
from robustbench_lite.results.scorecard.outcomes import Outcome
from robustbench_lite.results.scorecard.values import Interval, median
from robustbench_lite.results.scorecard.verdict import verdict_of
from robustbench_lite.results.statistics import clopper_pearson, sequential_interval

_ALIKE = 1e-9  # what another version of SciPy may make of an interval
_CLOSE = 1e-3  # of a distance: rounding, and what float32 leaves of an eps
_OLD_WORDS = ("MEASURED", "UNDECIDED")  # which 0.1.0 called PASS


def impossible(card: Contents) -> Iterator[str]:
    """Tell what is of the right type and yet from no evaluation, a line each."""
    yield from _intervals(card)
    yield from _accuracies(card)
    yield from _attacks(card)
    yield from _rows(card)
    for place, result in enumerate(card.attacks):
        yield from (f"  attacks.{place}.{fault}" for fault in _trace(result.trace))
        if not (result.finished or result.fault or card.interrupted):
            yield f"  attacks.{place}.finished: it came to no end, and the card says neither that it failed nor why"
    yield from _costs(card)
    yield from _counts(card)
    yield from _audit(card)
    yield from _certified(card)
    for place, gate in enumerate(card.gates):
        yield from (f"  gates.{place}: {fault}" for fault in _gate(gate, card))
    expected = verdict_of(card.validity, card.gates)
    old = card.version == "0.1.0" and card.verdict == "PASS" and expected in _OLD_WORDS
    if card.verdict != expected and not old:
        yield f"  verdict: is {card.verdict}: expected {expected} by the findings and the gates"


def _certified(card: Contents) -> Iterator[str]:
    for place, one in enumerate(card.measures):
        if one.name == CERTIFIED and one.count is not None and one.count > card.robust_accuracy.count:
            yield (
                f"  measures.{place}: {one.count} samples are certified, and {card.robust_accuracy.count} were not "
                "broken: what is broken isn't certified"
            )


def _intervals(card: Contents) -> Iterator[str]:
    shares: dict[str, Interval | None] = {
        "clean_accuracy": card.clean_accuracy,
        "robust_accuracy": card.robust_accuracy,
        **{f"threats.{place}.robust_accuracy": one.robust_accuracy for place, one in enumerate(card.threats)},
        **{f"attacks.{place}.robust_accuracy": one.robust_accuracy for place, one in enumerate(card.attacks)},
        **{f"attacks.{place}.alone": one.alone for place, one in enumerate(card.attacks)},
    }
    if card.adaptation is not None:
        shares["adaptation.clean_accuracy"] = card.adaptation.clean_accuracy
        shares["adaptation.robust_accuracy"] = card.adaptation.robust_accuracy
    for key, one in shares.items():
        if one is None:
            continue
        told = f"  {key}: is {one.value} [{one.low}, {one.high}]"
        if not 0 <= one.count <= one.total:
            yield f"  {key}: counts {one.count} of {one.total} samples"
        elif not 0 < one.confidence < 1:
            yield f"  {key}: confidence is {one.confidence}: expected a share from 0 to 1"
        elif not math.isclose(one.value, one.count / max(one.total, 1), abs_tol=_ALIKE):
            yield f"{told}, and counts {one.count} of {one.total} samples"
        elif not _same((one.low, one.high), clopper_pearson(one.count, one.total, one.confidence)):
            low, high = clopper_pearson(one.count, one.total, one.confidence)
            yield f"{told}: expected the interval [{low}, {high}] of {one.count} of {one.total} samples"


def _same(found: Iterable[float], expected: Iterable[float]) -> bool:
    return all(math.isclose(one, other, abs_tol=_ALIKE) for one, other in zip(found, expected, strict=True))


def _accuracies(card: Contents) -> Iterator[str]:
    rows = {
        "clean_accuracy": sum(row.correct for row in card.outcomes),
        "robust_accuracy": sum(row.robust for row in card.outcomes),
    }
    for key, counted in rows.items():
        yield from _counted(key, getattr(card, key), counted, card)
    if card.data.samples != len(card.outcomes):
        yield f"  data.samples: is {card.data.samples}, and there are {len(card.outcomes)} rows"
    for place, threat in enumerate(card.threats):
        under = _smaller_or_same(card, place)
        standing = sum(row.correct and not any(one.threat in under for one in row.breaks) for row in card.outcomes)
        yield from _counted(f"threats.{place}.robust_accuracy", threat.robust_accuracy, standing, card)


def _counted(key: str, told: Interval, counted: int, card: Contents) -> Iterator[str]:
    if (told.count, told.total) != (counted, len(card.outcomes)):
        yield f"  {key}: counts {told.count} of {told.total} samples, its rows {counted} of {len(card.outcomes)}"


def _smaller_or_same(card: Contents, place: int) -> set[str]:
    """Threat models of which a witness is one under the threat model at a place."""
    threat = card.threats[place].threat
    among = (one.threat for one in card.threats if adversary(one.threat) == adversary(threat))
    return {str(one) for one in among if one.eps <= threat.eps}


def _attacks(card: Contents) -> Iterator[str]:
    broken: dict[tuple[str, str], set[int]] = {}
    for place, row in enumerate(card.outcomes):
        for one in row.breaks:
            broken.setdefault((one.attack, one.threat), set()).add(place)
    right = {place for place, row in enumerate(card.outcomes) if row.correct}
    for at, worst in enumerate(card.threats):
        under = str(worst.threat)
        smaller = _smaller_or_same(card, at) - {under}
        standing = right - {place for (_, threat), fallen in broken.items() if threat in smaller for place in fallen}
        for place, result in enumerate(card.attacks):
            if str(result.threat) != under:
                continue
            fallen = broken.get((result.name, under), set())
            was_standing = len(standing)
            standing -= fallen
            key = f"attacks.{place}"
            yield from _counted(f"{key}.robust_accuracy", result.robust_accuracy, len(standing), card)
            if result.broken != len(fallen):
                yield f"  {key}.broken: is {result.broken}, and {len(fallen)} rows are broken by it"
            least, most = _attempted(card, result, len(right), was_standing, smaller)
            if not max(least, result.broken) <= result.attempted <= most:
                expected = most if least == most else f"from {max(least, result.broken)} to {most}"
                yield f"  {key}.attempted: is {result.attempted}: expected {expected}"
            lengths = [
                one.distance
                for row in card.outcomes
                for one in row.breaks
                if (one.attack, one.threat) == (result.name, under)
            ]
            middle, told = median(lengths), result.distance_median
            if (middle is None) != (told is None) or not math.isclose(middle or 0.0, told or 0.0, rel_tol=_CLOSE):
                yield f"  {key}.distance_median: is {told}, that of its rows {middle}"
            if result.unmoved != lengths.count(0.0):
                yield f"  {key}.unmoved: is {result.unmoved}, and {lengths.count(0.0)} rows are broken at no distance"
            if result.alone is not None:
                yield from _counted(f"{key}.alone", result.alone, len(right) - len(fallen), card)
    known = {(result.name, str(result.threat)) for result in card.attacks}
    if strange := sorted(broken.keys() - known):
        yield f"  outcomes: are broken by {strange[0][0]} under {strange[0][1]}, which is none of the attacks"


def _attempted(
    card: Contents, result: AttackResult, right: int, standing: int, smaller: Collection[str]
) -> tuple[int, int]:
    """Fewest and most samples that an attack can have been run on; one number where it follows from the rows."""
    told = {one.name or one.attack for one in card.suite.attacks}
    whole = result.finished and result.fault is None and result.name in told
    if whole and card.suite.independent:
        return right, right
    # Of a curve, of several eps, and where the audit gave samples back, the rows don't tell all.
    if whole and not card.suite.curve and not smaller and not (card.audit and card.audit.denied):
        return standing, standing
    return 0, right


def _rows(card: Contents) -> Iterator[str]:
    if len({row.index for row in card.outcomes}) < len(card.outcomes):
        yield "  outcomes: two rows are of one sample"
    eps = {str(one.threat): one.threat.eps for one in card.threats if one.threat.norm in NORMS}
    for place, row in enumerate(card.outcomes):
        for fault in _row(row, eps):
            yield f"  outcomes.{place}: {fault}"


def _row(row: Outcome, eps: Mapping[str, float]) -> Iterator[str]:
    for one in row.breaks:
        if one.distance > eps.get(one.threat, math.inf) * (1 + _CLOSE) + _CLOSE:
            yield f"{one.attack} broke it at a distance of {one.distance}, outside of {one.threat}"
        if one.prediction == row.label and "targeted" not in one.threat:
            yield f"{one.attack} broke it, and it is still taken for its own class"
    if any(one.distance < 0 for one in row.breaks) or any(one.distance < 0 for one in row.nearest):
        yield "a distance is below 0"
    if row.breaks and not row.correct:
        yield "is wrong when clean, and broken all the same"
    if any(one.prediction < 0 for one in row.breaks):
        yield "a prediction is below 0"
    if min(row.passes.forward, row.passes.backward, row.label, row.index) < 0:
        yield "holds a number below 0"


def _trace(trace: Trace) -> Iterator[str]:
    for key in ("broken", "zero_gradient"):
        for step, (count, samples) in enumerate(zip(getattr(trace, key), trace.samples, strict=False)):
            if not 0 <= count <= samples:
                yield f"trace.{key}.{step}: is {count} of {samples} samples"
    for part, whole in (("flat", "stood"), ("restarts_broke", "restarted")):
        count, total = getattr(trace, part), getattr(trace, whole)
        if not 0 <= count <= total:
            yield f"trace.{part}: is {count} of {total} starts"
    if min(trace.samples, default=0) < 0 or not math.isfinite(trace.late):
        yield "trace: holds what is no count of samples, or no share"


def _costs(card: Contents) -> Iterator[str]:
    spent = {"passes": card.passes, **{f"attacks.{place}.passes": one.passes for place, one in enumerate(card.attacks)}}
    if card.checks is not None:
        spent["checks"] = card.checks
    for key, passes in spent.items():
        if min(passes.forward, passes.backward) < 0:
            yield f"  {key}: is {passes.forward} forward and {passes.backward} backward: expected 0 or more"
    seconds = {"seconds": card.seconds, **{f"attacks.{at}.seconds": one.seconds for at, one in enumerate(card.attacks)}}
    for key, taken in seconds.items():
        if not taken >= 0:
            yield f"  {key}: is {taken}: expected 0 or more"
    for kind in ("forward", "backward"):
        rows, told = sum(getattr(row.passes, kind) for row in card.outcomes), getattr(card.passes, kind)
        if rows > told:
            yield f"  passes.{kind}: is {told}, and that of the rows {rows}"


def _counts(card: Contents) -> Iterator[str]:
    counts = {
        "target.parameters": card.target.parameters,
        "batch_size": card.batch_size,
        "seed": card.seed,
        "data.limit": card.data.limit or 0,
        **{f"gates.{at}.samples": gate.samples or 0 for at, gate in enumerate(card.gates)},
        "environment.threads": card.environment.threads,
        **{f"environment.processors.{name}": samples for name, samples in card.environment.processors.items()},
        **{f"data.shape.{at}": size for at, size in enumerate(card.data.shape)},
        **{f"attacks.{at}.unconfirmed": one.unconfirmed for at, one in enumerate(card.attacks)},
        **{f"attacks.{at}.strange": one.strange for at, one in enumerate(card.attacks)},
    }
    for key, count in counts.items():
        if count < 0:
            yield f"  {key}: is {count}: expected 0 or more"


def _audit(card: Contents) -> Iterator[str]:
    if (audit := card.audit) is None:
        return
    if not 0 <= audit.confirmed <= audit.asked or audit.asked - audit.confirmed != len(audit.denied):
        yield f"  audit: {audit.confirmed} of {audit.asked} are confirmed, and {len(audit.denied)} denied"
    if not 0 <= audit.rounded <= audit.images <= audit.confirmed:
        yield f"  audit: {audit.rounded} of {audit.images} images of {audit.confirmed} witnesses"


def _gate(gate: Gate, card: Contents) -> Iterator[str]:
    """Tell where a gate says something else than its numbers, and its numbers something else than the card."""
    if not gate.low <= gate.value <= gate.high:
        yield f"{gate.name} is {gate.value}, out of its interval [{gate.low}, {gate.high}]"
        return
    least = gate.name.startswith("min_")
    right = gate.low >= gate.threshold if least else gate.high <= gate.threshold
    wrong = gate.high < gate.threshold if least else gate.low > gate.threshold
    if gate.decided != (right or wrong) or (gate.passed and wrong) or (right and not gate.passed):
        yield f"{gate.name} {gate.threshold} is {gate.words}, and found [{gate.low}, {gate.high}]"
    clean, robust = card.clean_accuracy, card.robust_accuracy
    counts = {
        "min_clean_accuracy": clean.count,
        "min_robust_accuracy": robust.count,
        "max_drop": clean.count - robust.count,
    }
    count, seen, planned = counts.get(gate.name, -1), clean.total, card.data.planned
    if gate.unit is None and 0 <= count <= seen:
        if gate.samples not in (None, 0, seen):
            yield f"{gate.name} is of {gate.samples} samples, and the card of {seen}"
        ends = clopper_pearson(count, seen) if planned is None else sequential_interval(count, seen, planned)
        if not _same((gate.value, gate.low, gate.high), (count / max(seen, 1), *ends)):
            yield (
                f"{gate.name} is {gate.value} [{gate.low}, {gate.high}], and the card counts {count} of {seen} samples"
            )
    if gate.unit is not None:
        taken = {one.name: one for one in card.measures}.get(gate.name[4:])
        found = None if taken is None else (taken.value, taken.low, taken.high)
        if found is None or found not in ((gate.value, gate.low, gate.high), (gate.value, None, None)):
            yield f"{gate.name} is {gate.value} [{gate.low}, {gate.high}], and the measure {found}"
        elif taken is not None and taken.low is None and (gate.low, gate.high) != (gate.value, gate.value):
            yield f"{gate.name} is {gate.value} [{gate.low}, {gate.high}], and the measure has no interval"
