"""What commands print and write, and their exit codes."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import NO_ROOM as NO_ROOM
from robustbench_lite.faces.cli import signals

if TYPE_CHECKING:
    from robustbench_lite.results.scorecard import Scorecard
    from robustbench_lite.results.search import SearchResult

EXIT = {"PASS": 0, "MEASURED": 0, "UNDECIDED": 0, "FAIL": 1, "INVALID": 3}
EXIT_USAGE, EXIT_CRASH, EXIT_PIPE = 2, 4, 141
FOLDER = Path(".robustbench")
"""Where files go whose place nobody named."""

_STDOUT = f"{__name__}.stdout"
_PROTECTED = {errno.EACCES, errno.EPERM, errno.EROFS}
_SLUG = 60  # characters of a name that go into a file's


def plain(text: str) -> str:
    """Text that can't steer the terminal, whatever names from files stand in it."""
    return "".join(one for one in text if one == "\n" or unicodedata.category(one)[0] != "C")


def say(text: str) -> None:
    """Tell something on the standard error stream."""
    click.echo(plain(text), err=True)


def suggest(*steps: str) -> None:
    """Tell people what may be done next, on the standard error stream, where it is in no pipe's way."""
    if _STDOUT in click.get_current_context().meta:
        return
    for place, step in enumerate(steps):
        say(f"{'' if place else 'Next':10} {step}")


def json_alone(context: click.Context) -> None:
    """Keep the standard output for JSON: whatever else is printed, be it by the user's model, goes to stderr."""
    context.meta[_STDOUT] = context.with_resource(_kept_stdout())
    context.with_resource(redirect_stdout(sys.stderr))


@contextmanager
def _kept_stdout() -> Iterator[IO[str]]:
    """The standard output, which libraries below Python and programs that are started get another for."""
    stream = sys.stdout
    try:
        real = stream.fileno() == 1
    except OSError:  # of a stream in memory, as tests and notebooks have
        real = False
    if not real:
        yield stream
        return
    stream.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(kept, "w", encoding="utf-8", closefd=False) as own:
            yield own
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def write_json(place: str | None, text: str) -> None:
    """Write JSON for machines into a file, or print it where the place is ``-``; nowhere without one."""
    if place == "-":
        click.echo(text.rstrip("\n"), file=click.get_current_context().meta[_STDOUT])
    elif place is not None:
        write_result(Path(place), text if text.endswith("\n") else f"{text}\n")


def print_rendered(rendered: Any) -> None:
    """Print a text, or anything that Rich can show."""
    if isinstance(rendered, str):
        click.echo(rendered)
    else:
        from rich.console import Console

        Console().print(rendered)


def render(form: str, cards: Sequence[Scorecard], **words: Any) -> Any:
    """Make a report of a form that the registry knows."""
    return registry.find("reports", form)(list(cards), **words)


def show(cards: Sequence[Scorecard], **words: Any) -> None:
    """Print scorecards for people."""
    print_rendered(render("terminal", cards, **words))


def command_line(*left_out: str) -> tuple[str, ...]:
    """The command that runs, in words, as it was given; without the parameters of these names."""
    context = click.get_current_context()
    words = ["rblite", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        value: Any = context.params.get(name)
        if name in left_out or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[-1] if value else parameter.secondary_opts[-1])
        else:
            for one in value if parameter.multiple else [value]:
                words += [parameter.opts[-1], *map(str, one if parameter.nargs > 1 else [one])]
    return tuple(words)


def keep_command(folder: Path, command: tuple[str, ...]) -> None:
    """Put the command that made them on the scorecards in a folder, and in the folders of its recipes.

    The run is done by then: a disk that is full now costs the command alone, and that is told.
    """
    from robustbench_lite.results.scorecard import Scorecard

    try:
        for path in sorted(folder.rglob("*.json")):
            if re.match(r"(before|after|task)\b", path.name):
                Scorecard.load(path).model_copy(update={"command": command}).save(path)
    except OSError as fault:
        say(
            f"{folder}: the run is done and its scorecards are written; the command that repeats it can't be put on "
            f"them ({fault.strerror or fault})"
        )


def write_search(folder: Path, found: SearchResult, page: Path | None = None, title: str | None = None) -> Path:
    """Write the page of a search, by default into its folder, and beside the winner's scorecard the page of that."""
    page = page or folder / "search.html"
    card = None
    if found.fresh is not None and (folder / found.fresh.card).is_file():
        own = (folder / found.fresh.card).with_suffix(".html")
        write(own, render("html", load_cards([str(folder / found.fresh.card)])))
        card = Path(os.path.relpath(own.resolve(), page.resolve().parent)).as_posix()
    write(page, registry.find("reports", "search_page")([found], title=title, card=card))
    return page


def before_and_after(before: Scorecard, after: Scorecard) -> list[Scorecard]:
    """Two scorecards whose names say which is which."""
    named = []
    for card, when in ((before, "before"), (after, "after")):
        name = re.sub(r" \((before|after)\)$", "", card.target.name)
        named.append(card.model_copy(update={"target": card.target.model_copy(update={"name": f"{name} ({when})"})}))
    return named


@contextmanager
def kept_in(out: str, command: str) -> Iterator[None]:
    """Run inside what keeps its state in a folder: where it is interrupted, or the disk is full, say how it goes on.

    ``command`` is what goes on from there, such as ``the same command``.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"Interrupted. What is done is kept in {out}; {command} goes on.")
        sys.exit(signals.exit_code())
    except OSError as fault:
        if fault.errno not in NO_ROOM:
            raise
        raise UserError(
            f"out {out}: can't be written ({fault.strerror}); make room: {command} goes on from what is kept there"
        ) from fault


def load_cards(paths: Sequence[str]) -> list[Scorecard]:
    """Load scorecards from their files."""
    from robustbench_lite.results.scorecard import Scorecard

    return [Scorecard.load(path) for path in paths]


def fresh(stem: str, suffix: str) -> Path:
    """A name that no other run takes, be it in the same second, so that no result is lost."""
    return FOLDER / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}{suffix}"


def slug(text: str) -> str:
    """A name as a part of a file's name."""
    short = Path(text).stem if text.endswith((".toml", "/")) else text
    return re.sub(r"[^A-Za-z0-9]+", "-", short).strip("-")[-_SLUG:].strip("-") or "model"


def check_writable(*paths: Path) -> None:
    """Find out before the run, not after, that a file can't be written; leave nothing behind."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{', '.join(map(str, paths))}: expected a file of its own for each output")
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a folder: expected the name of a file")
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if there != path and not there.is_dir():
            raise UserError(f"{path} can't be written: {there} is a file, not a folder; choose another place")
        if refused := _refused(there):
            raise UserError(f"{path} can't be written: {refused}; choose another place")


def _refused(there: Path) -> str:
    """Why no file can be made in a folder, or a file not be written; empty where it can.

    Permissions alone don't tell of a folder: not as root, and not of /proc.
    """
    if there.is_dir():
        try:
            tempfile.TemporaryFile(dir=there).close()
            return ""
        except OSError as fault:
            if fault.errno not in _PROTECTED:
                return f"no file can be made in {there}"
    elif os.access(there, os.W_OK):
        return ""
    return f"{there} is write-protected"


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    try:
        _write(path, text)
    except OSError as fault:
        raise UserError(f"{path} can't be written: {fault.strerror or fault}; choose another place") from None


def save(card: Scorecard, path: Path) -> Path:
    """Save a scorecard, elsewhere where it can't be saved there; return where it is."""
    return _elsewhere_if_need_be(path, card.save)


def write_result(path: Path, text: str) -> Path:
    """Write what a run has made, elsewhere where it can't be written there; return where it is."""
    return _elsewhere_if_need_be(path, lambda place: _write(place, text))


def _elsewhere_if_need_be(path: Path, put: Callable[[Path], object]) -> Path:
    """A run may have taken hours, and its result is not lost because a disk is full."""
    told = ""
    for place in (path, Path.cwd() / path.name, Path.home() / path.name, Path(tempfile.gettempdir()) / path.name):
        if place != path and place.exists():
            place = place.with_name(f"{place.stem}-{secrets.token_hex(2)}{place.suffix}")
        try:
            put(place)
        except (OSError, UserError) as fault:
            reason = fault.strerror if isinstance(fault, OSError) else None
            told = told or f"{path} can't be written: {reason or fault}"
            continue
        if told:
            say(f"{told}; it was written to {place} instead")
        return place
    raise UserError(f"{told}; nor could it be written to the working directory, the home or the temporary folder")


def _write(path: Path, text: str) -> None:
    from robustbench_lite.core.files import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
