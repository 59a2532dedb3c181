"""Explain an evaluation: a scorecard, its target and its data in, an `Explained` out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray

import robustbench_lite
from robustbench_lite.core import registry
from robustbench_lite.core.cost import OnProgress, Passes
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import enough
from robustbench_lite.data.dataset import Data
from robustbench_lite.explaining import pictures
from robustbench_lite.explaining.extra import installed, missing
from robustbench_lite.explaining.interface import Asked, Explainer, probabilities
from robustbench_lite.explaining.pairs import Pairs, broken_pairs, check_answers, check_same, rows_of
from robustbench_lite.explaining.properties import look
from robustbench_lite.explaining.reasons import reasons
from robustbench_lite.explaining.stability import NUMBERS, Attributions, taken
from robustbench_lite.model.target import Target
from robustbench_lite.results.explained import Exhibit, Explained, Heat, LeftOut, MethodResult, Reasons, Said
from robustbench_lite.results.scorecard import Measured, Scorecard

SAMPLES = 8
_NEAR = 200  # passes a sample beyond which a method is not asked about inputs near it, which costs eleven times as much


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How an evaluation is explained."""

    methods: tuple[str, ...] = ()
    """Names from the catalogue ``explanations``; by default all that fit the target and are installed."""
    layer: str | None = None
    """Layer of the methods that look at one, by its name in the module."""
    samples: int = SAMPLES
    """Broken samples that are explained."""
    seed: int = 0
    batch_size: int | None = None
    """Most inputs at once; by default that of the card."""
    on_progress: OnProgress | None = None


def explain(card: Scorecard, target: Target, data: Data, options: ExplainOptions | None = None) -> Explained:
    """Explain why samples broke.

    Parameters
    ----------
    card
        A scorecard with its witnesses (``evaluate(..., keep_witnesses=True)``, or loaded with the file beside it).
    target, data
        Those that it was made with.
    options
        Methods, samples, seed.

    Raises
    ------
    UserError
        For a card without witnesses or broken samples, another model or other data than the card's, data that are no
        images, a method that isn't known, doesn't fit or isn't installed.
    """
    asked_for = options or ExplainOptions()
    start = time.perf_counter()
    size = asked_for.batch_size or card.batch_size
    explainers, left_out = choose(target, data, asked_for)
    pairs = broken_pairs(card, data, asked_for.samples)
    check_same(card, target, data, size)
    found, total = _reasons(card, target, data, asked_for, size)
    results, attributions = [], []
    for name, explainer in explainers.items():
        made = Attributions(explainer, Asked(target, size), pairs, asked_for.seed)
        results.append(_result(name, made, asked_for.on_progress))
        attributions.append((name, made))
        total += results[-1].passes
    asked = Asked(target, size)
    exhibits = tuple(_exhibits(card, asked, pairs, attributions))
    return Explained(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=robustbench_lite.__version__,
        target=card.target.name,
        data=card.data.name,
        robust_accuracy=card.robust_accuracy,
        verdict=card.verdict,
        seed=asked_for.seed,
        broken=card.clean_accuracy.count - card.robust_accuracy.count,
        methods=tuple(results),
        left_out=tuple(left_out),
        exhibits=exhibits,
        reasons=found,
        passes=total + asked.passes + Passes(forward=1),
        seconds=time.perf_counter() - start,
    )


def choose(target: Target, data: Data, options: ExplainOptions) -> tuple[dict[str, Explainer], list[LeftOut]]:
    """Make the methods that were asked for, or all that can be run. One forward pass tells what the target shows.

    Raises
    ------
    UserError
        For data that are no images, for a method that was asked for by name and can't be run, and where none can.
    """
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        raise UserError(
            f"{data.name}: samples of shape {tuple(data.shape)} are no images: expected (1, H, W) or (3, H, W). "
            "Without pictures, the measures attribution_* tell how stable attributions are (rblite list measures)"
        )
    target.predictor.expect(max(len(data.classes), int(data.labels.max()) + 1))
    target.probe(data.fetch([0]))
    chosen: dict[str, Explainer] = {}
    left_out: list[LeftOut] = []
    for name in dict.fromkeys(options.methods or registry.names("explanations")):
        explainer = make(name, options.layer)
        if reason := _unfit(explainer, target, tuple(data.shape)):
            if options.layer is not None and _looks_at_a_layer(name):
                raise UserError(f"{name} {reason}")
            left_out.append(LeftOut(name=name, reason=reason))
        else:
            chosen[name] = explainer
    if left_out and (options.methods or not chosen):
        raise UserError("\n".join(f"{one.name} {one.reason}" for one in left_out))
    return chosen, left_out


def make(name: str, layer: str | None = None) -> Explainer:
    """Make a method by its name.

    Raises
    ------
    UserError
        For an unknown name, and an entry of the catalogue that is no `Explainer`.
    """
    given = {"layer": layer} if layer is not None and _looks_at_a_layer(name) else {}
    explainer = registry.build("explanations", name, given)
    if not isinstance(explainer, Explainer):
        raise UserError(f"{name}: expected a subclass of robustbench_lite.explaining.interface.Explainer")
    return explainer


def _looks_at_a_layer(name: str) -> bool:
    return "layer" in getattr(registry.find("explanations", name), "__annotations__", {})


def _unfit(explainer: Explainer, target: Target, shape: tuple[int, ...]) -> str | None:
    if not enough(target.access, explainer.access):
        return f"needs {explainer.access}; of {target.name} only the {target.access} are seen"
    if explainer.library is not None and not installed(explainer.library):
        return missing(explainer.library)
    return explainer.unfit(target, shape)


def _result(name: str, made: Attributions, on_progress: OnProgress | None) -> MethodResult:
    """Take all numbers of a method that can be afforded."""
    start = time.perf_counter()
    each = made.explainer.passes.total
    numbers: list[Measured] = []
    reasons = []
    if each > _NEAR:
        reasons.append(f"inputs near the samples were not explained, as each costs {each:,} passes")
    elif not installed("captum"):
        reasons.append(f"Max-Sensitivity {missing('captum')}")
    for place, (number, about) in enumerate(NUMBERS.items()):
        if on_progress:
            on_progress(name, place, len(NUMBERS))
        if about.near and reasons:
            continue
        if one := taken(number, made):
            numbers.append(one)
    if on_progress:
        on_progress(name, len(NUMBERS), len(NUMBERS))
    return MethodResult(
        name=name,
        definition=" ".join((type(made.explainer).__doc__ or "").split()),
        passes=made.asked.passes,
        seconds=time.perf_counter() - start,
        numbers=tuple(numbers),
        left_out="; ".join(reasons),
    )


def _reasons(card: Scorecard, target: Target, data: Data, options: ExplainOptions, size: int) -> tuple[Reasons, Passes]:
    """Look at all samples of the card that are right when clean, and fit which of them break."""
    if options.on_progress:
        options.on_progress("reasons", 0, 1)
    right = [one for one in card.outcomes if one.correct]
    rows = rows_of(card, data)
    asked = Asked(target, size)
    seen = look(asked, data.take([rows[one.index] for one in right]), data.take(list(rows.values())))
    if not card.target.weights_sha256:
        check_answers(card, dict(zip((one.index for one in right), seen.predicted.tolist(), strict=True)))
    broken: NDArray[np.bool_] = np.array([not one.robust for one in right])
    if installed("interpret"):
        found = reasons(seen.properties, broken, options.seed)
    else:
        found = Reasons(samples=len(right), broken=int(broken.sum()), missing=f"this {missing('interpret')}")
    if options.on_progress:
        options.on_progress("reasons", 1, 1)
    return found, asked.passes


def _exhibits(
    card: Scorecard, asked: Asked, pairs: Pairs, attributions: Sequence[tuple[str, Attributions]]
) -> Iterator[Exhibit]:
    device = asked.target.device
    with asked.target.attacking(), torch.no_grad():
        said, said_of_adversarial = (
            [_said(card, asked, row) for row in _answers(asked, x.to(device))] for x in (pairs.x, pairs.adversarial)
        )
    for place, (outcome, found) in enumerate(zip(pairs.outcomes, pairs.breaks, strict=True)):
        yield Exhibit(
            index=outcome.index,
            name=card.class_name(outcome.label),
            attack=found.attack,
            threat=found.threat,
            distance=found.distance,
            said=said[place],
            said_of_adversarial=said_of_adversarial[place],
            original=pictures.shown(pairs.x[place]),
            adversarial=pictures.shown(pairs.adversarial[place]),
            heats=tuple(_heat(name, made, pairs, place) for name, made in attributions),
        )


def _answers(asked: Asked, x: torch.Tensor) -> torch.Tensor:
    return probabilities(torch.cat([asked(part) for part in torch.split(x, asked.batch_size)]))


def _said(card: Scorecard, asked: Asked, row: torch.Tensor) -> Said:
    label = int(row.argmax())
    told = asked.target.access != "labels"
    return Said(label=label, name=card.class_name(label), confidence=float(row[label]) if told else None)


def _heat(name: str, made: Attributions, pairs: Pairs, place: int) -> Heat:
    correlation, overlap = made.correlations[place], made.overlaps[place]
    return Heat(
        method=name,
        clean=pictures.heat(pairs.x[place], made.clean[place].cpu()),
        adversarial=pictures.heat(pairs.adversarial[place], made.adversarial[place].cpu()),
        spearman=correlation if math.isfinite(correlation) else None,
        overlap=overlap if math.isfinite(overlap) else None,
    )
