"""A model is examined before it is evaluated: every check of the preflight, on more samples."""

from __future__ import annotations

import json

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data, check_steady
from robustbench_lite.evaluating.preflight import THOROUGH, Preflight, preflight
from robustbench_lite.model.target import Target


def examine(target: Target, data: Data, *, seed: int = 0, limit: int | None = None) -> Preflight:
    """Check a model on a sample of the data, more closely than an evaluation does.

    Parameters
    ----------
    target, data
        As `evaluate` takes them.
    seed
        Of the sample.
    limit
        Samples to look at; by default `THOROUGH`.

    Raises
    ------
    UserError
        For a model that gives no row of logits a sample, data that don't fit it, and data that change.
    """
    check_steady(data)
    target.predictor.expect(max(len(data.classes), int(data.labels.max()) + 1))
    try:
        target.probe(data.fetch(range(min(2, len(data)))))
    except UserError as fault:
        if "NaN" not in str(fault):  # that is a finding
            raise
    return preflight(target, data, seed=seed, samples=limit or THOROUGH, thorough=True)


def errors(found: Preflight) -> int:
    """How many findings would make an evaluation INVALID."""
    return sum(finding.severity == "error" for finding in found.findings)


def as_json(target: Target, data: Data, found: Preflight) -> str:
    """The same for machines: one JSON object."""
    checks = [
        {"name": check.name, "saw": check.saw, "asked": check.asked, "findings": [one.code for one in check.findings]}
        for check in found.checks
    ]
    told = {
        "target": target.name,
        "data": data.name,
        "samples": found.samples,
        "passes": {"forward": int(found.forward.sum()), "backward": int(found.backward.sum())},
        "checks": checks,
        "findings": [finding.model_dump(include={"code", "severity", "message", "cure"}) for finding in found.findings],
        "errors": errors(found),
    }
    return json.dumps(told, indent=1)
