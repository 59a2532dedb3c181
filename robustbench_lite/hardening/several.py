"""Several recipes from the same start, each in a folder of its own, ranked by the same evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from robustbench_lite.core.cost import Progress
from robustbench_lite.core.errors import UserError, why
from robustbench_lite.core.files import read_json, write_atomically
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE, Epoch, check_settings
from robustbench_lite.hardening.distributed import team
from robustbench_lite.hardening.folder import AFTER_FILE, BEFORE_FILE
from robustbench_lite.hardening.interface import TrainingProgress
from robustbench_lite.hardening.pipeline import Listeners, judge, run_plan
from robustbench_lite.hardening.preparation import Changes, Plan, Sampling, prepare
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.model.target import Target
from robustbench_lite.results.gates import Gates
from robustbench_lite.results.ranking import Ranking, as_json, rank
from robustbench_lite.results.scorecard import Scorecard

SETTINGS_FILE = "recipes.json"
RANKING_FILE = "ranking.json"
BEFORE = "before"
"""What the model is called that all recipes start from."""


class Options(TypedDict, total=False):
    """What `harden_all` takes as `harden` does."""

    threat: str | ThreatModel | None
    test_data: Any
    epochs: int | None
    lr: float | None
    batch_size: int | None
    freeze: Sequence[str] | None
    device: str | torch.device | None
    seed: int
    suite: str | Path | Suite | None
    limit: int | None
    limit_train: int | None
    earlier: Any
    remember: int | None
    gates: Gates | Mapping[str, float] | None
    on_progress: Callable[[TrainingProgress], None] | None
    on_attack: Callable[[Progress], None] | None
    on_epoch: Callable[[Epoch], None] | None
    on_stage: Callable[[str], None] | None


@dataclass(frozen=True, kw_only=True)
class HardenedAll:
    """What came of several recipes."""

    before: Scorecard
    after: Mapping[str, Scorecard]
    """By recipe, of those that came to an end."""
    failed: Mapping[str, str]
    """By recipe, what kept it from its end."""
    folder: Path
    """Holds ``before.json``, ``ranking.json``, and for each recipe a folder as `harden` writes it."""

    @cached_property
    def ranking(self) -> Ranking:
        """The start and what came of each recipe, the best first."""
        return rank(self.cards)

    @property
    def cards(self) -> tuple[Scorecard, ...]:
        """The start's and those of the recipes, each called by its recipe."""
        named = {BEFORE: self.before, **self.after}
        return tuple(
            card.model_copy(update={"target": card.target.model_copy(update={"name": name})})
            for name, card in named.items()
        )

    @property
    def best(self) -> str | None:
        """Recipe whose model has the best robust accuracy, or ``before``; None where no evaluation can be trusted."""
        return None if self.ranking.best is None else self.ranking.best.card.target.name

    @property
    def best_recipe(self) -> str:
        """The recipe that ranks first, though the start may rank before it, or its evaluation may not be trusted."""
        names = (one.card.target.name for one in self.ranking.ranks)
        return next(name for name in names if name != BEFORE)


def harden_all(
    model: nn.Module | Target,
    data: Any,
    recipes: Sequence[str | Path | Recipe],
    *,
    out: str | Path,
    resume: bool = False,
    on_recipe: Callable[[str, int, int], None] | None = None,
    **given: Unpack[Options],
) -> HardenedAll:
    """Run several recipes from the same start, and rank what comes of them.

    All are checked before any is run. The model is evaluated once before, and after each recipe by the same suite on
    the same samples. A recipe that fails, as by diverging, is told of, and the others go on.

    Parameters
    ----------
    model, data
        As in `harden`.
    recipes
        Names, paths or `Recipe` objects, under one threat model and with one suite: their own, or those that are given.
    out
        A new or empty folder. With ``resume`` one that holds such a run, under the same settings; recipes that are done
        are left as they are.
    resume
        Go on after a kill, at the recipe, step and epoch where it was.
    on_recipe
        Called as each begins: its name, its position from 1, and how many there are.
    **given
        As in `harden`.

    Raises
    ------
    ValueError
        For whatever was given wrong, and where every recipe fails.
    """
    if team().size > 1:
        raise UserError(f"{len(recipes)} recipes can't be run in {team().size} processes: run them one after the other")
    plans = _plans(model, data, recipes, given)
    folder = Path(out)
    _claim(folder, {name: plan.fingerprint() for name, plan in plans.items()}, resume)
    listeners = Listeners(
        on_progress=given.get("on_progress"),
        on_attack=given.get("on_attack"),
        on_epoch=given.get("on_epoch"),
        on_stage=given.get("on_stage"),
    )
    before = _before(next(iter(plans.values())), folder, listeners)
    after, failed = {}, {}
    for number, (name, plan) in enumerate(plans.items(), 1):
        if on_recipe is not None:
            on_recipe(name, number, len(plans))
        try:
            after[name] = run_unless_done(plan, folder / name, listeners, before)
        except UserError as fault:
            failed[name] = str(fault)
    if not after:
        faults = "\n".join(f"  {name}: {why}" for name, why in failed.items())
        raise UserError(f"no recipe came to its end:\n{faults}")
    made = HardenedAll(before=before, after=after, failed=failed, folder=folder)
    told = as_json(made.ranking, [card.target.name for card in made.cards]) | {"failed": failed}
    write_atomically(folder / RANKING_FILE, json.dumps(told, indent=1) + "\n")
    return made


def run_unless_done(plan: Plan, folder: Path, listeners: Listeners, before: Scorecard | None) -> Scorecard:
    """Run a plan in a folder of its own, go on with it, or read what came of it; return the scorecard after."""
    if (folder / AFTER_FILE).is_file() and not (folder / CHECKPOINT_FILE).is_file():
        return Scorecard.load(folder / AFTER_FILE)
    return run_plan(plan, folder, True, listeners, before).after


def _plans(
    model: nn.Module | Target, data: Any, recipes: Sequence[str | Path | Recipe], given: Options
) -> dict[str, Plan]:
    """Prepare each recipe; the faults of all are told at once."""
    test_data = given.get("test_data")
    if isinstance(data, str):  # read once, not once a recipe
        test_data = as_data(data, split="test") if test_data is None else test_data
        data = as_data(data, split="train")
    gates, freeze = given.get("gates"), given.get("freeze")
    changes = Changes(
        threat=given.get("threat"),
        suite=given.get("suite"),
        epochs=given.get("epochs"),
        lr=given.get("lr"),
        batch_size=given.get("batch_size"),
        freeze=None if freeze is None else tuple(freeze),
        remember=given.get("remember"),
        gates=gates if isinstance(gates, Gates) else Gates.of(gates or {}),
    )
    sampling = Sampling(
        test_data=test_data,
        limit=given.get("limit"),
        limit_train=given.get("limit_train"),
        earlier=given.get("earlier"),
        seed=given.get("seed", 0),
    )
    plans: dict[str, Plan] = {}
    faults = []
    for recipe in recipes:
        try:
            plan = prepare(model, data, recipe, changes, sampling, given.get("device"))
        except UserError as fault:
            faults.append(str(fault))
            continue
        name = plan.recipe.name or f"recipe-{len(plans) + 1}"
        if name in plans or name == BEFORE:
            faults.append(f"recipe {name!r}: is given twice, or called as the start is; give each a name of its own")
        plans[name] = plan
    if len({(str(plan.recipe.threat), plan.suite.model_dump_json()) for plan in plans.values()}) > 1:
        told = ", ".join(f"{name} has {plan.recipe.threat}, {plan.suite.name}" for name, plan in plans.items())
        faults.append(f"recipes are ranked by one threat model and one suite: {told}; give both (--threat, --suite)")
    if faults or not plans:
        raise UserError("\n".join(faults) or "no recipe is given: expected one or more to compare")
    return plans


def _claim(folder: Path, settings: Mapping[str, Mapping[str, str]], resume: bool) -> None:
    """Make the folder ready, or see that it holds a run with these settings."""
    path = folder / SETTINGS_FILE
    flat = {f"{recipe}: {name}": value for recipe, one in settings.items() for name, value in one.items()}
    try:
        if path.is_file() and resume:
            check_settings(path, read_json(path), flat)
            return
        held = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        if any(not name.startswith(".") for name in held):  # a kill in the middle of writing may leave hidden ones
            what = "holds a run of several recipes; go on with it (--resume)" if path.is_file() else "is not empty"
            raise UserError(f"out {folder}: {what}; or give a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(flat, indent=1) + "\n")
    except (OSError, AttributeError) as fault:
        raise UserError(
            f"out {folder}: can't be used ({why(fault)}); give a new or empty folder that can be written"
        ) from None


def _before(plan: Plan, folder: Path, listeners: Listeners) -> Scorecard:
    path = folder / BEFORE_FILE
    if path.is_file():
        return Scorecard.load(path)
    card = judge(plan, plan.target, listeners)
    card.save(path)
    return card
