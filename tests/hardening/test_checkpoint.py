"""What a checkpoint is written by."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest
import torch

from robustbench_lite.hardening.checkpoint import store


def test_what_is_stored_can_be_loaded_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        store({3: torch.full((4,), value)}, tmp_path / "state")
        assert torch.load(tmp_path / "state")[3].tolist() == [value] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_what_stops_the_writing_is_told_as_it_is_and_the_old_file_stays(tmp_path: Path) -> None:
    store({"one": 1}, tmp_path / "state")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))  # of a file, in bytes
    try:
        with pytest.raises(OSError, match="File too large") as told:  # torch alone would say "unexpected pos 64 vs 0"
            store({"many": torch.zeros(10_000)}, tmp_path / "state")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.errno == errno.EFBIG
    assert torch.load(tmp_path / "state") == {"one": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
