"""``@pytest.mark.robustness``: a test in Python whose gates hold whatever its body asserts.

::

    @pytest.mark.robustness(threat="Linf 8/255", suite="linf_quick", min_robust_accuracy=0.45)
    def test_withstands(robustness):
        assert robustness.clean_accuracy.value > 0.9

What the marker does not say comes from the command line, then from the table of ``pyproject.toml``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError, in_our_words
from robustbench_lite.core.suite import Suite, load_suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.faces import asserts
from robustbench_lite.faces.plugin.demands import GATES, gate_faults
from robustbench_lite.faces.plugin.discovery import FIXTURE, MARKER
from robustbench_lite.faces.plugin.evaluations import Evaluated, Evaluations, Request, evaluate
from robustbench_lite.faces.plugin.plan import Plan
from robustbench_lite.faces.plugin.properties import properties
from robustbench_lite.results.allowed import allowed_because
from robustbench_lite.results.scorecard import Scorecard

if TYPE_CHECKING:
    from robustbench_lite.model.target import Target

_OUTCOME = pytest.StashKey[Evaluated]()
_Thing = TypeVar("_Thing")
_DEFAULTS = pytest.StashKey[list[Any]]()
"""The session's own target and data, where they were made."""
_ASKED = pytest.StashKey[dict[str, tuple[Request, Any, Any]]]()


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
    adapt: bool | None = None
    """Whether what hides from the attacks is evaluated once more, past it."""
    allow_invalid: str | None = Field(default=None, min_length=1)
    """Why an INVALID evaluation is let through."""

    @field_validator("threat", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | ThreatModel) else given

    @field_validator("suite", mode="before")
    @classmethod
    def _suite(cls, given: Any) -> Any:
        return load_suite(given) if isinstance(given, Mapping) else given


def ask_for_fixture(items: Iterable[pytest.Item]) -> None:
    """Have every marked test use the fixture, those too that a parameter or a hook marks."""
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker(MARKER) is None:
            continue
        if FIXTURE not in item.fixturenames:
            # A list of its own: that of the function belongs to the tests of its other parameters, too.
            item.fixturenames = [*item.fixturenames, FIXTURE]


def read(item: pytest.Item) -> tuple[Arguments, dict[str, float]]:
    """Arguments and gates of a test's markers; those of a function go before those of its class and module.

    Raises
    ------
    UserError
        With every fault.
    """
    given: dict[str, Any] = {}
    faults = []
    for mark in reversed(list(item.iter_markers(MARKER))):
        if mark.args:
            faults.append(f"takes no positional arguments, got {', '.join(map(repr, mark.args))}; give threat=, suite=")
        given.update(mark.kwargs)
    known = [*Arguments.model_fields, *GATES]
    gates = {name: value for name, value in given.items() if name in GATES or registry.known("measures", name[4:])}
    faults += [registry.unknown("argument", name, known) for name in given if name not in known and name not in gates]
    faults += gate_faults(gates)
    arguments = Arguments()
    try:
        arguments = Arguments.model_validate({key: given[key] for key in given if key in Arguments.model_fields})
    except ValidationError as error:
        faults += _told(error)
    if faults:
        raise UserError(f"@pytest.mark.{MARKER}: {'; '.join(faults)}")
    return arguments, gates


def _told(error: ValidationError) -> Iterator[str]:
    for key in dict.fromkeys(str(fault["loc"][0]) for fault in error.errors()):
        fault = next(fault for fault in error.errors() if str(fault["loc"][0]) == key)
        told = in_our_words(fault)
        if key == "suite" and fault["type"] != "value_error":
            told = "expected the name of a suite, a TOML file, a list of attacks, a dict, or a Suite"
        yield f"{key}: {told}"


def evaluate_test(item: pytest.Item, model: Any, data: Any) -> Scorecard:
    """Scorecard of a marked test, evaluated now unless another test of the session asked for the same."""
    plan = Plan.of(item.config)
    with _told_plainly():
        arguments, gates = read(item)
        gates = plan.demanded(gates or plan.gates)
    suite = arguments.suite or _the_suite(plan)
    options: dict[str, Any] = {
        "threats": arguments.threat or plan.threats,
        "gates": gates,
        "limit": arguments.limit or plan.limit,
        "seed": plan.seed if arguments.seed is None else arguments.seed,
        "independent": arguments.independent,
        "batch_size": arguments.batch_size,
        "adapt": plan.adapt if arguments.adapt is None else arguments.adapt,
        "allow_invalid": arguments.allow_invalid or plan.options.allow_invalid,
    }
    with _told_plainly():
        request = _request(item, model, data, repr((suite, options)))

    def run() -> Evaluated:
        with contextlib.chdir(plan.root):
            listed = list(suite) if isinstance(suite, tuple) else suite
            return evaluate(plan, request.name, _target(model), data, listed, **options)

    with _told_plainly():
        outcome = Evaluations.of(item.config).get(request, run)
    item.stash[_OUTCOME] = outcome
    item.user_properties += properties(outcome.card)
    return outcome.card


def _request(item: pytest.Item, model: Any, data: Any, how: str) -> Request:
    """Whoever asked first for the same: the same model in the same state, on the same data, in the same way."""
    stash = item.config.stash
    defaults = stash.get(_DEFAULTS, [])
    state = "" if isinstance(model, str) else _state(_target(model))
    names = _name(model, defaults), _name(data, defaults)
    question = repr((*names, state, how))
    path, line, _ = item.location
    request = Request(
        name=item.nodeid,
        # What has a name means the same in every worker of xdist; an object is of its process.
        key="" if None in names else question,
        order=item.session.items.index(item),
        path=path.replace("\\", "/"),
        line=None if line is None else line + 1,
    )
    asked = stash.setdefault(_ASKED, {})
    # The model and the data are kept with it, so that no other object comes to bear their identity.
    return asked.setdefault(
        f"{question} {id(model)} {id(data)}" if None in names else question, (request, model, data)
    )[0]


def _name(thing: Any, defaults: list[Any]) -> str | None:
    if isinstance(thing, str):
        return thing
    return "the session's" if any(thing is one for one in defaults) else None


def enforce(item: pytest.Item) -> None:
    """Fail a test whose gates are missed, or whose evaluation can't be trusted."""
    __tracebackhide__ = True
    outcome = item.stash.get(_OUTCOME, None)
    if outcome is None:
        return
    card = outcome.card
    faults = [fault for gate in card.gates if (fault := asserts.missed(gate))]
    faults += [text for text in (outcome.refused,) if text]
    if card.verdict == "INVALID" and not allowed_because(card):
        faults.insert(0, asserts.untrusted(asserts.errors(card)))
    if faults:
        pytest.fail("\n".join([*faults, *asserts.scene(card)]), pytrace=False)


def _the_suite(plan: Plan) -> str:
    return plan.suites[0] if len(plan.suites) == 1 else "linf_standard"


def _target(model: Any) -> Target:
    from robustbench_lite.model.loading import load_target
    from robustbench_lite.model.target import as_target

    return load_target(model) if isinstance(model, str) else as_target(model)


@contextlib.contextmanager
def _told_plainly() -> Iterator[None]:
    __tracebackhide__ = True
    try:
        yield
    except UserError as fault:
        raise pytest.fail.Exception(str(fault), pytrace=False) from None


def _state(target: Target) -> tuple[Any, ...]:
    """What tells states of a model apart: its weights, and its modules' settings."""
    plain = (int, float, str, bool, type(None), tuple)
    settings = [
        sorted(
            (key, repr(value)) for key, value in vars(module).items() if isinstance(value, plain) and key != "training"
        )
        for module in target.module.modules()
    ]
    return target.weights_sha256(), settings


def default_target(config: pytest.Config) -> Target:
    """The session's one target."""
    plan = Plan.of(config)
    with _told_plainly(), contextlib.chdir(plan.root):
        named = plan.the_target()
        classes = plan.classes(plan.load_data()) if plan.data is not None else 0
        return _remembered(config, named.load(classes))


def default_data(config: pytest.Config) -> Any:
    """The session's data."""
    plan = Plan.of(config)
    with _told_plainly(), contextlib.chdir(plan.root):
        return _remembered(config, plan.load_data())


def _remembered(config: pytest.Config, thing: _Thing) -> _Thing:
    config.stash.setdefault(_DEFAULTS, []).append(thing)
    return thing
