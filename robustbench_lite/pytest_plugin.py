"""The pytest plugin: robustness as a test like any other. A thin face: what a hook needs is imported when it runs.

A session without robustness tests loads this file, ``plugin.options`` and ``plugin.discovery``, and through them
neither pydantic, rich nor torch.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustbench_lite.faces.plugin import discovery, options

if TYPE_CHECKING:
    from robustbench_lite.faces.plugin.collection import SuiteFile, TableFile
    from robustbench_lite.faces.plugin.evaluations import Result
    from robustbench_lite.faces.plugin.results import Written
    from robustbench_lite.model.target import Target
    from robustbench_lite.results.scorecard import Scorecard

_SUITES = pytest.StashKey[list[Path]]()
_MARKED = pytest.StashKey[bool]()
_LEFT: pytest.StashKey[tuple[list[Result], Written]] = pytest.StashKey()
_MARKER = (
    "robustness(threat=..., suite=..., limit=..., min_robust_accuracy=..., ...): evaluate robust_target on robust_data "
    "and hold the scorecard, which the fixture robustness gives, against the gates"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, by their long names."""
    options.register(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(args: list[str], parser: pytest.Parser) -> Generator[None, Any, Any]:
    """Take the short names that no conftest has claimed."""
    result = yield
    options.spell_out(args, parser)
    return result


def pytest_configure(config: pytest.Config) -> None:
    """Say what there is to evaluate, and find out at once what was asked for wrongly."""
    config.addinivalue_line("markers", _MARKER)
    given = options.Options.of(config)
    suites = config.stash[_SUITES] = discovery.suite_files(discovery.raw_table(given.root), given.root)
    if config.args_source is config.ArgsSource.TESTPATHS:
        here = given.invoked_from
        config.args += [str(path) for path in suites if not discovery.is_asked_for(path, config.args, here)]
    if not given.is_worker and (given.used or _evaluates_suites(config)):
        from robustbench_lite.faces.plugin.plan import Plan

        options.check_files(given)
        Plan.of(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Drop what the workers shared."""
    if options.FOLDER in config.stash:
        shutil.rmtree(config.stash[options.FOLDER], ignore_errors=True)


def _evaluates_suites(config: pytest.Config) -> bool:
    """Whether suites are among what pytest was told to collect."""
    here = config.invocation_params.dir
    return any(argument.partition("::")[0].endswith(".toml") for argument in config.args) or any(
        discovery.is_asked_for(path, config.args, here) for path in config.stash[_SUITES]
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> SuiteFile | TableFile | None:
    """Collect suites: those of the table, and those that the command line names."""
    if file_path.suffix != ".toml":
        return None
    # pytest asks for the neighbours of a file that it was told to collect, too.
    config, listed = parent.config, file_path in parent.config.stash[_SUITES]
    if not discovery.is_asked_for(file_path, config.args, config.invocation_params.dir):
        return None
    if not listed and not parent.session.isinitpath(file_path):
        return None
    from robustbench_lite.faces.plugin import collection

    if listed and file_path.name == "pyproject.toml":
        return collection.TableFile.from_parent(parent, path=file_path)
    if listed or collection.suite_at(file_path):
        return collection.SuiteFile.from_parent(parent, path=file_path)
    return None


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> None:
    """Have every marked test evaluate."""
    if discovery.ask_for_fixture(collector, obj):
        collector.config.stash[_MARKED] = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the table and the options; what is wrong with a marker fails its test alone."""
    if any(item.get_closest_marker(discovery.MARKER) for item in items):
        from robustbench_lite.faces.plugin import marker
        from robustbench_lite.faces.plugin.plan import Plan

        Plan.of(config)
        marker.ask_for_fixture(items)


@pytest.fixture(scope="session")
def robust_target(request: pytest.FixtureRequest) -> Target:
    """Model under test, as a module, a Target, or the name of one; override it, or name one in the table."""
    from robustbench_lite.faces.plugin import marker

    return marker.default_target(request.config)


@pytest.fixture(scope="session")
def robust_data(request: pytest.FixtureRequest) -> Any:
    """Data that it is attacked on, in any form that evaluate takes; override it, or name some in the table."""
    from robustbench_lite.faces.plugin import marker

    return marker.default_data(request.config)


@pytest.fixture
def robustness(request: pytest.FixtureRequest, robust_target: Any, robust_data: Any) -> Scorecard:
    """Scorecard of robust_target on robust_data, as the test's marker says; its gates hold when the test is done."""
    from robustbench_lite.faces.plugin import marker

    return marker.evaluate_test(request.node, robust_target, robust_data)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Hold a marked test against its gates, when its body has passed."""
    __tracebackhide__ = True
    result = yield
    if discovery.FIXTURE in getattr(item, "fixturenames", ()):
        from robustbench_lite.faces.plugin import marker

        marker.enforce(item)
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give the workers of xdist a folder in which they share their scorecards."""
    stash = node.config.stash
    if options.FOLDER not in stash:
        stash[options.FOLDER] = Path(tempfile.mkdtemp(prefix="robustness-"))
    node.workerinput[options.SHARED] = str(stash[options.FOLDER])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the items of an evaluation on one worker, where the user has not chosen a way to part the tests."""
    if config.getoption("dist") == "load" and _evaluates_suites(config):
        from robustbench_lite.faces.plugin import scheduling

        return scheduling.EvaluationScheduling(config, log)
    return None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the results, once, in the process that the user started."""
    config = session.config
    given = options.Options.of(config)
    if given.is_worker or config.getoption("collectonly") or not (given.used or _has_evaluated(config, given)):
        return
    from robustbench_lite.faces.plugin import results
    from robustbench_lite.faces.plugin.evaluations import Evaluations
    from robustbench_lite.faces.plugin.plan import Plan

    found = results.repeatable(Evaluations.of(config).results, config)
    written = results.publish(found, given, Plan.of(config).baselines)
    config.stash[_LEFT] = found, written
    if written.faults and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if not config.pluginmanager.has_plugin("terminalreporter"):
        sys.stdout.write(results.commands(found))


def _has_evaluated(config: pytest.Config, given: options.Options) -> bool:
    if given.shared is not None:
        return any(given.shared.glob("*.request"))
    return discovery.EVALUATIONS in config.stash


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was evaluated, and where the results are."""
    found, written = config.stash.get(_LEFT, ([], None))
    if written is None or not (found or written.faults):
        return
    from robustbench_lite.faces.plugin import results, summary

    terminalreporter.section("robustness")
    if found and not config.getoption("no_summary"):
        width, colour = shutil.get_terminal_size().columns, terminalreporter.hasmarkup
        verbosity = config.get_verbosity()
        terminalreporter.write(summary.rendered(found, width=width, colour=colour, verbosity=verbosity))
    for line in written.lines:
        terminalreporter.write_line(line)
    for fault in written.faults:
        terminalreporter.write_line(fault, red=True)
    terminalreporter.write(results.commands(found))
