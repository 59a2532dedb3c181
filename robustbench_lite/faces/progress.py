"""Rich progress bars for the faces: what the engine and the training loop tell, shown on the standard error stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from robustbench_lite.core.cost import Progress as AttackProgress
    from robustbench_lite.hardening.interface import TrainingProgress

# With these, the longest line fits 80 columns: "training", 8 of bar, "epoch 100/100", "loss 12.345 clean 100.0%
# robust 100.0%", "0:00:00". A wider screen gives its columns to the bar.
_COLUMNS, _BAR, _WIDEST_BAR = 80, 8, 40
_ATTACK, _STAGE = 28, 10  # longest names


@contextmanager
def bars(quiet: bool = False) -> Iterator[Progress]:
    """Show progress bars until the block ends; nothing where it is quiet or the stream is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(min(max(_BAR, _BAR + console.width - _COLUMNS), _WIDEST_BAR)),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        yield progress


def attack_bars(progress: Progress) -> Callable[[AttackProgress], None]:
    """One bar an attack: samples done, and how many it broke. It goes when another begins."""
    tasks: dict[tuple[str, str], TaskID] = {}

    def show(event: AttackProgress) -> None:
        key = (event.name, event.threat)
        if tasks.get(key) not in progress.task_ids:
            _remove(progress, [task.id for task in progress.tasks if task.finished])
            name = _short(f"{event.name} · {event.threat}", _ATTACK)
            tasks[key] = progress.add_task(name, total=event.total, count="", note="")
        progress.update(
            tasks[key],
            completed=event.done,
            total=event.total,
            count=f"{event.done}/{event.total}",
            note=f"{event.broken} broken",
        )
        if event.done == event.total:
            del tasks[key]

    return show


def training_bars(progress: Progress) -> Callable[[TrainingProgress], None]:
    """One bar a stage of training: the epoch, with the last one's held-out accuracies. It takes the others' place."""
    tasks: dict[str, TaskID] = {}

    def show(event: TrainingProgress) -> None:
        total = event.epochs * event.steps
        if tasks.get(event.stage) not in progress.task_ids:
            _remove(progress, list(progress.task_ids))
            name = "training" if event.stage == "model" else _short(event.stage, _STAGE)
            tasks[event.stage] = progress.add_task(name, total=total, count="", note="")
        done = (event.epoch - 1) * event.steps + event.step
        note = f"loss {event.loss:.3f}"
        if event.clean is not None and event.robust is not None:
            note += f" clean {event.clean:.1%} robust {event.robust:.1%}"
        progress.update(tasks[event.stage], completed=done, count=f"epoch {event.epoch}/{event.epochs}", note=note)
        if done == total:
            del tasks[event.stage]

    return show


def _remove(progress: Progress, tasks: list[TaskID]) -> None:
    for task in tasks:
        progress.remove_task(task)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
