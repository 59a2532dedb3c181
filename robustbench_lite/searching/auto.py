"""Auto: data and a budget of time in; the most robust model that was found, and a board of it and its rivals out.

It chooses a network by the kind of input, a space of networks, defenses and settings around the shipped recipe, and has
`tune` search it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustbench_lite.core import registry
from robustbench_lite.core.errors import ModelError, UserError, unknown, why
from robustbench_lite.core.files import read_json, write_atomically
from robustbench_lite.core.suite import Suite, load_suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.hardening.pipeline import Listeners
from robustbench_lite.hardening.preparation import Changes, Plan, Sampling, prepare
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.model.architectures.files import SPACES, save_architecture
from robustbench_lite.model.architectures.interface import Choice
from robustbench_lite.model.loading import load_target
from robustbench_lite.results.scorecard import Scorecard
from robustbench_lite.results.search import RECIPE, RESULT_FILE, SEARCH, Entrant
from robustbench_lite.searching.architectures import ArchitectureSpace
from robustbench_lite.searching.entrants import PEERS, check_entrant, entrant
from robustbench_lite.searching.pace import Shares, divide, measure
from robustbench_lite.searching.settings import DEFENSE
from robustbench_lite.searching.space import Dimension, Space
from robustbench_lite.searching.strategies.interface import find_strategy
from robustbench_lite.searching.study import Search, Standing, Tuned, tune

BOARD, START_FILE, STATE_FILE = "board", "start.toml", "auto.json"
"""In the folder: what `tune` writes, the board's scorecards, the first network, and what a resumed run must know."""

_DEFENSES = ("pgd_training", "trades", "mart", "n_fgsm")
_KINDS = {1: "tabular", 2: "1-D signals", 3: "images"}
_EPS = {1: "Linf 0.03", 2: "Linf 0.05", 3: "Linf 8/255"}
_BOARD_SUITE = "black_box_quick"
_BOARD_SHARE = 0.1  # of the time, for the search by scores of all on the board
_FIT_SHARE = 0.1  # of the time, for each library that makes a model


@dataclass(frozen=True, kw_only=True)
class AutoOptions:
    """What is asked of it."""

    seconds: float
    """All of its time, the judgement included."""
    threat: str | ThreatModel | None = None
    """By default ``Linf 8/255`` for images, ``Linf 0.05`` for signals, and ``Linf 0.03`` for tables: 0.3 standard
    deviations where they are in standardised units, as those of CSV files are."""
    recipe: str | Path | Recipe = "pgd_training"
    """Of one step: what the search starts from, and is compared with."""
    suite: str | Path | Suite | None = None
    """Judges the winner; by default the recipe's."""
    entrants: tuple[str, ...] = ()
    """Rivals on the board: ``flaml``, ``tpot``, ``h2o``, or models by their spec."""
    limit: int | None = None
    """Test samples; by default as many as the time allows."""
    limit_train: int | None = None
    """Samples to learn from; by default as many as the time allows."""
    architecture: str = "plain"
    """Which networks are tried: ``plain`` ones, or ``cells`` of operations, for images alone."""
    sampler: str = "tpe"
    """Of the search; not ``gradient`` or ``gdas``, whose supernet takes a time that isn't planned."""
    seed: int = 0


def auto(
    data: Any,
    *,
    out: str | Path,
    options: AutoOptions,
    listeners: Listeners | None = None,
    on_trial: Callable[[Standing], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Tuned:
    """Search for the most robust model of some data within a time.

    Parameters
    ----------
    data
        Name of a source; or the samples to learn from and those that judge, a pair of `Data`.
    out
        A new or empty folder, or that of this very run, which goes on from there in the time that is left.
    listeners
        ``on_stage`` is told what is done after the search.
    on_note
        Told what is chosen.

    Returns
    -------
    Tuned
        As of `tune`, with the board in its result.

    Raises
    ------
    UserError
        For whatever was given wrong, and a time that isn't enough for one trial, before the search begins.
    """
    say = on_note or (lambda _: None)
    listeners = listeners or Listeners()
    if options.seconds <= 0:
        raise UserError(f"budget is {options.seconds:g} s: expected a time above 0, such as 10m")
    strategy = find_strategy(options.sampler)
    if strategy.in_order:
        raise UserError(f"sampler {options.sampler}: auto searches ranges, and a grid has no end of them; take another")
    if strategy.beforehand is not None:
        raise UserError(
            f"sampler {options.sampler}: what it does before the first trial takes a time that auto can't plan; take "
            "another, or rblite tune"
        )
    for name in options.entrants:
        check_entrant(name)
    known, test = _both(data)
    clock = _Clock(Path(out), options.seconds)
    with clock.begun():
        judging = _judging(known, test, options, clock.folder)
        shares = clock.shares(lambda left: _shares(judging, options, left))
    sampling = Sampling(test_data=test, limit=shares.limit, limit_train=shares.limit_train, seed=options.seed)
    say(_told(judging, shares))
    changes = Changes(threat=judging.recipe.threat, suite=options.suite)

    def tell(standing: Standing) -> None:
        clock.save()
        if on_trial is not None:
            on_trial(standing)

    found = tune(
        judging.target,
        known,
        judging.recipe,
        _space(judging, known, options.architecture),
        out=clock.folder / SEARCH,
        # At the end of its time a search begins no trial; what is under way is judged.
        search=Search(seconds=max(0.01, _for_trials(clock.left, shares, options)), sampler=options.sampler),
        changes=changes,
        sampling=sampling,
        listeners=replace(listeners, on_stage=None),  # of a search `on_trial` tells
        on_trial=tell,
    )
    clock.save()
    known = known if shares.limit_train is None else known.stratified(shares.limit_train, options.seed)
    judge = test if shares.limit is None else test.stratified(shares.limit, options.seed)
    board = [*_own(found), *((name, name) for name in options.entrants)]
    rows = []
    for name, what in board:
        fitted = f"fitted for about {_fit_seconds(options):.0f} s and " if name in PEERS else ""
        listeners.stage(f"board: {name} is {fitted}judged")
        rows.append(_row(name, what, clock, known, judge, judging.recipe.threat, options, listeners))
    rows.sort(key=lambda one: -1.0 if one.robust is None else one.robust.value, reverse=True)
    result = found.result.model_copy(update={"board": tuple(rows), "seconds": clock.spent})
    result.save(found.folder / RESULT_FILE)
    clock.save()
    return Tuned(trials=found.trials, finals=found.finals, judged=found.judged, folder=found.folder, result=result)


class _Clock:
    """The folder, and the time that the run has had, over all its beginnings."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self._seconds, self._began = folder, seconds, time.monotonic()
        path = folder / STATE_FILE
        try:
            if folder.is_dir() and any(folder.iterdir()) and not path.is_file():
                raise UserError(f"out {folder}: is not empty and holds no run of auto; give a new or empty folder")
            folder.mkdir(parents=True, exist_ok=True)
            self._state = read_json(path) if path.is_file() else {}
            self._before = float(self._state.get("spent", 0.0))
        except (OSError, ValueError, AttributeError) as fault:
            raise UserError(f"out {folder}: can't be used ({why(fault)}); give a new or empty folder") from None
        self.save()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Where what is inside fails, nothing is left of a run that has done nothing yet."""
        new = "shares" not in self._state
        try:
            yield
        except UserError:
            if new:
                for name in (STATE_FILE, START_FILE):
                    (self.folder / name).unlink(missing_ok=True)
                with suppress(OSError):  # what stands in it stays
                    self.folder.rmdir()
            raise

    @property
    def spent(self) -> float:
        """Seconds, this beginning and those before it."""
        return self._before + time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds."""
        return self._seconds - self.spent

    def save(self) -> None:
        """Write down what a resumed run must know."""
        self._state["spent"] = self.spent
        write_atomically(self.folder / STATE_FILE, json.dumps(self._state, indent=1) + "\n")

    def shares(self, find: Callable[[float], Shares]) -> Shares:
        """How the time is divided: found out once, as a search that goes on must see the same samples."""
        if "shares" not in self._state:
            self._state["shares"] = vars(find(self.left))
            self.save()
        return Shares(**self._state["shares"])


def _both(data: Any) -> tuple[Data, Data]:
    """Samples to learn from, and those that judge."""
    if isinstance(data, str):
        return as_data(data, split="train"), as_data(data, split="test")
    known, test = data
    return as_data(known), as_data(test)


def _judging(known: Data, test: Data, options: AutoOptions, folder: Path) -> Plan:
    """The shipped recipe, with the first network and everything checked."""
    if len(known.shape) not in _KINDS:
        raise UserError(
            f"{known.name}: samples have the shape {known.shape}: expected images (C, H, W), signals (C, L), or rows "
            "of a table (F,)"
        )
    classes = max(len(known.classes), int(known.labels.max()) + 1)
    if options.architecture not in SPACES:
        raise UserError(unknown("architecture", options.architecture, SPACES))
    if options.architecture == "cells" and len(known.shape) != 3:
        raise UserError(f"architecture cells: takes images, and {known.name} is {_KINDS[len(known.shape)]}; take plain")
    start = SPACES[options.architecture].model_validate({"name": "start", "shape": known.shape, "classes": classes})
    save_architecture(start, folder / START_FILE)
    target = load_target(f"arch:{folder / START_FILE}", classes=classes, seed=options.seed, device="auto")
    kind = "plain network" if options.architecture == "plain" else "network of cells"
    target.name = f"{kind} for {_KINDS[len(known.shape)]}"
    threat = options.threat or _EPS[len(known.shape)]
    changes = Changes(threat=threat, suite=options.suite)
    return prepare(target, known, options.recipe, changes, Sampling(test_data=test, seed=options.seed))


def _space(judging: Plan, known: Data, architecture: str) -> Space:
    """Networks, defenses and settings around the shipped recipe."""
    norm = judging.recipe.threat.norm
    able = tuple(name for name in _DEFENSES if norm in registry.find("defenses", name).norms)
    params = {
        "schedule.lr": Dimension(low=0.001, high=0.01, log=True),
        "schedule.weight_decay": Dimension(low=1e-5, high=1e-2, log=True),
        "schedule.average": Dimension(choices=(0.9, 0.99, 0.999)),
    }
    if len(able) > 1:
        params[DEFENSE] = Dimension(choices=able)
    return Space(name="auto", params=params, architecture=_networks(architecture, flat=len(known.shape) == 1))


def _networks(architecture: str, *, flat: bool) -> ArchitectureSpace:
    """Which networks are tried, about as large as a CPU trains in minutes."""
    if architecture == "cells":
        return ArchitectureSpace(space="cells", choices={"channels": (4, 8, 16)})
    choices: dict[str, tuple[Choice, ...]] = {
        "depth": (1, 2, 3) if flat else (2, 3),
        "width": (32, 64, 128) if flat else (16, 32, 64),
        "skip": (False, True),
        "activation": ("relu", "gelu", "silu", "softplus"),
    }
    return ArchitectureSpace(space="plain", search=tuple(choices), choices=choices)


def _shares(judging: Plan, options: AutoOptions, left: float) -> Shares:
    began = time.monotonic()
    pace = measure(judging, left)
    left = _for_search(left - (time.monotonic() - began), options)
    return divide(left, pace, len(judging.known), len(judging.test), (options.limit_train, options.limit))


def _fit_seconds(options: AutoOptions) -> float:
    """Seconds that each library may take to make its model."""
    return max(5.0, _FIT_SHARE * options.seconds)


def _for_search(left: float, options: AutoOptions) -> float:
    """Seconds for all but the board."""
    fitted = sum(name in PEERS for name in options.entrants)
    return left * (1 - _BOARD_SHARE - min(0.5, _FIT_SHARE * fitted))


def _for_trials(left: float, shares: Shares, options: AutoOptions) -> float:
    """Seconds after which no trial begins."""
    return _for_search(left, options) - shares.at_the_end


def _told(judging: Plan, shares: Shares) -> str:
    both = ((shares.limit_train, judging.known, "learn from"), (shares.limit, judging.test, "judge"))
    few = [f"{limit} of {len(data)} samples to {what}" for limit, data, what in both if limit is not None]
    taken = f"; taken are {' and '.join(few)}" if few else ""
    return (
        f"{judging.known.name}: {_KINDS[len(judging.known.shape)]} {judging.known.shape}, {judging.recipe.threat}; a "
        f"training takes about {shares.training:.0f} s, a judgement about {shares.judgement:.0f} s{taken}"
    )


def _own(found: Tuned) -> list[tuple[str, str]]:
    """The winner and the recipe as it is, with their folders."""
    names = [] if found.judged is None else [found.judged.winner.name]
    there = [name for name in dict.fromkeys([*names, RECIPE]) if (found.folder / name).is_dir()]
    return [(name, str(found.folder / name)) for name in there]


def _row(
    name: str,
    what: str,
    clock: _Clock,
    known: Data,
    test: Data,
    threat: ThreatModel,
    options: AutoOptions,
    listeners: Listeners,
) -> Entrant:
    """Judge one on the board by random search, as all the others, or read what came of it."""
    path = clock.folder / BOARD / f"{_file_name(name)}.json"
    began, own = time.monotonic(), what != name
    try:
        if not path.is_file():
            target = (
                load_target(what, device="auto") if own else entrant(name, known, _fit_seconds(options), options.seed)
            )
            suite = load_suite(_BOARD_SUITE)
            # Also of one that is INVALID at once the attacks tell the number, beside the others'.
            card = evaluate(
                target, test, suite, threat, seed=options.seed, anyway=True, on_progress=listeners.on_attack
            )
            if card.interrupted == "interrupt":
                raise KeyboardInterrupt
            path.parent.mkdir(exist_ok=True)
            card.save(path)
        card = Scorecard.load(path)
    except (UserError, ModelError) as fault:
        return Entrant(name=name, own=own, fault=str(fault))
    return Entrant(
        name=name,
        own=own,
        clean=card.clean_accuracy,
        robust=card.robust_accuracy,
        suite=card.suite.name,
        verdict=card.verdict,
        seconds=time.monotonic() - began,
        card=f"../{BOARD}/{path.name}",
    )


def _file_name(name: str) -> str:
    return "".join(one if one.isalnum() or one in "-_." else "-" for one in name).strip("-.")
