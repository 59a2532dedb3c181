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

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.faces import asserts
from robustbench_lite.faces.plugin.evaluations import Evaluated, Evaluations, Request, evaluate
from robustbench_lite.faces.plugin.plan import NamedTarget, Plan
from robustbench_lite.faces.plugin.properties import properties
from robustbench_lite.results.allowed import allowed_because
from robustbench_lite.results.compare import same_adversary
from robustbench_lite.results.gates import Gates
from robustbench_lite.results.scorecard import AttackResult, Finding, Interval, Scorecard

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
        return self.plan.demanded(self.plan.gates, self.target.entry.gates)

    def run(self, name: str) -> Evaluated:
        """Load the target and the data, and evaluate."""
        plan = self.plan
        with contextlib.chdir(plan.root):
            data = plan.load_data()
            model = self.target.load(plan.classes(data))
            return evaluate(
                plan,
                name,
                model,
                data,
                self.source,
                plan.threats,
                self.gates,
                plan.options.allow_invalid,
                limit=plan.limit,
                seed=plan.seed,
            )


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
            if gate == "max_regression":
                yield RegressionItem.from_parent(self, name="max-regression", job=job, gate=gate)
            elif gate not in _ITEMS:
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


class MissedError(AssertionError):
    """A demand is not met; its text is all there is to tell."""


class RobustnessItem(pytest.Item):
    """One thing that an evaluation can show to be wrong."""

    def __init__(self, *, job: Job, **node: Any) -> None:
        super().__init__(**node)
        self.job = job

    def runtest(self) -> None:
        outcome = self.outcome()
        card = outcome.card
        self.user_properties += properties(card)
        if told := [*self.untrusted(card), *self.faults(outcome)]:
            raise MissedError("\n".join([*told, *asserts.scene(card)]))

    def outcome(self) -> Evaluated:
        """What the items of a target share."""
        evaluation = next(node for node in self.listchain() if isinstance(node, TargetNode))
        request = Request(
            name=evaluation.nodeid,
            order=self.session.items.index(self),
            path=self.location[0].replace("\\", "/"),
        )
        return Evaluations.of(self.config).get(request, lambda: self.job.run(request.name))

    def untrusted(self, card: Scorecard) -> Iterator[str]:
        """Why the evaluation can't be trusted in what this item is about; nothing where it can, or was let through."""
        findings = [finding for finding in asserts.errors(card) if self.concerns(finding)]
        if findings and not allowed_because(card):
            yield asserts.untrusted(findings)

    def concerns(self, finding: Finding) -> bool:
        """Whether a finding casts doubt on what this item says."""
        return True

    def faults(self, outcome: Evaluated) -> Iterable[str]:
        """What is wrong, a text each."""
        return ()

    def too_low(self, card: Scorecard, what: str, accuracy: Interval) -> Iterator[str]:
        """Hold a robust accuracy of a card against the gate, as the card's own is."""
        least = self.job.gates.get("min_robust_accuracy")
        if least is not None:
            gate = asserts.decided(card, Gates(min_robust_accuracy=least), robust=accuracy.count)
            if fault := asserts.missed(gate, what):
                yield fault

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, MissedError | UserError):
            return str(excinfo.value)
        excinfo.traceback = excinfo.traceback.cut(path=__file__)  # the user's code, not pytest's and not ours
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"[robustness] {self.nodeid.partition('::')[2]}"


class CleanItem(RobustnessItem):
    """Clean accuracy, and its gate."""

    def concerns(self, finding: Finding) -> bool:
        return finding.attack is None and finding.threat is None

    def faults(self, outcome: Evaluated) -> Iterator[str]:
        return _missed(outcome.card, "min_clean_accuracy")


class GateItem(RobustnessItem):
    """A gate on the evaluation as a whole."""

    def __init__(self, *, gate: str, **node: Any) -> None:
        super().__init__(**node)
        self.gate = gate

    def faults(self, outcome: Evaluated) -> Iterator[str]:
        return _missed(outcome.card, self.gate)


class RegressionItem(GateItem):
    """What was lost since the baseline, sample by sample."""

    def faults(self, outcome: Evaluated) -> Iterator[str]:
        if outcome.refused:
            yield outcome.refused
        for fault in _missed(outcome.card, self.gate):
            yield f"{fault}\n{outcome.regression}"


class ValidityItem(RobustnessItem):
    """Whether the evaluation can be trusted."""


class WorstCaseItem(RobustnessItem):
    """Robust accuracy under one threat model."""

    def __init__(self, *, threat: ThreatModel, **node: Any) -> None:
        super().__init__(**node)
        self.threat = threat

    def concerns(self, finding: Finding) -> bool:
        return finding.threat in (None, str(self.threat))

    def faults(self, outcome: Evaluated) -> Iterator[str]:
        for row in outcome.card.threats:
            if same_adversary(row.threat, self.threat):
                yield from self.too_low(outcome.card, f"robust accuracy under {self.threat}", row.robust_accuracy)


class AttackItem(RobustnessItem):
    """One attack: red where it brings the robust accuracy below the gate."""

    def __init__(self, *, threat: ThreatModel, attack: str, **node: Any) -> None:
        super().__init__(**node)
        self.threat, self.attack = threat, attack

    def concerns(self, finding: Finding) -> bool:
        return finding.attack in (None, self.attack) and finding.threat in (None, str(self.threat))

    def faults(self, outcome: Evaluated) -> Iterator[str]:
        card = outcome.card
        result = self._result(card)
        if result is None:
            for one in card.skipped:
                if one.attack == self.attack:
                    pytest.skip(f"not run: {one.reason}")
            pytest.skip(f"not run: the evaluation ended before this attack ({card.interrupted or 'nothing was left'})")
        # In a cascade one that broke nothing is not to blame for what those before it did.
        if result.broken:
            after = f"robust accuracy after {self.attack} under {self.threat}"
            yield from self.too_low(card, after, result.alone or result.robust_accuracy)

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
    except (OSError, ValueError, RecursionError):
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
        for target in plan.targets:
            plan.demanded(plan.gates, target.entry.gates)
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
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as fault:
        raise UserError(f"{path}: can't be read as TOML: {fault}") from None
    raw.setdefault("name", path.stem)
    try:
        suite = Suite.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: not a valid suite\n{faults(error, Suite)}") from None
    known = registry.names("attacks")
    if told := [
        f"  attacks.{place}: {registry.unknown('attack', spec.attack, known)}"
        for place, spec in enumerate(suite.attacks)
        if (f"{spec.attack.partition(':')[0]}:*" if ":" in spec.attack else spec.attack) not in known
    ]:
        raise UserError("\n".join([f"{path}: not a valid suite", *told]))
    return suite


def _missed(card: Scorecard, gate: str) -> Iterator[str]:
    for found in card.gates:
        if found.name == gate and (fault := asserts.missed(found)):
            yield fault


def _node_name(text: str) -> str:
    """Text that can stand in the name of a test: pytest parts names at ``::`` and ``[``."""
    return "-".join(text.replace("::", ":").replace("[", "(").replace("]", ")").split())
