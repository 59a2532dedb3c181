"""Scorecards as a machine learning bill of materials, CycloneDX 1.7: a model card with the numbers and their intervals.

https://cyclonedx.org/docs/1.7/json/
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import robustbench_lite
from robustbench_lite.results.scorecard import Scorecard

from . import _evidence as evidence
from . import _format as fmt
from . import _view as view

_Json = dict[str, Any]


def render(cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = ()) -> str:
    """Write scorecards as a bill of materials, one model and its data a card.

    It is the same for the same cards, to the byte. What was attacked is known by properties, not by ``hashes``: the
    card knows the hash of the weights' names and values, and not of their file (`rblite attest` does that).

    Parameters
    ----------
    cards
        One or more scorecards.
    title
        Name of what the models are a part of.
    story
        Paragraphs about it.

    Returns
    -------
    str
        JSON.
    """
    names = view.labels(cards)
    models = evidence.unlike([f"model-{name}" for name in names])
    data = evidence.unlike([f"data-{card.data.name}" for card in cards])
    content = hashlib.sha256("".join(card.model_dump_json() for card in cards).encode()).hexdigest()
    metadata: _Json = {
        "tools": {
            "components": [{"type": "application", "name": "robustbench_lite", "version": robustbench_lite.__version__}]
        },
        "properties": [_property("notice", evidence.NOTICE), *(_property("story", text) for text in story)],
    }
    if created := [card.created for card in cards if evidence.is_moment(card.created)]:
        metadata["timestamp"] = max(created)
    if title:
        metadata["component"] = {"type": "application", "bom-ref": "0", "name": fmt.plain(title)}
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}",
        "version": 1,
        "metadata": metadata,
        "components": [
            component
            for card, name, model, of in zip(cards, names, models, data, strict=True)
            for component in (_model(card, name, model, of), _data(card, of))
        ],
        "dependencies": [{"ref": model, "dependsOn": [of]} for model, of in zip(models, data, strict=True)],
    }
    return json.dumps(bom, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _model(card: Scorecard, name: str, ref: str, data: str) -> _Json:
    return {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": fmt.plain(name),
        "modelCard": {
            "bom-ref": f"{ref}-card",
            "modelParameters": {
                "task": "classification",
                "datasets": [{"ref": data}],
                "inputs": [{"format": f"float32 in [0, 1], {fmt.shape(card.data)}"}],
                "outputs": [{"format": f"scores of {card.data.class_count} classes"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(card))},
            "considerations": {"technicalLimitations": evidence.reservations(card)},
            "properties": [
                _property("verdict", card.verdict),
                _property("evaluated", card.created),
                _property("suite", card.suite.name),
                _property("seed", str(card.seed)),
                _property("samples", str(len(card.outcomes))),
                _property("passes", str(card.passes.total)),
                *(_property("gate", f"{fmt.gate_demand(one)}: {fmt.gate_state(one)}") for one in card.gates),
                *(_property("tag", tag) for tag in evidence.tags(card)),
            ],
        },
        "properties": [
            _property("weights-state-sha256", card.target.weights_sha256),
            _property("parameters", str(card.target.parameters)),
            _property("access", card.target.access),
        ],
    }


def _metrics(card: Scorecard) -> Iterator[_Json]:
    for share in evidence.shares(card):
        slice_ = {"slice": share.slice} if share.slice else {}
        yield _metric(share.name, share.accuracy.value, share.accuracy.low, share.accuracy.high, **slice_)
    for one in card.measures:
        yield _metric(f"{fmt.plain(one.name)} ({fmt.plain(one.unit)})", one.value, one.low, one.high)


def _metric(kind: str, value: float, low: float | None, high: float | None, **slice_: str) -> _Json:
    found: _Json = {"type": kind, "value": evidence.digits(value), **slice_}
    if low is not None and high is not None:
        found["confidenceInterval"] = {"lowerBound": evidence.digits(low), "upperBound": evidence.digits(high)}
    return found


def _data(card: Scorecard, ref: str) -> _Json:
    return {
        "type": "data",
        "bom-ref": ref,
        "name": fmt.plain(card.data.name),
        "data": [{"type": "dataset", "name": fmt.plain(card.data.name), "classification": "test data"}],
        "properties": [
            _property("samples-sha256", card.data.sha256),
            _property("samples", str(card.data.samples)),
            _property("classes", str(card.data.class_count)),
        ],
    }


def _property(name: str, value: str) -> _Json:
    return {"name": f"robustbench_lite:{name}", "value": fmt.plain(value)}
