"""How values read, in every format: shares, counts, times, and text that came from outside."""

from __future__ import annotations

import math
import unicodedata
from datetime import datetime

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.names import plural as plural
from robustbench_lite.results.paired import p_in_words as p_in_words
from robustbench_lite.results.ranking import TRAINING_SECONDS, Rank
from robustbench_lite.results.scorecard import (
    AttackResult,
    DataInfo,
    Finding,
    Gate,
    Interval,
    Measured,
    TargetInfo,
    Verdict,
)

MARKS: dict[Verdict, str] = {"PASS": "✅", "FAIL": "❌", "UNDECIDED": "❔", "MEASURED": "📏", "INVALID": "⚠️"}
"""A sign before each verdict, where colours can't be."""

_BLANKS = {"Cc", "Zl", "Zp"}
_GONE = {"Cf", "Cs", "Co", "Cn"}


def plain(text: str) -> str:
    """Text that can't steer what shows it: no line breaks, no control characters, no change of direction."""
    kinds = ((character, unicodedata.category(character)) for character in text)
    return "".join(" " if kind in _BLANKS else character for character, kind in kinds if kind not in _GONE)


def percent(share: float) -> str:
    """``0.876`` as ``87.6%``. Only 0 and 1 themselves read as 0.0% and 100.0%: 9,999 of 10,000 is not all."""
    if 0 < abs(share) < 0.0005:
        return "<0.1%" if share > 0 else ">-0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{share:.1%}"


def interval(accuracy: Interval) -> str:
    """The ends of an interval, such as ``[82.3, 91.9]``, in percent."""
    return f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def confidence(accuracy: Interval) -> str:
    """Coverage of an interval, such as ``95%``."""
    return f"{100 * accuracy.confidence:.3g}%"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points, with its sign."""
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f} points".replace("-", "−") if rounded else "0.0 points"


def p_value(value: float) -> str:
    """A p-value in a column that is headed with p: ``0.021``, ``< 0.001``."""
    return p_in_words(value).removeprefix("p ").removeprefix("= ")


def number(value: float | None) -> str:
    """A measure with three significant digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3g}"


def count(value: float) -> str:
    """A count, thousands apart; a large one short."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= 10 * size:
            return f"{value / size:,.0f}{unit}"
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:,.0f}"


def per_sample(passes: Passes, samples: int) -> str:
    """Passes that one sample cost on average; a dash without samples."""
    return count(passes.total / samples) if samples else "–"


def seconds(value: float) -> str:
    """A time, no finer than it can be trusted."""
    if value < 9.95:
        return f"{value:.1f}s"
    if value < 59.5:
        return f"{value:.0f}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}h {minutes:02d}m"


def cost(one: Rank, name: str) -> str:
    """What a ranked model cost to make, such as ``1.2M`` passes or ``34s``; a dash where its card doesn't tell."""
    value = one.cost(name)
    if value is None:
        return "–"
    return seconds(value) if name == TRAINING_SECONDS else count(value)


def moment(created: str) -> str:
    """When a scorecard was made, for people; as it stands where it is no ISO 8601."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".strip()


def shape(data: DataInfo) -> str:
    """Shape of a sample, such as ``1 × 28 × 28``."""
    return " × ".join(str(size) for size in data.shape)


def inside(target: TargetInfo) -> str:
    """What is seen of a target, such as ``1,234 parameters`` or ``scores only``."""
    return plural(target.parameters, "parameter") if target.access == "gradients" else f"{target.access} only"


def about(finding: Finding) -> str:
    """What a finding is about, such as ``in pgd under Linf 0.3`` or ``under Linf 0.3``; empty where it is about all."""
    if not finding.where:
        return ""
    return f"{'in' if finding.attack else 'under'} {plain(finding.where)}"


def measured(number: Measured) -> str:
    """A measure's number, such as ``27.5% [24.0, 31.2]`` or ``1,234 parameters``."""
    if number.unit == "share":
        ends = (
            "" if number.low is None or number.high is None else f" [{100 * number.low:.1f}, {100 * number.high:.1f}]"
        )
        return f"{percent(number.value)}{ends}"
    ends = "" if number.low is None or number.high is None else f" [{exact(number.low)}, {exact(number.high)}]"
    return f"{exact(number.value)}{ends} {plain(number.unit)}"


def exact(value: float) -> str:
    """Six digits, and of a whole number all, as of 11,173,962 parameters."""
    return f"{value:,.0f}" if abs(value) < 1e15 and value == int(value) else f"{value:,.6g}"


def measure_name(number: Measured) -> str:
    """Name of a measure for people, with the way that is better."""
    return f"{plain(number.name).replace('_', ' ')} ({number.better} is better)"


def gate_demand(gate: Gate) -> str:
    """What a gate asks for, such as ``robust accuracy at least 30.0%``."""
    name = plain(gate.name)
    bound, _, what = name.partition("_")
    words = {"min": "at least", "max": "at most"}
    if not what or bound not in words:
        return f"{name.replace('_', ' ')} {_gated(gate, gate.threshold)}"
    return f"{what.replace('_', ' ')} {words[bound]} {_gated(gate, gate.threshold)}"


def gate_state(gate: Gate) -> str:
    """``met``, ``failed`` or ``undecided``: the interval holds the threshold, so the samples are too few to tell."""
    if gate.decided and not gate.passed:
        return "failed"
    return "met" if gate.decided else "undecided"


def gate_found(gate: Gate) -> str:
    """What a gate saw, such as ``27.5% [24.0, 31.2]``, or ``312 passes a sample``."""
    if gate.kind in ("cost", "number"):
        return _gated(gate, gate.value)
    return f"{percent(gate.value)} [{100 * gate.low:.1f}, {100 * gate.high:.1f}]"


def _gated(gate: Gate, value: float) -> str:
    if gate.kind == "number":
        unit = plain(gate.unit or "")
        return exact(value) if gate.name.endswith(f"_{unit}") else f"{exact(value)} {unit}"
    if gate.kind != "cost":
        return percent(value)
    return f"{value:,.4g} {'s' if gate.name == 'max_seconds' else 'a sample'}"


def parameters(result: AttackResult) -> str:
    """Parameters of an attack in a line."""
    return ", ".join(f"{key}={value}" for key, value in result.params.items())
