"""Searches made up for tests, as `rblite tune` writes them."""

from __future__ import annotations

from typing import Any

from robustbench_lite.results.scorecard import Interval
from robustbench_lite.results.search import AgainstRecipe, Fall, Fresh, ProxyResult, SearchResult, Trial


def share(value: float) -> Interval:
    """A share of 200 samples, with its interval."""
    return Interval.of(round(200 * value), 200)


def trial(name: str, robust: float, clean: float = 0.9, **more: Any) -> Trial:
    """A trial that came to its end."""
    given: dict[str, Any] = {"state": "done", "training_passes": 12_000.0, "seconds": 3.5}
    return Trial(name=name, robust=share(robust), clean=share(clean), **given | more)


def make_search(proxy: bool = False, **changes: Any) -> SearchResult:
    """A search with trials of every kind, whose winner is better than the recipe as it is."""
    lrs = (0.001, 0.3, 0.05, 0.02, 0.7, 0.04)
    values = [{"schedule.lr": lr, "schedule.decay": ("cosine", "constant")[place % 2]} for place, lr in enumerate(lrs)]
    trials = [
        trial("trial-5", 0.62, 0.86, settings=values[5]),
        trial("trial-2", 0.55, 0.93, settings=values[2]),
        *([] if proxy else [trial("recipe", 0.4, 0.91)]),
        trial("trial-0", 0.2, 0.5, settings=values[0]),
        trial("trial-3", 0.7, settings=values[3], can_not_win="its evaluation can't be trusted (INVALID)"),
        Trial(name="trial-1", state="failed", settings=values[1], can_not_win="the training diverges: its loss is nan"),
        Trial(
            name="trial-4",
            state="pruned",
            settings=values[4],
            epochs={1: 0.1, 2: 0.15},
            seconds=1.0,
            can_not_win="it was behind the others at the same epoch",
        ),
    ]
    finals = [
        trial("final-5", 0.68, settings=values[5]),
        trial("final-2", 0.66, settings=values[2]),
        trial("recipe", 0.4),
    ]
    told = ProxyResult(
        told="2 epochs, training by fgsm_rs",
        pairs=(("trial-5", 0.62, 0.68), ("trial-2", 0.55, 0.66)),
        correlation=1.0,
        low=-1.0,
        high=1.0,
        passes=72_000.0,
        passes_in_full=2_400_000.0,
    )
    given: dict[str, Any] = {
        "created": "2026-11-28T12:00:00+00:00",
        "version": "0.1.1",
        "model": "nets.py:build",
        "data": "digits",
        "threat": "Linf 0.1",
        "recipe": "pgd_training",
        "sampler": "tpe",
        "pruner": "median",
        "min_clean": 0.4,
        "seconds": 30.0,
        "tried": 6,
        "winner": "final-5" if proxy else "trial-5",
        "found_better": True,
        "fresh": Fresh(
            verdict="MEASURED", robust=share(0.6), clean=share(0.88), suite="linf_standard", card="trial-5/fresh.json"
        ),
        "against_recipe": AgainstRecipe(word="gained", why="robust accuracy rose: 41.0% to 60.0%", p_robust=0.001),
        "fall": Fall(validation=share(0.62), fresh=share(0.59), by=0.03, low=-0.06, high=0.12),
        "trials": tuple(trials),
        "finals": tuple(finals) if proxy else (),
        "proxy": told if proxy else None,
        "importance": {"fANOVA": {"schedule.lr": 0.8, "schedule.decay": 0.2}},
    }
    return SearchResult(**given | changes)
