"""The arrows of the house: which package may import which. Imports run downwards only, and in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "robustbench_lite"

MACHINE = (
    *("core", "workers", "results", "model", "data", "attacking"),
    *("explaining", "evaluating", "hardening", "searching", "faces"),
)
"""From the ground up: a package may import those that stand before it, and nothing that stands behind it."""

NARROWER = {
    "core": set(),
    "workers": {"core"},
    "results": {"core"},
    "model": {"core", "results"},
    "data": {"core", "results", "model"},
}
"""Those that may import less than all that stand before them."""

CATALOGUE = {
    "attacks": {"core", "results", "model", "data", "attacking"},
    "defenses": {"core", "workers", "results", "model", "data", "attacking", "hardening"},
    "reports": {"core", "results"},
}
"""What the rooms of the catalogue may import. The machine imports none of them, nor they one another: they are found by
name (`core.registry`)."""

SCREENS = {"rich", "click", "jinja2"}
"""What only faces and reports may import."""

LONGEST = 400
"""Lines of a file of the machine."""

LONGER: dict[str, str] = {}
"""Files that may be longer, with the reason."""


def sources(folder: Path) -> list[Path]:
    """Python files of a folder."""
    return sorted(path for path in folder.rglob("*.py") if "templates" not in path.parts)


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it, also for the type checker alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            if node.module.count(".") < 2:  # `from robustbench_lite.core import registry` imports a module
                yield from (f"{node.module}.{name.name}" for name in node.names)


def room_of(module: str) -> str | None:
    """The package that a module of ours stands in; None of any other module, and of the face at the very top."""
    first, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return room if first == PACKAGE and room in (*MACHINE, *CATALOGUE) else None


def arrows(folder: Path) -> dict[str, set[str]]:
    """By file, the packages of ours that it imports from."""
    return {
        path.relative_to(ROOT).as_posix(): {room for room in map(room_of, imported(path)) if room}
        for path in sources(folder)
    }


@pytest.mark.parametrize("room", MACHINE)
def test_a_package_imports_only_what_stands_below_it(room: str) -> None:
    allowed = NARROWER.get(room, set(MACHINE[: MACHINE.index(room)])) | {room}
    wrong = {file: found - allowed for file, found in arrows(ROOT / PACKAGE / room).items() if found - allowed}
    assert not wrong, f"{room} may import {sorted(allowed)}"


@pytest.mark.parametrize("room", CATALOGUE)
def test_the_catalogue_imports_the_machine_and_no_other_room_of_its_own(room: str) -> None:
    allowed = CATALOGUE[room] | {room}
    wrong = {file: found - allowed for file, found in arrows(ROOT / room).items() if found - allowed}
    assert not wrong, f"{room} may import {sorted(allowed)}"


def test_no_file_imports_in_a_circle() -> None:
    files = {path: module_name(path) for path in sources(ROOT / PACKAGE)}
    modules = set(files.values())
    graph = {name: {found for found in imported(path) if found in modules - {name}} for path, name in files.items()}
    # The face of a package names what is in it for the type checker: that is no import that runs.
    faces = {module_name(path) for path in files if path.name == "__init__.py" and "lazy_names" in path.read_text()}
    graph = {name: found - faces for name, found in graph.items() if name not in faces}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as fault:
        pytest.fail(" -> ".join(fault.args[1]))


def module_name(path: Path) -> str:
    """Dotted name of a file of the machine."""
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


@pytest.mark.parametrize("room", [room for room in MACHINE if room != "faces"])
def test_the_machine_knows_no_screen(room: str) -> None:
    found = {
        path.relative_to(ROOT).as_posix(): screens
        for path in sources(ROOT / PACKAGE / room)
        if (screens := SCREENS & {module.partition(".")[0] for module in imported(path)})
    }
    assert not found


def test_no_file_of_the_machine_is_long_without_a_reason() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(ROOT / PACKAGE)
    }
    long = {file for file, lines in lengths.items() if lines > LONGEST}
    assert long <= set(LONGER)


def test_every_package_says_what_it_is() -> None:
    for room in MACHINE:
        if (ROOT / PACKAGE / room).is_dir():
            text = ast.get_docstring(ast.parse((ROOT / PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
            assert text, room
            assert len(text.splitlines()) >= 3, f"{room}: say what it is, what comes in, what goes out"


def test_the_probe_sees_imports_of_every_form(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nimport robustbench_lite.faces.cli as one\n"
        "from robustbench_lite import registry\ndef f():\n    from robustbench_lite.hardening import pipeline\n"
        "from robustbench_lite.core import norms\n"
    )
    (tmp_path / "probe.py").write_text(text, encoding="utf-8")
    rooms = {room_of(module) for module in imported(tmp_path / "probe.py")}
    assert rooms - {None} == {"faces", "hardening", "core"}
