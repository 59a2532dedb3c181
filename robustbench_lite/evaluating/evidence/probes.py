"""What a robust sample must show: each probe asks the survivors one question, and tells where the answer is wrong.

After Carlini et al. 2019, *On evaluating adversarial robustness*, https://arxiv.org/abs/1902.06705, and Pintor et al.
2022, *Indicators of attack failure*, https://arxiv.org/abs/2106.09947. ``docs/benchmarks/thresholds.md`` has the
measurements behind the thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.norms import per_sample
from robustbench_lite.evaluating.evidence.survivors import BrokenSurvivors, ClimbResult, Survivors, stride
from robustbench_lite.evaluating.validity import BLACK_BOX_GAIN, clearly_more, stronger_without
from robustbench_lite.results.scorecard import Finding, Plot, Severity

OWN_STEPS = 20
"""Steps of a climb of our own."""
OVERLOOKED = 0.05
"""Share of the survivors that a climb of our own may break; 40 steps of PGD leave up to 0.12 of them to better ones."""
WEAK = 0.2
"""The same, from which on the number isn't one to be believed."""
UNREACHED = 0.1
"""Share of the survivors that may stand though every image is allowed."""
UNDERSTATED = 500.0
"""How many times more the margin may rise, on the way to an adversarial image, than its gradient at the input says."""
JAGGED = 0.15
"""How much the margin may go up and down, beyond once each, along its gradient, over how much it changes."""
_POINTS = 16  # along the gradient
SQUARE_STEPS = 150  # a survivor of gradients that are masked falls in a few


def own_climbs(survivors: Survivors, climbed: ClimbResult) -> Iterator[Finding | BrokenSurvivors]:
    """An attack of one step, and one of a few, break nothing that a suite of stronger ones left."""
    single = (
        survivors.climb(survivors.threat.norm, survivors.threat.eps, 1)
        if survivors.threat.norm in ("Linf", "L2")
        else climbed
    )
    over = ((single.margin > 0) | (climbed.margin > 0)).cpu()
    x = torch.where(per_sample(climbed.margin > 0, climbed.x), climbed.x, single.x).float().cpu().numpy()
    broke, total = survivors.counted("climb", int(over.sum()))
    one, _ = survivors.counted("single step", int((single.margin > 0).sum()))
    if not broke:
        return
    yield BrokenSurvivors(
        survivors.threat, {row: x[place] for place, row in enumerate(survivors.rows.tolist()) if over[place]}
    )
    severity: Severity = "info"  # reported even if not significant: an example exists
    if clearly_more(broke, OVERLOOKED, total):
        severity = "error" if clearly_more(broke, WEAK, total) else "warning"
    yield survivors.finding(
        "RB211",
        f"{OWN_STEPS} plain steps up the margin break {broke} of {total} samples that the whole suite left"
        + (f"; a single step breaks {one}" if one and single is not climbed else ""),
        severity=severity,
        cure="something is wrong with the attacks, or they are too weak: look at their step size, steps and loss, or "
        "take the suite linf_standard, l2_standard, l1_standard or l0_standard",
    )


def anything_goes(survivors: Survivors) -> Iterator[Finding]:
    """Where every image is allowed, an attack gets anywhere; and the margin rises about as its gradient says."""
    far = survivors.climb("Linf", 1.0, OWN_STEPS, anywhere=True)
    # The other survivors are images that the model tells apart from this one. Where it doesn't, none need exist.
    labels, target_classes = (
        of[survivors.rows] for of in (survivors.samples.data.labels, survivors.samples.target_classes)
    )
    same = labels[None, :] == target_classes[:, None]
    exists = (same if survivors.threat.goal == "targeted" else ~same).any(1).to(far.margin.device)
    total, stood = int(exists.sum()), int((exists & (far.margin <= 0)).sum())
    if clearly_more(stood, UNREACHED, total):
        yield survivors.finding(
            "RB213",
            f"{stood} of {total} samples stand though every image is allowed, and images of other classes would do: "
            f"{OWN_STEPS} steps up the gradient lead nowhere, so it says nothing about the model",
            "the gradient is masked: find what cuts, quantises or saturates, or attack without gradients (black_box)",
        )
        return
    ratio = understatement(survivors, far)
    if ratio > UNDERSTATED:
        yield survivors.finding(
            "RB215",
            f"on the way to an adversarial image the margin rises {ratio:.3g} times as much as its gradient at the "
            "input says (median): the outputs are saturated, and gradients near the inputs are too small to follow",
            "evaluate it on logits that no softmax, tanh or large factor flattens",
        )


def understatement(survivors: Survivors, far: ClimbResult) -> float:
    """How many times more the margin rose on the way up than its gradient at the input says (median)."""
    told = (survivors.grad * (far.x - survivors.x)).flatten(1).sum(1).abs()
    return float(((far.margin - survivors.start) / told.clamp_min(1e-30)).median())


def jagged(survivors: Survivors) -> Iterator[Finding]:
    """Along the gradient the margin goes up, and down once it is past its top; it doesn't go up and down."""
    places, seen, extra = jaggedness(survivors)
    if float(extra.median()) > JAGGED:
        one = int(extra.argsort()[(len(extra) - 1) // 2])  # as the median is
        points = tuple((at, float(value)) for at, value in zip(places, seen[:, one], strict=True))
        yield survivors.finding(
            "RB223",
            f"along the gradient the margin goes up and down by {float(extra.median()):.0%} of its range more than "
            "once up and once down (median): the gradient doesn't say where to go",
            "follow the mean gradient of a neighbourhood, or attack without gradients (suite black_box)",
            Plot(x=f"distance along the gradient ({survivors.threat.norm})", y="margin", points=points),
        )


def jaggedness(survivors: Survivors) -> tuple[list[float], Tensor, Tensor]:
    """Places along the gradient up to eps, the margins there, (places, n), and their extra ups and downs, (n,)."""
    steepest, length = stride(survivors.threat.norm, survivors.threat.eps)
    ahead = steepest(survivors.grad)
    places = torch.linspace(0.0, length, _POINTS + 1).tolist()
    line = survivors.margins(*((survivors.x + at * ahead).clamp(0.0, 1.0) for at in places[1:]))
    seen = torch.cat([survivors.start[None], line])
    return places, seen, _ups_and_downs(seen)


def _ups_and_downs(seen: Tensor) -> Tensor:
    """Total variation of each column beyond that of one rise and one fall, over its range, shape (n,)."""
    top, bottom = seen.amax(0), seen.amin(0)
    once = 2 * top - seen[0] - seen[-1]
    return (seen.diff(dim=0).abs().sum(0) - once) / (top - bottom).clamp_min(1e-30)


def larger_ball(survivors: Survivors) -> Iterator[Finding]:
    """What an attack broke it breaks in a ball of twice the size."""
    threat = survivors.threat.model_copy(
        update={"eps": 2 * survivors.threat.eps, "eps_text": f"{2 * survivors.threat.eps:g}"}
    )
    for record in survivors.attacks:
        attack = record.attack
        rows = record.broken[: len(survivors.rows)]
        if not attack.gradients or attack.minimal or attack.steps < 2 or len(rows) < len(survivors.rows):
            continue  # one step may well jump too far
        missed = len(rows) - int(survivors.run(attack, rows, name=record.name, threat=threat).broken.sum())
        if clearly_more(missed, 0.25, len(rows)):
            yield survivors.finding(
                "RB212",
                f"{missed} of {len(rows)} samples that {record.name} broke stand against it in a ball twice as large",
                "a larger ball holds every example of a smaller one: look at its step size and its steps",
                attack=record.name,
            )
        return


def black_box(survivors: Survivors) -> Iterator[Finding | BrokenSurvivors]:
    """Random search breaks nothing that gradients left; asked where the suite has no search by scores."""
    if survivors.threat.norm not in ("Linf", "L2") or any(
        record.attack.access == "scores" for record in survivors.attacks
    ):
        return
    square: Attack = registry.build("attacks", "square", {"steps": SQUARE_STEPS})
    shape = tuple(survivors.samples.data.shape)
    if square.unfit(shape, survivors.threat) is not None:
        return
    found = survivors.run(square, survivors.rows.numpy(), name="probe", keep=range(len(survivors.samples)))
    broke, total = survivors.counted("random search", int(found.broken.sum()))
    if broke:
        yield BrokenSurvivors(survivors.threat, found.witnesses)
    if clearly_more(broke, BLACK_BOX_GAIN, total):
        yield stronger_without(survivors.threat, "random search (square)", broke, total)
