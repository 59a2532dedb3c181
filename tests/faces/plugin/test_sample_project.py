"""The sample project, run as its user would."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.forked import PYTEST, ran

SAMPLE = Path(__file__).with_name("sample_project")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "sample", ignore=shutil.ignore_patterns("__pycache__", ".*_cache")))


def test_it_passes(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sample)
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "GITHUB"))}
    done = ran(PYTEST, variables={**quiet, "COLUMNS": "100"})
    assert done.returncode == 0, done.stdout
    assert "21 passed" in done.stdout
    for name in (
        "pyproject.toml::linf_fast::plain",
        "robustness.toml::hardened",
        "test_digits.py::test_holds_its_gates",
    ):
        assert name in done.stdout
