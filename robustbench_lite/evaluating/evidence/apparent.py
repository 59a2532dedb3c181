"""How robust a saturated network looks to those who follow its cross-entropy, beside how robust it is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.core import registry
from robustbench_lite.core.cost import Stop
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating.preflight.check import CountedModel
from robustbench_lite.results.scorecard import Finding

_MOST = 16  # samples that are attacked
_STEPS = 20


def apparent(
    model: CountedModel,
    samples: Samples,
    threat: ThreatModel,
    rows: NDArray[np.int64],
    standing: NDArray[np.bool_],
    batch_size: int,
) -> Finding | None:
    """Attack some samples by PGD on the cross-entropy, and compare with what the suite left.

    Carlini and Wagner, *Towards evaluating the robustness of neural networks*, 2017 (section VIII, defensive
    distillation). https://arxiv.org/abs/1608.04644

    Parameters
    ----------
    model, samples, threat
        What was evaluated, each pass counted as one of the checks'.
    rows
        Positions of the samples that are right when clean, in the order in which they are to be asked, shape (R,).
    standing
        Whether the suite left a sample standing, by position, shape (N,).
    batch_size
        Most samples at once.

    Returns
    -------
    Finding or None
        None where PGD doesn't do the norm, or the network is not right about any sample.
    """
    attack = registry.build("attacks", "pgd", {"steps": _STEPS})
    asked = rows[:_MOST]
    if threat.norm not in attack.norms or not len(asked):
        return None
    options = RunOptions(name="pgd on the cross-entropy", seed=model.seed, batch_size=batch_size, budget=model.budget)
    done = run_attack(attack, model.target, samples, asked, threat, options)
    model.forward += done.forward
    model.backward += done.backward
    if done.stopped is not None:
        raise Stop(done.stopped)
    blind = _without_slope(model, asked)
    looks, left = len(asked) - int(done.broken[asked].sum()), int(standing[asked].sum())
    saw = (
        f"the softmax is saturated, so the loss has no gradient for {blind} of {len(asked)} samples; {_STEPS} steps of "
        f"PGD along it leave {looks} of them standing, this suite {left}"
    )
    return Finding(
        code="RB226",
        severity="warning" if looks > left else "info",
        message=f"it looks more robust than it is to those who follow its cross-entropy: {saw}"
        if looks > left
        else f"its cross-entropy is no measure of its robustness, though it makes no difference here: {saw}",
        cure="don't believe a robust accuracy by the cross-entropy of such a network, as of one after defensive "
        "distillation: its logits have only grown (Carlini and Wagner 2017). Compare by attacks on the margin",
        threat=str(threat),
    )


def _without_slope(model: CountedModel, rows: NDArray[np.int64]) -> int:
    """Samples at which the cross-entropy has no gradient."""

    def part(rows: Tensor, x: Tensor) -> Tensor:
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad(), model.counted(rows, backward=1):
            loss = torch.nn.functional.cross_entropy(model.target(x), model.labels(rows), reduction="sum")
            grad = torch.autograd.grad(loss, x)[0]
        return (grad.flatten(1) == 0).all(1)

    at = torch.from_numpy(rows)
    return int(torch.cat(model.in_parts(part, at, model.inputs(at))).sum())
