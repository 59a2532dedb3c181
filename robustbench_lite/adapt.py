"""Adaptive evaluation: attack what a target computes, past what only keeps attacks from computing it.

A finding such as a gradient that vanishes says that an attack was blind, and not that the target is robust. The cures
are known (Athalye, Carlini and Wagner 2018, https://arxiv.org/abs/1802.00420; Tramer, Carlini, Brendel and Madry 2020,
https://arxiv.org/abs/2002.08347). Here each is a small module around the target, which stays as it is. All but the
average over random draws leave every predicted class as it was, and change the gradient alone.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustbench_lite.black_box import BlackBox
from robustbench_lite.data import Data
from robustbench_lite.engine import Look
from robustbench_lite.losses import margin
from robustbench_lite.meter import Meter, Stop
from robustbench_lite.noise import Noise
from robustbench_lite.norms import GEOMETRIES, project
from robustbench_lite.preflight import SAMPLES
from robustbench_lite.preflight.look import STRAY, drawn
from robustbench_lite.scorecard import Finding, Measure
from robustbench_lite.target import Preprocessing, Target
from robustbench_lite.threat import ThreatModel

_RANDOM = frozenset({"RB101", "RB104", "RB202", "RB203"})
_PROBABILITIES = frozenset({"RB121"})
_SATURATED = frozenset({"RB125", "RB201"})
_MASKED = frozenset(
    {"RB131", "RB132", "RB133", "RB201", "RB211", "RB213", "RB214", "RB222", "RB223", "RB231"}
)  # evidence that the gradient doesn't lead to what there is

_FEWEST, _MOST = 4, 64  # draws of an average
_PILOT, _ASKED = 16, 8
_ERROR = 0.1
"""Share of the median margin that the average's standard error may make up: what is left of chance is then like a
change of eps by a tenth."""
_SAME = 1e-3  # share of a row's largest logit by which two identical calls may differ
_WIDE = 40.0  # median gap of the two largest logits from which on a softmax counts as saturated, as in the preflight
_GAP = 10.0
"""To which a temperature brings the median gap: well trained networks measure 7 to 20, and here cross-entropy still has
a gradient of 5e-5, far above what float32 rounds away."""
_WAYS = ((False, 16, 0.5), (False, 16, 1.0), (True, 64, 0.5), (True, 256, 0.5))
"""Smoothings that are tried, the cheapest first: by differences or not, draws, and share of the ball's scale."""
_CASTS = frozenset({"to", "type", "int", "long", "short", "char", "byte"})
_STEPS = _CASTS | {"round", "floor", "ceil", "trunc", "fix", "sign", "detach"}
_CLEARLY = 1.1  # times the rise along the model's own gradient, from which on another direction is the better one
_FAR = 1.5  # the same, from which on no dearer one is looked for
_SURROGATE_SAMPLES, _COPIES, _EPOCHS = 2000, 3, 20


class Adapted(NamedTuple):
    """A target that attacks can get at, and how it was made of the one that they couldn't."""

    target: Target
    measures: tuple[Measure, ...]
    masked: bool
    """Whether the target's gradients led nowhere: attacks that need none are a check on the others."""


def curable(finding: Finding, target: Target) -> bool:
    """Whether an adaptive evaluation can work around a finding, so that the number means something all the same."""
    if isinstance(target.module, BlackBox) or finding.severity == "info":
        return False
    return finding.code in _SATURATED or (
        finding.severity == "error" and finding.code in _RANDOM | _PROBABILITIES | _MASKED
    )


def adapted(
    target: Target,
    data: Data,
    findings: Sequence[Finding],
    threats: Sequence[ThreatModel],
    *,
    seed: int = 0,
    samples: int = SAMPLES,
    batch_size: int = 128,
    meter: Meter | None = None,
) -> Adapted | None:
    """Make a target that attacks can get at.

    Parameters
    ----------
    target, data
        What was evaluated. Neither is changed.
    findings
        What stood against that evaluation. They say what is looked for; what is found by measuring decides.
    threats
        Threat models to come: their eps is the scale of a smoothing.
    seed
        Of the samples and of every draw.
    samples
        Size of the class-stratified sample that is measured.
    batch_size
        Most samples at once; halved by itself where memory runs out.
    meter
        Counts and limits the passes.

    Returns
    -------
    Adapted or None
        None where no finding has a cure here.

    Raises
    ------
    Stop
        Where the meter's budget is spent.
    """
    codes = {finding.code for finding in findings if curable(finding, target)}
    errors = codes & {finding.code for finding in findings if finding.severity == "error"}
    if not codes:
        return None
    rows = drawn(data, samples, seed)
    sample = _Sample(data.fetch(rows).to(target.device), data.labels[rows].to(target.device), meter, batch_size)
    target.probe(sample.x[:2])  # how many classes there are, also where the first evaluation came from a cache
    sample.meter.spend(min(2, len(rows)), 0)
    measures: list[Measure] = []
    now = target
    declared = frozenset() if target.preprocessing is None else _MASKED
    with target.attacking():
        if errors & _MASKED and target.preprocessing is not None:
            now = _straight_through(target, target.preprocessing)
            measures.append(_told("bpda", "backward pass of the identity", _WHY_BPDA, errors & _MASKED))
        steps: tuple[tuple[frozenset[str], Callable[[Target, _Sample], _Step | None]], ...] = (
            (_PROBABILITIES, _logits),
            (_RANDOM, lambda now, sample: _average(now, sample, seed)),
            (_SATURATED, _rescaled),
            (_MASKED - declared, lambda now, sample: _sloping(now, sample, threats)),
        )
        for cures, step in steps:
            called = (codes if cures is _SATURATED else errors) & cures
            if called and (made := step(now, sample)) is not None:
                now = _over(now, made.module)
                if made.name == "rescale":
                    errors = errors - _SATURATED  # that was what hid the gradient
                measures.append(_told(made.name, made.setting, made.reason, called))
    return Adapted(now, tuple(measures), bool(errors & _MASKED)) if measures else None


class _Step(NamedTuple):
    """A measure, and the module that takes it."""

    name: str
    setting: str
    reason: str
    module: nn.Module


_WHY_BPDA = (
    "the preprocessing that the target declares hides the gradient: it is applied as it is, and passed over on the "
    "way back"
)


def _told(name: str, setting: str, reason: str, codes: set[str] | frozenset[str]) -> Measure:
    return Measure(name=name, setting=setting, reason=f"{', '.join(sorted(codes))}: {reason}")


def _over(target: Target, module: nn.Module) -> Target:
    made = Target(module, name=target.name, device=target.device, spec=target.spec)
    made.classes = target.classes
    return made


class _Sample:
    """Samples that are measured, and every pass over them counted."""

    def __init__(self, x: Tensor, y: Tensor, meter: Meter | None, batch_size: int) -> None:
        self.x, self.y, self.meter, self._size = x, y, meter or Meter(), batch_size

    def logits(self, target: Target, x: Tensor | None = None) -> Tensor:
        """Shape (n, K)."""
        x = self.x if x is None else x
        return self._ask(target, x, torch.zeros(len(x), dtype=torch.int64, device=x.device), gradient=False)[0]

    def slope(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of the margin, (n, *shape); zeros where there is none."""
        return self._ask(target, x, y, gradient=True)[1]

    def _ask(self, target: Target, x: Tensor, y: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]:
        self.meter.check(len(x) * (1 + gradient))
        seen = Look(target, "margin", False, self.meter, self._size)(x, y, gradient=gradient)
        self.meter.spend(len(x), len(x) * gradient)
        return seen.logits, seen.grad


class _Around(nn.Module):
    """A module around a target: it holds the same weights, and asks the target."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target, self.module = target, target.module


# Backward pass differentiable approximation


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exact: Preprocessing) -> Tensor:
        with torch.no_grad():
            return exact(x.clone())  # it may write into its input, or hand it back as it is

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _StraightThrough(nn.Module):
    """A preprocessing, exact on the way forward and the identity on the way back."""

    def __init__(self, exact: Preprocessing) -> None:
        super().__init__()
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = _Identity.apply(x, self.exact)
        return done


def _straight_through(target: Target, exact: Preprocessing) -> Target:
    made = Target(
        target.module,
        name=target.name,
        mean=target.mean,
        std=target.std,
        preprocessing=_StraightThrough(exact),
        device=target.device,
        spec=target.spec,
    )
    made.classes = target.classes
    return made


# Logits: of probabilities, and at a temperature


class _Logits(_Around):
    """The logarithm of probabilities; where they went through a softmax twice, of what went into the second one."""

    def __init__(self, target: Target, twice: bool) -> None:
        super().__init__(target)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        p = self.target(x)
        return _log(_before_softmax(p) if self.twice else p)


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _before_softmax(p: Tensor) -> Tensor:
    """What went in, up to a shift that is chosen so that it sums to 1."""
    log_p = _log(p)
    return log_p + (1 - log_p.sum(1, keepdim=True)) / p.shape[1]


def _logits(target: Target, sample: _Sample) -> _Step | None:
    p = sample.logits(target)
    first = _before_softmax(p)
    twice = bool((first > -1e-4).all()) and float(first.amax(1).median()) > 2 / p.shape[1]
    return _Step(
        "logits",
        "inverse of two softmaxes" if twice else "logarithm of the probabilities",
        f"the outputs are probabilities (median of the largest {float(p.amax(1).median()):.6g}"
        + (", as of a softmax of probabilities)" if twice else ")"),
        _Logits(target, twice),
    )


class _Rescaled(_Around):
    """Logits divided by a temperature."""

    def __init__(self, target: Target, temperature: float) -> None:
        super().__init__(target)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.target(x) / self.temperature


def _rescaled(target: Target, sample: _Sample) -> _Step | None:
    gap = _gap(sample.logits(target))
    if gap <= _WIDE:
        return None
    # Of two digits, so that it is the same wherever it is measured.
    temperature = float(f"{gap / _GAP:.1e}")
    why = f"the two largest logits are {gap:.3g} apart (median): divided, {gap / temperature:.3g}"
    return _Step("rescale", f"temperature {temperature:g}", why, _Rescaled(target, temperature))


def _gap(logits: Tensor) -> float:
    """Median of the largest logit less the second."""
    return float(-logits.topk(2, dim=1).values.diff(dim=1)[:, 0].median())


# Expectation over transformation


class _Average(_Around):
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


def _average(target: Target, sample: _Sample, seed: int) -> _Step | None:
    first = sample.logits(target)
    for _ in range(_ASKED):  # a transform that is drawn once a batch, out of a few, may well be the same one again
        again = sample.logits(target)
        unlike = int((~((first - again).abs().amax(1) <= _SAME * first.abs().amax(1))).sum())
        if unlike:
            break
    else:
        return None
    mapped = _can_be_mapped(target, sample)

    def averaged(draws: int, block: int) -> _Average:
        # Streams of one block are used nowhere else; which are used in the end doesn't depend on how many were tried.
        return _Average(target, draws, (seed * 31 + block) * 2**16 % 2**63, mapped)

    draws, error, middle = _draws(averaged(_PILOT, 1), sample)
    draws = draws if mapped else _MOST  # all that keeps an answer from depending on its batch
    while True:
        one, other = (sample.logits(_over(target, averaged(draws, block))).argmax(1) for block in (0, 2))
        agreed = int((one == other).sum())
        if agreed >= len(one) - max(1.0, STRAY * len(one)) or draws >= _MOST:
            break
        draws *= 2
    alone = "" if mapped else "; it can't be asked sample by sample, so a draw depends on the place in the batch"
    return _Step(
        "eot",
        f"{draws} draws",
        f"{unlike} of {len(first)} samples get other logits when asked again; the margin is {middle:.3g} (median), its "
        f"standard deviation from draw to draw {error:.3g}, and {agreed} of {len(one)} samples get the same class from "
        f"{draws} other draws{alone}",
        averaged(draws, 0),
    )


def _can_be_mapped(target: Target, sample: _Sample) -> bool:
    x = sample.x[:2].detach().clone().requires_grad_()
    try:
        with torch.enable_grad(), _stream(0, x.device):
            logits = _mapped(target, x)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), x, allow_unused=True)
    except Exception:  # whatever stands in the way
        return False
    finally:
        sample.meter.spend(len(x), len(x))
    return True


def _draws(pilot: _Average, sample: _Sample) -> tuple[int, float, float]:
    """How many draws make the margin's standard error small, from its deviation; that, and the median margin."""
    rows = torch.arange(len(sample.x), device=sample.x.device)
    sample.meter.check(len(rows) * pilot.draws)
    with torch.no_grad():
        each = torch.stack(list(pilot.each(sample.x)))
    sample.meter.spend(len(rows) * pilot.draws, 0)
    top = each.exp().mean(0).topk(2, dim=1).indices
    gaps = each[:, rows, top[:, 0]] - each[:, rows, top[:, 1]]
    deviation = float(gaps.var(0).mean().sqrt())
    middle = float(gaps.mean(0).abs().median())
    needed = (deviation / max(_ERROR * middle, 1e-12)) ** 2
    return min(_MOST, max(_FEWEST, 2 ** math.ceil(math.log2(max(needed, 1.0))))), deviation, middle


# Another gradient


class _Through(_Around):
    """The target's own logits, with the gradient of the identity where it rounds, casts to integers or cuts the graph.

    What `Target.preprocessing` declares, found inside the module: BPDA for the operations of torch that have no slope.
    """

    def forward(self, x: Tensor) -> Tensor:
        exact = _exactly(self.target, x)
        if not _sloped(x):
            return exact
        with _PassOver():
            slope = self.target(x)
        return exact + (slope - slope.detach())


class _PassOver(TorchFunctionMode):
    """Gives steps the slope of the identity; what comes out is the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = func(*args, **(kwargs or {}))
        given = args[0] if args else None
        if getattr(func, "__name__", "") not in _STEPS or not isinstance(given, Tensor) or not given.requires_grad:
            return done
        if not isinstance(done, Tensor) or (done.is_floating_point() and func.__name__ in _CASTS):
            return done
        return given + (done.to(given.dtype) - given).detach()


class _Smoothed(_Around):
    """The target's own logits, with the gradient of their mean over a Gaussian neighbourhood.

    The mean's gradient is the mean of the gradients at the neighbours or, where these are none or lead nowhere, that of
    differences between opposite neighbours, for which no gradient is needed: E[(f(x + s z) - f(x - s z)) z] / 2s. Where
    the neighbours lie is a hash of the input: the same whenever it is asked about, and others after every step.
    """

    def __init__(self, target: Target, scale: float, draws: int, differences: bool) -> None:
        super().__init__(target)
        self.scale, self.draws, self.differences = scale, draws, differences

    def forward(self, x: Tensor) -> Tensor:
        exact = _exactly(self.target, x)
        if not _sloped(x):
            return exact
        noise = Noise(_hash(x.detach()))
        slope = self._one(x, noise.at(0))
        for draw in range(1, self.draws):
            slope = slope + self._one(x, noise.at(draw))
        return exact + (slope - slope.detach()) / self.draws

    def _one(self, x: Tensor, noise: Noise) -> Tensor:
        """Logits whose gradient is one draw of the mean's."""
        z = noise.normal(tuple(x.shape[1:])).to(x)
        if not self.differences:
            return self.target(x + self.scale * z)
        with torch.no_grad():
            rise = (self.target(x + self.scale * z) - self.target(x - self.scale * z)) / (2 * self.scale)
        return (x * z).flatten(1).sum(1, keepdim=True).to(rise.dtype) * rise


def _exactly(target: Target, x: Tensor) -> Tensor:
    with torch.no_grad():
        return target(x)


def _sloped(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _hash(x: Tensor) -> Tensor:
    """One int64 a sample, of its values alone, shape (B,)."""
    bits = x.float().flatten(1).contiguous().view(torch.int32).long()
    odd = 2 * torch.arange(bits.shape[1], device=x.device) * 0x5851F42D4C95 + 1
    return (bits * odd).sum(1)  # integers: the order of the sum doesn't matter


def _sloping(target: Target, sample: _Sample, threats: Sequence[ThreatModel]) -> _Step | None:
    """Another gradient, chosen by how far a few steps along it lead; of those that lead as far, the cheapest."""
    right = sample.logits(target).argmax(1) == sample.y
    x, y = sample.x[right], sample.y[right]
    if not len(x):
        return None
    threat = next((one for one in threats if one.norm in ("Linf", "L2", "L1")), ThreatModel.parse("Linf 0.05"))
    scale = smoothing_scale(threats, tuple(x.shape[1:]))
    ways: list[tuple[str, str, nn.Module]] = [
        ("bpda", "straight through what rounds or cuts the graph", _Through(target)),
        *(_smoothing(target, share * scale, draws, differences) for differences, draws, share in _WAYS),
    ]
    own = max(0.0, _climb(target, sample, x, y, threat))
    rises: list[float] = []
    for _, _, module in ways:
        rises.append(_climb(_over(target, module), sample, x, y, threat))
        if rises[-1] > _FAR * own:
            break
    if not max(rises) > _CLEARLY * own:
        return None
    best = next(place for place, rise in enumerate(rises) if rise * _CLEARLY >= max(rises))
    name, setting, module = ways[best]
    reason = (
        f"three steps along it raise the margin by {rises[best]:.3g} (median), along the target's own gradient by "
        f"{own:.3g}"
    )
    return _Step(name, setting, reason, module)


def _smoothing(target: Target, scale: float, draws: int, differences: bool) -> tuple[str, str, nn.Module]:
    how = f"differences of {draws} pairs" if differences else f"mean gradient of {draws} neighbours"
    return "smoothing", f"{how}, scale {scale:.3g}", _Smoothed(target, scale, draws, differences)


def smoothing_scale(threats: Sequence[ThreatModel], shape: tuple[int, ...]) -> float:
    """How much a value of the input changes within the largest ball, from a grey level to a quarter of the range."""
    width = math.sqrt(math.prod(shape))
    changes = [{"Linf": one.eps, "L2": one.eps / width, "L1": one.eps / width}.get(one.norm, 0.05) for one in threats]
    return min(max(changes, default=0.05), 0.25) if max(changes, default=0.05) > 1 / 255 else 1 / 255


def _climb(target: Target, sample: _Sample, x: Tensor, y: Tensor, threat: ThreatModel) -> float:
    """By how much the margin rises along the gradient, within the ball (median); 0 where there is no way."""
    moved = x
    try:
        for _ in range(3):
            grad = sample.slope(target, moved, y)
            moved = moved + 0.5 * threat.eps * GEOMETRIES[threat.norm].steepest(grad)
            moved = project(moved, x, threat.norm, threat.eps)
    except Stop:
        raise
    except Exception:  # the backward pass fails, or a cast was needed
        return 0.0
    rise = margin(sample.logits(target, moved), y, False) - margin(sample.logits(target, x), y, False)
    return float(rise.nan_to_num(0.0).median())


# A surrogate


def surrogate(target: Target, data: Data, threats: Sequence[ThreatModel], *, seed: int = 0, size: int = 128) -> Target:
    """Train a small network on the target's own answers, about the samples and about points around them.

    Papernot et al., *Practical black-box attacks against machine learning*, 2017. https://arxiv.org/abs/1602.02697

    Parameters
    ----------
    target, data
        Whose answers, and about what: `Data` with inputs in [0, 1]; no label is looked at.
    threats
        Their eps says how far around the samples it is asked.
    seed
        Of the samples, of the points and of the network.
    size
        Most samples at once.

    Returns
    -------
    Target
        On the target's device, in eval mode.
    """
    dice = torch.Generator().manual_seed(seed)
    x = data.fetch(drawn(data, _SURROGATE_SAMPLES, seed))
    scale = smoothing_scale(threats, tuple(x.shape[1:]))
    near = [x + scale * (2 * torch.rand(x.shape, generator=dice) - 1) for _ in range(_COPIES)]
    x = torch.cat([x, *(one.clamp(0, 1) for one in near)]).to(target.device)
    with target.attacking(), torch.no_grad():
        answers = torch.cat([target(part).softmax(1) for part in torch.split(x, size)]).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(tuple(x.shape[1:]), answers.shape[1]).to(target.device)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(x), generator=dice).to(x.device), 64):
                optimizer.zero_grad()
                F.cross_entropy(network(x[rows]), answers[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return Target(network.eval(), name="surrogate", device=target.device)


def _network(shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(shape) != 3:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, classes))
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )
