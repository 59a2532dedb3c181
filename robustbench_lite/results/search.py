"""What came of a search, typed and versioned: ``search.json``. Every table and page of a search is drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import ge
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.files import read_json, write_atomically
from robustbench_lite.results.scorecard import Interval

RESULT_FILE = "search.json"

SEARCH = "search"
"""The folder of a search in that of ``rblite auto``."""

RECIPE = "recipe"
"""What the trial is called that runs the recipe as it is; it stands beside those that Optuna proposes."""

ROBUST, CLEAN = "robust", "clean"
"""What the objectives are called that every trial tells."""

State = Literal["done", "failed", "pruned", "running"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Aim(_Part):
    """What the trials of a search were to be better in."""

    name: str
    """``robust``, ``clean``, ``bytes``, ``latency``, ``passes`` (of training), or another measure."""
    better: Literal["higher", "lower"] = "higher"
    unit: str = "share"


class Trial(_Part):
    """A run of the recipe with some settings, on the validation samples."""

    name: str
    """Of its folder: ``trial-7``; ``final-7``, run in full after a trial by the proxy; ``recipe``, as it is."""
    state: State
    settings: Mapping[str, Any] = {}
    architecture: str | None = None
    """In words, where architectures are searched: of cells as NAS-Bench-201 writes them."""
    robust: Interval | None = None
    """None where it came to no end, as of ``clean``."""
    clean: Interval | None = None
    training_passes: float | None = None
    seconds: float | None = None
    """From its begin to its end, pauses included."""
    epochs: Mapping[int, float] = {}
    """Robust accuracy on held-out samples by epoch, by which the pruner compares."""
    can_not_win: str | None = None
    numbers: Mapping[str, float] = {}
    """The other objectives of the search, such as ``bytes``."""

    def number_of(self, objective: str) -> float | None:
        """Its number for an objective; None where it came to no end."""
        shares = {ROBUST: self.robust, CLEAN: self.clean}
        if objective in shares:
            share = shares[objective]
            return None if share is None else share.value
        return self.numbers.get(objective)

    @property
    def can_win(self) -> bool:
        """Whether it came to its end, can be trusted, and keeps the floor of clean accuracy."""
        return self.state == "done" and not self.can_not_win

    @property
    def number(self) -> int | None:
        """Of the trial, in the order in which they began, from 0; None of the recipe as it is."""
        digits = self.name.rpartition("-")[2]
        return int(digits) if digits.isdigit() else None


class Fresh(_Part):
    """The winner on samples that the search never saw, by the suite that judges."""

    verdict: str
    robust: Interval
    clean: Interval
    suite: str
    card: str
    """The scorecard's file, from the folder of the search."""


class Fall(_Part):
    """How far the winner's robust accuracy fell from validation to fresh samples, under the search's own attack."""

    validation: Interval
    fresh: Interval
    by: float
    """Validation less fresh, in [-1, 1]."""
    low: float
    """Ends of its 95 % interval."""
    high: float


class AgainstRecipe(_Part):
    """The winner beside the recipe as it is, on the same fresh samples."""

    word: str
    """``gained``, ``not shown`` or ``lost``."""
    why: str
    p_robust: float


class ProxyResult(_Part):
    """How well the cheap runs told the order of the full ones."""

    told: str
    """What was cheaper, in words."""
    pairs: tuple[tuple[str, float, float], ...]
    """Each finalist: its settings' trial, its robust accuracy by the proxy, and in full."""
    correlation: float | None
    """Spearman's; None where there are too few pairs, or all are alike."""
    low: float | None
    """Ends of its 95 % interval."""
    high: float | None
    passes: float
    """What the trials by the proxy took to train."""
    passes_in_full: float | None
    """What as many would have taken in full, at the finalists' mean; None without a finalist."""


class Beforehand(_Part):
    """What a sampler did once, before the first trial."""

    told: str
    passes: float
    """Of training."""
    seconds: float


class Entrant(_Part):
    """A model on the board of ``rblite auto``: all of them are judged by one suite, which sees no gradient."""

    name: str
    own: bool
    """Whether the search made it: its winner, or the recipe as it is."""
    clean: Interval | None = None
    """None where it couldn't be judged, as of ``robust``."""
    robust: Interval | None = None
    suite: str = ""
    verdict: str = ""
    seconds: float | None = None
    """To make it, where another library does, and to judge it."""
    card: str = ""
    """The scorecard's file, from the folder of the search."""
    fault: str | None = None
    """Why it couldn't be judged."""


class SearchResult(_Part):
    """A search from its first trial to the judgement of its winner."""

    schema_version: Literal[1] = 1
    created: str
    """When it ended, as ISO 8601."""
    version: str
    """Of this package."""
    model: str
    data: str
    threat: str
    recipe: str
    sampler: str
    pruner: str
    min_clean: float
    """Floor of clean accuracy."""
    objectives: tuple[Aim, ...] = (Aim(name=ROBUST),)
    seconds: float
    """Of the last command, to its end."""
    tried: int
    """Trials beside the recipe as it is."""
    winner: str | None
    """None where no trial can win."""
    found_better: bool = False
    """Whether its robust accuracy is shown to be above the recipe's own."""
    fresh: Fresh | None = None
    against_recipe: AgainstRecipe | None = None
    """None where the recipe as it is wins, or failed."""
    fall: Fall | None = None
    passed_over: tuple[str, ...] = ()
    """Trials with a better validation number whose judgement can't be trusted."""
    trials: tuple[Trial, ...]
    """The best first; those that can't win stand behind."""
    finals: tuple[Trial, ...] = ()
    """With a proxy: the best trials, run in full."""
    proxy: ProxyResult | None = None
    beforehand: Beforehand | None = None
    """What the sampler did before the first trial."""
    board: tuple[Entrant, ...] = ()
    """Of ``rblite auto``: the winner, the recipe as it is and their rivals, the best first."""
    importance: Mapping[str, Mapping[str, float]] = Field(default_factory=dict)
    """By evaluator of Optuna's, the share of each setting in how robust accuracy varies; empty for too few trials."""

    @property
    def ways(self) -> tuple[str, ...]:
        """The settings that were searched."""
        return tuple(dict.fromkeys(key for one in self.trials for key in one.settings))

    @property
    def in_order(self) -> tuple[Trial, ...]:
        """The trials as they began, without the recipe as it is."""
        return tuple(sorted((one for one in self.trials if one.number is not None), key=lambda one: one.number or 0))

    @property
    def plain(self) -> Trial | None:
        """The recipe as it is; None where it came to no end."""
        found = (one for one in (*self.finals, *self.trials) if one.name == RECIPE)
        return next((one for one in found if one.robust is not None), None)

    @property
    def sought(self) -> tuple[str, ...]:
        """The objectives of the front: those of the search, or clean and robust accuracy where it had one."""
        return tuple(one.name for one in self.objectives) if len(self.objectives) > 1 else (CLEAN, ROBUST)

    @property
    def front(self) -> tuple[Trial, ...]:
        """Those that can win, and that no other beats in all that was sought; by the first of them, the worst first."""
        return self.front_of(self.sought)

    def front_of(self, objectives: Sequence[str]) -> tuple[Trial, ...]:
        """Those that can win, and that no other beats in all of some objectives; by the first, the worst first."""
        lower = {one.name for one in self.objectives if one.better == "lower"}
        signs = [-1 if name in lower else 1 for name in objectives]
        told = [(one, [one.number_of(name) for name in objectives]) for one in self.judged_together]
        rows = [
            (one, [sign * number for sign, number in zip(signs, numbers, strict=True) if number is not None])
            for one, numbers in told
            if None not in numbers
        ]

        def beaten(own: list[float]) -> bool:
            return any(own != other and all(map(ge, other, own)) for _, other in rows)

        best = [(own[0], one) for one, own in rows if not beaten(own)]
        return tuple(one for _, one in sorted(best, key=lambda pair: pair[0]))

    @property
    def judged_together(self) -> tuple[Trial, ...]:
        """Those that could win: with a proxy the runs in full, else the trials."""
        return tuple(one for one in self.finals or self.trials if one.can_win)

    def save(self, path: Path) -> None:
        """Write it, in one step."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> SearchResult:
        """Read it from a file, or from the folder that holds it.

        Raises
        ------
        UserError
            With what is wrong with the file.
        """
        path = path / RESULT_FILE if path.is_dir() else path
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise UserError(f"{path}: not a valid search\n{faults(error)}") from None
        except (OSError, ValueError) as fault:
            raise UserError(f"{path}: can't be read ({fault}); give the folder of 'rblite tune'") from None
