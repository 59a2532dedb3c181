"""Before the attacks: the clean predictions, and the checks of the target.

Both are kept in the cache, so that a run that was killed after them does not make them again.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.query import Query
from robustbench_lite.core.cost import Passes, Stop
from robustbench_lite.core.errors import ModelError, UserError
from robustbench_lite.core.files import NPZ_FAULTS
from robustbench_lite.data.dataset import check_inputs, check_labels
from robustbench_lite.data.keys import batches, key_list
from robustbench_lite.evaluating import validity
from robustbench_lite.evaluating.plan import Plan
from robustbench_lite.evaluating.preflight import Preflight, preflight
from robustbench_lite.evaluating.preflight.check import CountedModel, float64_model
from robustbench_lite.model.float64 import Ask
from robustbench_lite.model.target import Target
from robustbench_lite.model.wrapping import wrapped
from robustbench_lite.results.scorecard import Finding, TargetInfo

_log = logging.getLogger(__name__)
_TRIED = 4  # samples on which the target in float64 is compared with itself

_CLEAN, _CHECKS = "clean", "checks"


class CleanPass(NamedTuple):
    """What the clean pass found, one a sample; with the passes of the checks after it."""

    prediction: NDArray[np.int64]
    sample_keys: NDArray[np.int64]
    least_likely: Tensor
    labels: NDArray[np.int64]
    classes: int
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]
    asked: int
    """Samples that were asked about a second time."""
    changed: int
    """Samples of these whose prediction was another one then."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is right."""
        right: NDArray[np.bool_] = self.prediction == self.labels
        return right

    def take(self, rows: NDArray[np.int64]) -> CleanPass:
        """The same of some samples."""
        return self._replace(
            prediction=self.prediction[rows],
            sample_keys=self.sample_keys[rows],
            least_likely=self.least_likely[torch.from_numpy(rows)],
            labels=self.labels[rows],
            forward=self.forward[rows],
            backward=self.backward[rows],
        )

    @property
    def finished(self) -> bool:
        """True: a clean pass that is stopped raises."""
        return True

    def save(self, stream: IO[bytes]) -> None:
        """Write down what was found, but for the labels."""
        np.savez(
            stream,
            prediction=self.prediction,
            keys=self.sample_keys,
            least_likely=self.least_likely.numpy(),
            forward=self.forward,
            counts=np.array([self.classes, self.asked, self.changed]),
        )

    @classmethod
    def load(cls, stream: IO[bytes], labels: NDArray[np.int64]) -> CleanPass:
        """Read what `save` wrote; nothing in the file is executed."""
        with np.load(stream, allow_pickle=False) as stored:
            classes, asked, changed = stored["counts"].tolist()
            return cls(
                prediction=stored["prediction"],
                sample_keys=stored["keys"],
                least_likely=torch.from_numpy(stored["least_likely"]),
                labels=labels,
                classes=classes,
                forward=stored["forward"],
                backward=np.zeros_like(stored["forward"]),
                asked=asked,
                changed=changed,
            )


def clean_pass(plan: Plan) -> CleanPass:
    """Ask for the clean predictions, check inputs, labels and logits, and give each sample its key."""
    return _kept_or_found(plan, _CLEAN, _clean_pass, lambda stream: CleanPass.load(stream, plan.data.labels.numpy()))


class Checked(NamedTuple):
    """What is known of the target before the first attack."""

    target: TargetInfo
    """The target as it was before the first pass."""
    clean: CleanPass
    """The clean predictions; their passes are those of the checks, too."""
    findings: tuple[Finding, ...]
    passes: Passes
    """Of the checks."""
    model: CountedModel
    """Asks the target for whatever is no attack, and counts the passes."""
    float64_model: Ask | None
    """The target in float64, which confirms witnesses; None where it can't be asked there."""

    @property
    def trusted(self) -> bool:
        """Whether nothing was found yet that makes the evaluation INVALID."""
        return not any(finding.severity == "error" for finding in self.findings)


def check_target(plan: Plan) -> Checked:
    """Make the clean pass and the checks."""
    plan.budget.batch_limit = min(plan.budget.batch_limit, plan.batch_size)
    before = plan.target.info()
    clean = clean_pass(plan)
    checks = _kept_or_found(plan, _CHECKS, lambda plan: _checks(plan, clean), Preflight.load)
    clean = clean._replace(forward=clean.forward + checks.forward, backward=clean.backward + checks.backward)
    model = CountedModel(plan.target, plan.data, plan.seed, plan.budget, gradients=True, thorough=False)
    around = [one.wrapper for one in wrapped(plan.target)]
    silent = int((clean.prediction == clean.classes - 1).sum()) if any(one.abstains for one in around) else None
    findings = (
        *checks.findings,
        *validity.unstable(clean.changed, clean.asked),
        *validity.nan_weights(plan.target.nan_weights()),
        *validity.around([one.note() for one in around], silent, len(clean.prediction)),
    )
    return Checked(before, clean, findings, checks.passes, model, _float64_model(model, clean))


def _float64_model(model: CountedModel, clean: CleanPass) -> Ask | None:
    """Return what asks the target in float64; None where it can't be asked there, or is another model there."""
    right = clean.correct.nonzero()[0]
    if model.function or not len(right):
        return None
    rows = right[np.argsort(clean.sample_keys[right], kind="stable")][:_TRIED]
    try:
        with model.target.attacking():
            return float64_model(model, torch.from_numpy(rows))
    except Stop:
        pass  # the first attack finds the budget spent, too, and says so
    except KeyboardInterrupt:
        model.budget.interrupted = True
    except Exception:  # the attacks will trip over it, and tell
        _log.info("%s failed when it was asked in float64", model.target.name, exc_info=True)
    return None


class _Kept(Protocol):
    """What is kept between runs, and its passes."""

    @property
    def forward(self) -> NDArray[np.int64]: ...

    @property
    def backward(self) -> NDArray[np.int64]: ...

    @property
    def finished(self) -> bool: ...

    def save(self, stream: IO[bytes]) -> None: ...


_Found = TypeVar("_Found", bound=_Kept)


def _kept_or_found(
    plan: Plan, name: str, find: Callable[[Plan], _Found], load: Callable[[IO[bytes]], _Found]
) -> _Found:
    """Read what a run that was killed had found, or find it and keep it."""
    kept = plan.slot.read(name)
    if kept is not None:
        try:
            found = load(io.BytesIO(kept))
        except NPZ_FAULTS:
            pass
        else:
            plan.budget.spend(int(found.forward.sum()), int(found.backward.sum()))
            return found
    found = find(plan)
    if found.finished:
        stream = io.BytesIO()
        found.save(stream)
        plan.slot.write(name, stream.getvalue())
    return found


def _clean_pass(plan: Plan) -> CleanPass:
    target, data = plan.target, plan.data
    first = data.fetch(torch.arange(min(2, len(data))))
    check_inputs(first, data.name)
    classes = target.probe(first)
    check_labels(data.labels, classes)
    query = Query(target, "margin", False, plan.budget, plan.batch_size)
    prediction, least = [], []
    keys: list[int] = []
    again = torch.empty(0, dtype=torch.int64)
    done = 0
    with target.attacking():
        for rows, x in batches(data, plan.batch_size):
            plan.budget.work("clean predictions", done, len(data))
            labels = data.labels[rows].to(target.device)
            start = time.perf_counter()
            with _told(target, rows):
                logits = query(x.to(target.device), labels, gradient=False).logits.cpu()
            plan.budget.speed.measured(len(rows), 0, time.perf_counter() - start)
            if not logits.isfinite().all():
                bad = rows[~logits.isfinite().all(1)].tolist()
                raise UserError(
                    f"the model's logits are NaN or infinite for {len(bad)} clean samples (the first is number "
                    f"{bad[0]}): expected finite logits; check its weights and its normalisation"
                )
            plan.budget.spend(len(rows), 0)
            done += len(rows)
            prediction.append(logits.argmax(1))
            least.append(logits.scatter(1, data.labels[rows][:, None], torch.inf).argmin(1))
            keys += key_list(x, data.labels[rows])
            if not len(again):
                # The same samples once more, in two parts: the answers must depend neither on the call nor the batch.
                parts = zip(x.to(target.device).chunk(2), labels.chunk(2), strict=True)
                again = torch.cat([query(part, of, gradient=False).logits.argmax(1).cpu() for part, of in parts])
                plan.budget.spend(len(rows), 0)
    plan.budget.work("clean predictions", done, len(data))
    predicted = torch.cat(prediction)
    forward = np.ones(len(data), np.int64)
    forward[: len(first)] += 1 + plan.probe_passes  # the probe
    forward[: len(again)] += 1
    plan.budget.spend(len(first) * (1 + plan.probe_passes), 0)
    return CleanPass(
        prediction=predicted.numpy(),
        sample_keys=np.array(keys, np.int64),
        least_likely=torch.cat(least),
        labels=data.labels.numpy(),
        classes=classes,
        forward=forward,
        backward=np.zeros_like(forward),
        asked=len(again),
        changed=int((again != predicted[: len(again)]).sum()),
    )


@contextmanager
def _told(target: Target, rows: Tensor) -> Iterator[None]:
    """Tell what the model raises inside, with the samples that it was asked about."""
    try:
        yield
    except ModelError as fault:
        first, last = int(rows[0]), int(rows[-1])
        samples = f"samples {first} to {last}" if last > first else f"sample {first}"
        raise UserError(
            f"{target.name}: on {samples} {fault}\nmake the forward pass work for every batch of such samples"
        ) from fault


def _checks(plan: Plan, clean: CleanPass) -> Preflight:
    return preflight(
        plan.target,
        plan.data,
        seed=plan.seed,
        prediction=clean.prediction,
        # Where nothing is right there is nothing to attack.
        gradients=bool(clean.correct.any()) and any(attack.access == "gradients" for _, _, attack in plan.attacks),
        batch_size=plan.batch_size,
        budget=plan.budget,
    )
