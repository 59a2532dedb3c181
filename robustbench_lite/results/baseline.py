"""Baselines: a scorecard kept in a repo, with which later ones are compared, sample by sample.

What is compared is the model, so everything else has to be alike: data, threat models, attacks with their parameters,
budget, seed, and the series (major and minor number) of robustbench_lite. Unlike things are refused, not compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.registry import unknown
from robustbench_lite.results.compare import compare, differences
from robustbench_lite.results.gates import CONFIDENCE, check_gate
from robustbench_lite.results.paired import mcnemar_loss, paired_interval, pairs_needed, visible_loss
from robustbench_lite.results.scorecard import Gate, Scorecard

POWER = 0.8
"""Chance with which the smallest visible regression is seen."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Regression:
    """What became of robust accuracy since the baseline, on the same samples."""

    newly_broken: int
    """Samples that were robust in the baseline and are no more."""
    newly_withstood: int
    """Samples that are robust and were not in the baseline."""
    p_value: float
    """Exact one-sided McNemar test: how likely it is that chance breaks so many of the samples that changed."""
    visible: float | None
    """Smallest regression, as a share of the samples, that so many samples show with a power of 80 %, while as many
    are newly withstood as were here; None where they show none."""
    gate: Gate
    """The demand: share of samples lost, those newly withstood deducted, with its interval and the most allowed."""

    @property
    def verdict(self) -> Literal["passed", "failed", "undecided"]:
        """``failed`` where more was lost than allowed beyond chance, ``passed`` where less, else ``undecided``."""
        if not self.gate.passed:
            return "failed"
        return "passed" if self.gate.decided else "undecided"

    def __str__(self) -> str:
        gate = self.gate
        seen = "no regression" if self.visible is None else f"a regression of {self.visible:.2%} or more"
        return (
            f"{gate.words if self.verdict == 'undecided' else self.verdict}: {self.newly_broken:,} newly broken and "
            f"{self.newly_withstood:,} newly withstood of {gate.samples:,} samples, so {gate.value:.2%} "
            f"[{gate.low:.2%}, {gate.high:.2%}] of robust accuracy are lost and {gate.threshold:.2%} may be "
            f"(95 % interval; exact one-sided McNemar p = {self.p_value:.2g}). So many samples show {seen} with a "
            f"power of {POWER:.0%}."
        )


def save(card: Scorecard, folder: str | Path, name: str) -> Path:
    """Keep a scorecard as a baseline: ``NAME.json``, without pictures and witnesses, in place of one of that name.

    Raises
    ------
    ValueError
        For a name that isn't one, and for a scorecard with which nothing could be compared.
    """
    path = _path(folder, name)
    if card.verdict == "INVALID" or card.interrupted:
        why = "INVALID" if card.verdict == "INVALID" else f"stopped early ({card.interrupted})"
        raise UserError(
            f"the scorecard of {card.target.name} is {why}: expected one that can be trusted; put its findings right "
            "and run it to its end before it is kept as a baseline"
        )
    # Read anew: a copy would take the witnesses along.
    return Scorecard.model_validate_json(card.model_dump_json(exclude={"gallery"})).save(path)


def load(folder: str | Path, name: str) -> Scorecard:
    """Read the baseline of a name.

    Raises
    ------
    ValueError
        For a name that isn't one, one that the folder doesn't have, and a file that can't be read.
    """
    path = _path(folder, name)
    if not path.is_file():
        known = sorted(found.stem for found in path.parent.glob("*.json"))
        raise UserError(f"{path.parent}: {unknown('baseline', name, known)}")
    return Scorecard.load(path)


def load_like(folder: str | Path, name: str, card: Scorecard) -> Scorecard:
    """Load the baseline of a name; where there is none, the only one that asks the same of a target of the same name.

    Tests that ask the same share an evaluation, which is kept under the name of the first: run alone, or after another
    one was added before it, the second one still finds it.

    Raises
    ------
    ValueError
        As `load` does.
    """
    try:
        return load(folder, name)
    except UserError:
        paths = [path for path in Path(folder).glob("*.json") if path.stem != name]
        others = [load(folder, path.stem) for path in sorted(paths)]
        asked = identity(card)
        alike = [one for one in others if identity(one) == asked and one.target.name == card.target.name]
        if len(alike) != 1:
            raise
        return alike[0]


def identity(card: Scorecard) -> str:
    """SHA-256 of all that has to be alike for two scorecards to be compared; the model is not part of it."""
    like = _series(card)
    content = {
        "schema": like.schema_version,
        "version": like.version,
        "seed": like.seed,
        "data": like.data.sha256,
        "threats": sorted(
            str(result.threat.model_copy(update={"eps_text": repr(result.threat.eps)})) for result in like.threats
        ),
        "independent": like.suite.independent,
        "attacks": sorted((spec.name, spec.attack, spec.params) for spec in like.suite.attacks),
        "budget": like.suite.budget.model_dump(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def unlike(card: Scorecard, baseline: Scorecard) -> tuple[str, ...]:
    """Why a scorecard can't be compared with a baseline, a sentence each; nothing where it can."""
    before, after = _series(baseline), _series(card)
    return (*differences(before, after), *_budgets(before, after))


def check(card: Scorecard, baseline: Scorecard, max_regression: float = 0.0) -> Regression:
    """Test whether robust accuracy fell below a baseline's by more than is allowed.

    Samples are paired by their content, and only those that came out otherwise count. The test is one-sided, with an
    error of 2.5 %, one side of a 95 % interval as in every gate: what it may call out wrongly is a regression, and a
    model that got better must not use up half of that error. With ``max_regression`` 0 it fails exactly where the
    one-sided McNemar test does; with more, where the whole interval of what is lost lies above.

    Parameters
    ----------
    card, baseline
        After and before.
    max_regression
        Share of the samples, in [0, 1], that may be lost, those newly withstood deducted.

    Raises
    ------
    ValueError
        Where the two are unlike in anything but the model, with each difference.

    References
    ----------
    McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947.
    https://doi.org/10.1007/BF02295996
    """
    if not 0 <= max_regression <= 1:
        raise UserError(f"max_regression is {max_regression}: expected a share from 0 to 1, such as 0.01 for 1 %")
    if faults := unlike(card, baseline):
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise UserError(
            f"{card.target.name} can't be compared with the baseline of {baseline.target.name}; expected all but the "
            f"model to be alike:\n{lines}\nRun it as the baseline was run, or save a new baseline."
        )
    paired = compare(baseline, card)
    lost, gained, samples = paired.robust.only_before, paired.robust.only_after, paired.samples
    return Regression(
        newly_broken=lost,
        newly_withstood=gained,
        p_value=mcnemar_loss(lost, gained),
        visible=visible_loss(gained, samples, POWER, CONFIDENCE),
        gate=_gate(lost, gained, samples, max_regression),
    )


def _gate(lost: int, gained: int, samples: int, threshold: float) -> Gate:
    value = (lost - gained) / samples
    low, high = paired_interval(lost, gained, samples, CONFIDENCE)
    needed = pairs_needed(lost, gained, samples, threshold, CONFIDENCE)
    more = None if needed is None else needed - samples
    return check_gate("max_regression", threshold, value, low, high, samples=samples, more_needed=more)


def _series(card: Scorecard) -> Scorecard:
    """Put aside what may differ between scorecards that are alike: the last part of the version, defaults unsaid."""
    ran = {result.name: result.params for result in card.attacks}
    specs = tuple(spec.model_copy(update={"params": ran.get(spec.name, spec.params)}) for spec in card.suite.attacks)
    return card.model_copy(
        update={
            "version": ".".join(card.version.split(".")[:2]),
            "suite": card.suite.model_copy(update={"attacks": specs}),
        }
    )


def _budgets(before: Scorecard, after: Scorecard) -> Iterator[str]:
    for what in ("seconds", "passes"):
        first, second = getattr(before.suite.budget, what), getattr(after.suite.budget, what)
        if first != second:
            yield f"Budgets of {what} differ: {_limit(first)} before, {_limit(second)} after."


def _limit(most: float | None) -> str:
    return "none" if most is None else f"{most:,}"


def _path(folder: str | Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"a baseline is named {name!r}: expected up to 100 letters, digits, dots, dashes and underscores, the "
            "first a letter or a digit, such as main or resnet18-linf"
        )
    return Path(folder) / f"{name}.json"
