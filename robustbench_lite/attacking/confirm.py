"""Success is decided here: which candidates are adversarial, and which of them are witnesses.

An attack's own claim counts for nothing. A candidate that the model misclassifies in the loop is asked about again, in
another batch and, where the model can be asked in float64, in float64. Norm and box are measured anew.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.attacking.interface import ModelOutput
from robustbench_lite.attacking.query import Query
from robustbench_lite.core.columns import Columns
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.losses import finite, reached, success
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.model.float64 import Ask, alike, doubtful
from robustbench_lite.results.scorecard import CHANGED, DENIALS, IN_FLOAT64, OUTSIDE

_log = logging.getLogger(__name__)


class Hits(NamedTuple):
    """Which candidates of a batch are adversarial; every tensor of shape (B,)."""

    hit: Tensor | None
    """None where the model in float32 calls none so."""
    doubted: Tensor | None
    """Which of them were asked about in float64; None where none was."""
    finite: Tensor
    """Whether all logits are finite numbers."""


class Confirmation(NamedTuple):
    """What was said to adversarial candidates when the model was asked again; every tensor of shape (B,)."""

    broken: Tensor
    """Whether it is a witness: in the box, in the ball and misclassified."""
    distance: Tensor
    """Its distance, inside the ball or not; inf if it isn't adversarial."""
    denial_reasons: Tensor
    """Why it was denied: the reason's place in `scorecard.DENIALS`; -1 where it was not."""
    prediction: Tensor
    """What the model says to the witness; -1 without one."""
    forward: Tensor
    """Passes spent."""

    @classmethod
    def of_none(cls, distance: Tensor) -> Confirmation:
        """Of samples that stand: nothing was asked, and nothing is a witness."""
        nothing = torch.zeros_like(distance, dtype=torch.int64)
        return cls(nothing > 0, distance, nothing - 1, nothing - 1, nothing)


class SuccessCheck:
    """Decides success for one attack run.

    Parameters
    ----------
    query
        Asks the model as the loop does.
    threat
        Goal, norm and radius.
    float64_model
        The model in float64; None where it can't be asked so.
    batch_size
        Most samples at once in float64.
    name
        What the log calls the run.
    columns
        Of a table: what may be done to them.
    """

    def __init__(
        self,
        query: Query,
        threat: ThreatModel,
        float64_model: Ask | None,
        batch_size: int,
        name: str,
        columns: Columns | None = None,
    ) -> None:
        self._query, self._threat, self._name, self._columns = query, threat, name, columns
        self._targeted = threat.goal == "targeted"
        self._distance = GEOMETRIES[threat.norm].distance
        # With a memory limit of its own: what float64 takes says nothing of what the attack takes.
        self._float64_query = (
            None if float64_model is None else Query(float64_model, "margin", False, BudgetTracker(), batch_size)
        )
        self.float64_held = True
        """False where the model, which could be asked in float64 at first, no longer could."""

    def hits(self, output: ModelOutput, target_class: Tensor, margin: Tensor) -> Hits:
        """Which candidates are adversarial, and which of them were asked about in float64 to know it.

        A candidate that is adversarial only through rounding doesn't end a search. Where float64 gives an answer that
        is another by more than rounding, the answer in float32 counts.
        """
        numbers = finite(output.logits)
        hit = reached(output.logits, target_class, self._targeted) & numbers
        if not bool(hit.any()):
            return Hits(None, None, numbers)
        doubted = None
        if self._float64_query is not None and bool((near := hit & doubtful(output.logits, margin)).any()):
            doubted = near
            logits, precise = output.logits[doubted], self._ask_again(output.x[doubted], target_class[doubted])
            hit[doubted] = self._success(precise, target_class[doubted]) | ~alike(logits, precise)
        return Hits(hit, doubted, numbers)

    def confirm(self, x: Tensor, origin: Tensor, target_class: Tensor, *, anywhere: bool) -> Confirmation:
        """Ask the model again about adversarial candidates.

        Parameters
        ----------
        x, origin
            The candidates and their originals, shape (B, *shape).
        target_class
            The class that the goal is about, shape (B,).
        anywhere
            Whether an example out of the ball is confirmed as well, for its distance.
        """
        distance = self._distance(x.double() - origin.double())
        inside = distance <= self._threat.reach
        allowed = ((x >= 0) & (x <= 1)).flatten(1).all(1) & (inside | anywhere)
        if self._columns is not None:
            allowed &= self._columns.kept(x, origin)
        logits = self._ask_again(x, target_class)
        forward = torch.ones_like(target_class)
        good = self._success(logits, target_class)
        why = torch.where(allowed, torch.where(good, -1, DENIALS.index(CHANGED)), DENIALS.index(OUTSIDE))
        good &= allowed
        if self._float64_query is not None and bool((allowed & ~good).any()):
            denied = (allowed & ~good).nonzero()[:, 0]
            again = self._query(x[denied], target_class[denied], gradient=False).logits
            forward[denied] += 1
            stays = self._success(again, target_class[denied])
            # If the answers differ by more than rounding, float64 computes another function: float32 counts.
            other = stays & ~alike(again, logits[denied])
            logits[denied[other]] = again[other].to(logits.dtype)
            good[denied[other]] = True
            why[denied[stays]] = DENIALS.index(IN_FLOAT64)
            why[denied[other]] = -1
        broken = good & inside
        return Confirmation(
            broken=broken,
            distance=torch.where(good, distance, torch.inf),
            denial_reasons=why,
            prediction=torch.where(broken, logits.argmax(1), -1),
            forward=forward,
        )

    def _success(self, logits: Tensor, target_class: Tensor) -> Tensor:
        return success(logits, target_class, self._targeted)

    def _ask_again(self, x: Tensor, target_class: Tensor) -> Tensor:
        """Logits in float64, half as many samples at once, which take the same memory; or as the loop asks."""
        if self._float64_query is not None:
            half = max(1, len(x) // 2)
            try:
                parts = zip(torch.split(x, half), torch.split(target_class, half), strict=True)
                return torch.cat([self._float64_query(part, of, gradient=False).logits for part, of in parts])
            except Exception:  # it went well on the first samples; a check costs no result
                _log.info("%s: can't be asked in float64 any more", self._name, exc_info=True)
                self._float64_query, self.float64_held = None, False
        return self._query(x, target_class, gradient=False).logits
