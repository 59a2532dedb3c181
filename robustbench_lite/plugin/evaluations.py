"""Each evaluation of a session is run once: its items share the scorecard, and so do the workers of xdist."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustbench_lite.errors import UserError
from robustbench_lite.files import write_atomically
from robustbench_lite.plugin.plan import NamedTarget, Plan
from robustbench_lite.scorecard import Finding, Scorecard
from robustbench_lite.threat import ThreatModel

if TYPE_CHECKING:
    from robustbench_lite.suite import Suite

KEY = pytest.StashKey["Evaluations"]()
ALLOWED = "RB901"
"""Code of the finding that says why an INVALID evaluation was let through."""


class EvaluationFailed(UserError):
    """There is no scorecard: the evaluation failed in an item before this one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who asks for an evaluation, and where in the user's files it is written."""

    name: str
    """Of the evaluation, unique within the session: ``robustness.toml::resnet18``, or the name of a test."""
    order: int
    """Position among the items of the session, by which results are shown."""
    path: str
    """File, from the root of the project."""
    line: int | None = None
    """Line in it, from 1; None where the whole file is meant."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """An evaluation that was run, and who asked for it."""

    request: Request
    card: Scorecard


class Evaluations:
    """The evaluations of a session, or, where there is a folder, of all the workers that share it."""

    def __init__(self, folder: Path | None, allow_invalid: str | None) -> None:
        self._folder = folder
        self._allow_invalid = allow_invalid
        self._done: dict[str, Result | EvaluationFailed] = {}

    @property
    def results(self) -> list[Result]:
        """What was evaluated, by all the workers together, in the order of the items."""
        found = [one for one in self._done.values() if isinstance(one, Result)]
        if self._folder is not None:
            found = [_read(path) for path in self._folder.glob("*.request")]
        return sorted(found, key=lambda result: result.request.order)

    def card(self, request: Request, run: Callable[[], Scorecard]) -> Scorecard:
        """Scorecard of an evaluation: run here and now, unless it was before, here or in another worker.

        Raises
        ------
        EvaluationFailed
            Where it failed before; the first time its own exception comes through.
        KeyboardInterrupt
            Where the user interrupted it; the scorecard until then is kept.
        """
        if request.name not in self._done:
            try:
                self._done[request.name] = self._shared(request, run)
            except Exception as fault:
                self._done[request.name] = _failed(request.name, fault)
                raise
        done = self._done[request.name]
        if isinstance(done, EvaluationFailed):
            raise done
        if done.card.interrupted == "interrupt":
            raise KeyboardInterrupt
        return done.card

    def _shared(self, request: Request, run: Callable[[], Scorecard]) -> Result | EvaluationFailed:
        if self._folder is None:
            return self._run(request, run)
        from filelock import FileLock

        stem = self._folder / hashlib.sha256(request.name.encode()).hexdigest()[:16]
        # A worker that is killed lets go of its lock, and the next one evaluates.
        with FileLock(stem.with_suffix(".lock")):
            if stem.with_suffix(".request").is_file():
                return _read(stem.with_suffix(".request"))
            if stem.with_suffix(".fault").is_file():
                return EvaluationFailed(stem.with_suffix(".fault").read_text(encoding="utf-8"))
            try:
                result = self._run(request, run)
            except Exception as fault:
                write_atomically(stem.with_suffix(".fault"), str(_failed(request.name, fault)))
                raise
            result.card.save(stem.with_suffix(".json"))
            write_atomically(stem.with_suffix(".request"), json.dumps(vars(request)))
            return result

    def _run(self, request: Request, run: Callable[[], Scorecard]) -> Result:
        card = run()
        if card.verdict == "INVALID" and self._allow_invalid:
            card = _allowed(card, self._allow_invalid)
        return Result(request=request, card=card)


def evaluate_named(
    plan: Plan,
    target: NamedTarget,
    suite: str | Path,
) -> Scorecard:
    """Load a target and the data of a session, and evaluate."""
    with contextlib.chdir(plan.root):
        data = plan.load_data()
        model = target.load(len(data.classes))
        gates = {**plan.gates, **target.entry.gates}
        return evaluate(model, data, suite, plan.threats, limit=plan.limit, seed=plan.seed, gates=gates)


def evaluate(
    model: Any,
    data: Any,
    suite: str | Path | list[str] | Suite,
    threats: Sequence[ThreatModel],
    *,
    gates: Mapping[str, float],
    **options: Any,
) -> Scorecard:
    """Evaluate: the one place where the plugin does, and where what `robustbench_lite.evaluate` learns is passed on."""
    from robustbench_lite import evaluation

    return evaluation.evaluate(model, data, suite, list(threats) or None, gates=gates, **options)


def allowed_because(card: Scorecard) -> str | None:
    """Why an INVALID evaluation was let through; None where it wasn't."""
    return next((finding.message for finding in card.validity if finding.code == ALLOWED), None)


def _allowed(card: Scorecard, reason: str) -> Scorecard:
    # On the card itself, so that every report and every file shows it.
    finding = Finding(
        code=ALLOWED,
        severity="info",
        message=f"this INVALID evaluation was let through: {reason}",
        cure="cure the findings above and drop --robustness-allow-invalid",
    )
    return card.model_copy(update={"validity": (*card.validity, finding)})


def _failed(name: str, fault: Exception) -> EvaluationFailed:
    first, *_ = str(fault).splitlines() or [""]
    kind = "" if isinstance(fault, UserError) else f"{type(fault).__name__}: "
    return EvaluationFailed(f"{name} was not evaluated: {kind}{first} (the first of its tests tells more)")


def _read(path: Path) -> Result:
    request = Request(**json.loads(path.read_text(encoding="utf-8")))
    return Result(request=request, card=Scorecard.load(path.with_suffix(".json")))
