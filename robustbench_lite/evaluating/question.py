"""The question that the cache knows an evaluation by: what its answer depends on, and nothing else."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import robustbench_lite
from robustbench_lite.data.keys import keys_of
from robustbench_lite.evaluating.cache import Slot, code_sha256, slot
from robustbench_lite.evaluating.plan import Plan

_log = logging.getLogger(__name__)


@contextmanager
def open_slot(plan: Plan) -> Iterator[Slot]:
    """Open the place in the cache of what is asked; one that keeps nothing where there is no cache."""
    question = None if plan.cache is None else _question(plan)
    if question is not None and not question["weights"]:
        _log.warning("%s: what it holds can't be read, so nothing is answered from the cache", plan.target.name)
        question = None
    if plan.cache is None or question is None:
        yield Slot(None)
        return
    with slot(plan.cache, question) as opened:
        yield opened


def _question(plan: Plan) -> dict[str, Any]:
    """What the answer depends on: not the batch size, the gates or the budget."""
    return {
        "version": robustbench_lite.__version__,
        "torch": torch.__version__,
        "target": plan.target.name,
        "device": plan.target.device.type,
        "weights": plan.target.weights_sha256(),
        "access": plan.target.access,
        "code": code_sha256(plan.target.module),
        "preprocessing": code_sha256((plan.target.preprocessing,)),
        "earlier": sum(map(len, plan.earlier.values())),  # the other entries determine which ones
        "suspect": plan.suspect,
        "data": plan.data.name,
        **({} if plan.data.columns is None else {"columns": plan.data.columns.digest}),
        "samples": hashlib.sha256(keys_of(plan.data, plan.batch_size).tobytes()).hexdigest(),
        "limit": plan.limit,
        "suite": plan.suite.model_dump(mode="json", exclude={"budget"}),
        "attacks": [code_sha256(planned.attack) for planned in plan.attacks],
        "seed": plan.seed,
        "keep_witnesses": plan.keep_witnesses,
        "until": repr(plan.gates) if plan.sequential else "",
    }
