"""Why samples broke, as far as explanations tell: typed, torch-free; every screen and page reads it from here."""

from __future__ import annotations

from robustbench_lite.core.cost import Passes
from robustbench_lite.results.scorecard.measured import Measured
from robustbench_lite.results.scorecard.values import Frozen, Interval


class Said(Frozen):
    """What the model says of an input."""

    label: int
    name: str
    """Of the class."""
    confidence: float | None = None
    """Probability that it gives to the class; None of a model that tells labels alone."""


class Heat(Frozen):
    """Attributions of one method, of a sample and of its witness, drawn."""

    method: str
    clean: str
    """PNG in base64: what speaks for the class that the model names orange, what speaks against it blue."""
    adversarial: str
    spearman: float | None
    """Between the two; None where one of them is the same everywhere."""
    overlap: float | None


class Exhibit(Frozen):
    """A broken sample beside its witness."""

    index: int
    """Position in the data source."""
    name: str
    """Its class."""
    attack: str
    threat: str
    distance: float
    said: Said
    said_of_adversarial: Said
    original: str
    """PNG in base64."""
    adversarial: str
    heats: tuple[Heat, ...]
    """By method."""


class MethodResult(Frozen):
    """A method, with how steady its attributions are."""

    name: str
    definition: str
    passes: Passes
    """What it cost, with the numbers."""
    seconds: float
    numbers: tuple[Measured, ...]
    left_out: str = ""
    """Why some numbers weren't taken."""


class LeftOut(Frozen):
    """A method that was not run, and why."""

    name: str
    reason: str


class Group(Frozen):
    """Samples with like values of a property, and how many of them broke."""

    label: str
    """Such as ``0.12 to 0.20``."""
    broken: Interval


class Step(Frozen):
    """A stretch of a property's values, and what the glass-box model adds there to the log-odds of breaking."""

    start: float
    end: float
    score: float
    low: float
    high: float


class Term(Frozen):
    """What one property tells."""

    name: str
    definition: str
    importance: float
    """Mean size of what it adds to the log-odds, over the samples."""
    steps: tuple[Step, ...] = ()
    """Ascending; empty of the class."""
    groups: tuple[Group, ...] = ()
    """Quarters of the samples by its value, or classes."""


class Reasons(Frozen):
    """Which measured properties of a sample tell whether it breaks."""

    samples: int
    """Samples that are right when clean."""
    broken: int
    told: float | None = None
    """Brier skill score on samples held out: by which share the mean squared error of the chances is below that of the
    constant predictor. 1 is perfect, 0 no better than the constant, below 0 worse; None where nothing was fitted."""
    low: float | None = None
    """Ends of its 95 % interval, by the bootstrap over samples."""
    high: float | None = None
    folds: int = 0
    terms: tuple[Term, ...] = ()
    """The most important first."""
    missing: str = ""
    """Why nothing was fitted."""

    @property
    def found(self) -> bool:
        """Whether they tell anything: the whole interval is above 0."""
        return self.low is not None and self.low > 0

    @property
    def words(self) -> str:
        """What it comes to, in a sentence."""
        if self.told is None or self.low is None or self.high is None:
            return f"Which samples break was not looked into: {self.missing}."
        share = f"{self.told:.1%} [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        if not self.found:
            return (
                "None of the measured properties tells which samples break, as far as these samples show: a model of "
                f"all of them explains {share} of it on samples held out, and a constant 0%."
            )
        return (
            f"Which samples break can be told, best by {self.terms[0].name}: a model of the measured properties "
            f"explains {share} of it, on samples held out (Brier skill score; a constant has 0%)."
        )


class Explained(Frozen):
    """What explanations tell of the samples that an evaluation broke."""

    created: str
    version: str
    target: str
    data: str
    robust_accuracy: Interval
    verdict: str
    seed: int
    broken: int
    """Samples that are broken; the exhibits are some of them."""
    methods: tuple[MethodResult, ...]
    left_out: tuple[LeftOut, ...]
    exhibits: tuple[Exhibit, ...]
    reasons: Reasons
    passes: Passes
    """All that was spent."""
    seconds: float
