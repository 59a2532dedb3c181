"""Certified accuracy: what no attack can break, by a proof, beside what no attack of ours has broken.

A target that is smoothed brings its proof along (`Wrapper.certified_radii`); of a small network of plain layers the
logits are bounded (`model.bounds`). Whether a proof and a witness contradict each other is looked at sample by sample.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import Norm, ThreatModel
from robustbench_lite.evaluating.adapt.measuring import Around
from robustbench_lite.evaluating.measures.interface import Found, Measure, Subject
from robustbench_lite.evaluating.validity import clearly_more
from robustbench_lite.model import linear_bounds
from robustbench_lite.model.bounds import margin_bounds, unsupported
from robustbench_lite.model.target import Target
from robustbench_lite.model.wrapping import WrappedTarget, Wrapper
from robustbench_lite.results.scorecard import Finding, Interval

CONTRADICTED, UNSURE = "RB242", "RB243"
_ROUNDING = 1e-5  # of the largest logit: what float32 may make of a margin that was bounded in float64
_AT_ONCE = 16  # samples that are bounded backwards together
_CURE = (
    "don't believe the card: look for the mistake in the certificate (sigma, draws, bounds that don't cover a layer), "
    "or in what is attacked (another model, or another ball, than the one that is certified)"
)

_BOX: dict[Norm, Callable[[float], float]] = {"Linf": float, "L2": float, "L1": float}
"""Radius of the Linf ball around each ball."""
_ROUND: dict[Norm, Callable[[float, int], float]] = {
    "L2": lambda eps, values: eps,
    "L1": lambda eps, values: eps,
    "Linf": lambda eps, values: eps * math.sqrt(values),
    "L0": lambda eps, values: math.sqrt(eps),
}
"""Radius of the L2 ball around each ball, of inputs in [0, 1] with so many values."""


class _Samples(NamedTuple):
    """The samples of a scorecard, in the order of its rows."""

    x: Tensor
    labels: Tensor
    keys: Tensor
    correct: Tensor


class _Proof(NamedTuple):
    """What is proven, and what speaks against it; shapes (N,)."""

    certified: Tensor
    tried: int
    """Certificates that witnesses put to the test."""
    contradicted: Tensor
    error: float
    """Probability of error of each certificate."""


def certified_accuracy(radius: float | None = None) -> Measure:
    """Certified accuracy under the threat models of a card, or in a ball of another radius.

    Parameters
    ----------
    radius
        In the norm of the card's first threat model; None takes the card's threat models, all of them.
    """
    ball = "the threat models" if radius is None else f"a ball of radius {radius:g}"
    return Measure(
        unit="share",
        better="higher",
        definition=f"samples that are right and proven to stay so within {ball}: by randomized smoothing (Cohen et al. "
        "2019; of each certificate the error is alpha at most), or by bounds of the logits (Gowal et al. 2018, "
        "Zhang et al. 2018)",
        of=lambda subject: _measured(subject, radius),
        witnesses=True,
    )


def at_radius(text: str) -> Measure:
    """As certified_accuracy, in the ball of a radius that the name gives, such as ``0.25`` or ``8/255``.

    Raises
    ------
    ValueError
        For a text that is no radius.
    """
    return certified_accuracy(ThreatModel.parse(f"L2 {text}").eps)


CERTIFIED_ACCURACY = certified_accuracy()


def _measured(subject: Subject, radius: float | None) -> Found:
    threats = [row.threat for row in subject.card.threats]
    if radius is not None:
        threats = [ThreatModel(norm=threats[0].norm, eps=radius, eps_text=f"{radius:g}")]
    target = subject.target
    while isinstance(target.module, Around):  # an adaptive evaluation is of the same classes, with other gradients
        target = target.module.target
    samples, broken = _samples(subject), _broken(subject, threats)
    with target.attacking(), torch.no_grad():
        if isinstance(target, WrappedTarget) and target.wrapper.certifies:
            proof = _by_radii(subject, target.wrapper, threats, samples)
        else:
            proof = _by_bounds(target, threats, samples, subject.card.batch_size, broken)
    # What is broken isn't certified, whatever a certificate says: the two numbers can't cross, and a finding tells why.
    count = int((proof.certified & ~broken).sum())
    findings = tuple(_findings(proof, broken, [row.index for row in subject.card.outcomes]))
    return Found(Interval.of(count, len(broken)), findings)


def _samples(subject: Subject) -> _Samples:
    rows = subject.card.outcomes
    place = {index: row for row, index in enumerate(subject.data.index.tolist())}
    return _Samples(
        x=subject.data.fetch(torch.tensor([place[one.index] for one in rows], dtype=torch.int64)),
        labels=torch.tensor([one.label for one in rows], dtype=torch.int64),
        keys=torch.from_numpy(np.array([int(one.key, 16) for one in rows], np.uint64).view(np.int64)),
        correct=torch.tensor([one.correct for one in rows], dtype=torch.bool),
    )


def _broken(subject: Subject, threats: list[ThreatModel]) -> Tensor:
    """Whether a witness against a sample lies in one of the balls, shape (N,)."""
    reach = {one.norm: one.reach for one in sorted(threats, key=lambda one: one.eps)}
    return torch.tensor(
        [
            any(one.distance <= reach.get(ThreatModel.parse(one.threat).norm, -1.0) for one in row.breaks)
            for row in subject.card.outcomes
        ],
        dtype=torch.bool,
    )


def _by_radii(subject: Subject, wrapper: Wrapper, threats: list[ThreatModel], samples: _Samples) -> _Proof:
    values = math.prod(samples.x.shape[1:])
    needed = max(_enclosing(one, lambda norm, eps: _ROUND[norm](eps, values)) for one in threats)
    size, device = subject.card.batch_size, wrapper.inner.device
    radii = torch.cat(
        [
            wrapper.certified_radii(x.to(device), labels.to(device), keys.to(device)).cpu()
            for x, labels, keys in zip(*(torch.split(one, size) for one in samples[:3]), strict=True)
        ]
    )
    certified = (radii > needed) & samples.correct
    contradicted = torch.zeros_like(certified)
    tried: set[int] = set()
    for rows, x in _witnesses(subject, certified, size):
        left = radii[rows] - (x.double() - samples.x[rows].double()).flatten(1).norm(dim=1)
        inside = left > 0
        rows, x, left = rows[inside], x[inside], left[inside]
        tried |= set(rows.tolist())
        if len(rows):
            labels, keys = samples.labels[rows].to(device), samples.keys[rows].to(device)
            contradicted[rows] |= wrapper.contradicted(x.to(device), labels, keys, left.to(device)).cpu()
    return _Proof(certified, len(tried), contradicted, wrapper.error)


def _witnesses(subject: Subject, certified: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Witnesses against certified samples: the samples' rows on the card, and the inputs, some at a time."""
    kept = subject.card.witnesses
    if kept is None:
        return
    place = {one.index: row for row, one in enumerate(subject.card.outcomes)}
    rows = torch.tensor([place[index] for index in kept.index.tolist()], dtype=torch.int64)
    about = certified[rows].nonzero()[:, 0]
    for part in torch.split(about, size):
        if len(part):
            yield rows[part], torch.from_numpy(kept.x[part.numpy()])


def _by_bounds(target: Target, threats: list[ThreatModel], samples: _Samples, size: int, broken: Tensor) -> _Proof:
    if isinstance(target, WrappedTarget):
        raise UserError(f"{target.name} is wrapped by {target.made_by.name}, which brings no certificate")
    if target.access != "gradients":
        raise UserError(f"{target.name} is a function of arrays: nothing is seen of it that could be bounded")
    if fault := unsupported(target):
        raise UserError(f"{target.name}: {fault}; a smoothed model can be certified as well (recipe smoothing)")
    radius = max(_enclosing(one, lambda norm, eps: _BOX[norm](eps)) for one in threats)
    exact = copy.deepcopy(target)
    exact.module.double()
    certified = []
    for x, labels in zip(torch.split(samples.x, size), torch.split(samples.labels, size), strict=True):
        x, labels = x.to(target.device, torch.float64), labels.to(target.device)
        low, high = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
        scale = exact(x).abs().amax(1, keepdim=True)
        certified.append(_leads(margin_bounds(exact, low, high, labels), labels, scale).cpu())
        if linear_bounds.unsupported(exact) is None:
            left = (~certified[-1]).nonzero()[:, 0]
            for row in torch.split(left, _AT_ONCE):  # one line a class and value: of few at a time
                some = (one[row] for one in (low, high, labels))
                certified[-1][row] = _leads(linear_bounds.margin_bounds(exact, *some), labels[row], scale[row]).cpu()
    proven = torch.cat(certified) & samples.correct
    return _Proof(proven, int((proven & broken).sum()), proven & broken, 0.0)


def _leads(least: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Whether the label's logit stays above all others, by more than rounding could do, shape (B,)."""
    return (least.scatter(1, labels[:, None], torch.inf) > _ROUNDING * scale).all(1)


def _enclosing(threat: ThreatModel, radius: Callable[[Norm, float], float]) -> float:
    """Radius of a ball that holds all that a threat model allows."""
    try:
        return radius(threat.norm, threat.reach)
    except KeyError:
        raise UserError(f"nothing is proven under {threat}: what is certified is a ball in Linf, L2 or L1") from None


def _findings(proof: _Proof, broken: Tensor, index: list[int]) -> Iterator[Finding]:
    contradictions, certified = int(proof.contradicted.sum()), int(proof.certified.sum())
    if contradictions:
        first = index[int(proof.contradicted.nonzero()[0])]
        sure = not proof.error or clearly_more(contradictions, 2 * proof.error, proof.tried)
        chance = f", each wrong with a probability of {proof.error:g} at most" if proof.error else ""
        yield Finding(
            code=CONTRADICTED,
            severity="error" if sure else "warning",
            message=f"{contradictions} of {certified} certified samples{chance}, are broken by witnesses that their "
            f"certificates rule out (the first is sample {first}): one of the two is wrong",
            cure=_CURE,
        )
    if short := int((proof.certified & broken & ~proof.contradicted).sum()):
        yield Finding(
            code=UNSURE,
            severity="info",
            message=f"{short} samples are certified for the classifier of ever more draws, but that of a few draws, "
            "which was attacked, errs or gives no answer in the ball: they count as not certified",
            cure="let more draws vote (n0) where that matters",
        )
