"""The sample project, run as its user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = Path(__file__).with_name("sample_project")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "sample", ignore=shutil.ignore_patterns("__pycache__", ".*_cache")))


def test_it_passes(sample: Path) -> None:
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "GITHUB"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:hypothesispytest"],
        cwd=sample,
        env={**quiet, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "21 passed" in done.stdout
    for name in (
        "pyproject.toml::linf_fast::plain",
        "robustness.toml::hardened",
        "test_digits.py::test_holds_its_gates",
    ):
        assert name in done.stdout
