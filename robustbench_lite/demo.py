"""The main job in one go: three ways to train a small network on the embedded digits, and what each one withstands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from robustbench_lite.hardening import harden
from robustbench_lite.scorecard import Scorecard

if TYPE_CHECKING:
    from robustbench_lite.meter import Progress
    from robustbench_lite.training import TrainingProgress

THREAT = "Linf 0.15"
SUITE = "linf_classic"
RECIPES = {"plain training": "standard", "defensive distillation": "distillation", "PGD training": "pgd_training"}
TITLE = "Three defenses, one suite"


def small_cnn(classes: int = 10) -> nn.Module:
    """Two convolutions and two linear layers for inputs of shape (1, 8, 8) in [0, 1]: 38,282 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 54),
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

    The three start from the same weights, and are judged by the same suite on the same 540 test digits.
    """
    import torch

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
    after = {result.name: result.alone or result.robust_accuracy for result in distilled.attacks}
    best, worst = max(after.values(), key=lambda share: share.value), distilled.robust_accuracy
    masked = [finding.attack for finding in distilled.validity if finding.code == "RB201"]
    return [
        f"Without an adversary all three are good: {plain.clean_accuracy.value:.1%} right after plain training, "
        f"{distilled.clean_accuracy.value:.1%} after defensive distillation, {hardened.clean_accuracy.value:.1%} after "
        f"PGD training. Under {THREAT} plain training keeps {plain.robust_accuracy.value:.1%}.",
        f"Distillation looks like a defense: one of the attacks alone leaves it {best.value:.1%}. It is none. Its "
        f"softmax saturates"
        + (
            f", so that {' and '.join(name for name in masked if name)} see a gradient of exactly zero"
            if masked
            else ""
        )
        + f"; the attack that climbs the logits' margin instead leaves {worst.value:.1%}.",
        f"PGD training holds: {hardened.robust_accuracy} withstand every attack of the suite.",
    ]
