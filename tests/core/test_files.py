"""Writing that leaves the old file or the new one, never a part."""

from __future__ import annotations

import os
import stat

import pytest

from robustbench_lite.core.files import file_sha256, write_atomically

UNWRITABLE = "half of it \ud800 and the rest"  # a lone surrogate: UTF-8 has no bytes for it


def test_writes_utf8(tmp_path):
    write_atomically(tmp_path / "card.json", "ε ≤ 8/255\n")
    assert (tmp_path / "card.json").read_bytes() == "ε ≤ 8/255\n".encode()
    assert os.listdir(tmp_path) == ["card.json"]  # noqa: PTH208 - hidden ones count


def test_replaces_what_was_there(tmp_path):
    path = tmp_path / "card.json"
    path.write_text("a much longer text than the new one", encoding="utf-8")
    write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "card.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, UNWRITABLE)
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["card.json"]  # noqa: PTH208


def test_a_full_disk_or_a_kill_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    path.write_text("old", encoding="utf-8")

    for fault in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fails(*_, fault=fault):
            raise fault

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(type(fault)):
            write_atomically(path, "new")
        assert path.read_text(encoding="utf-8") == "old"
        assert os.listdir(tmp_path) == ["card.json"]  # noqa: PTH208


def test_a_folder_in_its_place_is_an_error_and_stays(tmp_path):
    (tmp_path / "card.json").mkdir()
    with pytest.raises(OSError, match=r"card\.json"):
        write_atomically(tmp_path / "card.json", "new")
    assert os.listdir(tmp_path) == ["card.json"]  # noqa: PTH208


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "card.json", "new")


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_it_as_far_as_the_umask_lets_them(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "card.json", "new")
        assert os.umask(mask) == mask, "the umask was changed"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "card.json").stat().st_mode) == 0o666 & ~mask


def test_the_checksum_of_a_file_is_the_one_that_any_tool_gives(tmp_path):
    (tmp_path / "empty").touch()
    assert file_sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "none")
