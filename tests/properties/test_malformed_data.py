"""Data files that lie, are cut short or would fill the memory: refused before they do, with what was expected."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import check_inputs
from robustbench_lite.data.load import load_data
from robustbench_lite.evaluating import corpus
from robustbench_lite.faces.cli import main
from robustbench_lite.results.scorecard import Witnesses

LINF = ThreatModel.parse("Linf 0.1")
SHAPE = (2, 1, 2, 2)
some_cases = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def npy(descr="<f4", shape=SHAPE, data=bytes(32)):
    """A member of an npz file, its header as it is given, true or not."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


LABELS = npy("<i8", (2,), bytes(16))
NAMES = npy("<U1", (2,), "ab".encode("utf-32-le"))
CORPUS = "linf-untargeted-1x2x2.npz"


def packed(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def as_data(folder, x):
    return load_data(f"npz:{packed(folder / 'a.npz', x=x, y=LABELS)}")


def as_witnesses(folder, x):
    return Witnesses.load(packed(folder / "a.npz", index=LABELS, attack=NAMES, threat=NAMES, x=x))


def as_corpus(folder, x):
    packed(folder / CORPUS, keys=npy("<i8", (2,), struct.pack("<qq", 1, 2)), x=x)
    return corpus.load(folder, LINF)


READERS = pytest.mark.parametrize("read", [as_data, as_witnesses, as_corpus])


def grown(act):
    """Bytes that were held at once, by Python and numpy."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@READERS
def test_a_whole_file_is_read(tmp_path, read):
    assert len(read(tmp_path, npy())) == 2


@READERS
@pytest.mark.parametrize(
    "x",
    [
        b"",
        b"no array",
        npy()[:-1],
        npy()[:60],
        npy(shape=(-2, 1, 2, 2)),
        npy(shape=(10**21, 1, 2, 2)),
        npy(shape=(2**32, 2**32, 2, 2)),
        npy(shape=(10**13,)),
        npy(shape="'ab'"),
        npy(shape="(2.0, 1, 2, 2)"),
        npy(shape="(" * 300),
        npy(shape="__import__('os').mkdir('made')"),
        npy("|O", data=pickle.dumps([os.getcwd])),
        npy("|V4"),
        npy("<U1"),
        npy("<c8", data=bytes(64)),
        npy("<M8[s]", data=bytes(64)),
        npy("|b1", data=bytes(8)),
        npy("|S999999999999"),
        npy("|i1", data=bytes(8)),
        npy(shape=(0, 1, 2, 2)),
    ],
)
def test_an_array_that_is_none_is_refused_by_every_reader(tmp_path, monkeypatch, read, x):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"a\.npz|untargeted"):
        read(tmp_path, x)
    assert len(list(tmp_path.iterdir())) == 1


@READERS
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
@some_cases
def test_damaged_bytes_give_data_or_an_error(tmp_path, read, at, byte, cut):
    content = npy(data=np.linspace(0, 1, 8, dtype="<f4").tobytes())
    place = int(at * (len(content) - 1))
    try:
        read(tmp_path, content[:place] + (b"" if cut else bytes([byte]) + content[place + 1 :]))
    except UserError as fault:
        told = str(fault)
    else:
        told = str(tmp_path)
    assert str(tmp_path) in told


@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
@some_cases
def test_a_damaged_archive_gives_data_or_an_error(tmp_path, at, byte, cut):
    path = packed(tmp_path / "a.npz", x=npy(), y=LABELS)
    content = path.read_bytes()
    place = int(at * (len(content) - 1))
    path.write_bytes(content[:place] + (b"" if cut else bytes([byte]) + content[place + 1 :]))
    try:
        load_data(f"npz:{path}")
    except UserError as fault:
        told = str(fault)
    else:
        told = str(path)
    assert str(path) in told


@pytest.mark.parametrize(
    "read", [lambda path: load_data(f"npz:{path}"), Witnesses.load, lambda path: corpus.load(path.parent, LINF)]
)
def test_a_small_file_that_unpacks_to_tens_of_gigabytes_is_refused_at_once(tmp_path, read):
    path = tmp_path / CORPUS
    packed(path, x=npy(), y=LABELS, keys=LABELS, index=LABELS, attack=NAMES, threat=NAMES)
    _claim(path, 2**32 - 2)  # of each member: as a bomb's table of contents has it

    def refuse():
        with pytest.raises(UserError, match=r"would unpack to 2\d\.0 GiB"):
            read(path)

    assert grown(refuse) < 10e6


def _claim(path, size):
    """Write another unpacked size into the table of contents of an archive, for each of its members."""
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 24 : at + 28] = struct.pack("<I", size)
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)


def test_a_member_holds_no_more_than_the_table_of_contents_says(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(shape=(2_000_000,), data=bytes(60_000_000)))
        archive.writestr("y.npy", LABELS)
    _claim(path, 1000)

    def read():
        with pytest.raises(UserError, match="can't be read"):
            load_data(f"npz:{path}")

    assert grown(read) < 30e6


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (np.zeros((2, 0, 2, 2), np.float32), "hold no values"),
        (np.zeros((2, 2), bool), "x is bool"),
        (np.zeros((2, 1, 2, 2), np.int64), "x is int64"),
        (np.zeros((2, 1, 2, 2), complex), "complex128"),
        (np.zeros(2, np.float32), r"shape \(2,\)"),
        (np.float32(1), r"shape \(\)"),
        (np.zeros((3, 1, 2, 2), np.float32), "3 samples and 2 labels"),
        (np.zeros((2, 4, 4, 3), np.float32), "channels last"),
    ],
)
def test_arrays_that_are_no_samples_are_told(tmp_path, x, told):
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0, 1]))
    with pytest.raises(UserError, match=told):
        load_data(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_no_numbers_are_told_when_they_are_checked(tmp_path, value):
    np.savez(tmp_path / "a.npz", x=np.full(SHAPE, value), y=np.array([0, 1]))
    with np.errstate(over="ignore"):
        data = load_data(f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(UserError, match="NaN or infinity in 2 of 2 samples that were read"):
        check_inputs(data.fetch([0, 1]), data.name)


def test_members_that_lead_out_of_the_folder_are_not_unpacked(tmp_path):
    (tmp_path / "in").mkdir()
    packed(tmp_path / "in" / "a.npz", **{"../out": npy(), "/tmp/out": npy(), "x": npy(), "y": LABELS})
    assert len(load_data(f"npz:{tmp_path / 'in' / 'a.npz'}")) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_a_corpus_of_another_shape_than_its_name_says_is_told_before_the_run(tmp_path):
    packed(tmp_path / CORPUS, keys=LABELS, x=npy(shape=(2, 1, 4, 1)))
    with pytest.raises(UserError, match="expected samples of the shape in its name"):
        corpus.load(tmp_path, LINF)


# --- images


def _png(width, height, rows=b""):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    ends = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(ends)


@pytest.fixture
def images(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name / "0.png")
    return tmp_path / "images"


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1), (0, 4)])
def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_unpacked(images, width, height):
    (images / "cat" / "1.png").write_bytes(_png(width, height))
    data = load_data(f"imagefolder:{images}")

    def read():
        with pytest.raises(UserError, match=r"imagefolder:.*sample 1 can't be read"):
            data.fetch(range(len(data)))

    assert grown(read) < 100e6


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        _png(4, 4),
        _png(4, 4)[:40],
        b"GIF89a",
        b"<svg onload='x'/>",
        b"%PDF-1.4",
        b"\xff\xd8\xff",
    ],
)
def test_an_image_that_is_none_is_told_with_its_place(images, content):
    (images / "cat" / "1.png").write_bytes(content)
    data = load_data(f"imagefolder:{images}")
    with pytest.raises(UserError, match=r"imagefolder:.*sample 1 can't be read"):
        data.fetch(range(len(data)))


def test_class_folders_may_be_named_as_they_like(images):
    odd = ["<script>alert(1)</script>".replace("/", "\u2215"), "a\nb", "..dots", "\x1b[2J", "[bold]", "a|b"]
    for name in odd:
        (images / name).mkdir()
        Image.new("RGB", (4, 4)).save(images / name / "0.png")
    data = load_data(f"imagefolder:{images}")
    assert sorted(data.classes) == sorted([*odd, "cat", "dog"])
    assert data.fetch(range(len(data))).shape == (8, 3, 4, 4)


# --- torchvision's own files are pickles


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("cifar10", ["cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta"]),
        ("cifar100", ["cifar-100-python/test", "cifar-100-python/meta"]),
        ("mnist", ["MNIST/processed/test.pt", "MNIST/processed/training.pt"]),
        ("imagenet", ["meta.bin", "val/n01/0.JPEG"]),
    ],
)
def test_a_data_set_that_would_run_code_is_refused_and_does_not_run(tmp_path, source, files):
    for file in files:
        (tmp_path / "root" / file).parent.mkdir(parents=True, exist_ok=True)
        torch.save(Bomb(tmp_path / "made"), tmp_path / "root" / file)
        if source.startswith("cifar"):
            (tmp_path / "root" / file).write_bytes(pickle.dumps(Bomb(tmp_path / "made")))
    with pytest.raises(UserError, match=f"{source}: can't be read from"):
        load_data(source, root=tmp_path / "root")
    assert [one.name for one in tmp_path.iterdir()] == ["root"]


# --- from outside


@pytest.mark.parametrize("x", [b"no array", npy("|O"), npy(shape=(10**13,))])
def test_the_command_line_tells_data_that_can_not_be_read(tmp_path, x):
    packed(tmp_path / "a.npz", x=x, y=LABELS)
    (tmp_path / "card.json").write_text("yesterday's")
    asked = ["evaluate", "no:model", "--data", f"npz:{tmp_path / 'a.npz'}", "--json", str(tmp_path / "card.json")]
    seen = CliRunner().invoke(main, asked)
    assert seen.exit_code == 2
    assert "a.npz: can't be read" in seen.output
    assert "Traceback" not in seen.output
    assert (tmp_path / "card.json").read_text() == "yesterday's"
