"""The folder that hardening writes: what is in it, and whether it may be written."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustbench_lite.core.errors import UserError, why
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE, LOG_FILE
from robustbench_lite.hardening.recipe import Recipe

RECIPE_FILE = "recipe.toml"
BEFORE_FILE = "before.json"
AFTER_FILE = "after.json"

# What a kill in the middle of writing leaves.
_LEFT_OVER = re.compile(
    r"\.((before|after|task)[^/]*\.json|memory\.npz|recipe\.toml|log\.jsonl|model\.json|model\.safetensors"
    r"|checkpoint\.pt)\.[0-9a-f]{8}"
    r"|checkpoint\.pt\.part"  # of an older version
)


@contextmanager
def claimed(out: str | Path | None, resume: bool) -> Iterator[Path | None]:
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
        cards = [path.name for kind in ("after", "before", "task") for path in folder.glob(f"{kind}-*.json")]
        for file in (BEFORE_FILE, RECIPE_FILE, LOG_FILE, *cards):
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
        raise UserError(f"out {folder}: can't be written ({why(fault)}); give a folder that can") from None
    left_over = {name for name in held if _LEFT_OVER.fullmatch(name)}
    held -= left_over
    # A scorecard called before.json may be the user's own.
    begun = BEFORE_FILE in held and AFTER_FILE not in held and (RECIPE_FILE in held or held == {BEFORE_FILE})
    unfinished = CHECKPOINT_FILE in held or begun
    if held and not (resume and unfinished):
        if unfinished:
            raise UserError(f"out {folder}: holds an unfinished run; resume it (--resume), or give another folder")
        what = "holds no unfinished run to resume" if resume else "is not empty"
        raise UserError(f"out {folder}: {what}; give a new or empty folder")
    for name in left_over:
        (folder / name).unlink(missing_ok=True)


def after_step_file(place: str) -> str:
    """Name of the scorecard that is made after a step; ``place`` is its position and its name."""
    return f"after-{place}.json"


def task_file(number: int, when: str = "task") -> str:
    """Name of the scorecard on the so-manieth task, from 1; ``before`` of one made before the first step."""
    return f"task-{number}.json" if when == "task" else f"{when}-task-{number}.json"


def recipe_text(recipe: Recipe) -> str:
    """TOML of a recipe that `load_recipe` reads back."""
    head = {"name": recipe.name, "description": recipe.description, "defense": recipe.defense or None}
    remember, measures = recipe.remember or None, recipe.measures or None
    lines = _pairs(
        head | {"threat": str(recipe.threat), "suite": recipe.suite, "remember": remember, "measures": measures}
    )
    if recipe.defense:
        lines += _table("[params]", recipe.params)
    lines += _table("[schedule]", recipe.schedule.model_dump())
    for step in recipe.steps:
        lines += _table("[[steps]]", {"name": step.name, "scorecard": step.scorecard})
        lines += _table("[steps.params]", step.params)
        if step.schedule is not None:
            lines += _table("[steps.schedule]", step.schedule.model_dump())
    return "\n".join(lines) + "\n"


def _table(head: str, table: Mapping[str, Any]) -> list[str]:
    return ["", head, *_pairs(table)]


def _pairs(table: Mapping[str, Any]) -> list[str]:
    # JSON's strings, numbers, booleans and arrays are TOML's too; TOML has no null, and a missing key is the default.
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items() if value is not None]
