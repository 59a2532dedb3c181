"""Before the first attack: whether the model is what the data and the attacks take it for.

A few passes over a small sample of the data. What makes a robust accuracy meaningless is an ``error``; what weakens an
attack, or costs accuracy, a ``warning``. ``docs/findings.md`` lists the codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.core.cost import BudgetTracker, Passes, Stop
from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data, check_inputs, check_labels
from robustbench_lite.evaluating.preflight.calls import behaviour, digests, modes
from robustbench_lite.evaluating.preflight.check import Check, CountedModel, check, drawn, found, words
from robustbench_lite.evaluating.preflight.cost import cost
from robustbench_lite.evaluating.preflight.fit import fit
from robustbench_lite.evaluating.preflight.gradients import gradients as gradient_checks
from robustbench_lite.evaluating.preflight.outputs import not_finite, outputs
from robustbench_lite.evaluating.validity import without_echo
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Finding, Severity

SAMPLES = 64
"""Samples that an evaluation's checks look at; `rblite doctor` looks at `THOROUGH`."""
THOROUGH = 256
_WORK = "checks of the model"
_INPUT_SAMPLES = 128  # of an evaluation, for another normalisation; tried only where the accuracy leaves room for one


@dataclass(frozen=True)
class Preflight:
    """What the checks found."""

    checks: tuple[Check, ...]
    samples: int
    """Samples looked at."""
    forward: NDArray[np.int64]
    """Forward passes by position in the data."""
    backward: NDArray[np.int64]
    finished: bool = True
    """False where a budget or Ctrl-C ended them."""

    def save(self, stream: IO[bytes]) -> None:
        """Write down the findings and the passes; not what else was seen."""
        findings = np.array([finding.model_dump_json() for finding in self.findings], np.str_)
        np.savez(stream, findings=findings, samples=self.samples, forward=self.forward, backward=self.backward)

    @classmethod
    def load(cls, stream: IO[bytes]) -> Preflight:
        """Read what `save` wrote; nothing in the file is executed."""
        with np.load(stream, allow_pickle=False) as stored:
            findings = tuple(Finding.model_validate_json(one) for one in stored["findings"].tolist())
            check = Check("checked before the run was killed", findings=findings)
            return cls((check,), int(stored["samples"]), stored["forward"], stored["backward"])

    @property
    def passes(self) -> Passes:
        """All samples' passes together."""
        return Passes(forward=int(self.forward.sum()), backward=int(self.backward.sum()))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in the order of the checks."""
        return tuple(finding for one in self.checks for finding in one.findings)


def preflight(
    target: Target,
    data: Data,
    *,
    seed: int = 0,
    samples: int = SAMPLES,
    prediction: NDArray[np.int64] | None = None,
    gradients: bool = True,
    thorough: bool = False,
    batch_size: int = 128,
    budget: BudgetTracker | None = None,
) -> Preflight:
    """Check a model on a sample of the data.

    Parameters
    ----------
    target, data
        The model, and inputs in [0, 1] with labels; anything that `evaluate` takes, as a `Target` and a `Data`.
    seed
        Of the sample and of the random directions.
    samples
        Size of the class-stratified sample.
    prediction
        Clean predictions of all the data where they are known, (N,): more evidence, at no cost.
    gradients
        Whether gradients are to be followed: what is wrong with them is told only then.
    thorough
        Whether to tell as well what is no fault (time, memory, precision), and to look closer.
    batch_size
        Most samples at once; halved by itself where memory runs out.
    budget
        Counts and limits the passes. A spent budget or Ctrl-C ends the checks, and the attacks after them.

    Returns
    -------
    Preflight
        Checks with their findings, and the passes of each sample.

    Raises
    ------
    UserError
        For a model whose output is no row of logits a sample, and for inputs and labels that don't fit.
    """
    budget = budget or BudgetTracker()
    budget.batch_limit = min(budget.batch_limit, batch_size)
    model = CountedModel(target, data, seed, budget, gradients, thorough)
    rows = drawn(data, samples, seed)
    checks: list[Check] = []
    finished = False
    try:
        with target.attacking():
            budget.work(_WORK, 0, 0)
            for one in _checks(model, rows, prediction):
                checks.append(one)  # one by one: what was found stays found where the next can't be asked
                budget.work(_WORK, len(checks), 0)
        finished = True
    except Stop:
        pass  # the first attack finds the budget spent, too, and says so
    except KeyboardInterrupt:
        budget.interrupted = True
    except Exception as fault:
        # The clean pass has been through the same samples: what fails now is no wrong input.
        if thorough and isinstance(fault, UserError):
            raise
        checks.append(check("the model can be asked", "", _failed(fault, "error" if thorough else "warning")))
    told = without_echo([finding for one in checks for finding in one.findings])
    return Preflight(tuple(_kept(one, told) for one in checks), len(rows), model.forward, model.backward, finished)


def _kept(one: Check, told: tuple[Finding, ...]) -> Check:
    """A check without the findings that another one explains; without any left it is no good answer."""
    left = tuple(finding for finding in one.findings if finding in told)
    if one.findings and not left:
        return Check(one.name, "not told: what is seen there follows from another finding", asked=False)
    return replace(one, findings=left)


def _failed(fault: Exception, severity: Severity) -> Finding:
    return found(
        "RB105",
        severity,
        f"the model failed while it was checked: {words(fault)}",
        "make the forward pass work for every batch of such samples, each time",
    )


def _read(notes: tuple[str, ...]) -> Finding | None:
    if not notes:
        return None
    return found(
        "RB142",
        "info",
        f"how the data were read: {'; '.join(notes)}",
        "nothing to do where this is what is meant",
    )


def _checks(model: CountedModel, rows: Tensor, prediction: NDArray[np.int64] | None) -> Iterator[Check]:
    x = model.inputs(rows)
    check_inputs(x.cpu(), model.data.name)
    yield check("the data are read as they are", model.data.name, _read(model.data.notes))
    before = {} if model.function else digests(model.target.module)
    with modes(model.target.module) as training:
        logits = model.logits(rows, x)
    finite = logits.isfinite().all(1)
    yield check("logits are finite", f"{len(rows)} samples", not_finite(finite))
    if not finite.all():
        return
    check_labels(model.data.labels, logits.shape[1])
    calls = list(behaviour(model, rows, x, logits, before, training))
    yield from calls
    yield from outputs(model, x, logits, rows)
    if any(finding.severity == "error" for one in calls for finding in one.findings):
        yield Check("labels, inputs and gradients", "not looked at: mend what is above first", asked=False)
        return
    if prediction is None:
        yield from fit(model, rows, logits.argmax(1).cpu(), rows)
    else:
        sample = drawn(model.data, _INPUT_SAMPLES, model.seed)
        everything = torch.arange(len(model.data))
        yield from fit(model, everything, torch.from_numpy(prediction), sample)
    if model.gradients:
        yield from gradient_checks(model, rows, x, logits, slopes=not any(one.findings for one in calls))
    elif model.function:
        yield Check("gradients", "none: it is a function of arrays", asked=False)
    if model.thorough:
        yield cost(model, rows, x)
