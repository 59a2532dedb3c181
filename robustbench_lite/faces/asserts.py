"""Plain asserts on a scorecard, for tests that would rather say it in a line than with a marker.

::

    card = evaluate(model, data, "linf_quick")
    assert_robust(card, at_least=0.45)

Each is decided on the interval and not on the point: it fails only where the whole interval is on the wrong side, so
that a test does not turn red by the luck of the draw. An evaluation that can't be trusted (INVALID) fails every one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.compare import same_adversary
from robustbench_lite.results.gates import CONFIDENCE, Counts, Gates, decide
from robustbench_lite.results.scorecard import Finding, Gate, Interval, Scorecard

__all__ = ["assert_clean", "assert_gates", "assert_robust", "assert_valid"]


def assert_robust(
    card: Scorecard,
    at_least: float,
    *,
    threat: str | ThreatModel | None = None,
    allow_invalid: str | None = None,
) -> None:
    """Fail where the robust accuracy is below a share of the samples, the whole of its interval.

    Parameters
    ----------
    card
        What `evaluate` returned.
    at_least
        Share of the samples, in [0, 1].
    threat
        The threat model that is meant, such as ``"Linf 8/255"``; by default the worst case over all of the card's.
    allow_invalid
        Why an evaluation that can't be trusted is taken all the same.

    Raises
    ------
    AssertionError
        With what was found, by which attacks, and, for an INVALID card, the findings and their cures.
    ValueError
        For a share outside [0, 1], and for a threat model that the card has not.
    """
    __tracebackhide__ = True
    under, accuracy = _robust(card, threat)
    gate = decided(card, Gates(min_robust_accuracy=at_least), robust=accuracy.count)
    assert_valid(card, allow=allow_invalid)
    _fail_on(missed(gate, f"robust accuracy under {under}"), card)


def assert_clean(card: Scorecard, at_least: float, *, allow_invalid: str | None = None) -> None:
    """Fail where the clean accuracy is below a share of the samples, the whole of its interval.

    Parameters, and what is raised, as in `assert_robust`.
    """
    __tracebackhide__ = True
    gate = decided(card, Gates(min_clean_accuracy=at_least))
    assert_valid(card, allow=allow_invalid)
    _fail_on(missed(gate), card)


def assert_gates(card: Scorecard, *, allow_invalid: str | None = None) -> None:
    """Fail where a gate that the card was evaluated with is missed.

    Raises
    ------
    AssertionError
        With every gate that is missed.
    ValueError
        For a card without gates: nothing was demanded of the model.
    """
    __tracebackhide__ = True
    if not card.gates:
        raise UserError(
            "the scorecard has no gates: give some to evaluate, such as gates={'min_robust_accuracy': 0.45}"
        )
    assert_valid(card, allow=allow_invalid)
    _fail_on("\n".join(fault for gate in card.gates if (fault := missed(gate))), card)


def assert_valid(card: Scorecard, *, allow: str | None = None) -> None:
    """Fail where the evaluation can't be trusted.

    Parameters
    ----------
    card
        What `evaluate` returned.
    allow
        Why it is let through all the same; not empty.

    Raises
    ------
    AssertionError
        With every finding that makes it INVALID, and its cure.
    """
    __tracebackhide__ = True
    if allow is not None and not allow.strip():
        raise UserError(
            "the reason to let an INVALID evaluation through is empty: say why, for those who read the test"
        )
    if card.verdict == "INVALID" and allow is None:
        raise AssertionError(untrusted(errors(card)))


def errors(card: Scorecard) -> list[Finding]:
    """The findings that make a scorecard INVALID."""
    return [finding for finding in card.validity if finding.severity == "error"]


def untrusted(findings: Sequence[Finding]) -> str:
    """Say why an evaluation can't be trusted, and the cures."""
    told = (f"  {finding.code}: {finding.message}\n    cure: {finding.cure}" for finding in findings)
    return "\n".join(["INVALID: the evaluation can't be trusted", *dict.fromkeys(told)])


def decided(card: Scorecard, demand: Gates, robust: int | None = None) -> Gate:
    """Hold one demand against a card as its own gates are: on the interval, or the sequential one.

    Parameters
    ----------
    card
        What was counted.
    demand
        One gate.
    robust
        Robust samples, where others than those of the card's worst case are meant.
    """
    counts = Counts.of(card)
    [gate] = decide(demand, counts if robust is None else replace(counts, robust=robust), total=card.data.planned)
    return gate


def missed(gate: Gate, what: str | None = None) -> str | None:
    """Say that a gate is missed; None where it is not.

    Parameters
    ----------
    gate
        A gate that was decided.
    what
        What it is about; by default as its name says.
    """
    if gate.passed:
        return None
    bound, _, rest = gate.name.partition("_")
    words, side = {"min": ("at least", "below"), "max": ("at most", "above")}[bound]
    what = what or rest.replace("_", " ")
    if gate.kind == "number":
        return f"{what} is {gate.value:,.6g} {gate.unit}: {words} {gate.threshold:,.6g} demanded ({gate.name})"
    if gate.kind == "cost":
        unit = " a sample" if rest == "passes" else ""
        return f"{what}{unit}: {gate.value:,.1f}, {words} {gate.threshold:,.5g} demanded ({gate.name})"
    seen = "" if gate.samples is None else f" on {gate.samples:,} samples"
    if not gate.decided:
        more = f", about {gate.more_needed:,} more samples would tell" if gate.more_needed else ""
        return (
            f"{what} is {gate.value:.1%} [{gate.low:.1%}, {gate.high:.1%}]{seen}: {words} {gate.threshold:.1%} is "
            f"demanded, and the {CONFIDENCE:.0%} interval holds that: undecided, which strict gates count as missed"
            f"{more} ({gate.name})"
        )
    return (
        f"{what} is {gate.value:.1%} [{gate.low:.1%}, {gate.high:.1%}]{seen}: {words} "
        f"{gate.threshold:.1%} is demanded, and the whole {CONFIDENCE:.0%} interval is {side} it ({gate.name})"
    )


def scene(card: Scorecard) -> Iterator[str]:
    """Lines that say what was evaluated, and how each attack brought the accuracy down."""
    yield (
        f"{card.target.name} on {card.data.samples} samples of {card.data.name}, suite {card.suite.name}, "
        f"{card.passes.total:,} passes"
    )
    yield f"  clean accuracy {card.clean_accuracy}"
    for result in card.attacks:
        cut = "" if result.finished else ", stopped early"
        yield (
            f"  {result.robust_accuracy} after {result.name} under {result.threat}: "
            f"broke {result.broken} of {result.attempted}{cut}"
        )


def _fail_on(fault: str | None, card: Scorecard) -> None:
    __tracebackhide__ = True
    if fault:
        raise AssertionError("\n".join([fault, *scene(card)]))


def _robust(card: Scorecard, threat: str | ThreatModel | None) -> tuple[str, Interval]:
    if threat is None:
        return " and ".join(str(row.threat) for row in card.threats), card.robust_accuracy
    meant = ThreatModel.parse(threat)
    for row in card.threats:
        if same_adversary(row.threat, meant):
            return str(row.threat), row.robust_accuracy
    known = ", ".join(str(row.threat) for row in card.threats)
    raise UserError(f"the scorecard holds nothing under {meant}: expected one of {known}")
