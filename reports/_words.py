"""What a scorecard means, in sentences for people who meet its numbers for the first time."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_lite.core.threat import Access, ThreatModel
from robustbench_lite.results.scorecard import DataInfo, Finding, Gate, Scorecard

from ._format import gate_state, percent, plain, plural

_SEES: dict[Access, str] = {
    "gradients": "knows the model and its gradients",
    "scores": "sees the model's scores, not its gradients",
    "labels": "sees the model's answers, not its scores",
}
_CHOSEN = {"random": "drawn at random", "least_likely": "the least likely one", "next": "the next one by number"}
_ORDER = {"failed": 0, "undecided": 1, "met": 2}


def threat_words(threat: ThreatModel, data: DataInfo) -> str:
    """What the adversary may do to an input, and what counts as success."""
    eps = plain(threat.eps_text)
    changes = {
        "Linf": f"may change every pixel value by at most {eps} of its range"
        if len(data.shape) == 3
        else f"may change every value by at most {eps}, values in [0, 1]",
        "L2": f"may move the input by at most {eps} in Euclidean distance, values in [0, 1]",
        "L1": f"may change values in [0, 1] by at most {eps} in all",
        "L0": f"may replace at most {eps} of the {_size(data):,} values of the input",
        "Spatial": f"may rotate the image by at most {eps}° and shift it",
        "Corruption": f"is nature: common corruptions, such as noise and blur, up to severity {eps} of 5",
    }
    goal = (
        "any wrong class will do"
        if threat.goal == "untargeted"
        else f"it must be taken for one wrong class, {_CHOSEN[threat.target_class]}"
    )
    return f"The adversary {changes[threat.norm]}; {goal}."


def knowledge(card: Scorecard) -> str:
    """What the adversary sees of the target."""
    return f"It {_SEES[card.target.access]}."


def meaning(card: Scorecard) -> str:
    """What the two accuracies come to, in one sentence; of an INVALID card that they mean nothing yet."""
    if card.verdict == "INVALID":
        gates = ", nor what the gates say of them" if card.gates else ""
        return f"These numbers can't be trusted{gates}: a check of the evaluation itself failed. Cure it first."
    clean, robust = card.clean_accuracy, card.robust_accuracy
    if not clean.total:
        return "No sample was evaluated, so this tells nothing about the model."
    right = f"Of {plural(clean.total, 'sample')} the model gets {clean.count:,} right"
    if card.interrupted:
        return f"{right}; at most {robust.count:,} of them withstand the attacks, which were not run to their end."
    lost = (clean.count - robust.count) / clean.count if clean.count else 0.0
    return f"{right}; the attacks break {percent(lost)} of these, and {robust.count:,} withstand them all."


def ruling(card: Scorecard) -> str:
    """What the gates decided, in one sentence."""
    gates = card.gates
    if not gates:
        return "No gate was set: nothing was demanded of the model."
    states = [gate_state(gate) for gate in gates]
    if (failed := states.count("failed")) > 0:
        return _of(failed, len(gates), "is missed", "are missed")
    if (open_ := states.count("undecided")) > 0:
        return f"Too few samples to tell. {_of(open_, len(gates), 'is undecided', 'are undecided')}"
    return {1: "The gate is met.", 2: "Both gates are met."}.get(len(gates), f"All {len(gates)} gates are met.")


def gates_first(card: Scorecard) -> list[Gate]:
    """The gates, those that decide against the model first."""
    return sorted(card.gates, key=lambda gate: _ORDER[gate_state(gate)])


def causes(card: Scorecard) -> list[Finding]:
    """The errors, for which a card is INVALID, the first of them first."""
    return [finding for finding in card.validity if finding.severity == "error"]


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _of(some: int, gates: int, one: str, many: str) -> str:
    if gates == 1:
        return f"The gate {one}."
    return f"{some} of {gates} gates {one if some == 1 else many}."


def _size(data: DataInfo) -> int:
    size = 1
    for side in data.shape:
        size *= side
    return size
