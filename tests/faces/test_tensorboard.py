"""Each epoch's numbers as TensorBoard reads them back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.tensorboard import board
from robustbench_lite.hardening.checkpoint import Epoch


def line(epoch: int, one_step: float | None) -> Epoch:
    return Epoch("1-pgd_training", "model", epoch, 1.0 / epoch, 0.1, 0.9, 0.25 * epoch, one_step, seconds=2.0)


def test_the_numbers_of_each_epoch_are_read_back_a_run_for_each_recipe(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with board(str(tmp_path)) as made:
        assert made is not None
        for run in ("a", "b"):
            made.begin(run)
            made(line(1, 0.5))
            made(line(2, None))
    for run in ("a", "b"):
        events = reader.EventAccumulator(str(tmp_path / run))
        events.Reload()
        robust = events.Scalars("1-pgd_training/model/robust")
        assert [(one.step, one.value) for one in robust] == [(1, 0.25), (2, 0.5)]
        assert [one.step for one in events.Scalars("1-pgd_training/model/one_step")] == [1]
        assert {"loss", "lr", "clean"} <= {name.rpartition("/")[2] for name in events.Tags()["scalars"]}


def test_without_a_folder_there_is_none() -> None:
    with board(None) as made:
        assert made is None


def test_without_the_extra_what_to_install_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(UserError, match=r"pip install 'robustbench_lite\[tensorboard\]'"), board(str(tmp_path / "x")):
        pass
    assert not (tmp_path / "x").exists()


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another place"), board(str(tmp_path / "file" / "in")):
        pass
