"""The standard and the quick suites beside AutoAttack: what each leaves of a network, and what it costs.

    python benchmarks/autoattack.py [--norm NORM] [--reference-only] [NET ...]

AutoAttack is Croce and Hein's, *Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks*, ICML 2020, https://arxiv.org/abs/2003.01690, as PyPI's ``pyautoattack`` has it. It takes up to
half an hour a network: what it found is kept in ``CACHE/reference``, one JSON file for each, and read the next time.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from common import environment, write
from nets import CACHE, NETS, Net
from torch import Tensor, nn

from robustbench_lite import Scorecard, evaluate
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import Norm, ThreatModel
from robustbench_lite.model.target import Target

TOLERANCE = 1e-6
"""By how much an adversarial example may leave the ball: rounding, and no more."""
BATCH = 250
"""AutoAttack's own default."""


_ELSEWHERE = "checks"  # the clean pass, AutoAttack's sanity checks, and its look at what an attack hands back


@dataclass
class Spent:
    """What one of the attacks cost."""

    samples: int = 0
    """How many it was given: those that were still standing."""
    forward: int = 0
    """Samples that went forward through the network, and back to the input."""
    backward: int = 0
    seconds: float = 0.0
    """Processor time."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What AutoAttack leaves of a network."""

    right: Tensor
    """Samples that are classified correctly, bool, (N,)."""
    robust: Tensor
    """Those of them for which no adversarial example was confirmed, bool, (N,)."""
    unconfirmed: int
    """Samples that AutoAttack calls broken, while its example leaves the ball or is classified correctly."""
    attacks: dict[str, Spent]
    """By attack, in their order, after ``checks``: what AutoAttack asks the network outside of them."""

    @property
    def forward(self) -> int:
        """Samples that went forward through the network."""
        return sum(spent.forward for spent in self.attacks.values())

    @property
    def backward(self) -> int:
        """Samples whose gradient to the input was taken."""
        return sum(spent.backward for spent in self.attacks.values())

    @property
    def seconds(self) -> float:
        """Processor time."""
        return sum(spent.seconds for spent in self.attacks.values())


def reference(net: nn.Module, x: Tensor, y: Tensor, norm: Norm, eps: float, seed: int) -> Reference:
    """Run standard AutoAttack (APGD-CE, targeted APGD-DLR, targeted FAB, Square) on every sample.

    Its claims are not trusted: an example counts that lies in ball and box and is misclassified when asked again. That
    last look is not counted, nor is it in the seconds.

    Parameters
    ----------
    net
        In evaluation mode; its parameters are frozen meanwhile, which AutoAttack alone doesn't do and gains from.
    x, y
        Inputs in [0, 1] and labels, shapes (N, C, H, W) and (N,).
    norm, eps
        The ball: ``Linf`` or ``L2``.
    seed
        Of all its draws; torch's generator is left as it was.
    """
    try:
        library = import_module("pyautoattack")
    except ImportError as fault:
        raise click.ClickException(f"pyautoattack can't be imported ({fault}): pip install pyautoattack") from fault
    target = Target(net)
    with target.attacking(), torch.random.fork_rng(devices=[]):
        ledger = Ledger(net)
        peer = library.AutoAttack(ledger, norm=norm, eps=eps, seed=seed, version="standard")
        for name, attack in (
            ("apgd-ce", peer.apgd),
            ("apgd-t", peer.apgd_targeted),
            ("fab-t", peer.fab),
            ("square", peer.square),
        ):
            attack.perturb = ledger.charged(name, attack.perturb)
        with ledger.charge(_ELSEWHERE, len(x)):
            found, _ = peer.run_standard_evaluation(x, y, batch_size=BATCH)
        right, claimed, broken = judged(net, x, y, found, norm, eps)
    return Reference(
        right=right,
        robust=right & ~broken,
        unconfirmed=int((claimed & ~broken).sum()),
        attacks=dict(ledger.spent),
    )


def judged(net: nn.Module, x: Tensor, y: Tensor, found: Tensor, norm: Norm, eps: float) -> tuple[Tensor, ...]:
    """Look again at what an attack hands back.

    Returns
    -------
    tuple of Tensor
        Bool, (N,): the samples that are classified correctly; those of them that the attack moved; and those of these
        that are broken: the example lies in ball and box, and is misclassified.
    """
    with torch.no_grad():
        right, still_right = (
            torch.cat([net(part).argmax(1) for part in torch.split(given, BATCH)]) == y for given in (x, found)
        )
    claimed = right & (found != x).flatten(1).any(1)
    distance = GEOMETRIES[norm].distance(found.double() - x.double())
    in_box = ((found >= 0) & (found <= 1)).flatten(1).all(1)
    return right, claimed, claimed & ~still_right & in_box & (distance <= eps + TOLERANCE * max(1.0, eps))


class Ledger(nn.Module):
    """A network that writes down every sample that goes through it, under the name of whoever asks."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.spent: dict[str, Spent] = defaultdict(Spent)
        self._payer = [_ELSEWHERE]

    def forward(self, x: Tensor) -> Tensor:
        self.spent[self._payer[-1]].forward += len(x)
        if x.requires_grad:
            x = x.view_as(x)  # so that each pass has a hook of its own, and none is left on the caller's tensor
            x.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        logits: Tensor = self.net(x)
        return logits

    def _count_backward(self, grad: Tensor) -> None:
        self.spent[self._payer[-1]].backward += len(grad)

    @contextmanager
    def charge(self, name: str, samples: int) -> Iterator[None]:
        """Charge passes and seconds to a name; what is charged to another inside is not charged twice."""
        self.spent[name].samples += samples
        started = time.process_time()
        self._payer.append(name)
        try:
            yield
        finally:
            self._payer.pop()
            taken = time.process_time() - started
            self.spent[name].seconds += taken
            if len(self._payer) > 1:
                self.spent[self._payer[-1]].seconds -= taken

    def charged(self, name: str, job: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """The same attack, charged."""

        def run(x: Tensor, y: Tensor) -> Tensor:
            with self.charge(name, len(x)):
                return job(x, y)

        return run


class Asked(NamedTuple):
    """What both are asked."""

    net: Net
    threat: ThreatModel
    samples: int
    """First test samples."""

    def evaluated(self, kind: str, seed: int) -> Scorecard:
        """What our suite of a kind, such as ``standard``, finds."""
        suite = f"{self.threat.norm.lower()}_{kind}"
        return evaluate(self.net.load(), self.net.test(self.samples), suite, self.threat, seed=seed)

    def row(self, stored: dict[str, Any]) -> dict[str, Any]:
        """How a row of a table begins: the question, and AutoAttack's answer."""
        return {
            "network": self.net.name,
            "threat model": str(self.threat),
            "samples": self.samples,
            "right": len(stored["right"]),
            "AutoAttack robust": len(stored["robust"]),
        }

    @property
    def file(self) -> Path:
        """Where the reference is kept."""
        threat = str(self.threat).replace("/", "_").replace(" ", "_")
        return CACHE / "reference" / f"{self.net.name}-{threat}-{self.samples}.json"


ASKED = tuple(
    Asked(NETS[name], ThreatModel.parse(threat), samples)
    for name, threat, samples in (
        *((name, str(NETS[name].threat), 1000) for name in ("wk17a", "mnist_pgd", "mnist_trades", "cifar_small")),
        ("lenet5_adv", str(NETS["lenet5_adv"].threat), 1000),
        *((name, threat, 300) for threat in ("L2 1.5", "L1 10") for name in ("wk17a", "mnist_pgd")),
        ("cifar_small", "L2 0.5", 300),
        ("cifar_small", "L1 12", 300),
    )
)


def write_reference(asked: Asked, seed: int) -> dict[str, Any]:
    """Run the reference and keep it; one that is kept for it is read."""
    net, threat, samples = asked
    module, data, path = net.load(), net.test(samples), asked.file
    what = {
        "net": net.name,
        "weights_sha256": Target(module).weights_sha256(),
        "threat": str(threat),
        "samples": len(data),
        "seed": seed,
    }
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if what.items() <= kept.items():
            return kept
    x = data.fetch(range(len(data)))
    found = reference(module, x, data.labels, threat.norm, threat.eps, seed)
    stored = what | {
        "right": found.right.nonzero().flatten().tolist(),
        "robust": found.robust.nonzero().flatten().tolist(),
        "unconfirmed": found.unconfirmed,
        "forward": found.forward,
        "backward": found.backward,
        "seconds": found.seconds,
        "attacks": {name: asdict(spent) for name, spent in found.attacks.items()},
        "environment": environment() | {"pyautoattack": metadata.version("pyautoattack")},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(stored) + "\n")
    return stored


def beside(asked: Asked, stored: dict[str, Any], seed: int) -> dict[str, Any]:
    """Run ours on the samples of a reference; return the row of the table."""
    card = asked.evaluated("standard", seed)
    robust = {outcome.index for outcome in card.outcomes if outcome.robust}
    theirs = stored["forward"] + stored["backward"]
    return {
        **asked.row(stored),
        "ours robust": len(robust),
        "only AutoAttack breaks": len(robust - set(stored["robust"])),
        "only ours breaks": len(set(stored["robust"]) - robust),
        "AutoAttack passes": theirs,
        "our passes": card.passes.total,
        "passes, AutoAttack / ours": theirs / card.passes.total,
        "AutoAttack seconds": stored["seconds"],
        "our seconds": card.seconds,
        "verdict": card.verdict,
    }


def quick_beside(asked: Asked, stored: dict[str, Any], seed: int) -> dict[str, Any]:
    """Run the quick suite on the samples of a reference; return the row of its table."""
    card = asked.evaluated("quick", seed)
    robust = card.robust_accuracy.count
    return {
        **asked.row(stored),
        "quick robust": robust,
        "points above": 100 * (robust - len(stored["robust"])) / asked.samples,
        "AutoAttack passes a sample": (stored["forward"] + stored["backward"]) / asked.samples,
        "quick passes a sample": card.passes.total / asked.samples,
        "verdict": card.verdict,
    }


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(NETS)))
@click.option("--norm", type=click.Choice(["Linf", "L2", "L1"]), help="Of all of them by default.")
@click.option("--reference-only", is_flag=True, help="Run pyautoattack, and nothing of ours.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(names: tuple[str, ...], norm: str | None, reference_only: bool, seed: int, threads: int) -> None:
    """Run AutoAttack and ours on the networks, or on some."""
    torch.set_num_threads(threads)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("auto-attack").setLevel(logging.DEBUG)
    rows: list[dict[str, Any]] = []
    quick: list[dict[str, Any]] = []
    for asked in ASKED:
        if (names and asked.net.name not in names) or norm not in (None, asked.threat.norm):
            continue
        stored = write_reference(asked, seed)
        click.echo(
            f"{asked.net.name} under {stored['threat']}: right {len(stored['right'])}, robust {len(stored['robust'])} "
            f"of {stored['samples']} ({stored['unconfirmed']} unconfirmed); {stored['forward']:,} forward and "
            f"{stored['backward']:,} backward passes in {stored['seconds']:.0f} s"
        )
        if not reference_only:
            rows.append(beside(asked, stored, seed))
            quick.append(quick_beside(asked, stored, seed))
            click.echo(f"{json.dumps(rows[-1])}\n{json.dumps(quick[-1])}")
    if not reference_only and not names and norm is None:
        write(
            "autoattack",
            "The standard suites beside AutoAttack",
            f"The first test samples, seed {seed}, {threads} thread. Passes are those of all samples, "
            "forward and backward; ours with the clean pass, the checks and the confirmations. AutoAttack's claims "
            "were confirmed as ours are. Seconds are processor time of AutoAttack, kept from the run that it was in, "
            "and wall-clock time of ours, on a machine that may have done other work meanwhile. Repeat it with `python "
            "benchmarks/autoattack.py`.",
            rows,
        )
        write(
            "autoattack_quick",
            "The quick suites beside AutoAttack",
            f"The first test samples, seed {seed}, {threads} thread. Passes are forward and backward, those of all "
            "samples over their number; ours with the clean pass, the checks and the confirmations. *Points above*: "
            "how much more of the samples the quick suite leaves, in points of robust accuracy. Repeat it with `python "
            "benchmarks/autoattack.py`.",
            quick,
        )


if __name__ == "__main__":
    main()
