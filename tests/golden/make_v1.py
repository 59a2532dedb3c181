"""How ``scorecard_v1.json`` was made: a real evaluation of a small network on twelve digits.

Kept so that one can see what the file is. Once a version that writes this schema is released, the file is never written
again: what users have in their repos can't be either.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from robustbench_lite import Gates, Suite, Target, evaluate, load_data


def main() -> None:
    """Train, evaluate, save."""
    torch.manual_seed(0)
    train = load_data("digits", split="train")
    x, y = train.fetch(range(len(train))), train.labels
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    suite = Suite(
        name="golden",
        description="Two algorithms, two threat models.",
        threats=("Linf 24/255", "L2 0.75 targeted next"),
        attacks=("fgsm", {"attack": "pgd", "name": "pgd-margin", "params": {"steps": 4, "loss": "margin"}}),
    )
    card = evaluate(
        Target(network, name="tiny"),
        load_data("digits"),
        suite,
        limit=12,
        keep_witnesses=True,
        gates=Gates(min_clean_accuracy=0.5, min_robust_accuracy=0.1, max_drop=0.1),
    )
    card.save(Path(__file__).with_name("scorecard_v1.json"))
    print(card.verdict, card.clean_accuracy, card.robust_accuracy)


if __name__ == "__main__":
    main()
