"""Harden: a model, data and a recipe in; a hardened target out, and the scorecards before and after."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.cost import Progress
from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.suite import Suite, load_suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data, check_inputs, check_labels
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.hardening.recipe import Recipe, Schedule, load_recipe
from robustbench_lite.hardening.training import CHECKPOINT_FILE, LOG_FILE, Defense, Epoch, TrainingProgress, train
from robustbench_lite.model.loading import save_model
from robustbench_lite.model.target import Target, as_target
from robustbench_lite.results.scorecard import Scorecard

RECIPE_FILE = "recipe.toml"
BEFORE_FILE = "before.json"
AFTER_FILE = "after.json"

# What a kill in the middle of writing leaves.
_LEFT_OVER = re.compile(
    r"\.(before\.json|after\.json|recipe\.toml|log\.jsonl|model\.json|model\.safetensors)\.[0-9a-f]{8}|checkpoint\.pt\.part"
)

_TEST_SHARE = 0.2  # held out for the scorecards, where the data bring no test samples of their own


@dataclasses.dataclass(frozen=True)
class Hardened:
    """What came of hardening."""

    target: Target
    """The model with its hardened weights, in evaluation mode."""
    before: Scorecard
    after: Scorecard
    log: tuple[Epoch, ...]
    """One entry an epoch."""
    folder: Path | None
    """Where it was written; None where nothing was."""


def harden(
    model: nn.Module | Target,
    data: Any,
    recipe: str | Path | Recipe = "pgd_training",
    *,
    threat: str | ThreatModel | None = None,
    out: str | Path | None = None,
    test_data: Any = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    suite: str | Path | Suite | None = None,
    limit: int | None = None,
    resume: bool = False,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    on_attack: Callable[[Progress], None] | None = None,
) -> Hardened:
    """Train a copy of a model to withstand an adversary, and evaluate it before and after.

    The model's weights are where the training starts: trained ones are fine-tuned, fresh ones trained from scratch.

    Parameters
    ----------
    model
        A module, or a `Target`: inputs in [0, 1], shape (N, C, H, W); logits out, shape (N, K). It is left as it is.
    data
        Samples to train on, as `evaluate` takes them. Of a source by name the train split is trained on and the test
        split evaluated.
    recipe
        Name of a recipe, path of a TOML file, or a `Recipe`.
    threat
        What to withstand, such as ``"Linf 8/255"``; by default the recipe's own. Where its norm is not the recipe's
        and no suite is given, a suite named after the recipe's norm gives way to its counterpart: ``linf_standard`` to
        ``l2_standard``.
    out
        Folder for ``model.safetensors``, ``model.json``, ``recipe.toml``, ``log.jsonl``, ``before.json``,
        ``after.json`` and, until the end, the checkpoint; it must be new or empty. None writes nothing. A run that
        fails before its first checkpoint leaves nothing there.
    test_data
        Samples for the scorecards. By default a fifth of ``data``, stratified, which is then not trained on; so too
        where they are the very samples of ``data``.
    epochs, lr, batch_size
        Instead of the recipe's.
    device
        Such as ``cpu`` or ``cuda:0``; by default where the model is.
    seed
        Of every random draw.
    suite
        Judges before and after; by default the recipe's.
    limit
        Size of a class-stratified sample of the test samples to evaluate.
    resume
        Go on with the unfinished run in ``out``, with the same final weights as if it had never stopped; where there
        is none yet, start one.
    on_progress, on_attack
        Called after each step of the training, and now and then while the scorecards are made.

    Returns
    -------
    Hardened

    Raises
    ------
    ValueError
        For whatever was given wrong, before the first scorecard; and where the training diverges.
    KeyboardInterrupt
        At Ctrl-C; what the last epoch's checkpoint holds can be resumed.
    """
    recipe = _resolve(load_recipe(recipe), threat, suite, {"epochs": epochs, "lr": lr, "batch_size": batch_size})
    judging = load_suite(recipe.suite if suite is None else suite)
    _check_suite(judging, recipe.threat)
    defense: Defense = registry.build("defenses", recipe.defense, recipe.params)
    recipe = recipe.model_copy(update={"params": dataclasses.asdict(defense)})  # defaults included
    target = as_target(copy.deepcopy(model), device)
    known, test = _train_and_test(data, test_data, seed)
    _check(target, known)
    training, held_out = known.split(recipe.schedule.held_out, seed)
    fingerprint = _fingerprint(recipe, judging, known, test, target, seed, limit)
    note = (
        ""
        if not isinstance(suite, Suite)
        else f"# Judged by {judging.name!r}, given as an object; see {BEFORE_FILE}.\n"
    )

    with _claimed(out, resume) as folder:

        def scorecard(judged: Target, file: str) -> Scorecard:
            card = evaluate(judged, test, judging, recipe.threat, seed=seed, limit=limit, on_progress=on_attack)
            if card.interrupted:  # a part of a scorecard is of no use here
                raise KeyboardInterrupt
            if folder is not None:
                card.save(folder / file)
            return card

        if folder is not None and all((folder / file).is_file() for file in (CHECKPOINT_FILE, BEFORE_FILE)):
            before = Scorecard.load(folder / BEFORE_FILE)
        else:
            before = scorecard(target, BEFORE_FILE)
            if folder is not None:
                write_atomically(folder / RECIPE_FILE, note + _toml(recipe))
        trained = train(
            target,
            defense,
            recipe.schedule,
            recipe.threat,
            training,
            held_out,
            seed=seed,
            folder=folder,
            fingerprint=fingerprint,
            resume=resume,
            on_progress=on_progress,
        )
        if folder is not None:
            save_model(trained.target, folder)
        after = scorecard(trained.target, AFTER_FILE)
        if folder is not None:
            (folder / CHECKPOINT_FILE).unlink()
    return Hardened(trained.target, before, after, trained.log, folder)


def _resolve(
    recipe: Recipe, threat: str | ThreatModel | None, suite: str | Path | Suite | None, schedule: Mapping[str, Any]
) -> Recipe:
    """Put what the caller gave in the place of the recipe's own."""
    given = {name: value for name, value in schedule.items() if value is not None}
    try:
        # model_copy alone would take any value unchecked
        changes: dict[str, Any] = {"schedule": Schedule.model_validate(recipe.schedule.model_dump() | given)}
    except ValidationError as error:
        raise UserError(f"can't train with {_listed(given)}\n{faults(error)}") from None
    if threat is not None:
        changes["threat"] = ThreatModel.parse(threat)
        changes["suite"] = _counterpart(recipe.suite, recipe.threat.norm, changes["threat"].norm)
    if isinstance(suite, str | Path):  # a `Suite` has no name by which a recipe could find it
        changes["suite"] = str(suite)
    return recipe.model_copy(update=changes)


def _counterpart(suite: str, old: str, new: str) -> str:
    """Name of the suite for another norm, where there is one: ``linf_standard`` to ``l2_standard``."""
    named_after = f"{old.lower()}_"
    other = f"{new.lower()}_{suite.removeprefix(named_after)}"
    return other if suite.startswith(named_after) and other in registry.names("suites") else suite


def _check_suite(judging: Suite, threat: ThreatModel) -> None:
    attacks = {spec.name: registry.build("attacks", spec.attack, spec.params) for spec in judging.attacks}
    unfit = [
        f"{name} does {', '.join(attack.norms)}" for name, attack in attacks.items() if threat.norm not in attack.norms
    ]
    if unfit:
        fit = [name for name in registry.names("suites") if name.startswith(f"{threat.norm.lower()}_")]
        advice = f", such as --suite {fit[-1]}" if fit else ""
        raise UserError(
            f"suite {judging.name!r} doesn't fit the threat model {threat}: {'; '.join(unfit)}; give a suite that "
            f"does{advice}"
        )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _train_and_test(data: Any, test_data: Any, seed: int) -> tuple[Data, Data]:
    """Return the samples to train on and, apart from them, those for the scorecards."""
    known = test = as_data(data, split="train")
    if test_data is not None:
        test = as_data(test_data)
    elif isinstance(data, str):
        test = as_data(data, split="test")
    if _digest(known) != _digest(test):
        return known, test
    # There are no others, or the source has no splits and gives the same samples twice.
    known, test = known.split(_TEST_SHARE, seed)
    return known, dataclasses.replace(test, name=f"{test.name}, {_TEST_SHARE:.0%} held out")


def _digest(data: Data) -> str:
    """Hash of all labels and of a few samples: enough to tell one source from another without reading it all."""
    few = range(0, len(data), max(1, len(data) // 16))
    digest = hashlib.sha256(data.labels.numpy().tobytes())
    digest.update(data.fetch(few).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check(target: Target, data: Data) -> None:
    if target.access != "gradients":
        raise UserError(f"{target.name} is a function of arrays and can't be trained: give a torch.nn.Module")
    first = data.fetch(range(min(2, len(data))))
    check_inputs(first, data.name)
    check_labels(data.labels, target.probe(first))


@contextmanager
def _claimed(out: str | Path | None, resume: bool) -> Iterator[Path | None]:
    """Write a folder inside; where what is inside is refused, the folder can be used again, and how is told."""
    if out is None:
        yield None
        return
    folder = Path(out)
    was_there = folder.is_dir()
    _claim(folder, resume)
    try:
        yield folder
    except UserError as fault:
        checkpoint = folder / CHECKPOINT_FILE
        if checkpoint.is_file():
            cure = f"to start again in {folder} with other settings, delete {checkpoint} and give --resume"
            raise UserError(f"{fault}\n{cure}") from fault
        begun = (folder / RECIPE_FILE).is_file()
        for file in (BEFORE_FILE, RECIPE_FILE, LOG_FILE):
            (folder / file).unlink(missing_ok=True)
        if not was_there:
            folder.rmdir()
        if not begun:
            raise
        raise UserError(
            f"{fault}\nno epoch was finished, so nothing is kept: out {folder} can be used again"
        ) from fault


def _claim(folder: Path, resume: bool) -> None:
    """Make the folder ready to be written; what keeps it from that is found out before the run, not after."""
    try:
        held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as fault:
        raise UserError(f"out {folder}: can't be written ({fault}); give a folder that can") from None
    left_over = {name for name in held if _LEFT_OVER.fullmatch(name)}
    held -= left_over
    unfinished = CHECKPOINT_FILE in held or (BEFORE_FILE in held and AFTER_FILE not in held)
    if held and not (resume and unfinished):
        if unfinished:
            raise UserError(f"out {folder}: holds an unfinished run; resume it (--resume), or give another folder")
        what = "holds no unfinished run to resume" if resume else "is not empty"
        raise UserError(f"out {folder}: {what}; give a new or empty folder")
    for name in left_over:
        (folder / name).unlink(missing_ok=True)


def _fingerprint(
    recipe: Recipe, judging: Suite, known: Data, test: Data, target: Target, seed: int, limit: int | None
) -> dict[str, str]:
    """Everything on which the result depends, by name: what a resumed run must have in common with the first."""
    values = {
        "defense": recipe.defense,
        **{f"params.{name}": value for name, value in recipe.params.items()},
        "threat": recipe.threat,
        **{f"schedule.{name}": value for name, value in recipe.schedule.model_dump().items()},
        "suite": f"{judging.name} ({hashlib.sha256(judging.model_dump_json().encode()).hexdigest()[:16]})",
        "data": f"{known.name}, {len(known)} samples ({_digest(known)})",
        "test_data": f"{test.name}, {len(test)} samples ({_digest(test)})",
        "limit": limit,
        "seed": seed,
        "weights": target.weights_sha256(),
    }
    return {name: str(value) for name, value in values.items()}


def _toml(recipe: Recipe) -> str:
    """Text of a recipe that `load_recipe` reads back."""
    head = {
        "name": recipe.name,
        "description": recipe.description,
        "defense": recipe.defense,
        "threat": str(recipe.threat),
        "suite": recipe.suite,
    }
    tables = {"params": recipe.params, "schedule": recipe.schedule.model_dump()}
    lines = _toml_pairs(head)
    for name, table in tables.items():
        lines += ["", f"[{name}]", *_toml_pairs(table)]
    return "\n".join(lines) + "\n"


def _toml_pairs(table: Mapping[str, Any]) -> list[str]:
    # JSON's strings, numbers, booleans and arrays are TOML's too; TOML has no null, and a missing key is the default.
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items() if value is not None]
