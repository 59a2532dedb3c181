"""``rblite init``: lay files to start from in a repo, one of each kind, and never over one that is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import click

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import write_atomically
from robustbench_lite.faces.cli import output
from robustbench_lite.faces.cli.options import quiet_option

CI = {
    "github": (".github/workflows/robustness.yml", "the same on GitHub, with the report as an artifact"),
    "gitlab": (".gitlab-ci.yml", "the same on GitLab, with the report as an artifact"),
    "pre-commit": (".pre-commit-config.yaml", "the same before each push"),
}
"""Where the test may run by itself: the file for it, and what it is."""
_ALWAYS = {
    ".gitignore": "what rblite writes is not committed",
    "attacks/__init__.py": "the table of your attacks",
    "attacks/halving_steps.py": "an attack, to start from",
    "attacks/suites/digits.toml": "a suite: which attacks, under which threat model",
    "defenses/__init__.py": "the table of your defenses",
    "defenses/recipes/digits.toml": "a recipe: how to harden a model",
    "tests/digits_model.py": "a small model, to start from",
    "tests/test_robustness.py": "the test: which model, which data, which gates",
}
FILES = {**_ALWAYS, **dict(CI.values())}
"""What may be laid, and what it is."""
NEXT = {
    "pytest tests/test_robustness.py": "test it",
    "rblite list attacks": "see your attack beside ours",
    "rblite evaluate tests/digits_model.py:trained --data digits --suite digits": "write a scorecard and a report",
    "rblite harden tests/digits_model.py:build --data digits --recipe digits --out hardened": "harden it",
}
"""What may be done then, from the repo's folder."""
_TEMPLATES = Path(__file__).with_name("templates") / "init"


@click.command()
@click.argument("folder", default=".", metavar="[DIR]")
@click.option(
    "--ci",
    multiple=True,
    type=click.Choice(list(CI)),
    default=("github",),
    show_default=True,
    help="Where the test runs by itself; repeatable.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@quiet_option
def init(folder: str, ci: tuple[str, ...], force: bool, quiet: bool) -> None:
    """Lay files to start from in a repo.

    A suite, a recipe, an attack, a test, and what runs it on GitHub, on GitLab or before each push. All of it works as
    it is laid. A file that is there is left alone.
    """
    laid = lay(folder, force=force, ci=ci)
    for one in laid:
        if not quiet:
            click.echo(f"{one.state:<11} {one.path:<33} {FILES[one.path]}")
    for told in missing_entries(folder, laid):
        output.say(told)
    if quiet:
        return
    click.echo(f"\nNext, {'here' if folder == '.' else f'in {folder}'}:")
    for command, what in NEXT.items():
        click.echo(f"  {command}\n      {what}")


class Laid(NamedTuple):
    """What became of a file."""

    path: str
    """From the repo's folder."""
    state: Literal["laid", "replaced", "left alone"]


def lay(folder: str | Path, *, force: bool = False, ci: Sequence[str] = ("github",)) -> list[Laid]:
    """Lay the files in a folder, which is made where there is none.

    Parameters
    ----------
    folder
        The user's repo.
    force
        Whether files that are there are replaced; otherwise they are left alone.
    ci
        Names of `CI`: where the test is to run by itself.

    Raises
    ------
    ValueError
        For a folder that can't be written, or in which a file has the name of one of the folders. Then nothing is laid.
    """
    folder = Path(folder)
    files = [*_ALWAYS, *dict.fromkeys(CI[name][0] for name in ci)]
    _check_folders(folder, files)
    laid = []
    for path in files:
        try:
            laid.append(Laid(path, _lay(folder / path, template(path), force)))
        except OSError as fault:
            raise UserError(
                f"{folder / path} can't be written: {fault.strerror or fault}; choose another place"
            ) from None
    return laid


def template(path: str) -> str:
    """Text of a file as it is laid."""
    return (_TEMPLATES / f"{path.removeprefix('.')}.txt").read_text(encoding="utf-8")


def missing_entries(folder: str | Path, laid: Sequence[Laid]) -> Iterator[str]:
    """Say what has to be written into a file that was left alone, so that the rest of what was laid works."""
    from robustbench_lite.core.registry import Room

    table = "attacks/__init__.py"
    own = Room("attacks", Path(folder) / "attacks", "", own=True)
    if Laid(table, "left alone") in laid and "halving_steps" not in own.table():
        yield f'{table} was left alone: add "halving_steps": "halving_steps:HalvingSteps" to its CATALOGUE'
    for name, (path, _) in CI.items():
        if Laid(path, "left alone") in laid and (Path(folder) / path).read_text(encoding="utf-8") != template(path):
            yield f"{path} was left alone: 'rblite init NEW-FOLDER --ci {name}' shows what to add to it"


def _check_folders(folder: Path, files: Sequence[str]) -> None:
    """Find out before anything is written that a folder can't be made."""
    for path in (folder, *((folder / path).parent for path in files)):
        for place in (path, *path.parents):
            if place.exists():
                if not place.is_dir():
                    raise UserError(
                        f"{place} is a file: expected a folder, or nothing; choose another place for the repo"
                    )
                break


def _lay(path: Path, text: str, force: bool) -> Literal["laid", "replaced", "left alone"]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == ".gitignore" and path.is_file():
        return _add_line(path, text)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        return "laid"
    except FileExistsError:
        if not force or path.is_dir():
            return "left alone"
    write_atomically(path, text)
    return "replaced"


def _add_line(path: Path, line: str) -> Literal["laid", "left alone"]:
    """Add a line to a file that is the user's, where it lacks it."""
    held = path.read_text(encoding="utf-8")
    if line.strip() in (one.strip() for one in held.splitlines()):
        return "left alone"
    write_atomically(path, held + ("" if not held or held.endswith("\n") else "\n") + line)
    return "laid"
