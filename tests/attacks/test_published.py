"""The papers' own algorithms: with the parameters that an attack calls published, its candidates are the paper's.

The loops below follow the papers' update rules line by line, one whole batch at a time.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry

from .conftest import Recording

STEPS = 30


def built(name: str, **params) -> Attack:
    """An attack as published, in fewer steps."""
    attack = registry.build("attacks", name, {})
    found: Attack = registry.build("attacks", name, {**attack.published, "steps": STEPS, **params})
    return found


def candidates(problem, attack: Attack, threat: str) -> torch.Tensor:
    recording = Recording(problem.model)
    problem.attack(attack, threat, model=recording, early_stop=False)
    return torch.stack(recording.batches[: STEPS + 1])


def annealed(first: float, last: float, step: int) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * step / STEPS)) / 2


def gradient(loss, x):
    x = x.detach().requires_grad_()
    value = loss(x)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def spread(values):
    return values[:, None, None, None]


def margins(problem):
    def loss(x):
        logits = problem.model(x)
        others = logits.scatter(1, problem.y[:, None], -math.inf).amax(1)
        return others - logits.gather(1, problem.y[:, None])[:, 0]

    return loss


def ddn(problem, gamma=0.05, levels=256):
    """Algorithm 1 of Rony et al. 2019, with the rounding of section 3.1."""
    x, y = problem.x, problem.y
    moved, eps, seen = x, torch.ones(len(x)), [x]
    farthest = torch.maximum(x, 1 - x).flatten(1).norm(dim=1)
    for step in range(STEPS):
        _, grad = gradient(lambda at: F.cross_entropy(problem.model(at), y, reduction="none"), moved)
        adversarial = problem.model(moved).argmax(1) != y
        delta = moved - x + annealed(1, 0.01, step) * grad / spread(grad.flatten(1).norm(dim=1))
        eps = torch.minimum(torch.where(adversarial, (1 - gamma) * eps, (1 + gamma) * eps), farthest)
        moved = x + spread(eps) * delta / spread(delta.flatten(1).norm(dim=1))
        moved = ((moved * (levels - 1)).round() / (levels - 1)).clamp(0, 1)
        seen.append(moved.detach())
    return torch.stack(seen)


def shorten(delta, eps, norm):
    """Project onto the ball of a radius."""
    flat = delta.flatten(1).double().numpy()
    rows = []
    for row, radius in zip(flat, eps.double().numpy(), strict=True):
        size = np.abs(row)
        if norm == "Linf":
            row = row.clip(-radius, radius)
        elif norm == "L2":
            row = row * min(1, radius / max(np.linalg.norm(row), 1e-12))
        elif norm == "L0":
            row = np.where(np.argsort(np.argsort(-size, kind="stable"), kind="stable") < radius, row, 0)
        elif size.sum() > radius:  # the soft threshold that leaves the radius, by bisection
            low, high = 0.0, size.max()
            for _ in range(100):
                middle = (low + high) / 2
                low, high = (middle, high) if (size - middle).clip(0).sum() > radius else (low, middle)
            row = np.sign(row) * (size - high).clip(0)
        rows.append(row)
    return torch.tensor(np.array(rows), dtype=delta.dtype).reshape(delta.shape)


def fmn(problem, norm):
    """Algorithm 1 of Pintor et al. 2021."""
    x, loss = problem.x, margins(problem)
    order, dual = {"Linf": (math.inf, 1), "L2": (2, 2), "L1": (1, math.inf), "L0": (0, None)}[norm]

    def length(delta):
        return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)

    moved, eps = x, torch.full((len(x),), 1.0 if norm == "L0" else math.inf)
    best, seen = torch.full((len(x),), math.inf), [x]
    for step in range(STEPS):
        gamma = annealed(0.05, 0.001, step)
        value, grad = gradient(loss, moved)
        won = value > 0
        best = torch.where(won, torch.minimum(best, length(moved - x)), best)
        if norm == "L0":
            less = torch.minimum(torch.minimum(eps - 1, (eps * (1 - gamma)).floor()), best)
            eps = torch.where(won, less, torch.maximum(eps + 1, (eps * (1 + gamma)).floor())).clamp_min(1)
        else:
            boundary = length(moved - x) + value.abs() / torch.linalg.vector_norm(grad.flatten(1), ord=dual, dim=1)
            more = torch.where(best.isfinite(), eps * (1 + gamma), boundary)
            eps = torch.where(won, torch.minimum(eps * (1 - gamma), best), more)
        eps = torch.minimum(eps, length(torch.maximum(x, 1 - x)))
        delta = moved - x + annealed(1, 0.01, step) * grad / spread(grad.flatten(1).norm(dim=1))
        moved = (x + shorten(delta, eps, norm)).clamp(0, 1)
        seen.append(moved)
    return torch.stack(seen)


def sigma_zero(problem, sigma=1e-3, threshold=0.3):
    """Algorithm 1 of Cinà et al. 2025, with Adam as its authors run it."""
    x, loss = problem.x, margins(problem)
    delta = torch.zeros_like(x, requires_grad=True)
    adam, seen = torch.optim.Adam([delta], lr=1.0), [x]
    limit = torch.full((len(x),), threshold)
    for step in range(STEPS):
        lr = annealed(1, 0.1, step)
        value = loss(x + delta)
        count = (delta**2 / (delta**2 + sigma)).flatten(1).mean(1)
        (grad,) = torch.autograd.grad(((-value).clamp_min(0) + count).sum(), delta)
        delta.grad = grad / spread(grad.flatten(1).abs().amax(1).clamp_min(1e-12))
        adam.param_groups[0]["lr"] = lr
        adam.step()
        with torch.no_grad():
            delta.copy_((x + delta).clamp(0, 1) - x)
            limit = (limit + torch.where(value > 0, lr, -lr) * 0.01).clamp(0, 1)
            delta[delta.abs() < spread(limit)] = 0
            seen.append((x + delta).clone())
    return torch.stack(seen)


def onto(x, w, gap, norm):
    """The smallest change in the box that adds a gap to ``w x``, by bisection over its length."""
    w = w * gap.sign()[:, None]
    room = torch.where(w > 0, 1 - x, x)
    pace = w.abs() if norm == "L2" else (w != 0).to(x.dtype)
    low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 1e6).double()
    for _ in range(200):
        middle = (low + high) / 2
        short = (w.abs() * (middle * pace).minimum(room)).sum(1, keepdim=True) < gap.abs()[:, None]
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return w.sign() * (high * pace).minimum(room)


def fab(problem, norm, alpha_max=0.1, eta=1.05, beta=0.9):
    """Algorithm 1 of Croce and Hein 2020 towards the runner-up, every step back a candidate of its own."""
    x, y = problem.x.flatten(1).double(), problem.y
    rival = problem.model(problem.x).scatter(1, y[:, None], -math.inf).argmax(1)
    order = {"Linf": math.inf, "L2": 2}[norm]

    def towards(at):
        logits = problem.model(at)
        return (logits.gather(1, rival[:, None]) - logits.gather(1, y[:, None]))[:, 0]

    def length(change):
        return torch.linalg.vector_norm(change, ord=order, dim=1)

    moved, seen = x, [problem.x]
    for _ in range(STEPS):
        value, w = gradient(towards, moved.float().reshape(problem.x.shape))
        value, w = value.double(), w.flatten(1).double()
        hit = problem.model(moved.float().reshape(problem.x.shape)).argmax(1) != y
        near, far = onto(moved, w, -value, norm), onto(x, w, (w * (moved - x)).sum(1) - value, norm)
        alpha = (length(near) / (length(near) + length(far))).clamp_max(alpha_max)[:, None]
        ahead = ((1 - alpha) * (moved + eta * near) + alpha * (x + eta * far)).clamp(0, 1)
        moved = torch.where(hit[:, None], (1 - beta) * x + beta * moved, ahead)
        seen.append(moved.float().reshape(problem.x.shape))
    return torch.stack(seen)


def bisected(c, low, high, found):
    """The next weight of section VI of Carlini and Wagner 2017, for samples of which one was found or wasn't."""
    for row, hit in enumerate(found.tolist()):
        if hit:
            high[row] = min(high[row], c[row])
        else:
            low[row] = max(low[row], c[row])
        c[row] = (low[row] + high[row]) / 2 if high[row] < 1e10 else c[row] * 10
    return c


def carlini_wagner(problem, starts, iterations, lr, first_c):
    """Section V-B of Carlini and Wagner 2017 in L2, with Adam and the numbers of its authors' code."""
    x, loss, seen = problem.x, margins(problem), []
    c, low, high = torch.full((len(x),), first_c), torch.zeros(len(x)), torch.full((len(x),), 1e10)
    for _ in range(starts):
        w = torch.atanh((x - 0.5) / 0.5 * 0.999999).requires_grad_()
        adam, found = torch.optim.Adam([w], lr=lr), torch.zeros(len(x), dtype=torch.bool)
        for _ in range(iterations):
            at = w.tanh() * 0.5 + 0.5
            seen.append(at.detach())
            margin = loss(at)
            found |= margin > 0
            total = ((at - x) ** 2).flatten(1).sum(1) + c * (-margin).clamp_min(0)
            adam.zero_grad()
            total.sum().backward()
            adam.step()
        c = bisected(c, low, high, found)
    return torch.stack(seen)


def ead(problem, starts, iterations, lr, beta, first_c):
    """Algorithm 1 of Chen et al. 2018: points whose gradient is taken, and iterates, in turn."""
    x, loss, seen = problem.x, margins(problem), []
    c, low, high = torch.full((len(x),), first_c), torch.zeros(len(x)), torch.full((len(x),), 1e10)
    for _ in range(starts):
        iterate, ahead, found = x, x, torch.zeros(len(x), dtype=torch.bool)
        for k in range(iterations):
            _, slope = gradient(lambda at, c=c: ((at - x) ** 2).flatten(1).sum(1) + c * (-loss(at)).clamp_min(0), ahead)
            moved = ahead - lr * math.sqrt(1 - k / iterations) * slope
            larger, smaller = (moved - beta).clamp_max(1), (moved + beta).clamp_min(0)
            following = torch.where(moved - x > beta, larger, torch.where(moved - x < -beta, smaller, x))
            seen += [ahead, following]
            ahead, iterate = (
                (following + k / (k + 3) * (following - iterate)).clamp(0, 1),
                following,
            )  # as the engine asks
            found |= loss(iterate) > 0
        c = bisected(c, low, high, found)
    return torch.stack(seen)


def within(x, delta, eps):
    """The nearest change in the L1 ball and the box, by bisection over how much every value is shortened."""
    room = torch.where(delta > 0, 1 - x, x)
    low, high = torch.zeros(len(x)), delta.flatten(1).abs().amax(1)

    def shortened(by):
        return (delta.abs() - spread(by)).clamp_min(0).minimum(room)

    for _ in range(60):
        middle = (low + high) / 2
        long = shortened(middle).flatten(1).sum(1) > eps
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    return delta.sign() * torch.where(
        spread(shortened(low * 0).flatten(1).sum(1) > eps), shortened(high), shortened(low * 0)
    )


def apgd_l1(problem, eps, steps):
    """Algorithm 1 of Croce and Hein 2021, one radius, from the input."""
    x, y = problem.x, problem.y
    values, moved, seen = x[0].numel(), x, [x]
    share, before, size = torch.full((len(x),), 0.2), torch.full((len(x),), float(values)), torch.full((len(x),), eps)
    best, best_loss, best_grad = x, torch.full((len(x),), -math.inf), x
    for step in range(STEPS + 1):
        value, grad = gradient(lambda at: F.cross_entropy(problem.model(at), y, reduction="none"), moved)
        better = value > best_loss
        best, best_grad = (torch.where(spread(better), new, old) for new, old in ((moved, best), (grad, best_grad)))
        best_loss = torch.maximum(value, best_loss)
        if step and step % (steps // 25) == 0:
            changed = (best != x).flatten(1).sum(1).float()
            fewer = changed / before < 0.95
            share, before = changed / values / 1.5, changed
            size = torch.where(fewer, eps, size / 1.5).clamp(eps / 10, eps)
            moved, grad = (torch.where(spread(fewer), new, old) for new, old in ((best, moved), (best_grad, grad)))
        flat = grad.flatten(1)
        least = flat.abs().sort(1).values.gather(1, ((1 - share) * values).long().clamp(0, values - 1)[:, None])
        signs = flat.sign() * (flat.abs() >= least)
        ahead = moved + spread(size) * (signs / (signs.abs().sum(1, keepdim=True) + 1e-10)).reshape(x.shape)
        moved = x + within(x, ahead - x, eps)
        seen.append(moved)
    return torch.stack(seen[: STEPS + 1])


def agree(ours: torch.Tensor, papers: torch.Tensor, share: float = 1.0) -> None:
    """Candidates are alike at every step; of a share of the samples, where rounding may turn a comparison."""
    alike = (ours - papers).abs().flatten(2).amax(2).amax(0) <= 2e-3
    assert alike.float().mean() >= share, alike
    assert (ours[-1] - ours[0]).abs().amax() > 0.01


def test_ddn(network):
    agree(candidates(network, built("ddn"), "L2 5"), ddn(network), share=0.9)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1", "L0"])
def test_fmn(network, norm):
    agree(
        candidates(network, built("fmn"), f"{norm} 64" if norm == "L0" else f"{norm} 1"), fmn(network, norm), share=0.9
    )


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fab(network, norm):
    attack = registry.build("attacks", "fab", {"form": "published", "targets": 1, "iterations": STEPS + 1})
    agree(candidates(network, attack, f"{norm} 1"), fab(network, norm), share=0.9)


def test_carlini_wagner(network):
    asked = {"search_steps": 3, "iterations": 10, "lr": 0.01, "first_c": 10.0}
    attack = registry.build("attacks", "carlini_wagner", {"form": "published", **asked})
    ours = candidates(network, attack, "L2 5")[:STEPS]
    agree(ours, carlini_wagner(network, *asked.values()), share=0.9)


def test_ead(network):
    asked = {"search_steps": 3, "iterations": 5, "lr": 0.01, "beta": 0.001, "first_c": 10.0}
    attack = registry.build("attacks", "ead", {"form": "published", **asked})
    agree(candidates(network, attack, "L1 20")[:STEPS], ead(network, *asked.values()), share=0.9)


def test_apgd_l1(network):
    attack = registry.build("attacks", "apgd", {"form": "published", "steps": 100, "random_start": False})
    agree(candidates(network, attack, "L1 3"), apgd_l1(network, 3.0, 100), share=0.9)


def test_sigma_zero(network):
    agree(candidates(network, built("sigma_zero"), "L0 64"), sigma_zero(network), share=0.9)


OTHERWISE = {
    "ddn": "L2 5",
    "fmn": "L2 1",
    "sigma_zero": "L0 64",
    "apgd": "L1 3",
    "carlini_wagner": "L2 5",
    "ead": "L1 9",
}
"""Attacks whose defaults differ from their papers, each with a threat model under which it shows."""


@pytest.mark.parametrize("name", OTHERWISE)
def test_the_defaults_are_not_the_papers(network, name):
    few = {"iterations": STEPS} if name in ("carlini_wagner", "ead") else {"steps": STEPS}
    plain = registry.build("attacks", name, few)
    papers = registry.build("attacks", name, {**plain.published, **few})
    ours, published = (candidates(network, attack, OTHERWISE[name]) for attack in (plain, papers))
    assert (ours - published).abs().amax() > 0.01
