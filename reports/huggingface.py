"""Scorecards as Hugging Face evaluation results: a model card's ``model-index``, or a benchmark's ``.eval_results``.

https://huggingface.co/docs/hub/eval-results, https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.scorecard import Interval, Scorecard

from . import _evidence as evidence
from . import _yaml
from ._format import plain
from ._view import labels

_BENCHMARK = re.compile(r"([\w.-]+/[\w.-]+):([\w.-]+)", re.ASCII)


def render(
    cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = (), benchmark: str | None = None
) -> str:
    """Write scorecards as evaluation results in YAML.

    Parameters
    ----------
    cards
        One or more scorecards.
    title
        Name of the model; by default that of the first card.
    story
        Not shown: the form has no place for it.
    benchmark
        Where a data set on the hub is registered as a benchmark, ``ORG/NAME:TASK``: then the form is that of
        ``.eval_results/NAME.yaml``, one value a card, the robust accuracy in percent. Without, it is the
        ``model-index`` of a model card, for the metadata at the top of its ``README.md``.

    Returns
    -------
    str
        YAML, the front matter's lines around a ``model-index``.

    Raises
    ------
    ValueError
        For a card whose numbers can't be trusted, as the hub would show them all the same, and for a benchmark of
        another form.
    """
    for card in cards:
        if card.verdict == "INVALID":
            raise UserError(
                f"{plain(card.target.name)}: its verdict is INVALID, and the hub would show its numbers all the same; "
                "cure what the findings tell first"
            )
    if benchmark is not None:
        return _yaml.dump([_entry(card, benchmark) for card in cards])
    index = {"name": plain(title or "").strip() or labels(cards)[0], "results": [_result(card) for card in cards]}
    return f"---\n# {evidence.NOTICE}\n{_yaml.dump({'model-index': [index]})}---\n"


def _entry(card: Scorecard, benchmark: str) -> dict[str, Any]:
    parts = _BENCHMARK.fullmatch(benchmark)
    if parts is None:
        raise UserError(f"benchmark {benchmark!r}: expected ORG/NAME:TASK, such as my-org/robust-digits:linf_8_255")
    return {
        "dataset": {"id": parts[1], "task_id": parts[2]},
        "value": round(100 * card.robust_accuracy.value, 4),
        "date": plain(card.created),
        "notes": f"robust accuracy in percent, {_about(card)}; clean {_ends(card.clean_accuracy)}; {evidence.NOTICE}",
    }


def _result(card: Scorecard) -> dict[str, Any]:
    name = plain(card.data.name)
    return {
        "task": {
            "type": "image-classification" if len(card.data.shape) == 3 else "other",
            "name": f"Adversarial robustness, verdict {card.verdict}",
        },
        "dataset": {
            "type": name.partition(":")[2] or name,
            "name": f"{name} ({len(card.outcomes)} samples)",
            "args": {"samples_sha256": plain(card.data.sha256)},
        },
        "metrics": list(_metrics(card)),
    }


def _metrics(card: Scorecard) -> Iterator[dict[str, Any]]:
    for share in evidence.shares(card):
        if share.slice.startswith("class "):
            continue  # a hundred lines of it would hide the rest of a model card
        args = {
            "low": share.accuracy.low,
            "high": share.accuracy.high,
            "confidence": share.accuracy.confidence,
            "samples": share.accuracy.total,
            "suite": plain(card.suite.name),
            "verdict": card.verdict,
        }
        kind = "accuracy" if share.name == "clean accuracy" else "robust_accuracy"
        under = f" under {share.slice}" if share.slice else ""
        yield {"type": kind, "value": share.accuracy.value, "name": f"{share.name}{under}", "args": args}


def _about(card: Scorecard) -> str:
    threats = ", ".join(plain(str(one.threat)) for one in card.threats)
    bound = "at most " if card.interrupted else ""
    return f"{bound}{_ends(card.robust_accuracy)} under {threats}, suite {plain(card.suite.name)}"


def _ends(one: Interval) -> str:
    return f"{one} of {one.total} samples"
