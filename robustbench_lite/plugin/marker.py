"""``@pytest.mark.robustness``: a test in Python whose gates hold whatever its body asserts.

::

    @pytest.mark.robustness(threat="Linf 8/255", suite="linf_quick", min_robust_accuracy=0.45)
    def test_withstands(robustness):
        assert robustness.clean_accuracy.value > 0.9

What the marker does not say comes from the command line, then from the table of ``pyproject.toml``.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from robustbench_lite import asserts, registry
from robustbench_lite.errors import UserError
from robustbench_lite.plugin.demands import GATES, gate_faults
from robustbench_lite.plugin.evaluations import KEY, Request, allowed_because, evaluate
from robustbench_lite.plugin.plan import Plan
from robustbench_lite.plugin.properties import properties
from robustbench_lite.scorecard import Scorecard
from robustbench_lite.suite import Suite
from robustbench_lite.threat import ThreatModel

if TYPE_CHECKING:
    from robustbench_lite.target import Target

NAME = "robustness"
_CARD = pytest.StashKey[Scorecard]()


class Arguments(BaseModel):
    """What a marker says, but for its gates."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    threat: tuple[ThreatModel, ...] = ()
    """One threat model, or several."""
    suite: Suite | str | tuple[str, ...] | None = None
    """Name of a suite, path of a TOML file, a list of attacks, or a `Suite`."""
    limit: int | None = Field(default=None, ge=1)
    """Evaluate so many samples, drawn by class."""
    seed: int | None = Field(default=None, ge=0)
    """Of every random draw."""
    independent: bool | None = None
    """Whether each attack sees every sample."""
    batch_size: int | None = Field(default=None, ge=1)
    """Most samples in flight."""
    allow_invalid: str | None = Field(default=None, min_length=1)
    """Why an INVALID evaluation is let through."""

    @field_validator("threat", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | ThreatModel) else given


def ask_for_fixture(collector: pytest.Collector, found: object) -> None:
    """Have a marked test use the fixture ``robustness``, whether its function names it or not.

    It is done before the test is made, so that fixtures behind it may be parametrized as always.
    """
    if not isinstance(found, FunctionType):
        return
    if any(mark.name == NAME for mark in getattr(found, "pytestmark", [])):
        pytest.mark.usefixtures(NAME)(found)
    for node in collector.listchain():
        if any(mark.name == NAME for mark in node.own_markers) and not _uses(node):
            node.add_marker(pytest.mark.usefixtures(NAME))


def _uses(node: Any) -> bool:
    return any(mark.name == "usefixtures" and NAME in mark.args for mark in node.own_markers)


def check(items: Iterable[pytest.Item]) -> None:
    """Check the markers of a session before anything runs.

    Raises
    ------
    pytest.UsageError
        With every fault of every marker.
    """
    told: dict[str, None] = {}
    for item in items:
        if isinstance(item, pytest.Function):
            try:
                read(item)
            except UserError as fault:
                told[f"{item.nodeid.partition('[')[0]}: {fault}"] = None
    if told:
        raise pytest.UsageError("\n".join(told))


def read(item: pytest.Item) -> tuple[Arguments, dict[str, float]]:
    """Arguments and gates of a test's markers; those of a function go before those of its class and module.

    Raises
    ------
    UserError
        With every fault.
    """
    given: dict[str, Any] = {}
    faults = []
    for mark in reversed(list(item.iter_markers(NAME))):
        if mark.args:
            faults.append(f"takes no positional arguments, got {', '.join(map(repr, mark.args))}; give threat=, suite=")
        given.update(mark.kwargs)
    known = [*Arguments.model_fields, *GATES]
    faults += [registry.unknown("argument", name, known) for name in given if name not in known]
    gates = {name: value for name, value in given.items() if name in GATES}
    faults += gate_faults(gates)
    arguments = Arguments()
    try:
        arguments = Arguments.model_validate({key: given[key] for key in given if key in Arguments.model_fields})
    except ValidationError as error:
        faults += _told(error)
    if faults:
        raise UserError(f"@pytest.mark.{NAME}: {'; '.join(faults)}")
    return arguments, gates


def _told(error: ValidationError) -> Iterator[str]:
    for key in dict.fromkeys(str(fault["loc"][0]) for fault in error.errors()):
        messages = [str(fault["msg"]) for fault in error.errors() if str(fault["loc"][0]) == key]
        if key == "suite":
            messages = ["expected the name of a suite, a TOML file, a list of attacks, or a Suite"]
        yield f"{key}: {messages[0].removeprefix('Value error, ')}"


def evaluate_test(item: pytest.Item, model: Any, data: Any) -> Scorecard:
    """Scorecard of a marked test, evaluated now unless another test asked for the same."""
    plan = Plan.of(item.config)
    arguments, gates = read(item)
    suite = arguments.suite or _the_suite(plan)
    threats = arguments.threat or plan.threats
    options = {
        "limit": arguments.limit or plan.limit,
        "seed": plan.seed if arguments.seed is None else arguments.seed,
        "independent": arguments.independent,
        "batch_size": arguments.batch_size,
    }
    demanded = gates or dict(plan.gates)
    target = _target(model)
    same = hashlib.sha256(repr((*_identity(target, data), suite, threats, options, demanded)).encode()).hexdigest()[:8]
    known = item.config.stash.setdefault(_ASKED, {})
    if same not in known:
        path, line, _ = item.location
        known[same] = (
            Request(
                name=item.nodeid,
                order=item.session.items.index(item),
                path=path.replace("\\", "/"),
                line=None if line is None else line + 1,
            ),
            (target, data),  # kept, so that their identity stays theirs
        )

    def run() -> Scorecard:
        with contextlib.chdir(plan.root):
            listed = list(suite) if isinstance(suite, tuple) else suite
            return evaluate(target, data, listed, threats, gates=demanded, **options)

    try:
        card = item.config.stash[KEY].card(known[same][0], run)
    except UserError as fault:
        pytest.fail(str(fault), pytrace=False)
    item.stash[_CARD] = card
    item.user_properties += properties(card)
    return card


_ASKED = pytest.StashKey[dict[str, tuple[Request, Any]]]()


def enforce(item: pytest.Item) -> None:
    """Fail a test whose gates are missed, or whose evaluation can't be trusted."""
    __tracebackhide__ = True
    card = item.stash.get(_CARD, None)
    if card is None:
        return
    faults = [fault for gate in card.gates if (fault := asserts.gate_missed(gate))]
    if card.verdict == "INVALID" and not (allowed_because(card) or read(item)[0].allow_invalid):
        faults.insert(0, asserts.untrusted(asserts.errors(card)))
    if faults:
        pytest.fail("\n".join([*faults, *asserts.scene(card)]), pytrace=False)


def _the_suite(plan: Plan) -> str:
    return plan.suites[0] if len(plan.suites) == 1 else "linf_standard"


def _target(model: Any) -> Target:
    from robustbench_lite.target import as_target, load_target

    with _told_plainly():
        return load_target(model) if isinstance(model, str) else as_target(model)


@contextlib.contextmanager
def _told_plainly() -> Iterator[None]:
    __tracebackhide__ = True
    try:
        yield
    except UserError as fault:
        pytest.fail(str(fault), pytrace=False)


def _identity(target: Target, data: Any) -> tuple[Any, ...]:
    """What tells two evaluations apart within a process: the same objects, in the same state."""
    plain = (int, float, str, bool, type(None), tuple)
    settings = [
        sorted((key, repr(value)) for key, value in vars(module).items() if isinstance(value, plain))
        for module in target.module.modules()
    ]
    return id(target.module), target.weights_sha256(), settings, data if isinstance(data, str) else id(data)


def default_target(config: pytest.Config) -> Target:
    """The session's one target."""
    plan = Plan.of(config)
    with _told_plainly(), contextlib.chdir(plan.root):
        named = plan.the_target()
        classes = len(plan.load_data().classes) if plan.data is not None else 0
        return named.load(classes)


def default_data(config: pytest.Config) -> Any:
    """The session's data."""
    plan = Plan.of(config)
    with _told_plainly(), contextlib.chdir(plan.root):
        return plan.load_data()


__all__ = ["ask_for_fixture", "check", "default_data", "default_target", "enforce", "evaluate_test", "inspect"]
