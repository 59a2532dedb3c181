"""``rblite demo``: three ways to train a small network on the embedded digits, and what each one withstands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_lite.faces.cli import output, signals
from robustbench_lite.faces.cli.options import quiet_option, seed_option

if TYPE_CHECKING:
    from torch import nn

    from robustbench_lite.core.cost import Progress
    from robustbench_lite.hardening.interface import TrainingProgress
    from robustbench_lite.results.scorecard import Scorecard

THREAT = "Linf 0.15"
SUITE = "linf_classic"
RECIPES = {"plain training": "standard", "defensive distillation": "distillation", "PGD training": "pgd_training"}
TITLE = "Three defenses, one suite"

_FAR_BELOW = 0.2  # an attack that leaves so much more than the whole suite makes a model look like what it isn't


@click.command()
@click.option(
    "--out", default=str(output.FOLDER / "demo"), show_default=True, metavar="DIR", help="Folder for the report."
)
@seed_option
@quiet_option
def demo(out: str, seed: int, quiet: bool) -> None:
    """Harden and attack three small networks.

    Plain training, defensive distillation and PGD training under the same suite; one to two minutes on two cores.
    """
    from robustbench_lite.faces import progress

    page = Path(out) / "scorecard.html"
    files = {name: Path(out) / f"{output.slug(name)}.json" for name in RECIPES}
    output.check_writable(page, *files.values())
    signals.raise_interrupts()
    with progress.bars(quiet) as bars:
        cards = run_demo(seed, progress.training_bars(bars), progress.attack_bars(bars))
    for card in cards:
        output.save(card, files[card.target.name])
    told = story(cards)
    page = output.write_result(page, output.render("html", cards, title=TITLE, story=told))
    if not quiet:
        output.show(cards, title=TITLE, story=told)
    click.echo(f"Report     {page.resolve()}")
    if not quiet:
        output.suggest("rblite init", "rblite doctor MODEL --data D   (your own model: README)")


def small_cnn(classes: int = 10, width: int = 32) -> nn.Module:
    """Two convolutions and two linear layers for inputs of shape (1, 8, 8) in [0, 1]: 37,820 parameters."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, 54),
        nn.ReLU(),
        nn.Linear(54, classes),
    )


def run_demo(
    seed: int = 0,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    on_attack: Callable[[Progress], None] | None = None,
    on_card: Callable[[Scorecard], None] | None = None,
) -> list[Scorecard]:
    """Train the small network plainly, by defensive distillation and by PGD training; one scorecard each.

    The three start from the same weights, and are evaluated with the same suite on the same 539 test digits.
    """
    import torch

    from robustbench_lite.hardening.pipeline import harden

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = small_cnn()
    cards = []
    for name, recipe in RECIPES.items():
        hardened = harden(
            model,
            "digits",
            recipe,
            threat=THREAT,
            suite=SUITE,
            seed=seed,
            on_progress=on_progress,
            on_attack=on_attack,
        )
        card = hardened.after.model_copy(update={"target": hardened.after.target.model_copy(update={"name": name})})
        cards.append(card)
        if on_card is not None:
            on_card(card)
    return cards


def story(cards: list[Scorecard]) -> list[str]:
    """Tell in words what the cards of `run_demo` say in numbers."""
    plain, distilled, hardened = cards
    return [_without_and_with(plain, distilled, hardened), _distillation(distilled), _hardening(cards)]


def _without_and_with(plain: Scorecard, distilled: Scorecard, hardened: Scorecard) -> str:
    good = (
        "all three are good: " if min(card.clean_accuracy.value for card in (plain, distilled, hardened)) > 0.9 else ""
    )
    return (
        f"Without an adversary {good}{plain.clean_accuracy.value:.1%} right after plain training, "
        f"{distilled.clean_accuracy.value:.1%} after defensive distillation, {hardened.clean_accuracy.value:.1%} after "
        f"PGD training. Under {THREAT} plain training keeps {plain.robust_accuracy.value:.1%}."
    )


def _distillation(card: Scorecard) -> str:
    left = {result.name: result.alone.value for result in card.attacks if result.alone}
    masked = [finding.attack for finding in card.validity if finding.code == "RB201" and finding.attack]
    kindest, strongest = max(left, key=lambda name: left[name]), min(left, key=lambda name: left[name])
    worst = card.robust_accuracy.value
    blind = f" {_and(masked)} see no gradient on many samples, and search blindly there." if masked else ""
    if left[kindest] - worst < _FAR_BELOW:
        return (
            f"Distillation: {kindest} alone leaves it {left[kindest]:.1%}, all attacks together leave {worst:.1%}; no "
            f"attack of the suite makes it look much better than it is.{blind}"
        )
    breaker = "" if strongest == kindest else f"{strongest} alone leaves {left[strongest]:.1%}, "
    return (
        f"Distillation looks like a defense: {kindest} alone leaves it {left[kindest]:.1%}. It is none: {breaker}the "
        f"whole suite leaves {worst:.1%}.{blind}"
    )


def _hardening(cards: list[Scorecard]) -> str:
    *others, hardened = cards
    share = hardened.robust_accuracy
    if share.low > max(card.robust_accuracy.high for card in others):
        return f"PGD training holds: {share} withstand every attack of the suite."
    best = max(card.robust_accuracy.value for card in others)
    return (
        f"PGD training: {share} withstand every attack of the suite; that is not clearly more than the {best:.1%} of "
        "the others."
    )


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
