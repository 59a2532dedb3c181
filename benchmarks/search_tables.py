"""What the benchmark of searches looks up: small trainings, kept in ``CACHE``, so that none is done twice.

A search of trainings can be repeated often enough to compare strategies only where its trials cost nothing: so each
point of the space is trained once for each seed, and the strategies are replayed on the table, as NAS-Bench does it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nets import CACHE

from robustbench_lite import Suite, evaluate
from robustbench_lite.core.files import write_atomically
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.hardening.pipeline import harden
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.model.architectures.interface import Architecture
from robustbench_lite.model.target import Target
from robustbench_lite.results.ranking import TRAINING_PASSES

THREAT = "Linf 0.1"
# `harden` evaluates before and after; what counts here is evaluated by itself.
GLANCE = Suite.model_validate({"name": "glance", "threats": [THREAT], "attacks": [{"attack": "fgsm"}]})
# PGD alone leaves so much standing on networks that learnt little that their evaluations are INVALID.
JUDGE = Suite.model_validate(
    {
        "name": "judge",
        "threats": [THREAT],
        "attacks": [
            {"attack": "fgsm"},
            {"attack": "pgd", "params": {"steps": 10}},
            {"name": "pgd-margin", "attack": "pgd", "params": {"steps": 20, "loss": "margin"}},
        ],
    }
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a training."""

    robust: float
    """On the validation samples; 0 where its evaluation can't be trusted, as a search has it."""
    clean: float
    fresh: float
    """Robust accuracy on samples that no search has seen."""
    passes: float
    """Of the training."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Trainings on one set of data, of one size."""

    data: str
    """``digits`` or ``mnist``."""
    root: Path | None = None
    """Of MNIST, in torchvision's layout."""
    learn: int = 400
    choose: int = 250
    judge: int = 400
    epochs: int = 4

    @cached_property
    def samples(self) -> tuple[Data, Data, Data]:
        """To learn from, to choose by, and fresh ones."""
        known = load_data(self.data, split="train", root=self.root).stratified(self.learn + self.choose, 0)
        learn, choose = known.split(self.choose / len(known), 0)
        return learn, choose, load_data(self.data, split="test", root=self.root).stratified(self.judge, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input."""
        return tuple(self.samples[0].shape)

    def row(self, network: Architecture, settings: Mapping[str, Any], seed: int, *, cheap: bool = False) -> Row:
        """Train a network with some settings of the schedule and the attack, or read what came of it.

        ``cheap`` is the proxy: FGSM-RS, a quarter of the epochs, half of the samples.
        """
        asked = (self.data, self.learn, self.choose, self.judge, self.epochs, network.toml(), sorted(settings.items()))
        path = CACHE / "search" / f"{zlib.crc32(repr((asked, seed, cheap, THREAT, JUDGE)).encode()):08x}.json"
        if path.is_file():
            return Row(**json.loads(path.read_text()))
        recipe = self.recipe(settings, cheap=cheap)
        learn, choose, _ = self.samples
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = network.build()
        done = harden(
            module, learn, recipe, test_data=choose.take(range(20)), suite=GLANCE, seed=seed,
            limit_train=self.learn // 2 if cheap else None,
        )  # fmt: skip
        row = self.judged(done.target, next(one.value for one in done.after.measures if one.name == TRAINING_PASSES))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(row)) + "\n")
        return row

    def recipe(self, settings: Mapping[str, Any], *, cheap: bool = False) -> Recipe:
        """The recipe with some settings."""
        params = {"steps": settings.get("params.steps", 2)}
        return Recipe(
            name="pgd", defense="fgsm_rs" if cheap else "pgd_training", params={} if cheap else params, threat=THREAT,
            schedule=Schedule(
                epochs=max(1, self.epochs // 4) if cheap else self.epochs, batch_size=32, optimizer="adam",
                decay="one_cycle", held_out=0.05, keep="last", lr=settings.get("schedule.lr", 0.02),
                weight_decay=settings.get("schedule.weight_decay", 1e-5),
            ),
        )  # fmt: skip

    def judged(self, target: Target, passes: float) -> Row:
        """Evaluate a network on the validation samples and on fresh ones."""
        _, choose, fresh = self.samples
        seen, unseen = (evaluate(target, data, JUDGE) for data in (choose, fresh))
        robust = 0.0 if seen.verdict == "INVALID" else seen.robust_accuracy.value
        return Row(robust=robust, clean=seen.clean_accuracy.value, fresh=unseen.robust_accuracy.value, passes=passes)
