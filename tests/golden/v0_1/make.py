"""How the files of this folder were made, with the code of version 0.1 (commit d3db1a3) on PYTHONPATH.

Kept so that one can see what they are. They are never written again: what users have in their repos can't be either.
"""

from __future__ import annotations

import shutil

import torch

from robustbench_lite import baseline, evaluate, harden, load_target  # of version 0.1


def main() -> None:
    """Harden a small network; evaluate it as a baseline, and keep its witnesses."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    harden(load_target("net.py:build"), "digits", "recipe.toml", out="hardened", limit=20)
    card = evaluate(load_target("hardened"), "digits", "suite.toml", limit=20, corpus="corpus")
    baseline.save(card, "baselines", "main")
    shutil.rmtree("__pycache__", ignore_errors=True)


if __name__ == "__main__":
    main()
