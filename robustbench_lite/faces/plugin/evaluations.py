"""Each evaluation of a session is run once: its items share the scorecard, and so do the workers of xdist."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.faces.plugin.discovery import EVALUATIONS
from robustbench_lite.faces.plugin.options import Options
from robustbench_lite.faces.plugin.plan import Plan
from robustbench_lite.results import baseline
from robustbench_lite.results.allowed import allow_invalid as allowed
from robustbench_lite.results.gates import strictly
from robustbench_lite.results.scorecard import Scorecard, verdict_of

if TYPE_CHECKING:
    from robustbench_lite.core.cost import Progress
    from robustbench_lite.core.suite import Suite

"""Code of the finding that says why an INVALID evaluation was let through."""


_SETTLED = ("min_clean_accuracy", "min_robust_accuracy", "max_drop")
"""Gates that may be settled before all the samples are seen."""


class EvaluationError(UserError):
    """There is no scorecard: the evaluation failed in an item before this one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who asks for an evaluation, and where in the user's files it is written."""

    name: str
    """Of the evaluation: ``robustness.toml::resnet18``, or the name of the test that asked first."""
    key: str = ""
    """What other requests for the same have in common, over all workers; by default the name."""
    order: int
    """Position among the items of the session, by which results are shown."""
    path: str
    """File, from the root of the project."""
    line: int | None = None
    """Line in it, from 1; None where the whole file is meant."""


@dataclass(frozen=True)
class Evaluated:
    """What came of an evaluation."""

    card: Scorecard
    regression: str | None = None
    """What the comparison with the baseline came to, in words."""
    refused: str | None = None
    """Why it was not compared."""
    cached: bool = False
    """Whether the cache had the answer, so that no attack was run."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """An evaluation that was run, and who asked for it."""

    request: Request
    outcome: Evaluated

    @property
    def card(self) -> Scorecard:
        """Its scorecard."""
        return self.outcome.card


class Evaluations:
    """The evaluations of a session, or, where there is a folder, of all the workers that share it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._done: dict[str, Result | EvaluationError] = {}

    @classmethod
    def of(cls, config: pytest.Config) -> Evaluations:
        """Those of a session."""
        if EVALUATIONS not in config.stash:
            config.stash[EVALUATIONS] = cls(Options.of(config).shared)
        found: Evaluations = config.stash[EVALUATIONS]
        return found

    @property
    def results(self) -> list[Result]:
        """What was evaluated, by all the workers together, in the order of the items."""
        found = [one for one in self._done.values() if isinstance(one, Result)]
        if self._folder is not None:
            found = [_read(path) for path in self._folder.glob("*.request")]
        return _once(sorted(found, key=lambda result: result.request.order))

    def get(self, request: Request, run: Callable[[], Evaluated]) -> Evaluated:
        """What came of an evaluation: run here and now, unless it was before, here or in another worker.

        Raises
        ------
        EvaluationError
            Where it failed before; the first time its own exception comes through.
        KeyboardInterrupt
            Where the user interrupted it; the scorecard until then is kept.
        """
        key = request.key or request.name
        if key not in self._done:
            try:
                self._done[key] = self._shared(key, request, run)
            except Exception as fault:
                self._done[key] = _failed(request.name, fault)
                raise
        done = self._done[key]
        if isinstance(done, EvaluationError):
            raise done
        if done.card.interrupted == "interrupt":
            raise KeyboardInterrupt
        return done.outcome

    def _shared(self, key: str, request: Request, run: Callable[[], Evaluated]) -> Result | EvaluationError:
        if self._folder is None:
            return Result(request=request, outcome=run())
        from filelock import FileLock

        stem = self._folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        # A worker that is killed lets go of its lock, and the next one evaluates.
        with FileLock(stem.with_suffix(".lock")):
            if stem.with_suffix(".request").is_file():
                return _read(stem.with_suffix(".request"))
            if stem.with_suffix(".fault").is_file():
                return EvaluationError(stem.with_suffix(".fault").read_text(encoding="utf-8"))
            try:
                result = Result(request=request, outcome=run())
            except Exception as fault:
                write_atomically(stem.with_suffix(".fault"), str(_failed(request.name, fault)))
                raise
            result.card.save(stem.with_suffix(".json"))
            words = {key: getattr(result.outcome, key) for key in ("regression", "refused", "cached")}
            write_atomically(stem.with_suffix(".request"), json.dumps({"request": vars(request), "words": words}))
            return result


def evaluate(
    plan: Plan,
    name: str,
    model: Any,
    data: Any,
    suite: str | Path | list[str] | Suite,
    threats: Sequence[ThreatModel],
    gates: Mapping[str, float],
    allow_invalid: str | None,
    adapt: bool | None = None,
    **options: Any,
) -> Evaluated:
    """Evaluate, and compare with the baseline that bears the evaluation's name.

    The one place where the plugin does: what `robustbench_lite.evaluate` learns is passed on here. Where nobody says
    whether it is adaptive, the plan does.
    """
    from robustbench_lite.evaluating import pipeline as evaluation
    from robustbench_lite.evaluating.measures.take import MEASURE
    from robustbench_lite.faces.progress import announcing

    counted = {gate: value for gate, value in gates.items() if gate != "max_regression"}
    told: list[Progress] = []
    card = evaluation.evaluate(
        model,
        data,
        suite,
        list(threats) or None,
        gates={**counted, "strict": plan.strict},
        sequential=_may_end_early(plan, gates),
        adapt=plan.adapt if adapt is None else adapt,
        anyway=bool(allow_invalid),
        cache=plan.cache,
        corpus=plan.corpus,
        workers=plan.workers,
        keep_witnesses=plan.corpus is not None,  # an answer in the cache that kept none is none: the corpus lacks them
        on_progress=announcing(plan.tell, told.append),
        **options,
    )
    cached = all(event.name.startswith(MEASURE) for event in told)  # only measures are taken of an answer in the cache
    if card.verdict == "INVALID" and allow_invalid:
        card = allowed(card, allow_invalid)
    if plan.baseline is None:
        return Evaluated(card, cached=cached)
    try:
        before = baseline.load_like(plan.baselines / plan.baseline, slug(name), card)
        _keep_apart(card, before)
        found = baseline.check(card, before, gates["max_regression"])
    except UserError as fault:
        return Evaluated(card, refused=str(fault), cached=cached)
    gates_now = (*card.gates, strictly(found.gate) if plan.strict else found.gate)
    return Evaluated(
        card.model_copy(update={"gates": gates_now, "verdict": verdict_of(card.validity, gates_now)}),
        regression=str(found),
        cached=cached,
    )


def _keep_apart(card: Scorecard, before: Scorecard) -> None:
    """Refuse to compare an adapted evaluation with a plain one: between them lies more than a change of the model."""
    if (card.adaptation is None) == (before.adaptation is None):
        return
    adapted, plain = ("the baseline", "this one") if card.adaptation is None else ("this one", "the baseline")
    raise UserError(
        f"{card.target.name} can't be compared with its baseline: {adapted} was adapted, {plain} was not "
        "(--robustness-adapt was not given, or nothing called for it); run it as the baseline was run, or save a new "
        "baseline"
    )


def _may_end_early(plan: Plan, gates: Mapping[str, float]) -> bool:
    """Whether gates can be settled by a part of the samples; a baseline is of all of them."""
    paired = plan.baseline is not None or plan.options.save is not None or "max_regression" in gates
    return plan.sequential and not paired and any(gate in gates for gate in _SETTLED)


def slug(name: str) -> str:
    """Name of an evaluation as part of a file's."""
    text = re.sub(r"[^A-Za-z0-9_]+", "-", re.sub(r"\.(toml|py)(?=::|$)", "", name)).strip("-_") or "evaluation"
    if len(text) <= 100:
        return text
    return f"{text[:91]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _once(results: Sequence[Result]) -> list[Result]:
    """Leave out answers of the cache to marked tests that another marked test was given: one evaluation, told once.

    Fixtures may make the same model again, for another test or in another worker of xdist.
    """
    found: dict[object, Result] = {}
    for place, result in enumerate(results):
        key: object = place
        if result.request.line is not None:
            words = result.outcome.regression, result.outcome.refused
            key = (result.card.model_dump_json(exclude={"gallery", "outcomes"}), *words)
        first = found.setdefault(key, result)
        if first.outcome.cached and not result.outcome.cached:
            found[key] = replace(first, outcome=result.outcome)
    return list(found.values())


def _failed(name: str, fault: Exception) -> EvaluationError:
    first, *_ = str(fault).splitlines() or [""]
    kind = "" if isinstance(fault, UserError) else f"{type(fault).__name__}: "
    return EvaluationError(f"{name} was not evaluated: {kind}{first} (the first of its tests tells more)")


def _read(path: Path) -> Result:
    stored = json.loads(path.read_text(encoding="utf-8"))
    card = Scorecard.load(path.with_suffix(".json"))
    return Result(request=Request(**stored["request"]), outcome=Evaluated(card, **stored["words"]))
