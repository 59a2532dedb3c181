"""What a checkpoint is written by."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from robustbench_lite.hardening.checkpoint import store


def test_what_is_stored_can_be_loaded_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        store({3: torch.full((4,), value)}, tmp_path / "state")
        assert torch.load(tmp_path / "state")[3].tolist() == [value] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_stops_the_writing_is_told_as_it_is_and_the_old_file_stays(tmp_path: Path) -> None:
    store({"one": 1}, tmp_path / "state")
    (tmp_path / "state.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as told:  # torch alone would say "unexpected pos 64 vs 0"
        store({"many": torch.zeros(10_000)}, tmp_path / "state")
    assert told.value.errno == errno.ENOSPC
    assert torch.load(tmp_path / "state") == {"one": 1}
