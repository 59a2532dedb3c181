"""What an attack is in the words of others: MITRE ATLAS techniques and NIST AI 100-2 terms, as tags.

ATLAS (https://atlas.mitre.org) numbers what adversaries do. NIST AI 100-2 E2025
(https://doi.org/10.6028/NIST.AI.100-2e2025) names an attacker's goal, knowledge and capabilities. This is the one place
that says which of them an attack under a threat model is.
"""

from __future__ import annotations

from typing import Literal

from robustbench_lite.core.threat import Access, ThreatModel

MadeOn = Literal["target", "surrogate", "unknown"]
"""What adversarial examples are made on: the model under attack, another one, or nobody knows."""

TAGS = {
    "atlas:AML.T0015": "Evade AI Model",
    "atlas:AML.T0043.000": "Craft Adversarial Data: White-Box Optimization",
    "atlas:AML.T0043.001": "Craft Adversarial Data: Black-Box Optimization",
    "atlas:AML.T0043.002": "Craft Adversarial Data: Black-Box Transfer",
    "nist-ai-100-2:goal:integrity-violation": "The model's answer is what the attacker wants, and wrong",
    "nist-ai-100-2:knowledge:white-box": "The attacker knows the model: its architecture, its weights, its gradients",
    "nist-ai-100-2:knowledge:black-box": "The attacker sees the model's answers alone",
    "nist-ai-100-2:capability:testing-data-control": "The attacker changes the inputs of the deployed model",
    "nist-ai-100-2:capability:query-access": "The attacker asks the model, and sees what it answers",
}
"""Every tag and what it means, in the order in which they are told."""

_BLACK_BOX = ("nist-ai-100-2:knowledge:black-box", "nist-ai-100-2:capability:query-access")


def tags_of(threat: ThreatModel, access: Access, made_on: MadeOn = "target") -> tuple[str, ...]:
    """Tags of an attack under a threat model.

    Parameters
    ----------
    threat
        The threat model. Natural corruptions have no adversary, and so no tags.
    access
        What the attack saw of the target.
    made_on
        What its examples are made on. Of unknown ones neither technique nor knowledge is told.

    Returns
    -------
    tuple of str
        Names of `TAGS`, in its order.
    """
    if threat.norm == "Corruption":
        return ()
    tags = {
        "atlas:AML.T0015",
        "nist-ai-100-2:goal:integrity-violation",
        "nist-ai-100-2:capability:testing-data-control",
    }
    if made_on == "surrogate":
        tags |= {"atlas:AML.T0043.002", *_BLACK_BOX}
    elif made_on == "target" and access == "gradients":
        tags |= {"atlas:AML.T0043.000", "nist-ai-100-2:knowledge:white-box"}
    elif made_on == "target":
        tags |= {"atlas:AML.T0043.001", *_BLACK_BOX}
    return tuple(tag for tag in TAGS if tag in tags)
