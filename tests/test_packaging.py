"""The house is whole however it is installed: sdist, wheel, editable; and leaves the top-level names free."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {
    "robustbench_lite": "robustbench_lite",
    "attacks": "robustbench_lite/attacks",
    "defenses": "robustbench_lite/defenses",
    "reports": "robustbench_lite/reports",
}
"""Where each folder of the checkout lands."""

PROBE = """
import json
from importlib.util import find_spec
from pathlib import Path
import robustbench_lite, robustbench_lite.attacks, robustbench_lite.defenses, robustbench_lite.reports
from robustbench_lite.core import registry

print(json.dumps({
    "file": robustbench_lite.__file__,
    "suites": {name: str(registry.find_file("suites", name)) for name in registry.names("suites")},
    "recipes": {name: str(registry.find_file("recipes", name)) for name in registry.names("recipes")},
    "attacks": registry.names("attacks"),
    "reports": registry.names("reports"),
    "templates": sorted(path.name for path in Path(robustbench_lite.reports.__path__[0]).glob("templates/*")),
    "leaked": [name for name in ("attacks", "defenses", "reports", "tests") if find_spec(name)],
}))
"""


@dataclass(frozen=True)
class Built:
    """What `python -m build` makes of a copy of the checkout, and an environment with the wheel in it."""

    checkout: Path
    sdist: Path
    wheel: Path
    environment: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("packaging")
    checkout, dist, environment = folder / "checkout", folder / "dist", folder / "environment"
    left = shutil.ignore_patterns(
        ".git", ".venv*", ".*_cache", ".hypothesis", ".robustbench", "__pycache__", "*.egg-info", "build", "dist"
    )
    shutil.copytree(ROOT, checkout, ignore=left)
    # Without a network: the sdist first, the wheel from the sdist.
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, checkout], folder)
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")

    run([sys.executable, "-m", "venv", "--without-pip", environment], folder)
    new = Built(checkout, sdist, wheel, environment)
    pip = [sys.executable, "-m", "pip", "--python", new.python, "--quiet"]
    run([*pip, "install", "--no-index", "--no-deps", wheel], folder)
    # The dependencies are those of the environment that runs the tests, found last. A .pth file doesn't run the
    # .pth files of the folders that it names, so the editable install there stays out.
    site = Path(run([new.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    ours = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "dependencies.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
    return new


def run(command: list[Any], cwd: Path) -> str:
    """Output of a command that must succeed, run in a folder and told nothing of this environment's paths."""
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=quiet, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: str, pattern: str = "*") -> list[Path]:
    """Files of a folder of the checkout, but for caches and texts for readers of the source."""
    found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob(pattern) if path.is_file())
    return [
        path
        for path in sorted(found)
        if path.suffix != ".md" and not any(part == "__pycache__" or part.startswith(".") for part in path.parts)
    ]


def expect_catalogue(found: dict[str, Any]) -> None:
    for kind, room in (("suites", "attacks"), ("recipes", "defenses")):
        expected = sorted(path.stem for path in (ROOT / room / kind).glob("*.toml"))
        assert expected, f"{room}/{kind} is empty"
        assert list(found[kind]) == expected
    assert {"fgsm", "pgd", "carlini_wagner"} <= set(found["attacks"])
    assert {"terminal", "html"} <= set(found["reports"])
    assert found["templates"] == sorted(path.name for path in (ROOT / "reports").glob("templates/*"))


def test_packages_are_the_folders_that_hold_an_init() -> None:
    folders = [path.parent.as_posix() for room in FOLDERS for path in files(room, "__init__.py")]
    expected = [name if name.startswith("robustbench_lite") else f"robustbench_lite/{name}" for name in folders]
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(name.replace("/", ".") for name in expected)


def test_constraints_pin_all_that_an_install_brings() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    direct = [Requirement(text) for text in project["dependencies"] + extras["dev"]]
    for own in [wanted for wanted in direct if wanted.name == project["name"]]:  # what CI tests of the other extras
        direct.remove(own)
        direct += [Requirement(text) for extra in sorted(own.extras) for text in extras[extra]]

    outside = [
        str(wanted) for wanted in direct if not wanted.specifier.contains(pins.get(canonicalize_name(wanted.name), "0"))
    ]
    assert not outside, f"constraints.txt pins no version in the range of {outside}"

    waiting, brought = list(direct), set()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            if (wanted.name, extra) in brought:
                continue
            brought.add((wanted.name, extra))
            for requirement in map(Requirement, metadata.requires(wanted.name) or []):
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    waiting.append(requirement)
    loose = {canonicalize_name(name) for name, _ in brought} - set(pins)
    assert not loose, f"constraints.txt lacks {sorted(loose)}; its first lines say how to make it again"


@pytest.mark.slow
def test_wheel_holds_the_four_folders_and_nothing_else(built: Built) -> None:
    expected = {
        path.as_posix().replace(folder, landed, 1) for folder, landed in FOLDERS.items() for path in files(folder)
    }
    names = {name for name in zipfile.ZipFile(built.wheel).namelist() if ".dist-info/" not in name}
    assert names == expected


@pytest.mark.slow
def test_sdist_can_be_built_and_tested(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {path.as_posix() for folder in (*FOLDERS, "tests") for path in files(folder)}
    needed |= {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt"}
    assert needed <= names


@pytest.mark.slow
def test_wheel_works_from_another_folder(built: Built, tmp_path: Path) -> None:
    found = json.loads(run([built.python, "-c", PROBE], tmp_path))
    paths = [found["file"], *found["suites"].values(), *found["recipes"].values()]
    assert all(Path(path).is_relative_to(built.environment) for path in paths), paths
    expect_catalogue(found)
    assert found["leaked"] == []


@pytest.mark.slow
def test_wheel_works_from_the_root_of_a_checkout(built: Built) -> None:
    # Python finds the checkout's ./robustbench_lite first, which has no rooms inside: they stand beside it.
    found = json.loads(run([built.python, "-c", PROBE], built.checkout))
    paths = [found["file"], *found["suites"].values(), *found["recipes"].values()]
    assert all(Path(path).is_relative_to(built.checkout) for path in paths), paths
    expect_catalogue(found)


@pytest.mark.slow
def test_wheel_loads_an_attack_and_runs_the_command(built: Built, tmp_path: Path) -> None:
    code = "from robustbench_lite.core import registry; print(registry.find('attacks', 'pgd').__module__)"
    assert run([built.python, "-c", code], tmp_path).strip() == "robustbench_lite.attacks.pgd"
    for folder in (tmp_path, built.checkout):
        assert "Usage: rblite" in run([built.environment / "bin" / "rblite", "--help"], folder)


@pytest.mark.slow
def test_folders_of_a_user_that_bear_our_names_stay_theirs(built: Built, tmp_path: Path) -> None:
    for name in ("attacks", "defenses", "reports", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n", encoding="utf-8")
    code = (
        "import attacks, defenses, reports, tests; from robustbench_lite import attacks as ours;"
        "assert attacks.MINE and defenses.MINE and reports.MINE and tests.MINE; print(ours.__file__)"
    )
    assert Path(run([built.python, "-c", code], tmp_path).strip()).is_relative_to(built.environment)


@pytest.mark.slow
def test_wheel_tests_a_project_with_pytest(built: Built, tmp_path: Path) -> None:
    left = shutil.ignore_patterns("__pycache__", ".*_cache", ".robustbench")
    theirs = ROOT / "tests" / "faces" / "plugin" / "sample_project"
    sample = Path(shutil.copytree(theirs, tmp_path / "sample", ignore=left))
    code = (
        "import sys, pytest, robustbench_lite; from importlib.util import find_spec; code = pytest.main(sys.argv[1:]);"
        "print('RAN', robustbench_lite.__file__, find_spec('robustbench_lite.attacks.pgd').origin); sys.exit(code)"
    )
    # By a worker of pytest-xdist, which finds the plugin by itself, as the process that starts it does.
    told = run([built.python, "-c", code, "-p", "no:hypothesispytest", "--robustness-json", "cards", "-n", "1"], sample)
    assert "21 passed" in told
    _, *places = next(line for line in told.splitlines() if line.startswith("RAN")).split()
    assert all(Path(place).is_relative_to(built.environment) for place in places), places
    assert len(list((sample / "cards").iterdir())) == 5


def test_this_install_works_from_another_folder(tmp_path: Path) -> None:
    found = json.loads(run([sys.executable, "-c", PROBE], tmp_path))
    expect_catalogue(found)
    assert found["leaked"] == []
