"""What became of each sample."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.suite import EVIDENCE
from robustbench_lite.results.scorecard.values import Frozen, Interval


class Break(Frozen):
    """A confirmed witness against one sample."""

    attack: str
    """Name of the attack that found it."""
    threat: str
    """The threat model under which it did."""
    prediction: int
    """What the model says instead."""
    distance: float
    """Distance from the original, in the threat model's norm."""


class Nearest(Frozen):
    """The nearest confirmed adversarial example of one sample, in the ball or out of it."""

    attack: str
    """Name of the attack that found it."""
    threat: str
    """The threat model; any eps of its norm and goal may have led to it."""
    distance: float
    """Distance from the original, in the threat model's norm."""


class Outcome(Frozen):
    """The row of one sample."""

    index: int
    """Position in the data source."""
    key: str
    """Hash of the sample's input and label, by which two scorecards are paired."""
    label: int
    prediction: int
    """Prediction on the clean input."""
    breaks: tuple[Break, ...] = ()
    """Witnesses against it, in the order they were found; empty where it stood or was wrong from the start."""
    nearest: tuple[Nearest, ...] = ()
    """Where the suite asks for a curve: one a threat model, none where no adversarial example is known."""
    passes: Passes
    """What this sample cost, clean pass and checks included."""

    @property
    def correct(self) -> bool:
        """Whether the clean prediction is right."""
        return self.prediction == self.label

    @property
    def robust(self) -> bool:
        """Whether the prediction is right and no attack of the suite broke it."""
        return self.correct and not self.breaks

    @property
    def stood(self) -> bool:
        """Whether it is robust but for what the evidence found.

        By this two scorecards are paired: how many survivors are asked about depends on more than the model.
        """
        return self.correct and all(one.attack == EVIDENCE for one in self.breaks)

    @property
    def broken_by(self) -> str | None:
        """Name of the first attack that broke it."""
        return self.breaks[0].attack if self.breaks else None

    @property
    def distance(self) -> float | None:
        """Distance of the first witness."""
        return self.breaks[0].distance if self.breaks else None

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Not written where there is none, so that a card of before it was kept is saved as it was read.
        return {key: value for key, value in write(self).items() if key != "nearest" or value}


class ClassResult(Frozen):
    """Clean and robust accuracy of one class."""

    label: int
    name: str
    clean_accuracy: Interval
    robust_accuracy: Interval


class Example(Frozen):
    """A witness to look at: PNG images, base64."""

    index: int
    label: int
    prediction: int
    """Prediction on the clean input."""
    attack: str
    threat: str
    adversarial_prediction: int
    distance: float
    confidence: float | None = Field(default=None, ge=0, le=1)
    """Probability that the model gives to its prediction on the clean input; None where it shows labels alone."""
    adversarial_confidence: float | None = Field(default=None, ge=0, le=1)
    """Probability that it gives to its prediction on the adversarial input."""
    original: str
    perturbation: str
    """Difference, scaled so that its largest value spans the range; grey is no change."""
    adversarial: str

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if value is not None}
