"""What is cheap stays cheap: the package and its command load nothing heavy before it is used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import robustbench_lite

HEAVY = {"torch", "torchvision", "foolbox", "art", "scipy", "sklearn"}

LOADED = """
print("LOADED", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
HELP = """
from importlib.metadata import entry_points
[command] = entry_points(group="console_scripts", name="rblite")
sys.argv = ["rblite", *{arguments}]
try:
    command.load()()
except SystemExit as end:
    assert not end.code, end.code
"""


def heavy_after(code: str) -> set[str]:
    """Heavy packages that a new interpreter holds after it ran some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}\n{LOADED}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    mark, _, loaded = done.stdout.rstrip().rpartition("\n")[2].partition(" ")
    assert mark == "LOADED", done.stdout
    return HEAVY & set(json.loads(loaded))


def test_the_package_loads_nothing_heavy() -> None:
    assert heavy_after("import robustbench_lite") == set()


def test_the_rooms_load_nothing_heavy() -> None:
    kinds = "[registry.names(kind) for kind in ('attacks', 'reports', 'suites')]"
    names = f"from robustbench_lite.core import registry; {kinds}"
    assert heavy_after(f"from robustbench_lite import attacks, defenses, reports\n{names}") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"]], ids=" ".join)
def test_the_command_says_what_it_can_do_and_loads_nothing_heavy(arguments: list[str]) -> None:
    assert heavy_after(HELP.format(arguments=arguments)) == set()


def test_the_probe_sees_what_is_loaded() -> None:
    assert heavy_after("import scipy") == {"scipy"}


@pytest.mark.parametrize("name", robustbench_lite.__all__)
def test_every_public_name_resolves(name: str) -> None:
    found = getattr(robustbench_lite, name)
    assert found.__name__ == name
    assert found.__module__.startswith("robustbench_lite.")


def test_the_public_names_are_all_listed() -> None:
    assert set(robustbench_lite.__all__) == set(robustbench_lite._PUBLIC)
    assert set(robustbench_lite.__all__) <= set(dir(robustbench_lite))


def test_a_name_that_does_not_exist_raises() -> None:
    with pytest.raises(AttributeError, match="no attribute 'attack'"):
        robustbench_lite.attack  # noqa: B018
