"""Explanations made up for tests."""

from __future__ import annotations

from typing import Any

from robustbench_lite.core.cost import Passes
from robustbench_lite.results.explained import (
    Exhibit,
    Explained,
    Group,
    Heat,
    LeftOut,
    MethodResult,
    Reasons,
    Said,
    Step,
    Term,
)
from robustbench_lite.results.scorecard import Interval, Measured
from tests.cards import png

_PICTURE = png([[0, 255], [255, 0]])


def make_reasons(**changes: Any) -> Reasons:
    """Make up reasons that are found."""
    groups = tuple(Group(label=f"{low} to {low + 1}", broken=Interval.of(3 * low, 10)) for low in range(4))
    steps = tuple(Step(start=at, end=at + 1, score=at - 1.5, low=at - 2, high=at - 1) for at in range(4))
    terms = (
        Term(name="brightness", definition="mean of all values", importance=1.25, steps=steps, groups=groups),
        Term(name="class", definition="the right class", importance=0.1, groups=groups),
    )
    known = {"samples": 40, "broken": 18, "told": 0.62, "low": 0.4, "high": 0.75, "folds": 5, "terms": terms}
    return Reasons(**{**known, **changes})


def make_explained(exhibits: int = 2, name: str = "lenet5", picture: str = _PICTURE, **changes: Any) -> Explained:
    """Make up what explanations tell."""
    spearman = Measured(
        name="attribution_spearman", value=0.51, low=0.4, high=0.6, unit="r", better="higher", definition="Spearman's"
    )
    heats = (
        Heat(method="grad_cam", clean=picture, adversarial=picture, spearman=0.25, overlap=0.5),
        Heat(method="lime", clean=picture, adversarial=picture, spearman=None, overlap=None),
    )
    fields = {
        "created": "2026-11-23T14:01:02+00:00",
        "version": "0.1.1",
        "target": name,
        "data": "digits",
        "robust_accuracy": Interval.of(22, 60),
        "verdict": "MEASURED",
        "seed": 0,
        "broken": 18,
        "methods": (
            MethodResult(
                name="grad_cam",
                definition="Where maps are active.",
                passes=Passes(forward=1234, backward=8),
                seconds=1.2,
                numbers=(spearman,),
                left_out="as it costs",
            ),
        ),
        "left_out": (LeftOut(name="kernel_shap", reason="needs shap"),),
        "exhibits": tuple(
            Exhibit(
                index=index,
                name="seven",
                attack="pgd",
                threat="Linf 0.1",
                distance=0.1,
                said=Said(label=7, name="seven", confidence=0.9),
                said_of_adversarial=Said(label=1, name="one"),
                original=picture,
                adversarial=picture,
                heats=heats,
            )
            for index in range(exhibits)
        ),
        "reasons": make_reasons(),
        "passes": Passes(forward=5678, backward=90),
        "seconds": 3.0,
    }
    return Explained(**{**fields, **changes})
