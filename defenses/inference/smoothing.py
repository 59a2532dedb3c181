"""Randomized smoothing: the answer is what most noisy copies of an input get, and comes with a certificate."""

from __future__ import annotations

import functools
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.noise import Noise
from robustbench_lite.core.parameters import Length, PositiveInt
from robustbench_lite.hardening.interface import Artifact, WrappingStep
from robustbench_lite.model.target import Target
from robustbench_lite.model.wrapping import Wrapper, wrapped

_TOGETHER = 8192  # noisy copies that are asked about at once
_WEIGHT = 0.4  # of the mean probabilities beside the votes: below a half, so that it never outweighs one vote


@dataclass(frozen=True, kw_only=True)
class Smoothing(WrappingStep):
    """The class that most of ``n0`` noisy copies of an input get, or none where the votes are too close to tell.

    The draws are fixed, so the answer to an input is always the same, and attacks climb the mean over these very
    draws. What is certified is the smoothed classifier itself, the limit of ever more draws: from ``n`` fresh draws a
    sample, each certificate wrong with a probability of ``alpha`` at most.

    References
    ----------
    Cohen, Rosenfeld and Kolter, *Certified adversarial robustness via randomized smoothing*, ICML 2019.
    https://arxiv.org/abs/1902.02918
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1902.02918"

    sigma: Length = 0.25
    """Standard deviation of the noise in every value of the input."""
    n0: PositiveInt = 100
    """Draws that vote; a pass costs so many of the network within."""
    n: PositiveInt = 1000
    """Draws a sample of the certificate. The largest radius that can be proven grows with them."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    """Probability of error of a certificate, and of an answer that isn't the smoothed classifier's."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of all draws."""

    def unfit(self, artifact: Artifact) -> str | None:
        already = any(record.name == "smoothing" for record in artifact.records)
        if already or any(isinstance(one.wrapper, Smoothed) for one in wrapped(artifact.target)):
            return "the model is smoothed already: smooth it once, with the sigma that is meant"
        return super().unfit(artifact)

    def wrapper(self, inner: Target) -> Wrapper:
        return Smoothed(inner, self)


class Smoothed(Wrapper):
    """A target that answers by the votes of noisy copies: logits, (B, K + 1), of which the last means no answer.

    Their order is that of the votes. Beside the votes, the mean probabilities count for less than one vote; they are
    what the gradient is taken of, as votes have none.
    """

    abstains = True
    certifies = True

    def __init__(self, inner: Target, settings: Smoothing) -> None:
        super().__init__(inner)
        self.settings, self.error = settings, settings.alpha

    def note(self) -> str:
        own = self.settings
        return (
            f"randomized smoothing: the votes of {own.n0} copies with Gaussian noise of {own.sigma:g} answer; where "
            f"they are too close to tell (two-sided binomial test at {own.alpha:g}), none is given, and that counts as "
            f"not right. A pass costs {own.n0} of the network; attacks climb the mean over the same draws"
        )

    def forward(self, x: Tensor) -> Tensor:
        own = self.settings
        draws = own.sigma * _fixed(own.seed, own.n0, tuple(x.shape[1:])).to(x)
        votes, mean = [], []
        for part in torch.split(draws, max(1, _TOGETHER // max(1, len(x)))):
            noisy = (x[None] + part[:, None]).flatten(0, 1)
            logits = self.inner(noisy).reshape(len(part), len(x), -1)
            votes.append(F.one_hot(logits.argmax(2), logits.shape[2]).sum(0))
            mean.append(logits.softmax(2).sum(0))
        return self.scores(torch.stack(votes).sum(0), torch.stack(mean).sum(0) / own.n0)

    def scores(self, votes: Tensor, mean: Tensor) -> Tensor:
        """Logits by the votes, (B, K), with the slope of the mean probabilities, (B, K)."""
        n0 = self.settings.n0
        most, place = votes.topk(2, dim=1)
        # The answer stands where the first is ahead of the second by so many votes; the half breaks the tie.
        ahead = _lead(n0, self.settings.alpha).to(votes.device)[most.sum(1)].to(mean) - 0.5
        soft = torch.cat([mean, mean.gather(1, place[:, 1:]) + ahead[:, None] / n0], 1)
        hard = (votes + _WEIGHT * mean.detach()) / n0
        hard = torch.cat([hard, hard.gather(1, place[:, 1:]) + ahead[:, None] / n0], 1)
        return (soft + (hard - soft.detach()) + 0.5 / n0).log()

    @torch.no_grad()
    def certified_radii(self, x: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        """L2 radii of Cohen et al.'s CERTIFY: sigma times the normal quantile of the least probability of the label."""
        right = self(x).argmax(1) == labels  # these draws choose the class, others tell how probable it is
        radii = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if bool(right.any()):
            votes = self.votes(x[right], labels[right], keys[right], block=1)
            radii[right] = self.radii(votes)
        return radii

    def radii(self, votes: Tensor) -> Tensor:
        """Radii that so many votes of ``n`` prove, shape (B,): 0 where it may be the half of them, or less."""
        from scipy.special import betaincinv

        own = self.settings
        counts = votes.double().cpu()
        # The low end of the one-sided Clopper-Pearson interval.
        least = torch.as_tensor(betaincinv(counts.clamp_min(1).numpy(), own.n - counts.numpy() + 1, own.alpha))
        radii: Tensor = own.sigma * torch.special.ndtri(least.where(counts > 0, torch.zeros_like(least)))
        return radii.clamp_min(0.0).to(votes.device)

    @torch.no_grad()
    def contradicted(self, x: Tensor, labels: Tensor, keys: Tensor, left: Tensor) -> Tensor:
        """Whether fresh draws at a point give the label less than the certificate leaves it there."""
        from scipy.special import betaincinv

        own = self.settings
        counts = self.votes(x, labels, keys, block=2).double().cpu()
        most = torch.as_tensor(betaincinv(counts.numpy() + 1, (own.n - counts).clamp_min(1).numpy(), 1 - own.alpha))
        most = most.where(counts < own.n, torch.ones_like(most))
        denied: Tensor = most < torch.special.ndtr(left.double().cpu() / own.sigma)
        return denied.to(x.device)

    @torch.no_grad()
    def votes(self, x: Tensor, labels: Tensor, keys: Tensor, *, block: int) -> Tensor:
        """How many of ``n`` noisy copies get the label, shape (B,); a block of draws of each sample is used once."""
        own, shape = self.settings, tuple(x.shape[1:])
        streams = Noise(keys.to(x.device)).at(own.seed).at(block)
        votes = torch.zeros_like(labels)
        for draws in torch.split(torch.arange(own.n), max(1, _TOGETHER // len(x))):
            each = draws.to(x.device).repeat_interleave(len(x))
            noise = Noise(streams.keys.repeat(len(draws))).at(each).normal(shape).to(x)
            answers = self.inner(x.repeat(len(draws), *[1] * len(shape)) + own.sigma * noise).argmax(1)
            votes += (answers.reshape(len(draws), len(x)) == labels).sum(0)
        return votes


@functools.lru_cache(maxsize=2)
def _fixed(seed: int, draws: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal draws that are the same for every input, (draws, *shape)."""
    return Noise(torch.tensor([seed])).at(0).normal((draws, *shape))[0]


@functools.lru_cache(maxsize=8)
def _lead(draws: int, alpha: float) -> Tensor:
    """By how many of m votes the first must be ahead of the second, for m from 0 to ``draws``, shape (draws + 1,).

    The least lead at which both being equally likely is refused by the two-sided binomial test at ``alpha``; m + 1,
    which no votes reach, where m are too few.
    """
    from scipy.special import betainc

    m = torch.arange(draws + 1, dtype=torch.float64)[:, None]
    first = torch.arange(1, draws + 1, dtype=torch.float64)[None]
    possible = (2 * first >= m) & (first <= m)
    chance = 2 * torch.as_tensor(betainc(first.numpy(), (m - first + 1).clamp_min(1).numpy(), 0.5))
    clear = possible & (chance <= alpha)
    lead = torch.where(clear, 2 * first - m, torch.inf).amin(1)
    return lead.where(lead.isfinite(), m[:, 0] + 1).long()
