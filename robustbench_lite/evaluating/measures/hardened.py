"""Numbers that only hardening can tell, on the card that it makes; named here, so that gates know them."""

from __future__ import annotations

from typing import Literal

from robustbench_lite.evaluating.measures.interface import Measure, Subject


def _told_by_hardening(name: str, unit: str, better: Literal["higher", "lower"], definition: str) -> Measure:
    def of(subject: Subject) -> float:
        for one in subject.card.measures:
            if one.name == name:
                return one.value
        raise ValueError("only hardening tells it, on the card after (rblite harden)")

    return Measure(unit=unit, better=better, definition=definition, of=of)


TRAINING_PASSES = _told_by_hardening(
    "training_passes",
    "passes",
    "lower",
    "samples that went forward and backward to learn",
)
TRAINING_SECONDS = _told_by_hardening("training_seconds", "s", "lower", "wall-clock time of the epochs")
FORGETTING = _told_by_hardening(
    "forgetting", "accuracy", "lower", "best robust accuracy that each earlier task ever had, less that now; their mean"
)
FORGETTING_CLEAN = _told_by_hardening("forgetting_clean", "accuracy", "lower", "as forgetting, of clean accuracy")
BACKWARD_TRANSFER = _told_by_hardening(
    "backward_transfer",
    "accuracy",
    "higher",
    "robust accuracy on the earlier tasks now, less that after each was learnt; their mean",
)
BACKWARD_TRANSFER_CLEAN = _told_by_hardening(
    "backward_transfer_clean", "accuracy", "higher", "as backward_transfer, of clean accuracy"
)
