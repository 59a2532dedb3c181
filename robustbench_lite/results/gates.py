"""Gates: what is demanded of a model, and whether what was counted meets it. Decided on intervals, not on points.

An accuracy gate fails only where the whole interval is on the wrong side of its threshold, so a model that is exactly
as good as demanded fails at most 2.5 times in 100: one side of a 95 % interval. Where the interval holds the threshold
the gate is undecided: it is not missed (but where the gates are `strict`), and says how many samples more would tell.

An evaluation that sees every sample uses the Clopper-Pearson interval. One that may stop as soon as its gates are
settled uses `sequential_interval`, which keeps the same 2.5 % a side over all the looks together: of the 5 % the
confidence sequence that allows the early looks has 1 %, the interval of all samples 4 %. Deciding with ``total`` and
asking `settled` go together: that an evaluation might have stopped early costs error, whether it did or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Literal, NamedTuple

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.results.scorecard import Gate, Measured, Scorecard
from robustbench_lite.results.statistics import clopper_pearson, last_look, samples_needed, sequential_interval

CONFIDENCE = 0.95
"""Of the interval on which a gate is decided."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What is demanded of a model and of its evaluation.

    A share of samples is decided on the 95 % interval: it fails only where the whole interval is on the wrong side.
    A cost is known, and simply compared.

    Raises
    ------
    ValueError
        For a share outside [0, 1], and for a cost that is not above 0.
    """

    min_clean_accuracy: float | None = None
    """Smallest share of samples that is right."""
    min_robust_accuracy: float | None = None
    """Smallest share of samples that is right and stays so under attack."""
    max_drop: float | None = None
    """Largest share of samples that are right when clean and broken under attack."""
    max_regression: float | None = None
    """Largest share of samples by which robust accuracy may fall below a baseline's."""
    max_passes: float | None = None
    """Most forward and backward passes, a sample."""
    max_seconds: float | None = None
    """Longest that the evaluation may take."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Demands on measures of the catalogue, by ``min_NAME`` or ``max_NAME``."""
    strict: bool = False
    """Whether a gate that is undecided, as the samples are too few to tell, counts as missed."""

    @classmethod
    def of(cls, demands: Mapping[str, float | bool | None]) -> Gates:
        """Make gates of names and values; ``strict`` stands among them.

        Raises
        ------
        ValueError
            For an unknown name, with the nearest ones.
        """
        known = [item.name for item in fields(cls) if item.name != "measures"]
        others = {name: value for name, value in demands.items() if name not in known}
        if strange := [name for name in others if not registry.known("measures", name[4:])]:
            measured = registry.names("measures")
            raise UserError("; ".join(registry.unknown("gate", name, _near(name, known, measured)) for name in strange))
        own: dict[str, Any] = {name: value for name, value in demands.items() if name in known and name != "strict"}
        on_measures: dict[str, Any] = {name: value for name, value in others.items() if value is not None}
        return cls(**own, measures=on_measures, strict=bool(demands.get("strict", False)))

    @property
    def demanded(self) -> bool:
        """Whether any gate is set."""
        return bool(self.measures) or any(value is not None for _, value in self._demands())

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the measures that gates are about."""
        return tuple(dict.fromkeys(name[4:] for name in self.measures))

    def _demands(self) -> list[tuple[str, Any]]:
        apart = ("measures", "strict")
        return [(item.name, getattr(self, item.name)) for item in fields(self) if item.name not in apart]

    def __post_init__(self) -> None:
        for name, demand in self.measures.items():
            if isinstance(demand, bool) or not isinstance(demand, int | float) or not math.isfinite(demand):
                raise UserError(f"{name} is {demand!r}: expected a finite number")
            if name[:4] not in ("min_", "max_"):
                raise UserError(f"gate {name!r}: expected min_{name} or max_{name}")
        for name, demand in self._demands():
            if demand is None:
                continue
            number = isinstance(demand, Real) and not isinstance(demand, bool)
            if name in ("max_passes", "max_seconds"):
                if not (number and 0 < demand < math.inf):
                    raise UserError(f"{name} is {demand!r}: expected a number above 0, such as 500")
            elif not (number and 0 <= demand <= 1):
                raise UserError(f"{name} is {demand!r}: expected a share from 0 to 1, such as 0.45 for 45 %")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What an evaluation has counted so far."""

    seen: int
    """Samples that every attack is done with."""
    right: int
    """Of these, samples whose clean prediction is right."""
    robust: int
    """Of these, samples that no attack broke."""
    passes: int = 0
    """Forward and backward passes of all samples together."""
    seconds: float = 0.0
    """Wall-clock time."""

    @classmethod
    def of(cls, card: Scorecard) -> Counts:
        """What a scorecard counts."""
        return cls(
            seen=card.clean_accuracy.total,
            right=card.clean_accuracy.count,
            robust=card.robust_accuracy.count,
            passes=card.passes.total,
            seconds=card.seconds,
        )


def decide(
    demands: Gates,
    counts: Counts,
    *,
    total: int | None = None,
    regression: Gate | None = None,
    measures: Sequence[Measured] = (),
) -> tuple[Gate, ...]:
    """Decide every gate that is demanded.

    Parameters
    ----------
    demands
        What is demanded.
    counts
        What was counted.
    total
        Samples there are, where the evaluation asked `settled` and might have stopped before; None where it was to see
        all from the start.
    regression
        What `baseline.check` came to, where a ``max_regression`` is demanded.
    measures
        The measures that gates are about, as they were taken. Of one that is missing here no gate is made.

    Raises
    ------
    ValueError
        Where a ``max_regression`` is demanded and nothing was compared: a gate that isn't looked at is not green.
    """
    if demands.max_regression is not None and regression is None:
        raise UserError(
            f"max_regression is {demands.max_regression}, and there is no baseline: expected one to compare with; "
            "save one from a model that is good enough, or leave the gate out"
        )
    shares = tuple(_share_gate(share, counts.seen, total) for share in _shares(demands, counts))
    paired = (regression,) if demands.max_regression is not None and regression is not None else ()
    found = (*shares, *paired, *_costs(demands, counts), *_on_measures(demands, measures))
    return tuple(map(strictly, found)) if demands.strict else found


def strictly(gate: Gate) -> Gate:
    """The gate, missed where it is undecided."""
    return gate if gate.decided else gate.model_copy(update={"passed": False})


def settled(demands: Gates, counts: Counts, total: int) -> bool:
    """Whether an evaluation may stop: every gate is decided, and its error kept however often this is asked.

    The samples seen have to be whole, each done with every attack, in an order that was drawn at random before: one
    that depends on how they came out, such as broken ones first, would decide anything.

    A gate that needs all the samples (``max_regression``, which is paired with the baseline's) is settled by nothing
    less, and an evaluation without a gate on accuracy has nothing to settle: it was asked for its numbers.

    Parameters
    ----------
    demands
        What is demanded.
    counts
        What was counted on the samples seen so far.
    total
        Samples there are.
    """
    if counts.seen >= total:
        return True
    if demands.max_regression is not None:
        return False
    shares = list(_shares(demands, counts))
    return bool(shares) and all(
        _side(share.name, share.threshold, *sequential_interval(share.counted, counts.seen, total, CONFIDENCE))
        for share in shares
    )


def check_gate(
    name: str, threshold: float, value: float, low: float, high: float, *, samples: int, more_needed: int | None
) -> Gate:
    """Write down a gate: failed where its interval is wholly on the wrong side, decided where it is wholly on one."""
    side = _side(name, threshold, low, high)
    return Gate(
        name=name,
        threshold=threshold,
        value=value,
        low=low,
        high=high,
        passed=side != "wrong",
        decided=side is not None,
        samples=samples,
        more_needed=None if side else more_needed,
    )


class _Share(NamedTuple):
    """A demand on a share of the samples, and how many were counted."""

    name: str
    threshold: float
    counted: int


def _side(name: str, threshold: float, low: float, high: float) -> Literal["right", "wrong"] | None:
    """Side of the threshold on which the whole interval lies; None where it holds the threshold."""
    if name.startswith("min_"):
        return "right" if low >= threshold else "wrong" if high < threshold else None
    return "right" if high <= threshold else "wrong" if low > threshold else None


def _shares(demands: Gates, counts: Counts) -> Iterator[_Share]:
    # What was right and is broken is one count of the samples, so the drop has an exact interval too.
    for name, threshold, count in (
        ("min_clean_accuracy", demands.min_clean_accuracy, counts.right),
        ("min_robust_accuracy", demands.min_robust_accuracy, counts.robust),
        ("max_drop", demands.max_drop, counts.right - counts.robust),
    ):
        if threshold is not None:
            yield _Share(name, threshold, count)


def _share_gate(share: _Share, seen: int, total: int | None) -> Gate:
    if total is None:
        ends = clopper_pearson(share.counted, seen, CONFIDENCE)
        needed = samples_needed(share.counted, seen, share.threshold, CONFIDENCE)
    else:
        ends = sequential_interval(share.counted, seen, total, CONFIDENCE)
        needed = samples_needed(share.counted, seen, share.threshold, last_look(CONFIDENCE))
        needed = needed and max(needed, total)  # the interval of all samples is the one that tells
    value = share.counted / seen if seen else 0.0
    more = None if needed is None else needed - seen
    return check_gate(share.name, share.threshold, value, *ends, samples=seen, more_needed=more)


def _costs(demands: Gates, counts: Counts) -> Iterator[Gate]:
    for name, most, spent in (
        ("max_passes", demands.max_passes, counts.passes / max(1, counts.seen)),
        ("max_seconds", demands.max_seconds, counts.seconds),
    ):
        if most is not None:
            yield check_gate(name, most, spent, spent, spent, samples=counts.seen, more_needed=None)


def _on_measures(demands: Gates, measures: Sequence[Measured]) -> Iterator[Gate]:
    taken = {one.name: one for one in measures}
    for name, threshold in demands.measures.items():
        if (found := taken.get(name[4:])) is None:
            continue
        low, high = (found.value if end is None else end for end in (found.low, found.high))
        seen = found.total or 0
        needed = None
        if found.count is not None and found.total:
            needed = samples_needed(found.count, found.total, threshold, CONFIDENCE)
        more = None if needed is None else needed - seen
        gate = check_gate(name, threshold, found.value, low, high, samples=seen, more_needed=more)
        yield gate.model_copy(update={"unit": found.unit})


def _near(name: str, known: Sequence[str], measured: Sequence[str]) -> list[str]:
    """What a gate may be called, those of the same bound first."""
    bound = name[:4] if name[:4] in ("min_", "max_") else "min_"
    return [*known, *(f"{bound}{measure}" for measure in measured)]
