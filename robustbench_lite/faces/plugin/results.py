"""What a session leaves behind: scorecards, pages, the job summary and annotations of GitHub Actions, baselines.

Written once, by the process that the user started, from what all the workers evaluated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import write_atomically
from robustbench_lite.faces.plugin.evaluations import Result, slug
from robustbench_lite.faces.plugin.options import Options, again
from robustbench_lite.results import baseline
from robustbench_lite.results.scorecard import Scorecard

TITLE = "Adversarial robustness"
_SUMMARY_LIMIT = 1024 * 1024  # bytes of a step's summary on GitHub; one that is longer is not shown at all


@dataclass(frozen=True)
class Written:
    """What was written, and what could not be."""

    lines: tuple[str, ...]
    """One a file."""
    faults: tuple[str, ...]


def publish(
    results: Sequence[Result], options: Options, baselines: Path, environment: Mapping[str, str] = os.environ
) -> Written:
    """Write everything that was asked for, each as far as it can be.

    Parameters
    ----------
    results
        What was evaluated; with nothing in it, nothing is written.
    options
        What was asked for.
    baselines
        Folder of the baselines.
    environment
        Where GitHub Actions says what it wants.
    """
    if not results:
        asked = [*options.files, *(["--robustness-save"] if options.save else [])]
        return Written((), (f"no evaluation was run: nothing was written for {', '.join(asked)}",) if asked else ())
    summary = environment.get("GITHUB_STEP_SUMMARY")
    jobs: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("scorecard", lambda: _save_cards(results, options.json)),
        ("report", lambda: _save_text(options.html, lambda: _render("html", results))),
        ("SARIF", lambda: _save_text(options.sarif, lambda: _render("sarif", results, places=_places(results)))),
        ("baseline", lambda: _save_baselines(results, options.save, baselines)),
        ("summary", lambda: _append_summary(results, Path(summary) if summary else None)),
    ]
    lines, faults = [], []
    for what, job in jobs:
        try:
            lines += [f"{what:<10} {line}" for line in job()]
        except (OSError, UserError) as fault:
            faults.append(f"{what} not written: {fault}")
    return Written(tuple(lines), tuple(faults))


def repeatable(results: Sequence[Result], config: pytest.Config) -> list[Result]:
    """Put on each card the command that evaluates it again, in the folder where this one was given."""
    options = Options.of(config)
    words = tuple(again(config.invocation_params.args))

    def told(result: Result) -> Result:
        path, colons, rest = result.request.name.partition("::")
        place = Path(os.path.relpath(options.root / path, options.invoked_from)).as_posix()
        card = result.card.model_copy(update={"command": ("pytest", f"{place}{colons}{rest}", *words)})
        return replace(result, outcome=replace(result.outcome, card=card))

    return [told(result) for result in results]


def commands(results: Sequence[Result], environment: Mapping[str, str] = os.environ) -> str:
    """Workflow commands to print; empty outside of GitHub Actions."""
    if not results or environment.get("GITHUB_ACTIONS") != "true":
        return ""
    return _render("annotations", results, places=_places(results))


def story(results: Sequence[Result]) -> list[str]:
    """What the scorecards don't tell themselves: what became of the comparison with a baseline."""
    return [
        f"{result.request.name}: {words}"
        for result in results
        for words in (result.outcome.regression, result.outcome.refused)
        if words
    ]


def _render(form: str, results: Sequence[Result], **more: object) -> str:
    cards = [result.card for result in results]
    words = {"title": TITLE, "story": story(results)}
    text: str = registry.find("reports", form)(cards, **words, **more)
    return text


def _places(results: Sequence[Result]) -> list[tuple[str, int | None]]:
    return [(result.request.path, result.request.line) for result in results]


def _save_cards(results: Sequence[Result], path: Path | None) -> Iterator[str]:
    if path is None:
        return
    for target, card in _named(results, path):
        yield str(card.save(target))


def _named(results: Sequence[Result], path: Path) -> Iterator[tuple[Path, Scorecard]]:
    """Where each scorecard goes: the file itself for one, beside it or into the folder for several."""
    if path.suffix == ".json" and len(results) == 1:
        yield path, results[0].card
        return
    taken: set[str] = set()
    for result in results:
        name = slug(result.request.name)
        while name in taken:
            name += "_"
        taken.add(name)
        file = path.with_name(f"{path.stem}-{name}.json") if path.suffix == ".json" else path / f"{name}.json"
        yield file, result.card


def _save_text(path: Path | None, text: Callable[[], str]) -> Iterator[str]:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text())
        yield str(path)


def _save_baselines(results: Sequence[Result], name: str | None, folder: Path) -> Iterator[str]:
    if name is not None:
        for result in results:
            yield str(baseline.save(result.card, folder / name, slug(result.request.name)))


def _append_summary(results: Sequence[Result], path: Path | None) -> Iterator[str]:
    if path is None:
        return
    # Other steps' tools write to the same file, and the limit is on all of it.
    room = _SUMMARY_LIMIT - (path.stat().st_size if path.is_file() else 0) - 1
    if room > 0:
        with path.open("a", encoding="utf-8") as stream:
            stream.write("\n" + _render("github", results, room=room))
        yield str(path)
