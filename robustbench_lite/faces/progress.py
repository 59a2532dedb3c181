"""What the engine and the training loop tell while they work, shown on the standard error stream.

On a terminal there are bars; elsewhere, as in the log of a CI job or where TERM is dumb, a line for each attack and
each epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from robustbench_lite.core.names import plural

if TYPE_CHECKING:
    from robustbench_lite.core.cost import Forecast, OnProgress
    from robustbench_lite.core.cost import Progress as AttackProgress
    from robustbench_lite.hardening.interface import TrainingProgress

# With these, the longest line fits 80 columns: "a-long-st…", 20 of bar, "epoch 100/100", "clean 100.0% robust 100.0%",
# "0:00:00"; of an attack: a name of 28, 18 of bar, "10000/10000", "9999 broken", "0:00:00". A wider screen gives its
# columns to the bar.
_COLUMNS, _BAR, _WIDEST_BAR = 80, 18, 40
_ATTACK, _STAGE = 28, 10  # longest names
_SECONDS = 30.0  # between two lines of an attack that is under way
_MEASURED = 5.0  # seconds of training after which its speed is known
_LONG = 60.0  # seconds from which on it is told beforehand how long it takes


class Say(Protocol):
    """Says what is done next, and how many seconds are left where that is known."""

    def __call__(self, text: str, seconds: float | None = None, /) -> None: ...


class Bars(Progress):
    """Bars under a heading that says what they are part of."""

    heading = ""
    ends: float | None = None
    """When what the heading is about ends, on the monotonic clock; None where that isn't known."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The heading with the time left, in one line, and the bars below."""
        if self.heading:
            left = "" if self.ends is None else _left(self.ends - time.monotonic())
            room = self.console.width - len(left)
            yield Text(_short(self.heading, room) + left, no_wrap=True)
        yield from super().get_renderables()


@contextmanager
def bars(quiet: bool = False) -> Iterator[Bars]:
    """Show progress until the block ends: bars on a terminal, lines elsewhere, nothing where it is quiet."""
    console = Console(stderr=True)
    if console.is_dumb_terminal:  # it can't take a bar back
        console = Console(stderr=True, force_terminal=False)
    console.quiet = quiet
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(min(max(_BAR, _BAR + console.width - _COLUMNS), _WIDEST_BAR)),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Bars(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        yield progress


def heading(progress: Bars) -> Say:
    """What is done is said above the bars, elsewhere in a line."""

    def say(text: str, seconds: float | None = None) -> None:
        if progress.console.is_terminal:
            progress.heading, progress.ends = text, None if seconds is None else time.monotonic() + seconds
        else:
            _line(progress.console, text + ("" if seconds is None else _left(seconds)))

    return say


def _left(seconds: float) -> str:
    return f"; about {duration(max(0.0, seconds))} left"


def attack_bars(progress: Progress) -> Callable[[AttackProgress], None]:
    """One bar an attack, with how many samples it broke, or for work beside them. It goes when another begins.

    Before a run of minutes a line tells how long it takes at most.
    """
    show = _attack_bars(progress) if progress.console.is_terminal else _attack_lines(progress.console)
    return announcing(lambda text: _line(progress.console, text), show)


def announcing(tell: Callable[[str], None], show: Callable[[AttackProgress], None]) -> Callable[[AttackProgress], None]:
    """Tell the forecast of each evaluation that may take minutes, once, and then show what comes."""
    told: list[Forecast] = []

    def announce(event: AttackProgress) -> None:
        if event.forecast is not None and not any(event.forecast is one for one in told):
            told.append(event.forecast)
            if (event.forecast.seconds or 0.0) >= _LONG:
                tell(_ahead(event.forecast))
        show(event)

    return announce


def _ahead(forecast: Forecast) -> str:
    runs, samples = plural(forecast.attacks, "attack"), plural(forecast.samples, "sample")
    return (
        f"Ahead: {runs} on {samples}, at most {forecast.passes.total:,} passes. At the speed of the "
        f"clean samples that is {_about(forecast.seconds or 0.0)} at most; what is broken early takes less."
    )


def _about(seconds: float) -> str:
    """A time for people, rounded up: ``3 minutes``, ``2.5 hours``."""
    if seconds <= 90 * 60:
        return f"{math.ceil(seconds / 60)} minute{'s' if seconds > 60 else ''}"
    hours = math.ceil(seconds / 360) / 10
    return f"{hours:g} hours" if hours <= 48 else f"{math.ceil(hours / 24)} days"


def _attack_bars(progress: Progress) -> Callable[[AttackProgress], None]:
    tasks: dict[tuple[str, str], TaskID] = {}
    reached: dict[tuple[str, str], float] = {}  # a bar doesn't go back

    def show(event: AttackProgress) -> None:
        key = (event.name, event.threat)
        total = event.total or (0 if event.threat else None)
        if tasks.get(key) not in progress.task_ids:
            # Work beside the attacks, which has no note, may not tell its end.
            _remove(progress, [task.id for task in progress.tasks if task.finished or not task.fields["note"]])
            tasks[key] = progress.add_task(_short(_name(event), _ATTACK), total=total, count="", note="")
            reached[key] = 0.0
        reached[key] = max(reached[key], event.done + event.under_way)
        progress.update(
            tasks[key],
            completed=reached[key],
            total=total,
            count=f"{event.done}/{event.total}" if total is not None else f"{event.done} done",
            note=f"{event.broken} broken" if event.threat else "",
            refresh=event.done == total,  # what a short one came to is seen, too
        )
        if event.done == total:
            del tasks[key]

    return show


def training_bars(progress: Progress) -> Callable[[TrainingProgress], None]:
    """One bar a stage of training: the epoch, with the last one's held-out accuracies. It takes the others' place."""
    if not progress.console.is_terminal:
        return _training_lines(progress.console)
    tasks: dict[str, TaskID] = {}

    def show(event: TrainingProgress) -> None:
        total = event.epochs * event.steps
        if tasks.get(event.stage) not in progress.task_ids:
            _remove(progress, list(progress.task_ids))
            tasks[event.stage] = progress.add_task(_stage(event), total=total, count="", note="")
        done = (event.epoch - 1) * event.steps + event.step
        count = f"epoch {event.epoch}/{event.epochs}"
        progress.update(tasks[event.stage], completed=done, count=count, note=_accuracies(event) or _loss(event))
        if done == total:
            del tasks[event.stage]

    return show


def _name(event: AttackProgress) -> str:
    return f"{event.name} · {event.threat}" if event.threat else event.name


def _attack_lines(console: Console) -> Callable[[AttackProgress], None]:
    """A line for each attack when it is done; of what takes long, now and then a line with the time left."""
    begun: dict[tuple[str, str], float] = {}
    told = [time.monotonic()]

    def show(event: AttackProgress) -> None:
        key, now = (event.name, event.threat), time.monotonic()
        if not event.done and not event.under_way:
            begun[key] = now
        passed = now - begun.setdefault(key, now)
        done = event.done == event.total
        if not (done and event.threat) and now - told[0] < _SECONDS:
            return
        if not event.threat:
            if not event.done:  # it has only begun
                return
            of = f"/{event.total}" if event.total else " done"
            when = _left(passed * (event.total - event.done) / event.done) if event.total else ""
            _line(console, f"{event.name}: {event.done}{of}{when}")
            told[0] = now
            return
        if not event.total:
            _line(console, f"{event.name} · {event.threat}: no sample is left for it")
            begun.pop(key)
            return
        behind = event.done + event.under_way
        left = passed * (event.total - behind) / behind if behind else None
        when = f"in {duration(passed)}" if done else "" if left is None else f"about {duration(left)} left"
        _line(
            console,
            f"{event.name} · {event.threat}: "
            + ("cut short, " if event.cut_short else f"{event.done}/")
            + f"{event.total} samples, {event.broken} broken"
            + (f", {when}" if when else ""),
        )
        told[0] = now
        if done:
            del begun[key]

    return show


def _training_lines(console: Console) -> Callable[[TrainingProgress], None]:
    """A line for each epoch, with the time left; the accuracies are those after the epoch before, and say so."""
    begun: dict[str, tuple[float, int]] = {}
    told: set[str] = set()

    def show(event: TrainingProgress) -> None:
        before = (event.epoch - 1) * event.steps + event.step - 1
        now = time.monotonic()
        since, first = begun.setdefault(event.stage, (now, before))
        done, total = before + 1, event.epochs * event.steps
        passed = now - since
        if event.step < event.steps:
            if passed >= _MEASURED and event.stage not in told and done > first + 1:
                told.add(event.stage)
                left = passed * (total - done) / (done - first - 1)
                if left >= _LONG:
                    batches = f"{event.epochs} epochs of {event.steps} batches"
                    when = f"about {_about(left)} at the speed of the first ones"
                    _line(console, f"{_stage(event)}: {batches}, {when}, and the held-out samples after each")
            return
        told.add(event.stage)
        held_out = "held out" if event.held_out is None else f"{event.held_out} held out"
        measured = f", {held_out} after epoch {event.epoch - 1}: {_accuracies(event)}" if _accuracies(event) else ""
        when = f"about {duration(passed * (total - done) / (done - first))} left" if done < total else "done"
        _line(console, f"{_stage(event)}: epoch {event.epoch}/{event.epochs}, {_loss(event)}{measured}, {when}")
        if done == total:
            del begun[event.stage]

    return show


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _stage(event: TrainingProgress) -> str:
    return "training" if event.stage == "model" else _short(event.stage, _STAGE)


def _loss(event: TrainingProgress) -> str:
    return f"loss {event.loss:.3f}"


def _accuracies(event: TrainingProgress) -> str:
    if event.clean is None or event.robust is None:
        return ""
    return f"clean {event.clean:.1%} robust {event.robust:.1%}"


def duration(seconds: float) -> str:
    """Time as ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _remove(progress: Progress, tasks: list[TaskID]) -> None:
    for task in tasks:
        progress.remove_task(task)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain_bars(progress: Progress) -> OnProgress:
    """One bar a piece of work: how much of it is done. Elsewhere, now and then a line."""
    if not progress.console.is_terminal:
        return _plain_lines(progress.console)
    tasks: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(_short(name, _ATTACK), total=total, count="", note="")
        progress.update(tasks[name], completed=done, total=total, count=f"{done}/{total}")

    return show


def _plain_lines(console: Console) -> OnProgress:
    told = [time.monotonic()]

    def show(name: str, done: int, total: int) -> None:
        if 0 < done < total and time.monotonic() - told[0] >= _SECONDS:
            _line(console, f"{name}: {done}/{total}")
            told[0] = time.monotonic()

    return show
