"""How far attributions of a sample and of its witness agree, and how steady they are near the sample: numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robustbench_lite.explaining.extra import library
from robustbench_lite.explaining.interface import Asked, Explainer
from robustbench_lite.explaining.pairs import Pairs
from robustbench_lite.results.scorecard import Measured, median
from robustbench_lite.results.statistics import median_interval, spearman

TOP = 0.1
"""Share of the values that count as the largest."""
RADIUS, DRAWS = 0.02, 10
"""Inputs near a sample: how far each value is moved at most, and how many are drawn."""
_LEAST = 0.05  # values below count as much: relative to nothing, every change is infinite


class Steadiness(NamedTuple):
    """What came of inputs near one sample."""

    sensitivity: float
    """NaN where the attributions of the sample are the same everywhere."""
    input_stability: float
    """NaN as well where the model names another class at each of these inputs."""


class Attributions:
    """What one method says of broken samples and of their witnesses, each made when it is asked for.

    Each input is explained for the class that the model names for it: the right one of the sample, the wrong one of the
    witness.

    Parameters
    ----------
    explainer
        The method.
    asked
        The target; it counts the passes.
    pairs
        Samples and witnesses.
    seed
        Of what is drawn.
    """

    def __init__(self, explainer: Explainer, asked: Asked, pairs: Pairs, seed: int) -> None:
        self.explainer, self.asked, self.seed = explainer, asked, seed
        device = asked.target.device
        self._x, self._adversarial = pairs.x.to(device), pairs.adversarial.to(device)
        self._labels = torch.tensor([one.prediction for one in pairs.outcomes], device=device)
        self._wrong = torch.tensor([one.prediction for one in pairs.breaks], device=device)

    @cached_property
    def clean(self) -> Tensor:
        """Of the samples, (N, *shape) or (N, 1, H, W)."""
        return self._attribute(self._x, self._labels)

    @cached_property
    def adversarial(self) -> Tensor:
        """Of the witnesses."""
        return self._attribute(self._adversarial, self._wrong)

    @cached_property
    def correlations(self) -> list[float]:
        """Spearman's rank correlation of each pair; NaN where one of the two is the same everywhere."""
        return [_spearman(one, other) for one, other in self._sizes()]

    @cached_property
    def overlaps(self) -> list[float]:
        """Share of the largest values that each pair has in common; NaN where one is the same everywhere."""
        return [_overlap(one, other) for one, other in self._sizes()]

    @cached_property
    def steadiness(self) -> list[Steadiness]:
        """What came of inputs near each sample."""
        with self.asked.target.attacking():
            return [self._near(x[None], label) for x, label in zip(self._x, self._labels, strict=True)]

    def _attribute(self, x: Tensor, classes: Tensor) -> Tensor:
        with self.asked.target.attacking():
            return self.explainer.attribute(self.asked, x, classes, self.seed)

    def _sizes(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(sizes(self.clean).flatten(1), sizes(self.adversarial).flatten(1), strict=True)

    def _near(self, x: Tensor, label: Tensor) -> Steadiness:
        """Explain inputs near one sample, (1, *shape), for its class."""
        near: list[tuple[Tensor, Tensor]] = []
        dice = torch.Generator().manual_seed(self.seed)

        def explain(given: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
            # Captum gives the sample as a tuple; a bare tensor in return would be taken for a tuple of rows.
            inputs = given[0] if isinstance(given, tuple) else given
            found = self.explainer.attribute(self.asked, inputs, label.expand(len(inputs)), self.seed)
            near.append((inputs, found))
            return (found,)

        def move(inputs: Tensor, radius: float) -> Tensor:
            drawn = torch.rand(inputs.shape, generator=dice).to(inputs)
            return (inputs + radius * (2 * drawn - 1)).clamp(0, 1)

        measure = library("captum.metrics").sensitivity_max
        found = measure(explain, x, move, perturb_radius=RADIUS, n_perturb_samples=DRAWS)
        (_, here), (inputs, there) = near
        if _constant(here):
            return Steadiness(math.nan, math.nan)
        with torch.no_grad():
            same = self.asked(inputs).argmax(1) == label
        return Steadiness(float(found), _input_stability(x, inputs[same], here, there[same]))


@dataclass(frozen=True, kw_only=True)
class Stability:
    """A number of stability: one a sample, told by the median."""

    unit: str
    better: Literal["higher", "lower"]
    definition: str
    of: Callable[[Attributions], list[float]]
    near: bool = False
    """Whether inputs near the sample must be explained, which costs a multiple."""


NUMBERS: dict[str, Stability] = {
    "attribution_spearman": Stability(
        unit="rank correlation",
        better="higher",
        definition="Spearman's rank correlation of the sizes of the attributions of a broken sample and of its "
        "witness, each explained for the class that the model names; median over the samples (Ghorbani et al. 2019, "
        "https://arxiv.org/abs/1710.10547)",
        of=lambda found: found.correlations,
    ),
    "attribution_overlap": Stability(
        unit="of the largest tenth",
        better="higher",
        definition="share of the tenth of the values with the largest attributions of a broken sample that is among "
        "that of its witness; median over the samples (Ghorbani et al. 2019, https://arxiv.org/abs/1710.10547)",
        of=lambda found: found.overlaps,
    ),
    "attribution_sensitivity": Stability(
        unit="relative change",
        better="lower",
        definition=f"Max-Sensitivity: the largest change of the attributions of a clean sample among {DRAWS} inputs "
        f"within {RADIUS} of it (Linf), in parts of their norm; median over broken samples (Yeh et al. 2019, "
        "https://arxiv.org/abs/1901.09392; by Captum)",
        of=lambda found: [one.sensitivity for one in found.steadiness],
        near=True,
    ),
    "attribution_input_stability": Stability(
        unit="times",
        better="lower",
        definition="relative input stability: the largest relative change of the attributions in parts of the relative "
        f"change of the input, among those of {DRAWS} inputs within {RADIUS} of a clean sample (Linf) that keep its "
        f"class; what is below {_LEAST} of the range counts as {_LEAST}; median over broken samples (Agarwal et al. "
        "2022, https://arxiv.org/abs/2203.06877)",
        of=lambda found: [one.input_stability for one in found.steadiness],
        near=True,
    ),
}
"""By the name of the measure."""


def taken(name: str, found: Attributions) -> Measured | None:
    """Take a number, with the interval of its median; None where no sample has one."""
    number = NUMBERS[name]
    values = [value for value in number.of(found) if math.isfinite(value)]
    middle = median(values)
    if middle is None:
        return None
    ends = median_interval(values)
    about = {"name": name, "unit": number.unit, "better": number.better, "definition": number.definition}
    return Measured(**about, value=middle, **({"low": ends[0], "high": ends[1]} if ends else {}))


def sizes(attributions: Tensor) -> Tensor:
    """Sizes of attributions, summed over the channels of images: (N, H, W), or (N, D)."""
    flat = attributions.abs()
    summed: Tensor = flat.sum(1) if flat.ndim == 4 else flat.flatten(1)
    return summed


def _spearman(one: Tensor, other: Tensor) -> float:
    found = spearman(one.tolist(), other.tolist())
    return math.nan if found is None else found[0]


def _overlap(one: Tensor, other: Tensor) -> float:
    if _constant(one) or _constant(other):
        return math.nan
    count = max(1, round(TOP * len(one)))
    first, second = (set(part.argsort(descending=True, stable=True)[:count].tolist()) for part in (one, other))
    return len(first & second) / count


def _constant(values: Tensor) -> bool:
    low, high = values.aminmax()
    return not bool(high > low)


def _input_stability(x: Tensor, near: Tensor, here: Tensor, there: Tensor) -> float:
    """Relative change of the attributions in parts of that of the input, its largest; NaN without inputs.

    Attributions are divided by their largest size, so that the least divisor means the same for each method.
    """
    largest = here.abs().amax()
    if not len(near) or not bool(largest > 0):
        return math.nan
    changed = _relative((there - here) / largest, here / largest)
    moved = _relative(near - x, x).clamp_min(_LEAST)
    return float((changed / moved).amax())


def _relative(change: Tensor, of: Tensor) -> Tensor:
    """Norm of a change in parts of what it changes, (n,)."""
    found: Tensor = torch.linalg.vector_norm((change / of.abs().clamp_min(_LEAST)).flatten(1), dim=1)
    return found
