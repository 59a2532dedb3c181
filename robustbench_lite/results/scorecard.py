"""The scorecard: the versioned, typed result of an evaluation. Everything that is shown or gated is read from it.

No torch here: a scorecard is loaded, compared and shown on machines that never run a model.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.files import NPZ_FAULTS, atomic_file, check_unpacked, read_json, write_atomically
from robustbench_lite.core.suite import EVIDENCE, Suite, adversary
from robustbench_lite.core.threat import NORMS, Access, ThreatModel
from robustbench_lite.results.statistics import clopper_pearson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA_VERSION: Literal[1] = 1
_LARGEST = math.nextafter(math.inf, 0.0)  # an eps that still leaves what is broken at none

_FAULTS_SHOWN = 20

Verdict = Literal["PASS", "FAIL", "INVALID"]
Severity = Literal["error", "warning", "info"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Interval(_Frozen):
    """A share of samples with its exact (Clopper-Pearson) interval."""

    count: int
    """Samples counted."""
    total: int
    """Samples looked at."""
    value: float
    """``count / total``, in [0, 1]."""
    low: float
    """Low end of the interval."""
    high: float
    """High end of the interval."""
    confidence: float = 0.95
    """Coverage of the interval."""

    @classmethod
    def of(cls, count: int, total: int, confidence: float = 0.95) -> Interval:
        """Share ``count / total`` with its interval; 0 in [0, 1] where total is 0."""
        low, high = clopper_pearson(count, total, confidence)
        value = count / total if total else 0.0
        return cls(count=count, total=total, value=value, low=low, high=high, confidence=confidence)

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


class Trace(_Frozen):
    """What an attack saw, by step; the evidence on which an evaluation is believed or not."""

    samples: tuple[int, ...]
    """Samples that reached the step."""
    loss: tuple[float, ...]
    """Mean over them of the loss that the attack climbs."""
    broken: tuple[int, ...]
    """Samples broken at the step for the first time."""
    zero_gradient: tuple[int, ...]
    """Samples whose input gradient was zero throughout, or held what is no number."""
    stood: int = 0
    """Starts that broke nothing; 0, and so the next four, on a card of before they were told."""
    flat: int = 0
    """How many of these never saw their margin rise above where it was at their first candidate."""
    late: float = 0.0
    """Mean over these of the share of the margin's rise that came in the last fifth of the steps."""
    restarted: int = 0
    """Starts after the first."""
    restarts_broke: int = 0
    """How many of these broke their sample."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As of a gate: a card of before they were told is saved as it was read.
        return {key: value for key, value in write(self).items() if value != 0}


class AttackResult(_Frozen):
    """One attack of the suite under one threat model."""

    name: str
    """Unique within its threat model."""
    attack: str
    """The algorithm, as the registry knows it."""
    threat: ThreatModel
    """The threat model it ran under."""
    params: dict[str, Any]
    """The algorithm's parameters, defaults included."""
    gradients: bool
    """Whether it climbs the gradient that the trace tells of; a foreign attack's loop is not seen."""
    minimal: bool = False
    """Whether it looks for the smallest perturbation, and so doesn't climb as high as the ball allows."""
    attempted: int
    """Samples it was run on: in a cascade those that were left. With them those that it had broken under a smaller eps
    of the same norm and goal, which cost nothing here."""
    broken: int
    """Samples of these that it broke, each with a confirmed witness."""
    unconfirmed: int = 0
    """Samples with a success in the loop that the independent forward pass didn't confirm; not counted. What float64
    denies is told by the card's ``audit``."""
    strange: int = 0
    """Samples for which the model gave logits that are no finite numbers; these never count as broken."""
    unmoved: int = 0
    """Witnesses at distance zero: samples that the model had right at first, and wrong when asked again."""
    robust_accuracy: Interval
    """Share of all samples still right after this attack and those before it, under its threat model."""
    alone: Interval | None
    """Share of all samples that this attack alone leaves right; None where it didn't see all of them."""
    distance_median: float | None
    """Median distance of its witnesses, in the threat model's norm; None without witnesses."""
    passes: Passes
    """What it cost."""
    seconds: float
    """Wall-clock time."""
    finished: bool = True
    """False where a budget or an interrupt stopped it early, and where it failed."""
    fault: str | None = None
    """What it tripped over, where it failed."""
    trace: Trace

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As of a trace: what was always so before is not written.
        return {key: value for key, value in write(self).items() if (key, value) != ("minimal", False)}


class Skipped(_Frozen):
    """An attack of the suite that was not run under a threat model."""

    attack: str
    """Its name in the suite."""
    threat: str
    """The threat model."""
    reason: str
    """Such as ``needs gradients``, or what it expects of the inputs."""


class ThreatResult(_Frozen):
    """The worst case over all attacks under one threat model."""

    threat: ThreatModel
    robust_accuracy: Interval


class Break(_Frozen):
    """A confirmed witness against one sample."""

    attack: str
    """Name of the attack that found it."""
    threat: str
    """The threat model under which it did."""
    prediction: int
    """What the model says instead."""
    distance: float
    """Distance from the original, in the threat model's norm."""


class Nearest(_Frozen):
    """The nearest confirmed adversarial example of one sample, in the ball or out of it."""

    attack: str
    """Name of the attack that found it."""
    threat: str
    """The threat model; any eps of its norm and goal may have led to it."""
    distance: float
    """Distance from the original, in the threat model's norm."""


class Outcome(_Frozen):
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


class ClassResult(_Frozen):
    """Clean and robust accuracy of one class."""

    label: int
    name: str
    clean_accuracy: Interval
    robust_accuracy: Interval


CHANGED, IN_FLOAT64, OUTSIDE = DENIALS = (
    "not adversarial when asked again",
    "not adversarial in float64",
    "out of the ball or the box",
)
"""Why an adversarial example that an attack saw is none."""


class Denied(_Frozen):
    """What an attack took for an adversarial example, and is none; the sample was attacked further."""

    index: int
    """Position of the sample in the data source."""
    attack: str
    threat: str
    reason: str
    """What was seen when it was asked about again."""


class Audit(_Frozen):
    """Every adversarial example, asked about once more in another batch, its norm and box measured anew."""

    asked: int
    """Examples that the attacks found."""
    confirmed: int
    """How many of them are adversarial, in the ball and in the box: the witnesses."""
    precise: bool
    """Whether in float64; a model that draws at random, say, is another one there."""
    images: int = 0
    """Witnesses of these that were rounded to images of 8 bits a value: all that are kept, or some."""
    rounded: int = 0
    """How many of those stay adversarial."""
    denied: tuple[Denied, ...] = ()


class Plot(_Frozen):
    """A few points that show what a finding saw."""

    x: str
    """What goes to the right, with its unit."""
    y: str
    """What goes up."""
    points: tuple[tuple[float, float], ...]


class Finding(_Frozen):
    """A reason to believe the evaluation less: what was seen, and the cure."""

    code: str
    """Stable code, such as ``RB201``."""
    severity: Severity
    """An ``error`` makes the verdict INVALID."""
    message: str
    """What was seen."""
    cure: str
    """What to do about it."""
    attack: str | None = None
    """The attack it is about; None where it is about the whole evaluation."""
    threat: str | None = None
    """The threat model under which that attack ran."""
    plot: Plot | None = None
    """What was seen, where a curve shows it."""

    @property
    def where(self) -> str:
        """The attack and its threat model, in words; empty where it is about the whole evaluation."""
        return " under ".join(one for one in (self.attack, self.threat) if one)

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if (key, value) != ("plot", None)}


class Gate(_Frozen):
    """A demand on the scorecard and whether it is met."""

    name: str
    """``min_clean_accuracy``, ``min_robust_accuracy``, ``max_drop``, ``max_regression``, ``max_passes`` or
    ``max_seconds``."""
    threshold: float
    """What is demanded: a share of samples, passes a sample, or seconds."""
    value: float
    """What was seen."""
    low: float
    """Low end of its interval; of a cost the value itself."""
    high: float
    """High end of its interval; of a cost the value itself."""
    passed: bool
    """False only where the whole interval is on the wrong side: a gate doesn't fail by chance."""
    decided: bool
    """False where the interval holds the threshold: more samples would be needed to tell."""
    samples: int | None = None
    """Samples that it was decided on; None on a card of before this was kept."""
    more_needed: int | None = None
    """Samples more that would decide it, if the share stays as seen; None where it is decided, and where no number
    would."""

    @property
    def kind(self) -> Literal["accuracy", "regression", "cost"]:
        """What it is about: a share of the samples, one paired with a baseline's, or what the evaluation cost."""
        if self.name in ("max_passes", "max_seconds"):
            return "cost"
        return "regression" if self.name == "max_regression" else "accuracy"

    @property
    def words(self) -> str:
        """``met``, ``failed``, or ``undecided with 200 samples, 1,150 more needed``."""
        if self.decided or self.samples is None:
            return ("met" if self.decided else "undecided") if self.passed else "failed"
        if self.more_needed is None:
            return f"undecided with {self.samples:,} samples, and with any number: the share is at the threshold"
        return f"undecided with {self.samples:,} samples, {self.more_needed:,} more needed"

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is not known is not written, so that a card of before it was kept is saved as it was read.
        return {key: value for key, value in write(self).items() if value is not None}


class Example(_Frozen):
    """A witness to look at: PNG images, base64."""

    index: int
    label: int
    prediction: int
    """Prediction on the clean input."""
    attack: str
    threat: str
    adversarial_prediction: int
    distance: float
    original: str
    perturbation: str
    """Difference, scaled so that its largest value spans the range; grey is no change."""
    adversarial: str


class TargetInfo(_Frozen):
    """The model under test."""

    name: str
    weights_sha256: str
    """Hash of the state dict: names, shapes and values. Of a function, of what it holds; empty where that can't be
    read."""
    parameters: int
    """Number of parameters; 0 of a function."""
    device: str
    access: Access = "gradients"
    """What was seen of it: ``scores`` or ``labels`` of a function, gradients as well of a module."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As of a gate: what was always so before is not written.
        return {key: value for key, value in write(self).items() if (key, value) != ("access", "gradients")}


class DataInfo(_Frozen):
    """The samples it was tested on."""

    name: str
    samples: int
    planned: int | None = None
    """Samples there were, of an evaluation that was to end as soon as its gates are settled; None of any other."""
    limit: int | None = None
    """Size of the class-stratified sample that was asked for; None where all were."""
    shape: tuple[int, ...]
    """Shape of one sample, (channels, height, width) for images."""
    classes: tuple[str, ...]
    sha256: str
    """Hash over the samples' keys and labels, whatever their order."""


class Countermeasure(_Frozen):
    """One thing that an adaptive evaluation does so that attacks get at the target."""

    name: str
    """``bpda``, ``logits``, ``eot``, ``rescale``, ``smoothing`` or ``surrogate``."""
    setting: str
    """How far it goes, such as ``16 draws``."""
    reason: str
    """The findings that call for it, and what was measured."""

    def __str__(self) -> str:
        return f"{self.name}, {self.setting}"


class Adaptation(_Frozen):
    """What an adaptive evaluation did, and what was found without."""

    measures: tuple[Countermeasure, ...] = Field(min_length=1)
    """In the order they were taken."""
    clean_accuracy: Interval
    """Without them."""
    robust_accuracy: Interval
    """Without them."""
    verdict: Verdict
    """Without them."""
    validity: tuple[Finding, ...]
    """Without them: what called for them."""


class Environment(_Frozen):
    """What it ran on, so that the run can be repeated."""

    python: str
    platform: str
    processor: str
    threads: int
    packages: dict[str, str]
    """Versions of what the result depends on."""


@dataclass(frozen=True)
class Curve:
    """Robust accuracy against eps, under one norm and goal.

    At an eps it is the share of all samples that are right when clean and have no adversarial example known at this
    distance or nearer: it never rises, and is what would be left of the accuracy if no attack did better.
    """

    threat: ThreatModel
    """Norm and goal; the curve is the same for each eps of them."""
    total: int
    """Samples, those wrong from the start included."""
    distances: tuple[float, ...]
    """Of each sample that is right when clean, the smallest eps at which it is broken, in rising order; inf where it is
    at none."""
    searched: bool
    """Whether the distances are those of the nearest examples known. False: no smallest perturbation was looked for,
    and a distance is the smallest eps, of those attacked, at which the sample is broken."""
    confidence: float = 0.95
    """Of the intervals, which hold at each eps by itself."""

    def at(self, eps: float) -> Interval:
        """Robust accuracy at an eps, 0 or larger; at 0 it is the clean accuracy."""
        if not eps >= 0:
            raise UserError(f"eps is {eps}: expected 0 or a number above it")
        # Samples that don't have to be moved are not broken at eps 0, where the clean pass had them right.
        broken = bisect_right(self.distances, min(eps, _LARGEST)) if eps > 0 else 0
        return Interval.of(len(self.distances) - broken, self.total, self.confidence)

    def steps(self) -> tuple[tuple[float, Interval], ...]:
        """Every eps at which it changes with the robust accuracy from there on, 0 and the clean accuracy first."""
        ends = sorted({eps for eps in self.distances if 0 < eps < math.inf})
        return tuple((eps, self.at(eps)) for eps in (0.0, *ends))

    def quantile(self, share: float) -> float | None:
        """Smallest eps at which this share of the samples that are right when clean is broken; None where none is."""
        if not 0 < share <= 1:
            raise UserError(f"share is {share}: expected a number above 0, and at most 1")
        count = math.ceil(round(share * len(self.distances), 9))  # a share such as 0.07 of 100 is 7, not 7.0000001
        eps = self.distances[count - 1] if self.distances else math.inf
        return eps if math.isfinite(eps) else None

    @property
    def median(self) -> float | None:
        """Eps at which half of the samples that are right when clean are broken; None where more are never broken."""
        return self.quantile(0.5)


@dataclass(frozen=True, eq=False)
class Witnesses:
    """Confirmed adversarial examples, one a row."""

    index: NDArray[np.int64]
    """Position of the sample in the data source, shape (N,)."""
    attack: NDArray[np.str_]
    """Name of the attack that found it, shape (N,)."""
    threat: NDArray[np.str_]
    """Threat model under which it did, shape (N,)."""
    x: NDArray[np.float32]
    """The adversarial inputs, in [0, 1], shape (N, *sample)."""

    def __len__(self) -> int:
        return len(self.index)

    def __eq__(self, other: object) -> bool:
        import numpy as np

        return isinstance(other, Witnesses) and all(
            np.array_equal(getattr(self, item.name), getattr(other, item.name)) for item in fields(self)
        )

    def save(self, path: Path) -> None:
        """Write them as a compressed ``npz`` file."""
        import numpy as np

        with atomic_file(path) as stream:
            np.savez_compressed(stream, index=self.index, attack=self.attack, threat=self.threat, x=self.x)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; nothing in the file is executed."""
        import numpy as np

        try:
            check_unpacked(path)
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                found = cls(**{name: stored[name] for name in ("index", "attack", "threat", "x")})
            kinds = [getattr(found, item.name).dtype.kind for item in fields(found)]
            lengths = {getattr(found, item.name).shape[0] for item in fields(found)}
            if kinds != ["i", "U", "U", "f"] or len(lengths) > 1:
                raise ValueError(f"arrays are of kinds {', '.join(kinds)} and lengths {lengths}")
            return found
        except NPZ_FAULTS as fault:
            raise UserError(f"{path}: can't be read as witnesses ({fault}); delete it or save the card again") from None


class Scorecard(_Frozen):
    """The result of an evaluation.

    ``clean_accuracy`` is the share of samples that the target gets right; ``robust_accuracy`` the share that it gets
    right and that no attack of the suite breaks, under any of its threat models (pointwise worst case). Every
    adversarial example behind it is a witness: an independent forward pass has confirmed it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    """ISO 8601, UTC."""
    version: str
    """Version of robustbench_lite."""
    target: TargetInfo
    data: DataInfo
    suite: Suite
    """The suite as it ran, threat models and parameters resolved."""
    seed: int
    batch_size: int
    environment: Environment
    clean_accuracy: Interval
    robust_accuracy: Interval
    threats: tuple[ThreatResult, ...]
    attacks: tuple[AttackResult, ...]
    skipped: tuple[Skipped, ...] = ()
    """Attacks of the suite that need to see more of the target than can be seen, or other inputs."""
    passes: Passes
    """All that was spent: more than the outcomes' sum where samples were asked about that no outcome tells of, as by
    the checks of a sequential run and by the measures of an adaptive one."""
    seconds: float
    verdict: Verdict
    validity: tuple[Finding, ...]
    checks: Passes | None = None
    """What the checks of model, data, witnesses and survivors cost, of ``passes``; None on a card of before they were
    told."""
    audit: Audit | None = None
    """What became of witnesses that were asked about once more; None where there were none to ask about."""
    gates: tuple[Gate, ...] = ()
    adaptation: Adaptation | None = None
    """Where the evaluation was adaptive: what else the card tells is of the target with its measures taken."""
    interrupted: str | None = None
    """Why the run stopped before its end (``interrupt``, ``seconds``, ``passes``); None where it didn't."""
    outcomes: tuple[Outcome, ...] = Field(repr=False)
    gallery: tuple[Example, ...] = Field(default=(), repr=False)

    _witnesses: Witnesses | None = PrivateAttr(default=None)

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unsaid = {"skipped", "adaptation", "audit", "checks"}  # as of an outcome's nearest
        return {key: value for key, value in write(self).items() if key not in unsaid or value}

    @property
    def witnesses(self) -> Witnesses | None:
        """Adversarial examples, where they were asked for (``keep_witnesses=True``); beside the JSON when saved."""
        return self._witnesses

    def with_witnesses(self, witnesses: Witnesses | None) -> Scorecard:
        """Attach the adversarial examples; None takes them off."""
        card = self.model_copy()
        card._witnesses = witnesses
        return card

    def class_name(self, label: int) -> str:
        """Name of a class; its number where the data have no names."""
        return self.data.classes[label] if 0 <= label < len(self.data.classes) else str(label)

    def by_class(self) -> tuple[ClassResult, ...]:
        """Clean and robust accuracy of each class that occurs, by label."""
        return tuple(self._classes())

    def _classes(self) -> Iterator[ClassResult]:
        rows: dict[int, list[Outcome]] = {}
        for outcome in self.outcomes:
            rows.setdefault(outcome.label, []).append(outcome)
        for label, members in sorted(rows.items()):
            yield ClassResult(
                label=label,
                name=self.class_name(label),
                clean_accuracy=Interval.of(sum(row.correct for row in members), len(members)),
                robust_accuracy=Interval.of(sum(row.robust for row in members), len(members)),
            )

    def curve(self, threat: str | ThreatModel | None = None) -> Curve:
        """Robust accuracy against eps.

        Of a suite that asks for a curve from the nearest adversarial example of each sample; of any other from the eps
        that it was run under, a point each.

        Parameters
        ----------
        threat
            A threat model whose norm and goal are on the card, of any eps; by default the first of the card.

        Raises
        ------
        ValueError
            For a norm and goal that are not on the card.
        """
        asked = self.threats[0].threat if threat is None else ThreatModel.parse(threat)
        among = [one.threat for one in self.threats if adversary(one.threat) == adversary(asked)]
        if not among:
            known = ", ".join(dict.fromkeys(str(one.threat) for one in self.threats))
            raise UserError(f"{asked}: nothing of this norm and goal is on the card, which holds {known}")
        eps = {str(one): one.eps for one in among}
        return Curve(
            threat=among[0],
            total=len(self.outcomes),
            distances=tuple(sorted(_smallest(row, eps) for row in self.outcomes if row.correct)),
            searched=self.suite.curve and asked.norm in NORMS,
        )

    def save(self, path: str | Path) -> Path:
        """Write the scorecard as JSON, and its witnesses, where it has any, beside it as ``.witnesses.npz``.

        The file is replaced in one step: a crash leaves the old one or the new one, never half of one.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.model_dump_json(indent=1) + "\n"
        if self._witnesses is not None:
            self._witnesses.save(_witness_path(path))
        else:
            _witness_path(path).unlink(missing_ok=True)
        write_atomically(path, text)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Scorecard:
        """Read a scorecard that `save` wrote.

        Raises
        ------
        ValueError
            For a file that is no scorecard, is damaged, or was written by a newer version.
        """
        path = Path(path)
        try:
            raw = read_json(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; expected a scorecard written by 'rblite evaluate'") from None
        except (OSError, ValueError) as fault:
            raise UserError(f"{path}: can't be read as JSON ({fault}); expected a scorecard") from None
        if not isinstance(raw, dict) or "schema_version" not in raw:
            raise UserError(f"{path}: not a scorecard (no schema_version)")
        if raw["schema_version"] != SCHEMA_VERSION:
            raise UserError(
                f"{path}: schema_version is {raw['schema_version']!r}, this version of robustbench_lite reads "
                f"{SCHEMA_VERSION}; upgrade robustbench_lite to read it"
            )
        try:
            card = cls.model_validate(raw)
        except ValidationError as fault:
            raise UserError(f"{path}: not a valid scorecard\n{faults(fault)}") from None
        if wrong := list(_impossible(card)):
            raise UserError("\n".join([f"{path}: not a valid scorecard", *wrong[:_FAULTS_SHOWN]]))
        if _witness_path(path).is_file():
            card._witnesses = Witnesses.load(_witness_path(path))
        return card


def _contradictory(card: Scorecard) -> Iterator[str]:
    """Tell where a card's rows and findings say something else than its sums and its verdict."""
    rows = {
        "clean_accuracy": sum(row.correct for row in card.outcomes),
        "robust_accuracy": sum(row.robust for row in card.outcomes),
    }
    for key, counted in rows.items():
        told: Interval = getattr(card, key)
        if (told.count, told.total) != (counted, len(card.outcomes)):
            yield f"  {key}: counts {told.count} of {told.total} samples, its rows {counted} of {len(card.outcomes)}"
    wrong = any(finding.severity == "error" for finding in card.validity)
    expected = "INVALID" if wrong else "PASS" if all(gate.passed for gate in card.gates) else "FAIL"
    if card.verdict != expected:
        yield f"  verdict: is {card.verdict}: expected {expected} by the findings and the gates"


def _impossible(card: Scorecard) -> Iterator[str]:
    """Tell what is of the right type and yet from no evaluation: shares out of [0, 1], distances below 0."""
    shares: dict[str, Interval | None] = {
        "clean_accuracy": card.clean_accuracy,
        "robust_accuracy": card.robust_accuracy,
        **{f"threats.{place}.robust_accuracy": one.robust_accuracy for place, one in enumerate(card.threats)},
        **{f"attacks.{place}.robust_accuracy": one.robust_accuracy for place, one in enumerate(card.attacks)},
        **{f"attacks.{place}.alone": one.alone for place, one in enumerate(card.attacks)},
    }
    for key, one in shares.items():
        if one is not None and not all(0 <= share <= 1 for share in (one.value, one.low, one.high, one.confidence)):
            yield f"  {key}: is {one.value} [{one.low}, {one.high}]: expected shares from 0 to 1"
        if one is not None and not 0 <= one.count <= one.total:
            yield f"  {key}: counts {one.count} of {one.total} samples"
        elif one is not None and not (
            math.isclose(one.value, one.count / max(one.total, 1), abs_tol=1e-9) and one.low <= one.value <= one.high
        ):
            yield f"  {key}: is {one.value} [{one.low}, {one.high}], and counts {one.count} of {one.total} samples"
    yield from _contradictory(card)
    for place, row in enumerate(card.outcomes):
        if any(one.distance < 0 for one in row.breaks) or any(one.distance < 0 for one in row.nearest):
            yield f"  outcomes.{place}: a distance is below 0"


def _smallest(row: Outcome, eps: Mapping[str, float]) -> float:
    """Smallest eps at which a sample is known to be broken, of threat models by name with their eps; or inf."""
    # An example may lie out of the ball by as much as rounding takes: in the ball it counts for the ball's eps.
    known = [found.distance for found in row.nearest if found.threat in eps]
    return min([*known, *(eps[found.threat] for found in row.breaks if found.threat in eps)], default=math.inf)


def _witness_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".json") + ".witnesses.npz")


def median(values: list[float]) -> float | None:
    """Median, or None of nothing."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
