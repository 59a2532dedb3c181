"""Rich progress bars for the faces: what the engine and the training loop tell, shown on the standard error stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from robustbench_lite.meter import Progress as AttackProgress
    from robustbench_lite.training import TrainingProgress


@contextmanager
def bars(quiet: bool = False) -> Iterator[Progress]:
    """Show progress bars until the block ends; nothing where it is quiet or the stream is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        yield progress


def attack_bars(progress: Progress) -> Callable[[AttackProgress], None]:
    """One bar an attack: samples done, and how many it broke."""
    tasks: dict[tuple[str, str], TaskID] = {}

    def show(event: AttackProgress) -> None:
        key = (event.name, event.threat)
        if key not in tasks:
            tasks[key] = progress.add_task(_short(f"{event.name} · {event.threat}"), total=event.total, note="")
        progress.update(tasks[key], completed=event.done, total=event.total, note=f"{event.broken} broken")
        if event.done == event.total:
            del tasks[key]

    return show


def training_bars(progress: Progress) -> Callable[[TrainingProgress], None]:
    """One bar a stage of training: steps done, with the last epoch's held-out accuracies."""
    tasks: dict[str, TaskID] = {}

    def show(event: TrainingProgress) -> None:
        if event.stage not in tasks:
            total = event.epochs * event.steps
            tasks[event.stage] = progress.add_task(_short(f"training · {event.stage}"), total=total, note="")
        done = (event.epoch - 1) * event.steps + event.step
        note = f"loss {event.loss:.3f}"
        if event.clean is not None and event.robust is not None:
            note += f" clean {event.clean:.1%} robust {event.robust:.1%}"
        progress.update(tasks[event.stage], completed=done, note=note)
        if done == event.epochs * event.steps:
            del tasks[event.stage]

    return show


def _short(text: str) -> str:
    return text if len(text) <= 28 else text[:27] + "…"
