"""Whether to believe an evaluation: findings from what the engine saw. An ``error`` makes the verdict INVALID."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.suite import REPLAY
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.scorecard import IN_FLOAT64, AttackResult, Audit, Finding, Severity
from robustbench_lite.results.statistics import clopper_pearson

ZERO_GRADIENT_SHARE = 0.1
"""Share of samples without a gradient from which on an attack's result is doubted."""
CUT_SHORT = "RB301"
"""Code of the finding that the run was stopped early."""
FLAT_SHARE = 0.5
"""Share of an attack's lost starts on which the margin may never rise, up to which it is believed to climb."""
STILL_RISING = 0.1
"""Share of the margin's rise that may come in the last fifth of the steps (a rise at an even pace: 0.2)."""
RESTARTS_BREAK = 0.1
"""Share of the further starts that may break their sample."""
LATE = 0.8
"""A sample counts as broken late if it took more than this share of the passes that a survivor was given."""
STILL_FALLING = 0.01
"""Share of the samples that may be broken late."""
BLACK_BOX_GAIN = 0.05
"""Share of what gradients left that a black-box attack may break."""
_FEW = 8  # fewest unsuccessful starts on which an attack is judged
_CONFIRMED = 1  # pass that a broken sample takes and a survivor doesn't
_LEAST_GIVEN = 20  # passes: with fewer, "the last fifth" of them means nothing
_STEPS = 5  # with fewer, there is no last fifth
UNCONFIRMED_SHARE = 0.01
"""Share of successes that the second forward pass may deny: rounding between two batches, and no more."""


_WEAK = ("RB211", "RB212", "RB214", "RB231")
"""What shows that an attack doesn't work, and not why."""
_ECHOES: dict[str, tuple[str, ...]] = {
    "RB101": ("RB202", "RB203", "RB221", "RB222", "RB241"),
    "RB102": ("RB101", "RB103", "RB202", "RB203", "RB221", "RB222", "RB241"),
    "RB103": ("RB101", "RB202", "RB203", "RB221", "RB222", "RB241"),
    "RB104": ("RB101", "RB102", "RB103", "RB202", "RB203", "RB221", "RB222", "RB241"),
    "RB111": ("RB123", "RB125", "RB126"),
    "RB121": ("RB125", "RB131", "RB133", "RB201", "RB222"),
    "RB123": ("RB114", "RB131", "RB201", "RB222"),
    "RB131": ("RB125", "RB201", "RB221", "RB222", "RB214"),
    "RB132": ("RB201", "RB222"),
    "RB133": ("RB221", "RB222"),
    "RB201": ("RB125", "RB222", *_WEAK),
    "RB202": ("RB241",),
    "RB213": ("RB215", "RB222", *_WEAK),
    "RB221": _WEAK,
    "RB222": _WEAK,
}
"""By cause, the findings that only tell of it once more."""
_WEIGHT = {"info": 0, "warning": 1, "error": 2}


def without_echo(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Leave out what only repeats, as a consequence, what another finding tells as the cause, and as severely.

    Of findings with one code about the same, the first stays, or a more severe one.
    """
    kept: dict[tuple[str, str | None, str | None], Finding] = {}
    for finding in findings:
        first = kept.setdefault((finding.code, finding.attack, finding.threat), finding)
        if _WEIGHT[finding.severity] > _WEIGHT[first.severity]:
            kept[finding.code, finding.attack, finding.threat] = finding
    told: dict[str, int] = {}
    for finding in kept.values():
        for code in _ECHOES.get(finding.code, ()) if finding.severity != "info" else ():
            told[code] = max(told.get(code, 0), _WEIGHT[finding.severity])
    return tuple(finding for finding in kept.values() if told.get(finding.code, -1) < _WEIGHT[finding.severity])


def check(attacks: Sequence[AttackResult], independent: bool = False) -> Iterator[Finding]:
    """Findings from the results of the attacks, threat model by threat model."""
    for threat in dict.fromkeys(result.threat for result in attacks):
        under = [result for result in attacks if result.threat == threat]
        yield from _zero_gradients(under)
        yield from _flat(under)
        if not independent:
            yield from _beaten_without_gradients(under)
    for result in attacks:
        yield from _unconfirmed(result)
        yield from _unmoved(result)
        yield from _strange(result)
        yield from _failed(result)
        yield from _still_rising(result)
        yield from _restarts_disagree(result)


def _zero_gradients(attacks: Sequence[AttackResult]) -> Iterator[Finding]:
    followers = [result for result in attacks if result.gradients and result.trace.samples]
    blind = [result for result in followers if _blind_share(result) >= ZERO_GRADIENT_SHARE]
    # One that was stopped early saw some samples only: it excuses none of the others.
    sees = any(result.finished and not _climbed_nothing(result) for result in followers if result not in blind)
    for result in blind:
        yield _against(
            result,
            "RB201",
            f"the gradient of {result.name}'s loss is zero, or not a number, for {_blind_share(result):.0%} of "
            f"the {result.attempted} samples at its first step: it attacks them blindly",
            cure="add an attack whose loss doesn't saturate (carlini_wagner, carlini_wagner_linf, or pgd with "
            "loss = 'margin'); if its gradients are zero too, the model cuts or quantises them: attack it without "
            "gradients",
            severity="warning" if sees else "error",
        )


def _blind_share(result: AttackResult) -> float:
    return result.trace.zero_gradient[0] / result.trace.samples[0]


def _climbs(result: AttackResult) -> bool:
    """Whether it is an attack that climbs, of which the trace tells enough: of a search for the nearest it doesn't."""
    return result.gradients and result.finished and not result.minimal and result.trace.stood >= _FEW


def _climbed_nothing(result: AttackResult) -> bool:
    return _climbs(result) and result.trace.flat >= FLAT_SHARE * result.trace.stood


def _flat(attacks: Sequence[AttackResult]) -> Iterator[Finding]:
    flat = [result for result in attacks if _climbed_nothing(result)]
    sees = any(result.finished and _climbs(result) for result in attacks if result not in flat)
    for result in flat:
        yield _against(
            result,
            "RB222",
            f"{result.name} got nowhere on {result.trace.flat} of the {result.trace.stood} starts that it lost: the "
            "margin never rose above where it was at first",
            cure="look at its step size, the sign of its step and its loss; if they are right, the model's gradient is "
            "masked",
            severity="warning" if sees else "error",
        )


def _still_rising(result: AttackResult) -> Iterator[Finding]:
    if _climbs(result) and result.trace.late > STILL_RISING and len(result.trace.samples) > _STEPS:
        yield _against(
            result,
            "RB221",
            f"{result.name} was stopped on its way up: {result.trace.late:.0%} of the margin's rise came in the last "
            "fifth of its steps",
            cure="give it more steps or longer ones; a margin that rises by leaps to the end is one that the gradient "
            "doesn't lead up",
        )


def _restarts_disagree(result: AttackResult) -> Iterator[Finding]:
    again, broke = result.trace.restarted, result.trace.restarts_broke
    if again >= _FEW and broke > RESTARTS_BREAK * again:
        yield _against(
            result,
            "RB224",
            f"{broke} of the {again} further starts of {result.name} broke their sample: more starts would break more",
            cure="give it more restarts or more steps, or take the suite of its norm that ends in _standard",
            severity="warning",
        )


def still_falling(threat: ThreatModel, broken: NDArray[np.int64], survivors: NDArray[np.int64]) -> Iterator[Finding]:
    """Finding if attacks were still breaking samples in the last fifth of the passes that a survivor was given.

    Parameters
    ----------
    threat
        Under which they were attacked.
    broken, survivors
        Passes that each sample took, shapes (B,) and (S,).
    """
    if len(survivors) < _FEW:
        return
    # The most that any was given: a suite that gives a sample more, the nearer it is to fall, has no end in common.
    given = float(max(survivors.max(), broken.max(initial=0) - _CONFIRMED))
    late = int((broken - _CONFIRMED > LATE * given).sum())
    if given >= _LEAST_GIVEN and clearly_more(late, STILL_FALLING, len(broken) + len(survivors)):
        yield Finding(
            code="RB225",
            severity="warning",
            message=f"{late} of {len(broken) + len(survivors)} samples fell in the last fifth of the {given:,.0f} "
            "passes that a sample was given: more would fall to more passes",
            cure="give the attacks more steps or restarts, or take the suite of its norm that ends in _standard",
            threat=str(threat),
        )


def _beaten_without_gradients(attacks: Sequence[AttackResult]) -> Iterator[Finding]:
    """Of attacks that see what those before them left."""
    climbed = False
    for result in attacks:
        if result.gradients:
            climbed = climbed or (result.finished and not result.minimal)
        elif result.attack != REPLAY and climbed and clearly_more(result.broken, BLACK_BOX_GAIN, result.attempted):
            yield stronger_without(result.threat, result.name, result.broken, result.attempted)


def _unconfirmed(result: AttackResult) -> Iterator[Finding]:
    seen = result.broken + result.unconfirmed
    if result.unconfirmed > max(1.0, UNCONFIRMED_SHARE * seen):
        yield _against(
            result,
            "RB202",
            f"{result.unconfirmed} of the {seen} adversarial examples that {result.name} found were not "
            "adversarial when the model was asked again: its answers differ from call to call",
            cure="make the forward pass deterministic (no dropout, no random transforms) or average over its draws",
        )


def _unmoved(result: AttackResult) -> Iterator[Finding]:
    if result.unmoved > max(1.0, UNCONFIRMED_SHARE * result.broken):
        yield _against(
            result,
            "RB203",
            f"{result.name} broke {result.unmoved} samples without changing them, though the model had them "
            "right at first",
            cure="make the forward pass deterministic and independent of the batch (eval mode, no shared state)",
        )


def _strange(result: AttackResult) -> Iterator[Finding]:
    if result.strange > max(1.0, UNCONFIRMED_SHARE * result.attempted):
        yield _against(
            result,
            "RB204",
            f"under {result.name} the model's logits were NaN or infinite for {result.strange} of "
            f"{result.attempted} samples: whether these are broken can't be told",
            cure="find the operation that overflows on inputs like these (a square root, a logarithm, a division) and "
            "bound it; robustness that comes from NaN is none",
        )


def _failed(result: AttackResult) -> Iterator[Finding]:
    if result.fault is not None:
        yield _against(
            result,
            "RB302",
            f"{result.name} failed, and found nothing on the {result.attempted} samples it was to attack: "
            f"{result.fault}",
            cure="mend what it tripped over, give it other parameters, or take it out of the suite",
        )


def _against(result: AttackResult, code: str, message: str, cure: str, severity: Severity = "error") -> Finding:
    """A finding about one attack."""
    return Finding(
        code=code, severity=severity, message=message, cure=cure, attack=result.name, threat=str(result.threat)
    )


def unstable(different: int, asked: int) -> Iterator[Finding]:
    """Finding where clean predictions differed between two passes over the same samples."""
    if different > max(1.0, UNCONFIRMED_SHARE * asked):
        yield Finding(
            code="RB101",
            severity="error",
            message=f"{different} of {asked} clean predictions changed when the model was asked a second time, in "
            "smaller batches",
            cure="make the forward pass deterministic and independent of the batch (eval mode, no dropout, no random "
            "transforms)",
        )


def nan_weights(names: Sequence[str]) -> Iterator[Finding]:
    """Finding where parameters or buffers hold NaN, though the clean predictions are finite."""
    if names:
        yield Finding(
            code="RB106",
            severity="warning",
            message=f"NaN stands among the model's weights: {', '.join(names[:4])}"
            + (f" and {len(names) - 4} more" if len(names) > 4 else ""),
            cure="load the weights again, or find where the training diverged",
        )


def around(notes: Sequence[str], unanswered: int | None, asked: int) -> Iterator[Finding]:
    """Finding that the network is not asked by itself: what was put around it, and how often it gives no answer.

    Parameters
    ----------
    notes
        Of each wrapper, the outermost first.
    unanswered
        Clean samples without an answer; None where the target always gives one.
    """
    silent = "" if unanswered is None else f"; {unanswered} of {asked} clean samples get no answer"
    if notes:
        yield Finding(
            code="RB108",
            severity="info",
            message=f"{'. Within: '.join(notes)}{silent}",
            cure="nothing to do: what is evaluated is all of it",
        )


def changed(before: str, after: str) -> Iterator[Finding]:
    """Finding where the target's weights or buffers are not what they were before the evaluation."""
    if before != after:
        yield Finding(
            code="RB102",
            severity="error",
            message="the model's weights or buffers changed during the evaluation",
            cure="make sure that its forward pass trains nothing and updates no buffer in eval mode",
        )


def stopped(why: str | None, attacked: Iterable[str], planned: int, standing: int) -> Iterator[Finding]:
    """Finding where the evaluation ended before its end."""
    if why is None:
        return
    if why == "invalid":
        yield Finding(
            code=CUT_SHORT,
            severity="info",
            message="no attack was run, as what was found before the first one makes the evaluation INVALID already: "
            "what is called robust here is what is right when clean",
            cure="mend what was found; to run the attacks all the same, give a reason (--allow-invalid REASON, "
            "--robustness-allow-invalid REASON; anyway=True in Python)",
        )
        return
    reason = {"interrupt": "interrupted", "seconds": "out of time", "passes": "out of passes"}[why]
    done = list(attacked)
    if len(done) >= planned:
        yield Finding(
            code=CUT_SHORT,
            severity="error" if why == "interrupt" else "warning",
            message=f"{reason} after the last attack: witnesses and survivors were not all asked about again",
            cure="run it again to the end, or give it a larger budget",
        )
        return
    yield Finding(
        code=CUT_SHORT,
        severity="error" if why == "interrupt" or not done else "warning",
        message=f"{reason} after {len(done)} of {planned} attacks ran to their end ({', '.join(done) or 'none'}): "
        f"the {standing} samples that still stand were not attacked by all of them, and the robust accuracy is an "
        "upper bound",
        cure="run it again to the end, or give it a larger budget",
    )


def unasked(fault: Exception) -> Finding:
    """Finding where the model, or an attack, failed while what came out was asked about again."""
    return Finding(
        code="RB105",
        severity="warning",
        message="the model failed while witnesses and survivors were asked about again: "
        f"{type(fault).__name__}: {str(fault).partition(chr(10))[0][:200]}",
        cure="make the forward pass work for every batch of such samples, each time",
    )


def denied(audit: Audit | None) -> Iterator[Finding]:
    """Finding where examples are none in float64; `check` tells of those that the model itself denies."""
    rounding = [] if audit is None else [one for one in audit.denied if one.reason == IN_FLOAT64]
    if audit is None or not rounding:
        return
    yield Finding(
        code="RB241",
        severity="error" if clearly_more(len(rounding), UNCONFIRMED_SHARE, audit.asked) else "warning",
        message=f"{len(rounding)} of {audit.asked} adversarial examples are none when the model computes in float64: "
        "what only rounding makes is no example, so they don't count",
        cure="look for what makes the model's answers hang on rounding: very large weights, or a hard choice",
    )


def clearly_more(count: int, share: float, total: int) -> bool:
    """Whether ``count`` of ``total`` is more than ``share``, significantly so (one-sided, at the 1 % level)."""
    return count > 0 and clopper_pearson(count, total, 0.98)[0] > share


def stronger_without(threat: ThreatModel, name: str, broke: int, total: int) -> Finding:
    """Finding that an attack without gradients beats those with them."""
    return Finding(
        code="RB214",
        severity="error",
        message=f"{name} breaks {broke} of {total} samples that the attacks by gradient left: these are too "
        "weak, or gradients masked",
        cure="find what masks them (rounding, a hard choice, saturation, randomness), or attack without gradients "
        "(suite black_box) for longer",
        threat=str(threat),
    )
