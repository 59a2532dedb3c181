"""Suites as pytest sees them: a file, its targets, their threat models, and an item for each thing that can be wrong.

::

    robustness.toml::resnet18::clean-accuracy
    robustness.toml::resnet18::Linf-8/255::pgd
    robustness.toml::resnet18::Linf-8/255::worst-case
    robustness.toml::resnet18::max-drop
    robustness.toml::resnet18::validity

All items of a target share one evaluation, which the first that runs pays for. Suites that the table calls by name
stand below ``pyproject.toml``. Collecting reads files, and loads neither a model nor torch.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from robustbench_lite import asserts, registry
from robustbench_lite.compare import same_adversary
from robustbench_lite.errors import UserError, faults
from robustbench_lite.plugin.evaluations import KEY, Request, allowed_because, evaluate_named
from robustbench_lite.plugin.plan import NamedTarget, Plan
from robustbench_lite.plugin.properties import properties
from robustbench_lite.scorecard import AttackResult, Finding, Interval, Scorecard
from robustbench_lite.suite import Suite
from robustbench_lite.threat import ThreatModel

_ITEMS = {"min_clean_accuracy": "clean-accuracy", "min_robust_accuracy": "worst-case"}
"""Gates that have an item whether they are set or not; the others have one of their own name."""


class SuiteFile(pytest.File):
    """A suite's TOML file: a branch for each target."""

    def collect(self) -> Iterator[TargetNode]:
        return _targets(self, self.path)


class TableFile(pytest.File):
    """``pyproject.toml``, where its table calls suites by name: a branch for each of them."""

    def collect(self) -> Iterator[SuiteNode]:
        for name in Plan.of(self.config).suites:
            if not name.endswith(".toml"):
                yield SuiteNode.from_parent(self, name=name)


class SuiteNode(pytest.Collector):
    """A suite that has a name: a branch for each target."""

    def collect(self) -> Iterator[TargetNode]:
        return _targets(self, self.name)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One evaluation: what its items have in common."""

    plan: Plan
    target: NamedTarget
    suite: Suite
    """As it is listed; it is read again when it is run."""
    source: str | Path
    """Name or file of the suite."""

    @property
    def threats(self) -> tuple[ThreatModel, ...]:
        """The threat models of the session, or the suite's own."""
        return tuple(dict.fromkeys(self.plan.threats)) or self.suite.threats

    @property
    def gates(self) -> dict[str, float]:
        """What is demanded of the target."""
        return {**self.plan.gates, **self.target.entry.gates}

    def run(self) -> Scorecard:
        """Evaluate."""
        return evaluate_named(self.plan, self.target, self.source)


class TargetNode(pytest.Collector):
    """One evaluation, a target under a suite: a branch for each threat model, and items for the whole."""

    def __init__(self, *, job: Job, **node: Any) -> None:
        super().__init__(**node)
        self.job = job

    def collect(self) -> Iterator[ThreatNode | RobustnessItem]:
        job = self.job
        yield CleanItem.from_parent(self, name="clean-accuracy", job=job)
        for threat in job.threats:
            yield ThreatNode.from_parent(self, name=_node_name(str(threat)), job=job, threat=threat)
        if len(job.threats) > 1:
            yield GateItem.from_parent(self, name="worst-case", job=job, gate="min_robust_accuracy")
        for gate in job.gates:
            if gate not in _ITEMS:
                yield GateItem.from_parent(self, name=gate.replace("_", "-"), job=job, gate=gate)
        yield ValidityItem.from_parent(self, name="validity", job=job)


class ThreatNode(pytest.Collector):
    """A threat model of an evaluation: an item for each attack, and one for the worst case over them."""

    def __init__(self, *, job: Job, threat: ThreatModel, **node: Any) -> None:
        super().__init__(**node)
        self.job, self.threat = job, threat

    def collect(self) -> Iterator[RobustnessItem]:
        for spec in self.job.suite.attacks:
            name = _node_name(spec.name)
            yield AttackItem.from_parent(self, name=name, job=self.job, threat=self.threat, attack=spec.name)
        yield WorstCaseItem.from_parent(self, name="worst-case", job=self.job, threat=self.threat)


class Missed(AssertionError):
    """A demand is not met; its text is all there is to tell."""


class RobustnessItem(pytest.Item):
    """One thing that an evaluation can show to be wrong."""

    def __init__(self, *, job: Job, **node: Any) -> None:
        super().__init__(**node)
        self.job = job

    def runtest(self) -> None:
        card = self.card()
        self.user_properties += properties(card)
        if told := [*self.untrusted(card), *self.faults(card)]:
            raise Missed("\n".join([*told, *asserts.scene(card)]))

    def card(self) -> Scorecard:
        """The scorecard that the items of a target share."""
        evaluation = next(node for node in self.listchain() if isinstance(node, TargetNode))
        request = Request(
            name=evaluation.nodeid,
            order=self.session.items.index(self),
            path=self.location[0].replace("\\", "/"),
        )
        return self.config.stash[KEY].card(request, self.job.run)

    def untrusted(self, card: Scorecard) -> Iterator[str]:
        """Why the evaluation can't be trusted in what this item is about; nothing where it can, or was let through."""
        findings = [finding for finding in asserts.errors(card) if self.concerns(finding)]
        if findings and not allowed_because(card):
            yield asserts.untrusted(findings)

    def concerns(self, finding: Finding) -> bool:
        """Whether a finding casts doubt on what this item says."""
        return True

    def faults(self, card: Scorecard) -> Iterable[str]:
        """What is wrong, a text each."""
        return ()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Missed | UserError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"[robustness] {self.nodeid.partition('::')[2]}"


class CleanItem(RobustnessItem):
    """Clean accuracy, and its gate."""

    def concerns(self, finding: Finding) -> bool:
        return finding.attack is None

    def faults(self, card: Scorecard) -> Iterator[str]:
        return _missed(card, "min_clean_accuracy")


class GateItem(RobustnessItem):
    """A gate on the evaluation as a whole."""

    def __init__(self, *, gate: str, **node: Any) -> None:
        super().__init__(**node)
        self.gate = gate

    def faults(self, card: Scorecard) -> Iterator[str]:
        return _missed(card, self.gate)


class ValidityItem(RobustnessItem):
    """Whether the evaluation can be trusted."""


class WorstCaseItem(RobustnessItem):
    """Robust accuracy under one threat model."""

    def __init__(self, *, threat: ThreatModel, **node: Any) -> None:
        super().__init__(**node)
        self.threat = threat

    def concerns(self, finding: Finding) -> bool:
        return finding.threat in (None, str(self.threat))

    def faults(self, card: Scorecard) -> Iterator[str]:
        if len(card.threats) == 1:
            yield from _missed(card, "min_robust_accuracy")
            return
        for row in card.threats:
            if same_adversary(row.threat, self.threat):
                yield from _too_low(self.job, f"robust accuracy under {self.threat}", row.robust_accuracy)


class AttackItem(RobustnessItem):
    """One attack: red where it brings the robust accuracy below the gate."""

    def __init__(self, *, threat: ThreatModel, attack: str, **node: Any) -> None:
        super().__init__(**node)
        self.threat, self.attack = threat, attack

    def concerns(self, finding: Finding) -> bool:
        return finding.attack in (None, self.attack) and finding.threat in (None, str(self.threat))

    def faults(self, card: Scorecard) -> Iterator[str]:
        result = self._result(card)
        if result is None:
            pytest.skip(f"not run: the evaluation ended before this attack ({card.interrupted or 'nothing was left'})")
        # In a cascade one that broke nothing is not to blame for what those before it did.
        if result.broken:
            after = f"robust accuracy after {self.attack} under {self.threat}"
            yield from _too_low(self.job, after, result.alone or result.robust_accuracy)

    def _result(self, card: Scorecard) -> AttackResult | None:
        return next(
            (
                result
                for result in card.attacks
                if result.name == self.attack and same_adversary(result.threat, self.threat)
            ),
            None,
        )


def suite_at(path: Path) -> bool:
    """Whether a TOML file that was named on the command line is a suite, or can't be read as anything."""
    try:
        return "attacks" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return True


def _targets(parent: pytest.Collector, source: str | Path) -> Iterator[TargetNode]:
    plan = Plan.of(parent.config)
    parent.add_marker(pytest.mark.robustness)
    try:
        with contextlib.chdir(plan.root):  # where a project's own suites are
            suite = _listed(source)
        if not plan.targets:
            raise UserError(
                "no target to attack: give --target package.module:callable, or name targets in "
                "[tool.robustbench_lite.targets] of pyproject.toml"
            )
        if plan.data is None:
            raise UserError("no data to attack it on: give --data, or set data in [tool.robustbench_lite]")
    except UserError as fault:
        raise parent.CollectError(str(fault)) from None
    for target in plan.targets:
        job = Job(plan=plan, target=target, suite=suite, source=source)
        yield TargetNode.from_parent(parent, name=target.name, job=job)


def _listed(source: str | Path) -> Suite:
    """Read a suite as far as its items need it: no attack is built, so that no torch is loaded."""
    path = registry.find_file("suites", source)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise UserError(f"{path}: can't be read as TOML: {fault}") from None
    raw.setdefault("name", path.stem)
    try:
        return Suite.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: not a valid suite\n{faults(error)}") from None


def _missed(card: Scorecard, gate: str) -> Iterator[str]:
    for found in card.gates:
        if found.name == gate and (fault := asserts.gate_missed(found)):
            yield fault


def _too_low(job: Job, what: str, accuracy: Interval) -> Iterator[str]:
    demanded = job.gates.get("min_robust_accuracy")
    if demanded is not None and (fault := asserts.too_low(what, accuracy, demanded)):
        yield fault


def _node_name(text: str) -> str:
    """Text that can stand in the name of a test: pytest parts names at ``::`` and ``[``."""
    return "-".join(text.replace("::", ":").replace("[", "(").replace("]", ")").split())
