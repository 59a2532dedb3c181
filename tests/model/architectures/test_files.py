"""An architecture goes into a file and comes back; a model's folder keeps it; every fault is told at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.architectures.cells import Cells
from robustbench_lite.model.architectures.files import (
    FILE,
    SPACES,
    find_space,
    load_architecture,
    save_architecture,
)
from robustbench_lite.model.architectures.interface import Architecture
from robustbench_lite.model.architectures.plain import Plain
from robustbench_lite.model.building import builder_arguments, rebuilt
from robustbench_lite.model.loading import load_target, save_model

PLAIN = Plain(shape=(1, 8, 8), classes=3, depth=1, width=2, skip=True)


@pytest.mark.parametrize(
    "one", [PLAIN, Cells(shape=(1, 4, 4), classes=2, edge_2_3="none"), Plain(shape=(5,), classes=2)]
)
def test_what_is_written_is_read_again(tmp_path: Path, one: Architecture) -> None:
    save_architecture(one, tmp_path / "net.toml")
    assert load_architecture(tmp_path / "net.toml").toml() == one.toml()
    assert one.words in (tmp_path / "net.toml").read_text()


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text('space = "cells"\nshape = [1, 0, 8]\nclasses = 1\nedge_0_1 = "nor_conv"\nedge_1_0 = "none"\n')
    with pytest.raises(UserError) as told:
        load_architecture(file)
    text = str(told.value)
    assert "not a valid architecture" in text
    for line in ("shape.1", "classes", "edge_0_1: unknown operation 'nor_conv'", "edge_1_0: unknown key 'edge_1_0'"):
        assert line in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shape = [1]\nclasses = 2\n", "space: is missing; expected plain or cells"),
        ('space = "cell"\n', "did you mean cells"),
        ("space = 3\n", "unknown space '3': expected one of plain, cells"),
        ('space = "plain"\n', "shape: is missing"),
        ("space = \n", "can't be read as TOML"),
    ],
)
def test_what_is_no_architecture_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "net.toml").write_text(text)
    with pytest.raises(UserError, match=told):
        load_target(f"arch:{tmp_path / 'net.toml'}")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; it was looked for from"):
        load_target("arch:nothing.toml")
    save_architecture(PLAIN, tmp_path / "net.toml")
    with pytest.raises(UserError, match="an architecture is named arch:"):
        load_target(str(tmp_path / "net.toml"))
    with pytest.raises(UserError, match="has 3 classes, and 4 were given"):
        load_target(f"arch:{tmp_path / 'net.toml'}", classes=4)
    with pytest.raises(UserError, match="did you mean cells"):
        find_space("cels")
    assert all(find_space(name) is one for name, one in SPACES.items())


def test_a_folder_keeps_its_architecture_with_what_was_changed(tmp_path: Path) -> None:
    save_architecture(PLAIN, tmp_path / "net.toml")
    target = rebuilt(load_target(f"arch:{tmp_path / 'net.toml'}"), {"width": 4}, 0)
    assert target.classes == 3
    save_model(target, tmp_path / "saved")
    (tmp_path / "net.toml").unlink()
    shutil.move(tmp_path / "saved", tmp_path / "moved")

    again = load_target(str(tmp_path / "moved"))
    x = torch.rand(2, 1, 8, 8)
    target.module.eval(), again.module.eval()
    assert torch.equal(again(x), target(x))
    assert load_architecture(tmp_path / "moved" / FILE) == PLAIN.changed({"width": 4, "name": "architecture"})
    assert again.arguments == {}
    save_model(again, tmp_path / "moved")  # into its own folder
    once_more = load_target(str(tmp_path / "moved"))
    once_more.module.eval()
    assert torch.equal(once_more(x), target(x))


def test_a_folder_reads_no_architecture_outside_it(tmp_path: Path) -> None:
    save_architecture(PLAIN, tmp_path / "net.toml")
    save_model(load_target(f"arch:{tmp_path / 'net.toml'}"), tmp_path / "saved")
    told = tmp_path / "saved/model.json"
    told.write_text(told.read_text().replace(f"arch:{FILE}", "arch:../net.toml"))
    with pytest.raises(UserError, match="leads out of the folder"):
        load_target(str(tmp_path / "saved"))


def test_the_keys_of_the_file_are_arguments(tmp_path: Path) -> None:
    save_architecture(PLAIN, tmp_path / "net.toml")
    target = load_target(f"arch:{tmp_path / 'net.toml'}")
    assert {"depth", "width", "kernel"} < set(builder_arguments(target) or ())
    with pytest.raises(UserError, match="unknown key 'widht': did you mean width"):
        rebuilt(target, {"widht": 3}, 0)


def test_fresh_weights_are_the_seeds(tmp_path: Path) -> None:
    save_architecture(PLAIN, tmp_path / "net.toml")
    x = torch.rand(2, 1, 8, 8)
    first, same, other = (load_target(f"arch:{tmp_path / 'net.toml'}", seed=seed)(x) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
