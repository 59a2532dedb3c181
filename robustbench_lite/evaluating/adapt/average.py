"""Expectation over transformation, against random answers."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.evaluating.adapt.measuring import Around, Sample, Step, over
from robustbench_lite.evaluating.preflight.check import STRAY
from robustbench_lite.model.target import Target

_FEWEST, _MOST = 4, 64  # draws of an average
_PILOT, _ASKED = 16, 8
_ERROR = 0.1
"""Share of the median margin that the average's standard error may make up: what is left of chance is then like a
change of eps by a tenth."""
_SAME = 1e-3  # share of a row's largest logit by which two identical calls may differ


def averaged(target: Target, sample: Sample, seed: int) -> Step | None:
    """Average the answers, where they change from call to call."""
    first = sample.logits(target)
    for _ in range(_ASKED):  # a transform that is drawn once a batch, out of a few, may well be the same one again
        again = sample.logits(target)
        unlike = int((~((first - again).abs().amax(1) <= _SAME * first.abs().amax(1))).sum())
        if unlike:
            break
    else:
        return None
    mapped = _can_be_mapped(target, sample)

    def drawn(draws: int, block: int) -> _Average:
        # Streams of one block are used nowhere else; which are used in the end doesn't depend on how many were tried.
        return _Average(target, draws, (seed * 31 + block) * 2**16 % 2**63, mapped)

    draws, error, middle = _draws(drawn(_PILOT, 1), sample)
    draws = draws if mapped else _MOST  # without vmap, only many draws make an answer almost independent of its batch
    while True:
        one, other = (sample.logits(over(target, drawn(draws, block))).argmax(1) for block in (0, 2))
        agreed = int((one == other).sum())
        if agreed >= len(one) - max(1.0, STRAY * len(one)) or draws >= _MOST:
            break
        draws *= 2
    alone = "" if mapped else "; it can't be asked sample by sample, so a draw depends on the place in the batch"
    return Step(
        "eot",
        f"{draws} draws",
        f"{unlike} of {len(first)} samples get other logits when asked again; the margin is {middle:.3g} (median), its "
        f"standard deviation from draw to draw {error:.3g}, and {agreed} of {len(one)} samples get the same class from "
        f"{draws} other draws{alone}",
        drawn(draws, 0),
    )


class _Average(Around):
    """Log of the mean probabilities over draws: the classifier that a random target is in expectation.

    The draws are the same ones in every call: each comes from a random stream of its own, for which the generators of
    torch, numpy and Python are set, and reset after it. So that no answer depends on the batch either, every sample
    goes through the target by itself, under `torch.vmap`, which draws the same random numbers for all of them
    (``randomness="same"``): from draw to draw they are independent, which is all that an average asks for. A module
    that can't be mapped (its path depends on values, or a backward pass is its own) is asked about batches. There the
    place in the batch decides which part of a draw a sample gets, and only the number of draws keeps answers together.

    It is the log of the mean, and not the mean of the logits: the largest of these need not be the class that is
    answered most of the time.
    """

    def __init__(self, target: Target, draws: int, seed: int, mapped: bool) -> None:
        super().__init__(target)
        self.draws, self.seed, self.mapped = draws, seed, mapped

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor | None = None
        for one in self.each(x):
            mean = one if mean is None else torch.logaddexp(mean, one)
        assert mean is not None
        return mean - math.log(self.draws)

    def each(self, x: Tensor) -> Iterator[Tensor]:
        """Log-probabilities of each draw, (B, K)."""
        for draw in range(self.draws):
            with _stream(self.seed + draw, x.device):
                yield (_mapped(self.target, x) if self.mapped else self.target(x)).log_softmax(1)


def _mapped(target: Target, x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has no rule of its own is done sample by sample: slower, and right
        logits: Tensor = torch.vmap(lambda one: target(one[None])[0], randomness="same")(x)
    return logits


@contextmanager
def _stream(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a stream of its own, whichever generator is asked, and leave all of them as they were."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _can_be_mapped(target: Target, sample: Sample) -> bool:
    x = sample.x[:2].detach().clone().requires_grad_()
    try:
        with torch.enable_grad(), _stream(0, x.device):
            logits = _mapped(target, x)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), x, allow_unused=True)
    except Exception:  # whatever stands in the way
        return False
    finally:
        sample.budget.spend(len(x), len(x))
    return True


def _draws(pilot: _Average, sample: Sample) -> tuple[int, float, float]:
    """How many draws make the margin's standard error small, from its deviation; that, and the median margin."""
    rows = torch.arange(len(sample.x), device=sample.x.device)
    sample.budget.check(len(rows) * pilot.draws)
    with torch.no_grad():
        each = torch.stack(list(pilot.each(sample.x)))
    sample.budget.spend(len(rows) * pilot.draws, 0)
    top = each.exp().mean(0).topk(2, dim=1).indices
    gaps = each[:, rows, top[:, 0]] - each[:, rows, top[:, 1]]
    deviation = float(gaps.var(0).mean().sqrt())
    middle = float(gaps.mean(0).abs().median())
    needed = (deviation / max(_ERROR * middle, 1e-12)) ** 2
    return min(_MOST, max(_FEWEST, 2 ** math.ceil(math.log2(max(needed, 1.0))))), deviation, middle
