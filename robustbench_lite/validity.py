"""Whether to believe an evaluation: findings from what the engine saw. An ``error`` makes the verdict INVALID."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from robustbench_lite.scorecard import AttackResult, Finding, Severity

ZERO_GRADIENT_SHARE = 0.1
"""Share of samples without a gradient from which on an attack's result is doubted."""
CUT_SHORT = "RB301"
"""Code of the finding that a run ended before its end."""
UNCONFIRMED_SHARE = 0.01
"""Share of successes that the second forward pass may deny: rounding between two batches, and no more."""


_ECHOES: dict[str, tuple[str, ...]] = {
    "RB102": ("RB101", "RB103"),
    "RB103": ("RB101",),
    "RB104": ("RB101", "RB102", "RB103"),
    "RB111": ("RB123", "RB125", "RB126"),
    "RB121": ("RB125", "RB131", "RB133", "RB201"),
    "RB123": ("RB114", "RB131", "RB201"),
    "RB131": ("RB125", "RB201"),
    "RB132": ("RB201",),
    "RB201": ("RB125",),
}
"""By cause, the findings that only tell of it once more."""


def without_echo(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Leave out what only repeats, as a consequence, what another finding tells as the cause.

    Of findings with one code about the whole evaluation, the first stays.
    """
    kept: dict[tuple[str, str | None, str | None], Finding] = {}
    for finding in findings:
        kept.setdefault((finding.code, finding.attack, finding.threat), finding)
    causes = {finding.code for finding in kept.values() if finding.severity != "info"}
    echoes = {code for cause in causes for code in _ECHOES.get(cause, ())}
    return tuple(finding for finding in kept.values() if finding.code not in echoes)


def judge(attacks: Sequence[AttackResult]) -> Iterator[Finding]:
    """Findings from the results of the attacks, threat model by threat model."""
    for threat in dict.fromkeys(result.threat for result in attacks):
        yield from _zero_gradients([result for result in attacks if result.threat == threat])
    for result in attacks:
        yield from _unconfirmed(result)
        yield from _unmoved(result)
        yield from _strange(result)
        yield from _failed(result)


def _zero_gradients(attacks: Sequence[AttackResult]) -> Iterator[Finding]:
    followers = [result for result in attacks if result.gradients and result.trace.samples]
    blind = [result for result in followers if _blind_share(result) >= ZERO_GRADIENT_SHARE]
    # One that was stopped early saw some samples only: it excuses none of the others.
    sees = any(result.finished for result in followers if result not in blind)
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
    reason = {"interrupt": "interrupted", "seconds": "out of time", "passes": "out of passes"}[why]
    done = list(attacked)
    yield Finding(
        code=CUT_SHORT,
        severity="error" if why == "interrupt" or not done else "warning",
        message=f"{reason} after {len(done)} of {planned} attacks ran to their end ({', '.join(done) or 'none'}): "
        f"the {standing} samples that still stand were not attacked by all of them, and the robust accuracy is an "
        "upper bound",
        cure="run it again to the end, or give it a larger budget",
    )
