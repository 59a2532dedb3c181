"""How a scorecard is made again: as a command, and in Python."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from robustbench_lite.results.scorecard import Gate, Scorecard

from ._format import plain

_SPLITS = ("/train", "/test")
_OPTIONS = {"min_clean_accuracy", "min_robust_accuracy", "max_drop"}


def how(card: Scorecard) -> str:
    """What has to be filled in, in a sentence."""
    if card.command:
        return (
            "To be run in the folder in which it was run. The same code, samples, weights, seed and versions give the "
            "same scorecard; the suite's parameters are given below in full."
        )
    return (
        f"MODEL stands for what loads {plain(card.target.name)}, such as my/models.py:build; suite.toml is given "
        "below. The same samples, weights, seed and versions give the same scorecard."
    )


def command(card: Scorecard) -> str:
    """The command line that evaluates the same again: as it was given, or with MODEL to be filled in."""
    if card.command:
        return shlex.join(plain(word) for word in card.command)
    return " \\\n    ".join(_words(card))


def python(card: Scorecard) -> str:
    """The same in Python, with ``model`` and ``data`` to be filled in."""
    return "\n".join(
        [
            "import robustbench_lite as rl",
            "",
            "card = rl.evaluate(",
            "    model,",
            "    data,",
            '    "suite.toml",',
            f"    seed={card.seed},",
            f"    batch_size={card.batch_size},",
            *([f"    limit={card.data.limit},"] if card.data.limit else []),
            ")",
            'card.save("again.json")',
        ]
    )


def _words(card: Scorecard) -> Iterator[str]:
    data = plain(card.data.name)
    for split in _SPLITS:
        data = data.removesuffix(split)
    yield f"rblite evaluate MODEL --data {shlex.quote(data)} --suite suite.toml"
    limit = f" --limit {card.data.limit}" if card.data.limit else ""
    yield f"--seed {card.seed} --batch-size {card.batch_size}{limit}"
    yield from (_option(gate) for gate in card.gates if _can_be_given(gate))
    yield from (f"--measure {shlex.quote(plain(number.name))}" for number in card.measures)


def _can_be_given(gate: Gate) -> bool:
    return gate.name in _OPTIONS or gate.unit is not None


def _option(gate: Gate) -> str:
    if gate.name in _OPTIONS:
        return f"--{gate.name.replace('_', '-')} {gate.threshold!r}"
    bound, _, name = plain(gate.name).partition("_")
    sign = ">=" if bound == "min" else "<="
    return f"--gate {shlex.quote(f'{name} {sign} {gate.threshold!r}')}"
