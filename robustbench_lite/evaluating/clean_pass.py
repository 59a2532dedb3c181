"""Before the fight: the clean predictions and the checks, taken up where a run was killed after them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.engine import Query
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import NPZ_FAULTS, atomic_file
from robustbench_lite.data.dataset import Data, check_inputs, check_labels
from robustbench_lite.evaluating.plan import Plan
from robustbench_lite.evaluating.preflight import Preflight, preflight

_CLEAN_FILE, _CHECKS_FILE = "clean.npz", "checks.npz"


class Clean(NamedTuple):
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

    def take(self, rows: NDArray[np.int64]) -> Clean:
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
        """Always: one that was stopped has raised."""
        return True

    def save(self, path: Path) -> None:
        """Write down what was found, but for the labels."""
        with atomic_file(path) as stream:
            np.savez(
                stream,
                prediction=self.prediction,
                keys=self.sample_keys,
                least_likely=self.least_likely.numpy(),
                forward=self.forward,
                counts=np.array([self.classes, self.asked, self.changed]),
            )

    @classmethod
    def load(cls, path: Path, labels: NDArray[np.int64]) -> Clean:
        """Read what `save` wrote; nothing in the file is executed."""
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
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


def clean_pass(plan: Plan) -> Clean:
    """Ask for the clean predictions, check inputs, labels and logits, and give each sample its key."""
    return _remembered(plan, _CLEAN_FILE, _clean_pass, lambda path: Clean.load(path, plan.data.labels.numpy()))


def checks(plan: Plan, clean: Clean) -> Preflight:
    """Check the target before the first attack."""
    return _remembered(plan, _CHECKS_FILE, lambda plan: _checks(plan, clean), Preflight.load)


class _Kept(Protocol):
    """What is kept between runs, and its passes."""

    @property
    def forward(self) -> NDArray[np.int64]: ...

    @property
    def backward(self) -> NDArray[np.int64]: ...

    @property
    def finished(self) -> bool: ...

    def save(self, path: Path) -> None: ...


_Found = TypeVar("_Found", bound=_Kept)


def _remembered(plan: Plan, name: str, find: Callable[[Plan], _Found], load: Callable[[Path], _Found]) -> _Found:
    """Take up what a run that was killed had found, or find it and keep it."""
    if plan.slot is None:
        return find(plan)
    path = plan.slot.folder / name
    try:
        found = load(path)
    except NPZ_FAULTS:
        found = find(plan)
        if found.finished:
            found.save(path)
        return found
    plan.budget.spend(int(found.forward.sum()), int(found.backward.sum()))
    return found


def _clean_pass(plan: Plan) -> Clean:
    target, data = plan.target, plan.data
    first = data.fetch(torch.arange(min(2, len(data))))
    check_inputs(first, data.name)
    classes = target.probe(first)
    check_labels(data.labels, classes)
    query = Query(target, "margin", False, plan.budget, plan.size)
    prediction, least = [], []
    keys: list[int] = []
    again = torch.empty(0, dtype=torch.int64)
    with target.attacking():
        for rows, x in _batches(data, plan.size):
            labels = data.labels[rows].to(target.device)
            logits = query(x.to(target.device), labels, gradient=False).logits.cpu()
            if not logits.isfinite().all():
                bad = rows[~logits.isfinite().all(1)].tolist()
                raise UserError(
                    f"the model's logits are NaN or infinite for {len(bad)} clean samples (the first is number "
                    f"{bad[0]}): expected finite logits; check its weights and its normalisation"
                )
            plan.budget.spend(len(rows), 0)
            prediction.append(logits.argmax(1))
            least.append(logits.scatter(1, data.labels[rows][:, None], torch.inf).argmin(1))
            keys += _key_list(x, data.labels[rows])
            if not len(again):
                # The same samples once more, in two parts: the answers must depend neither on the call nor the batch.
                parts = zip(x.to(target.device).chunk(2), labels.chunk(2), strict=True)
                again = torch.cat([query(part, of, gradient=False).logits.argmax(1).cpu() for part, of in parts])
                plan.budget.spend(len(rows), 0)
    predicted = torch.cat(prediction)
    forward = np.ones(len(data), np.int64)
    forward[: len(first)] += 1 + plan.asked_before  # the probe
    forward[: len(again)] += 1
    plan.budget.spend(len(first) * (1 + plan.asked_before), 0)
    return Clean(
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


def _checks(plan: Plan, clean: Clean) -> Preflight:
    return preflight(
        plan.target,
        plan.data,
        seed=plan.seed,
        prediction=clean.prediction,
        # Where nothing is right there is nothing to attack.
        gradients=bool(clean.correct.any()) and any(attack.access == "gradients" for _, _, attack in plan.attacks),
        batch_size=plan.size,
        budget=plan.budget,
    )


def _batches(data: Data, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions and checked inputs, a batch at a time."""
    for at in range(0, len(data), size):
        rows = torch.arange(at, min(at + size, len(data)))
        x = data.fetch(rows)
        check_inputs(x, data.name)
        yield rows, x


def keys_of(data: Data, size: int) -> NDArray[np.int64]:
    """The key of each sample, shape (N,)."""
    return np.array([key for rows, x in _batches(data, size) for key in _key_list(x, data.labels[rows])], np.int64)


def _key_list(x: Tensor, labels: Tensor) -> list[int]:
    """Hash each input with its label."""
    digests = (
        hashlib.blake2b(sample.tobytes() + label.to_bytes(8, "little"), digest_size=8).digest()
        for sample, label in zip(x.numpy(), labels.tolist(), strict=True)
    )
    return [int.from_bytes(digest, "little", signed=True) for digest in digests]
