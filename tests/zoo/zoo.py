"""Targets and suites whose truth is known: evaluations that can't be trusted, and honest ones.

Small networks for the embedded digits, trained here in seconds, each case with what is true of it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.suite import AttackSpec, Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.faces.cli.demo import small_cnn
from robustbench_lite.hardening.recipe import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.target import Target

EPS = "Linf 0.1"
NAIVE = Suite(name="pgd40", threats=(ThreatModel.parse(EPS),), attacks=(AttackSpec(attack="pgd"),))
"""What most papers of broken defenses reported: one start of PGD on cross-entropy."""

effort = 1.0
"""Share of the epochs, of the width of the networks and of a smoothed one's draws. The benchmarks take all; tests do
with less."""
_LEAST = 6  # epochs, in which the networks learn enough


@dataclass(frozen=True, kw_only=True)
class Case:
    """One evaluation, and what is true of it."""

    name: str
    make: Callable[[], nn.Module | Target]
    broken: bool
    """Whether its number can't be trusted."""
    like: str | None = None
    """The honest case with the same model, as far as an adversary is concerned."""
    suite: Suite | str = NAIVE
    threat: str = EPS
    data: Callable[[], Data] = field(default=lambda: digits("test"))


@cache
def digits(split: str) -> Data:
    """The embedded digits."""
    return load_data("digits", split=split)


def _taught(
    model: nn.Module, defense: str = "standard", epochs: int = 12, data: Data | None = None, **params: Any
) -> nn.Module:
    data = data or digits("train")
    epochs = min(epochs, max(_LEAST, math.ceil(effort * epochs)))
    schedule = Schedule(epochs=epochs, batch_size=64, lr=0.005, optimizer="adam", decay="one_cycle", keep="last")
    held_out = data.take(torch.arange(64))
    threat = ThreatModel.parse(EPS)
    made = train(Target(model), registry.build("defenses", defense, params), schedule, threat, data, held_out)
    return made.target.module.eval()


def _width() -> int:
    return math.ceil(effort * 32)


def _cnn(classes: int = 10) -> nn.Module:
    return small_cnn(classes, width=_width())


def _fresh(module: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return module()


@cache
def plain() -> nn.Module:
    """Trained plainly."""
    return _taught(_fresh(_cnn))


@cache
def hardened(defense: str = "pgd_training") -> nn.Module:
    """Trained on adversarial examples."""
    return _taught(_fresh(_cnn), defense, steps=5)


@cache
def distilled() -> nn.Module:
    """Defensive distillation at a temperature of 100 (Papernot et al. 2016)."""
    return _taught(_fresh(_cnn), "distillation", 30, temperature=100.0)


class Around(nn.Module):
    """A network with something before and after it."""

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.network(self.before(x)))


def levels(x: Tensor) -> Tensor:
    """Rounded to 8 levels; the gradient is zero wherever there is one."""
    return (x * 7).round() / 7


def jpeg(x: Tensor) -> Tensor:
    """Each image compressed and read again."""
    images = []
    for image in (x.detach().cpu() * 255).round().to(torch.uint8).numpy():
        stream = io.BytesIO()
        Image.fromarray(image[0]).save(stream, "JPEG", quality=75)
        images.append(np.asarray(Image.open(stream), np.float32)[None] / 255)
    return torch.from_numpy(np.stack(images)).to(x)


def resized(x: Tensor) -> Tensor:
    """Randomly resized and padded (Xie et al. 2018)."""
    height, width = x.shape[2:]
    side = int(torch.randint(height, height + 3, ()))
    grown = F.interpolate(x, (side, side), mode="nearest")
    down, right = (int(torch.randint(0, height + 3 - side, ())) for _ in range(2))
    padded = F.pad(grown, (right, height + 2 - side - right, down, height + 2 - side - down))
    return F.interpolate(padded, (height, width), mode="nearest")


@cache
def random_resize() -> nn.Module:
    """Trained plainly, under random resizing and padding."""
    return _taught(_fresh(lambda: Around(_cnn(), resized)))


class KWinners(nn.Module):
    """k-winners-take-all in place of ReLU (Xiao et al. 2020)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).reshape(x.shape)


def _k_winners_net() -> nn.Module:
    share, width = 0.05, _width()
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        KWinners(share),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        KWinners(share),
        nn.Flatten(),
        nn.Linear(16 * width, 8 * width),
        KWinners(share),
        nn.Linear(8 * width, 10),
    )


def _dropout_net() -> nn.Module:
    class On(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, self.p, training=True)

    head = list(plain().children())
    return nn.Sequential(*head[:6], On(0.3), *head[6:])


class Recoil(nn.Module):
    """Returns the same logits for whatever it wasn't trained on."""

    def __init__(self, network: nn.Module, known: Tensor) -> None:
        super().__init__()
        self.network, self.known = network, known

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        near = torch.cdist(x.flatten(1), self.known.flatten(1)).amin(1) < 1e-4
        own = self.network(self.known[torch.cdist(x.flatten(1), self.known.flatten(1)).argmin(1)]).detach()
        return torch.where(near[:, None], logits, own)


class Smoothed(nn.Module):
    """The mean over fixed draws of Gaussian noise: a smoothed model, evaluated through its expectation."""

    def __init__(self, network: nn.Module, sigma: float = 0.1) -> None:
        super().__init__()
        self.network = network
        noise = torch.randn(math.ceil(8 * effort), 1, 8, 8, generator=torch.Generator().manual_seed(0)) * sigma
        self.register_buffer("noise", noise)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.network(x + one) for one in self.noise]).mean(0)


@cache
def k_winners() -> nn.Module:
    """Trained plainly, with a gradient that is cut into pieces."""
    return _taught(_fresh(_k_winners_net))


@cache
def robust_linear() -> nn.Module:
    """One linear layer, trained to withstand."""
    return _taught(_fresh(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), "pgd_training", steps=5)


def _known() -> Tensor:
    data = digits("test")
    return data.fetch(range(len(data)))


def _normalised_twice() -> Target:
    """A network that learnt on normalised inputs and normalises them itself, in a target that does so, too."""
    mean, std = (0.5,), (4.0,)
    network = _taught(_fresh(lambda: Around(_cnn(), lambda x: (x - mean[0]) / std[0])))
    return Target(network, mean=mean, std=std)


@cache
def _two_classes() -> tuple[nn.Module, Data]:
    def pair(split: str) -> Data:
        data = digits(split)
        return data.take((data.labels < 2).nonzero()[:, 0])

    return _taught(_fresh(lambda: _cnn(2)), "pgd_training", data=pair("train"), steps=5), pair("test")


@cache
def _thousand_classes() -> tuple[nn.Module, Data]:
    """Digits whose classes are a hundred apart."""

    def spread(split: str) -> Data:
        data = digits(split)
        return replace(data, labels=data.labels * 100, classes=())

    return _taught(_fresh(lambda: _cnn(1000)), "pgd_training", data=spread("train"), steps=5), spread("test")


@cache
def _mislabelled() -> Data:
    """Every digit under a random class that isn't the one that the plain network says."""
    data = digits("test")
    with torch.no_grad():
        says = plain()(data.fetch(range(len(data)))).argmax(1)
    other = torch.randint(1, 10, says.shape, generator=torch.Generator().manual_seed(0))
    return replace(data, labels=(says + other) % 10)


@cache
def _easy() -> tuple[nn.Module, Data]:
    """Two classes so far apart that nothing in the ball changes one into the other."""
    y = torch.arange(400) % 2
    x = (0.1 + 0.8 * y[:, None, None, None].float()).expand(-1, 1, 8, 8).clone()
    x += 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    data = from_arrays(x, y, "far apart")
    return _taught(_fresh(lambda: _cnn(2)), epochs=3, data=data), data


def _attacked_by(attack: str, **params: Any) -> Suite:
    return NAIVE.model_copy(update={"name": attack, "attacks": (AttackSpec(attack=attack, params=params),)})


CASES: tuple[Case, ...] = (
    Case(name="distilled at T = 100", make=distilled, broken=True),
    Case(name="logits x 1e4", make=lambda: Around(plain(), after=lambda z: z * 1e4), broken=True),
    Case(name="8 levels", make=lambda: Around(plain(), levels), broken=True),
    Case(name="JPEG", make=lambda: Around(plain(), jpeg), broken=True),
    Case(name="dropout left on", make=_dropout_net, broken=True),
    Case(name="random resize and pad", make=random_resize, broken=True),
    Case(name="k-winners-take-all", make=k_winners, broken=True),
    Case(
        name="softmax twice",
        make=lambda: Around(plain(), after=lambda z: z.softmax(1).softmax(1)),
        broken=True,
        like="plain",
    ),
    Case(
        name="tanh saturated",
        make=lambda: Around(plain(), after=lambda z: torch.tanh(z / 3)),
        broken=True,
        like="plain",
    ),
    Case(name="wrong sign", make=plain, broken=True, like="plain", suite=_attacked_by("wrong_sign")),
    Case(name="no step", make=plain, broken=True, like="plain", suite=_attacked_by("pgd", step_size=1e-8)),
    Case(name="too small a step", make=plain, broken=True, like="plain", suite=_attacked_by("pgd", step_size=2e-4)),
    Case(name="normalised twice", make=_normalised_twice, broken=True),
    Case(name="constant off the data", make=lambda: Recoil(plain(), _known()), broken=True),
    Case(name="plain", make=plain, broken=False),
    Case(name="PGD-trained", make=hardened, broken=False),
    Case(name="TRADES", make=lambda: hardened("trades"), broken=False),
    Case(name="smoothed, with EoT", make=lambda: Smoothed(plain()), broken=False),
    Case(name="robust linear", make=robust_linear, broken=False),
    Case(name="two classes", make=lambda: _two_classes()[0], broken=False, data=lambda: _two_classes()[1]),
    Case(name="1,000 classes", make=lambda: _thousand_classes()[0], broken=False, data=lambda: _thousand_classes()[1]),
    Case(name="a tiny eps", make=plain, broken=False, threat="Linf 1/2550"),
    Case(name="0 % right", make=plain, broken=True, data=_mislabelled),
    Case(name="100 % robust", make=lambda: _easy()[0], broken=False, data=lambda: _easy()[1]),
)
