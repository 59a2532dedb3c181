"""Letting an evaluation through that can't be trusted: only with a reason, which stands on the card."""

from __future__ import annotations

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.scorecard import Finding, Scorecard

ALLOWED = "RB901"
"""Code of the finding that says why an INVALID evaluation was let through."""


def allow_invalid(card: Scorecard, reason: str) -> Scorecard:
    """Let an INVALID scorecard through, and say why on the card itself, so that every report shows it.

    Raises
    ------
    ValueError
        For an empty reason.
    """
    if not reason.strip():
        raise UserError("the reason to let an INVALID evaluation through is empty: say why, for those who read it")
    if card.verdict != "INVALID":
        return card
    finding = Finding(
        code=ALLOWED,
        severity="info",
        message=f"this INVALID evaluation was let through: {reason}",
        cure="cure the findings above, then take the reason away",
    )
    return card.model_copy(update={"validity": (*card.validity, finding)})


def allowed_because(card: Scorecard) -> str | None:
    """Why an INVALID evaluation was let through; None where it wasn't."""
    return next((finding.message for finding in card.validity if finding.code == ALLOWED), None)
