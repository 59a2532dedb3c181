"""What a session is to evaluate: the command line over the table of ``pyproject.toml``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.core.usercode import change_path
from robustbench_lite.faces.plugin.discovery import raw_table
from robustbench_lite.faces.plugin.options import CORPUS, Options
from robustbench_lite.faces.plugin.table import NAME, Table, TargetEntry, read_table

if TYPE_CHECKING:
    from robustbench_lite.data.dataset import Data
    from robustbench_lite.model.target import Target

_PLAN: pytest.StashKey[Plan] = pytest.StashKey()
_CACHE = ".robustbench/cache"
_FILES = ("imagefolder", "npz", "csv")


@dataclass(frozen=True, kw_only=True)
class NamedTarget:
    """A target as it was asked for; the model behind it is not loaded yet."""

    name: str
    """Part of its tests' names."""
    entry: TargetEntry

    def load(self, classes: int) -> Target:
        """Make the target; ``classes`` (0 where unknown) is used where the entry tells no number."""
        from robustbench_lite.model.loading import load_target

        target = load_target(
            self.entry.model,
            weights=self.entry.weights,
            normalize=self.entry.normalize,
            classes=self.entry.classes or classes or None,
            device=self.entry.device or "auto",
        )
        target.name = self.name
        return target


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Targets, data, suites and gates of a session, checked, with nothing loaded."""

    options: Options
    targets: tuple[NamedTarget, ...]
    data: str | None
    data_root: str | None
    reading: Mapping[str, Any]
    """How the data are read: ``resize``, ``crop`` and ``label_map`` of `load_data`."""
    suites: tuple[str, ...]
    threats: tuple[ThreatModel, ...]
    limit: int | None
    seed: int
    gates: Mapping[str, float]
    baselines: Path
    """Folder of the baselines."""
    baseline: str | None
    """Name of the one to compare with."""
    cache: Path | None
    """Folder of evaluations by content; None to keep none."""
    corpus: Path | None
    """Folder of witnesses to replay and to add to; None for neither."""
    sequential: bool
    """Whether an evaluation ends as soon as its gates are settled, where they can be."""
    workers: int
    """Processes that share the samples of an evaluation."""
    strict: bool
    """Whether a gate fails where it is undecided, too."""
    adapt: bool
    """Whether what hides from the attacks is evaluated once more, past it."""
    tell: Callable[[str], None] = field(default=lambda _: None)
    """Writes a line to the terminal while the session runs."""

    @property
    def root(self) -> Path:
        """Folder in which everything is named and run."""
        return self.options.root

    @classmethod
    def of(cls, config: pytest.Config) -> Plan:
        """Put it together, once a session.

        Raises
        ------
        pytest.UsageError
            With every fault of the table, or of the options.
        """
        if _PLAN not in config.stash:
            options = Options.of(config)
            try:
                table = read_table(raw_table(options.root) or {})
                plan = replace(_plan(options, table), tell=partial(_tell, config))
                config.stash[_PLAN] = plan
            except UserError as fault:
                raise pytest.UsageError(str(fault)) from None
            if plan.cache is None and table.cache and not options.no_cache:
                _warn_of_no_cache(config, options.root / _CACHE)
        return config.stash[_PLAN]

    def the_target(self) -> NamedTarget:
        """The one target of the session, for tests that take one.

        Raises
        ------
        UserError
            Where there is none, or more than one.
        """
        if len(self.targets) == 1:
            return self.targets[0]
        names = ", ".join(target.name for target in self.targets)
        raise UserError(
            f"there are {len(self.targets)} targets ({names}) and this test takes one: choose with --target, or "
            "override the fixture robust_target"
            if self.targets
            else "no target: give --target package.module:callable, name targets in [tool.robustbench_lite], or "
            "override the fixture robust_target"
        )

    def demanded(self, *gates: Mapping[str, float]) -> dict[str, float]:
        """Gates as they are looked at in this session; of those that are given, the last of a name counts.

        Raises
        ------
        UserError
            For a regression that is limited, with nothing to compare with.
        """
        found = {name: value for given in gates for name, value in given.items()}
        if self.baseline is not None:
            found.setdefault("max_regression", 0.0)
        elif self.options.save:
            found.pop("max_regression", None)
        elif "max_regression" in found:
            raise UserError(
                "max_regression is set, and there is no baseline: name one with --robustness-compare or as baseline in "
                "[tool.robustbench_lite], or make one with --robustness-save"
            )
        return found

    def load_data(self) -> Data:
        """Load the data.

        Raises
        ------
        UserError
            Where none are named, or what is named can't be loaded.
        """
        from robustbench_lite.data.load import load_data

        if self.data is None:
            raise UserError(
                "no data: give --data, set data in [tool.robustbench_lite], or override the fixture robust_data"
            )
        return load_data(self.data, split="test", root=self.data_root, **self.reading)

    def classes(self, data: Data) -> int:
        """Number of classes that a target is told where its entry has none; 0 where the data don't tell it."""
        return 0 if self.reading["label_map"] else len(data.classes)


def _tell(config: pytest.Config, text: str) -> None:
    """Write a line to pytest's terminal, where it has one: the workers of xdist have none."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and config.get_verbosity() >= 0:
        reporter.ensure_newline()
        reporter.write_line(text)


def _plan(options: Options, table: Table) -> Plan:
    _check_suites(table.suites, options.root)
    here = _Here(options.invoked_from, options.root)
    return Plan(
        options=options,
        targets=tuple(_targets(options, table, here)),
        data=here.data(options.data) if options.data else table.data,
        data_root=here.path(options.data_root) if options.data_root else table.data_root,
        reading={"resize": table.resize, "crop": table.crop, "label_map": table.label_map},
        suites=table.suites,
        threats=tuple(map(ThreatModel.parse, options.threats)) or table.threats,
        limit=options.limit or table.limit,
        seed=table.seed,
        gates=table.gates,
        baselines=options.root / table.baselines,
        # Who saves a new baseline replaces the one that the table compares with.
        baseline=options.compare or (None if options.save else table.baseline),
        cache=_cache(options, table),
        corpus=options.corpus or _corpus(options.root, table),
        sequential=options.sequential or table.sequential,
        workers=options.workers,
        strict=options.strict or table.strict,
        adapt=options.adapt or table.adapt,
    )


def _cache(options: Options, table: Table) -> Path | None:
    if options.no_cache or options.cache:
        return options.cache
    if isinstance(table.cache, str):
        return options.root / table.cache
    if not table.cache:
        return None
    folder = options.root / _CACHE
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return folder
    # Nobody asked for this one, so a checkout that can't be written to does without.
    return None


def _warn_of_no_cache(config: pytest.Config, folder: Path) -> None:
    told = f"robustbench_lite keeps no evaluations: {folder} can't be written; name another with --robustness-cache"
    with contextlib.suppress(pytest.PytestWarning):  # where warnings are errors: this one is no reason to end
        config.issue_config_time_warning(pytest.PytestWarning(told), stacklevel=2)


def _corpus(root: Path, table: Table) -> Path | None:
    if isinstance(table.corpus, str):
        return root / table.corpus
    return root / CORPUS if table.corpus else None


def _check_suites(suites: tuple[str, ...], root: Path) -> None:
    """Refuse suites that aren't there: nobody would miss their tests."""
    told = []
    with contextlib.chdir(root):
        for suite in suites:
            try:
                registry.find_file("suites", suite)
            except UserError as fault:
                told.append(f"  suites: {fault}")
    if told:
        raise UserError("\n".join([f"pyproject.toml: [{NAME}] is not valid", *told]))


def _targets(options: Options, table: Table, here: _Here) -> list[NamedTarget]:
    entries = dict(table.targets)
    if options.targets:
        entries = {
            _node_name(name): table.targets.get(name) or TargetEntry(model=here.model(name)) for name in options.targets
        }
    given = {"weights": options.weights and here.path(options.weights), "normalize": options.normalize}
    given = {key: value for key, value in given.items() if value}
    if given and len(entries) != 1:
        raise UserError(
            f"--{' and --'.join(given)}: for one target, and there are {len(entries)}; choose it with --target, or set "
            "them in [tool.robustbench_lite.targets]"
        )
    return [NamedTarget(name=name, entry=entry.model_copy(update=given)) for name, entry in entries.items()]


def _node_name(spec: str) -> str:
    """Text of a spec that can stand in the name of a test: pytest parts names at ``::`` and ``[``."""
    return spec.replace("::", ":").replace("[", "(").replace("]", ")")


@dataclass(frozen=True)
class _Here:
    """Reads what the command line names from the folder where it was given; it is run in the project's."""

    folder: Path
    root: Path

    def path(self, text: str) -> str:
        return text if self.folder == self.root else str(self.folder / Path(text).expanduser())

    def model(self, spec: str) -> str:
        return self.path(spec) if (self.folder / spec).is_dir() else self._code(spec)

    def data(self, source: str) -> str:
        kind, colon, rest = source.partition(":")
        return f"{kind}:{self.path(rest)}" if colon and kind in _FILES else self._code(source)

    def _code(self, spec: str) -> str:
        return change_path(spec, lambda path: self.path(str(path)))
