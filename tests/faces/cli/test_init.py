"""`rblite init`: what it lays passes as laid, and what is there stays."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import init, main
from tests.forked import PYTEST, ran

DEFAULT = {path: what for path, what in init.FILES.items() if path not in (".gitlab-ci.yml", ".pre-commit-config.yaml")}
RBLITE = [sys.executable, "-m", "robustbench_lite.faces.cli"]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo as it is laid by the command, and touched by nothing else."""
    folder = tmp_path_factory.mktemp("users") / "repo"
    run(folder.parent, *RBLITE, "init", "repo", *(word for name in init.CI for word in ("--ci", name)))
    return folder


def told() -> dict[str, str]:
    """Variables of a user who is in no test and in no CI."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "GITHUB", "CI"))}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def run(folder: Path, *command: str, status: int = 0) -> str:
    """Output of a command in a folder, as a user would run it."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=told(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def rblite(laid: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Output of a command in the repo, in this process: a fresh one takes seconds to load torch."""
    monkeypatch.chdir(laid)
    monkeypatch.setenv("COLUMNS", "80")

    def command(*arguments: str) -> str:
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    return command


# As laid


def test_the_test_passes_and_leaves_the_results_that_the_workflow_uploads(
    laid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [f"--{kind}={tmp_path / name}" for kind, name in RESULTS.items()]
    monkeypatch.chdir(laid)
    done = ran(PYTEST, "-p", "no:cacheprovider", "-W", "error", "--strict-markers", *written, variables=told())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "PASS" in done.stdout
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!")
    [card] = (tmp_path / "scorecards").glob("*.json")
    attacks = json.loads(card.read_text(encoding="utf-8"))["attacks"]
    assert [attack["name"] for attack in attacks] == ["fgsm", "pgd", "halving_steps"]
    assert all(attack["finished"] and attack["attempted"] for attack in attacks)


RESULTS = {
    "junitxml": "junit.xml",
    "robustness-json": "scorecards",
    "robustness-html": "report.html",
}


def test_what_each_ci_runs_is_yaml_and_passes(laid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their steps as a shell reads them, but for the installation; the results that are kept are there."""
    read = {name: yaml.safe_load((laid / path).read_text(encoding="utf-8")) for name, (path, _) in init.CI.items()}
    job = read["gitlab"]["robustness"]
    steps = {
        "github": [one["run"] for one in read["github"]["jobs"]["robustness"]["steps"] if "run" in one],
        "gitlab": job["script"],
        "pre-commit": [read["pre-commit"]["repos"][0]["hooks"][0]["entry"]],
    }
    assert steps["github"] == steps["gitlab"]
    install, test = steps["gitlab"]
    assert install == "python -m pip install robustbench_lite"
    monkeypatch.chdir(laid)
    for step in (test, *steps["pre-commit"]):
        said = run(laid, "bash", "-ec", f"python() {{ printf '%s\\n' \"$@\"; }}; {step}")
        option, module, *arguments = said.splitlines()
        assert (option, module) == ("-m", "pytest")
        done = ran(PYTEST, *arguments, variables=told())
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout
    assert (laid / job["artifacts"]["reports"]["junit"]).is_file()
    assert {one.name for one in (laid / job["artifacts"]["paths"][0]).iterdir()} == set(RESULTS.values())
    assert (laid / job["cache"]["paths"][0]).is_dir()
    shutil.rmtree(laid / "robustness")


def test_a_ci_of_the_user_s_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / ".gitlab-ci.yml").write_text("mine: {script: [true]}\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["init", str(tmp_path), "--ci", "gitlab", "--ci", "pre-commit"])
    assert ".gitlab-ci.yml was left alone: 'rblite init NEW-FOLDER --ci gitlab' shows what to add to it" in done.output
    assert (tmp_path / ".pre-commit-config.yaml").is_file()
    assert not (tmp_path / ".github").exists()


def test_list_finds_the_attack_the_suite_and_the_recipe(rblite: Callable[..., str]) -> None:
    out = rblite("list")
    assert re.search(r"^halving_steps +- +-", out, re.MULTILINE)
    assert len(re.findall(r"^digits +(One step|PGD training)", out, re.MULTILINE)) == 2


def test_evaluate_runs_the_suite_and_the_attack_alone(rblite: Callable[..., str], tmp_path: Path) -> None:
    suite = tmp_path / "alone.toml"
    suite.write_text('threats = ["Linf 0.1", "L2 0.5"]\nattacks = ["fgsm", "halving_steps"]\nindependent = true\n')
    card = tmp_path / "card.json"
    model = "tests/digits_model.py:trained"
    rblite("evaluate", model, "--data", "digits", "--suite", str(suite), "--json", str(card), "-q")
    results = json.loads(card.read_text(encoding="utf-8"))["attacks"]
    broken = [result["broken"] for result in results]
    assert broken[1] > broken[0] > 0  # the attack is a real one: it breaks more than one step does, in both norms
    assert broken[3] > broken[2] > 0


def test_harden_takes_the_recipe(rblite: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "hardened"
    command = ["harden", "tests/digits_model.py:build", "--data", "digits", "--recipe", "digits", "--out", str(out)]
    rblite(*command, "--epochs", "1", "--limit", "60", "-q")
    assert (out / "after.json").is_file()


def test_all_is_laid_and_nothing_else(laid: Path) -> None:
    left = ("__pycache__", ".robustbench", ".pytest_cache")
    paths = (path for path in laid.rglob("*") if path.is_file() and not set(path.parts) & set(left))
    assert sorted(path.relative_to(laid).as_posix() for path in paths) == sorted(init.FILES)


def test_the_templates_are_the_files(laid: Path) -> None:
    folder = Path(init.__file__).with_name("templates") / "init"
    expected = sorted(f"{path.removeprefix('.')}.txt" for path in init.FILES)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == expected
    assert all((laid / path).read_text(encoding="utf-8") == init.template(path) for path in init.FILES)


def test_the_code_is_formatted_and_linted(laid: Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    run(laid, *ruff, "format", "--no-cache", "--isolated", "--check", ".")
    run(laid, *ruff, "check", "--no-cache", "--isolated", "--select", "E,F,W,I,UP,B,N", ".")


def test_the_toml_files_parse(laid: Path) -> None:
    for path in laid.rglob("*.toml"):
        assert tomllib.loads(path.read_text(encoding="utf-8"))["description"]


# The workflow

NODE = re.compile(r"^(?P<indent> *)(?P<dash>- )?(?:(?P<key>[\w-]+):(?: (?P<value>\S.*))?|(?P<text>\S.*))$")


def workflow(laid: Path) -> list[dict[str, str | None]]:
    """Lines of the workflow, comments and empty ones left out, each taken apart; a line that is no YAML fails."""
    lines = (laid / ".github/workflows/robustness.yml").read_text(encoding="utf-8").splitlines()
    found = [NODE.match(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert all(found)
    return [match.groupdict() for match in found if match]


def test_the_workflow_is_laid_out_as_yaml(laid: Path) -> None:
    nodes = workflow(laid)
    text = (laid / ".github/workflows/robustness.yml").read_text(encoding="utf-8")
    assert "\t" not in text
    assert all(len(str(node["indent"])) % 2 == 0 for node in nodes)
    for before, after in itertools.pairwise(nodes):
        deeper = len(str(after["indent"])) - len(str(before["indent"])) - (2 if before["dash"] else 0)
        opens = before["value"] is None or before["value"] == ">-"
        assert deeper <= (2 if opens else 0), f"{after} is too deep below {before}"
    assert [node["key"] for node in nodes if node["indent"] == ""] == ["name", "on", "permissions", "jobs"]


def test_the_workflow_checks_out_sets_up_tests_and_uploads(laid: Path) -> None:
    nodes = workflow(laid)
    uses = [node["value"] for node in nodes if node["key"] == "uses"]
    assert [str(name).partition("@")[0] for name in uses] == [
        "actions/checkout",
        "actions/setup-python",
        "actions/upload-artifact",
    ]
    text = (laid / ".github/workflows/robustness.yml").read_text(encoding="utf-8")
    assert "python -m pip install robustbench_lite" in text
    assert "python -m pytest tests/test_robustness.py" in text
    assert all(f"--{kind}=robustness/{name}" in text for kind, name in RESULTS.items())
    assert "path: robustness/" in text
    assert "if: always()" in text
    assert "://" not in text  # no host is named: packages come from the user's own index


# What is there


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_robustness.py").write_text("mine = True\n", encoding="utf-8")
    laid = init.lay(tmp_path)
    assert dict(laid)["tests/test_robustness.py"] == "left alone"
    assert [state for _, state in laid].count("laid") == len(init.FILES) - 3
    assert (tmp_path / "tests/test_robustness.py").read_text(encoding="utf-8") == "mine = True\n"
    assert {state for _, state in init.lay(tmp_path)} == {"left alone"}


def test_force_replaces(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_robustness.py").write_text("mine = True\n", encoding="utf-8")
    laid = init.lay(tmp_path, force=True)
    assert dict(laid)["tests/test_robustness.py"] == "replaced"
    assert (tmp_path / "tests/test_robustness.py").read_text(encoding="utf-8") == init.template(
        "tests/test_robustness.py"
    )


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "repo/tests").mkdir(parents=True)
    (tmp_path / "repo/tests/digits_model.py").symlink_to(tmp_path / "elsewhere.py")
    assert dict(init.lay(tmp_path / "repo"))["tests/digits_model.py"] == "left alone"
    assert not (tmp_path / "elsewhere.py").exists()


def test_a_catalogue_that_is_there_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "attacks").mkdir()
    table = tmp_path / "attacks/__init__.py"
    table.write_text('CATALOGUE = {"mine": "mine:Mine"}\n', encoding="utf-8")
    done = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert done.exit_code == 0
    line = '"halving_steps": "halving_steps:HalvingSteps"'
    assert f"attacks/__init__.py was left alone: add {line} to its CATALOGUE" in done.output

    table.write_text(f"CATALOGUE = {{{line}}}\n", encoding="utf-8")
    assert "add" not in CliRunner().invoke(main, ["init", str(tmp_path)]).output


@pytest.mark.parametrize("path", ["attacks", "tests", ".github", "attacks/suites"])
def test_a_file_in_the_place_of_a_folder_is_told_and_nothing_laid(tmp_path: Path, path: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("mine", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=rf"{path} is a file: expected a folder, or nothing; choose another place"):
        init.lay(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_what_it_laid_and_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = CliRunner().invoke(main, ["init"])
    assert first.exit_code == 0
    assert all(re.search(rf"^laid +{re.escape(path)} +{what}$", first.output, re.M) for path, what in DEFAULT.items())
    assert all(f"  {command}\n" in first.output for command in init.NEXT)
    assert "Next, here:" in first.output
    assert max(map(len, first.output.splitlines())) <= 100
    second = CliRunner().invoke(main, ["init"])
    assert second.output.count("left alone") == len(DEFAULT)
    assert CliRunner().invoke(main, ["init", "--force"]).output.count("replaced") == len(DEFAULT) - 1


def test_a_users_gitignore_gets_a_line_and_keeps_its_own(tmp_path: Path) -> None:
    ignored = tmp_path / ".gitignore"
    ignored.write_text("*.pt", encoding="utf-8")
    for force in (False, True):
        init.lay(tmp_path, force=force)
        assert ignored.read_text(encoding="utf-8") == "*.pt\n.robustbench/\n"
