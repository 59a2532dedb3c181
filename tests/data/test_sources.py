"""Data by name: the known sets, folders of images, npz files, and a user's own code."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_lite.core.errors import UserError
from robustbench_lite.data import sources
from robustbench_lite.data.dataset import check_inputs
from robustbench_lite.data.load import load_data

SHARED = Path(__file__).parents[3] / "shared" / "data"

needs_mnist = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")

N = 12
X = torch.rand(N, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


# --- sources by name


def test_digits_are_in_a_fixed_stratified_split() -> None:
    train, test = load_data("digits", split="train"), load_data("digits")
    assert (len(train), len(test), test.shape) == (1258, 539, (1, 8, 8))
    assert test.name == "digits/test"
    assert not set(train.index.tolist()) & set(test.index.tolist())
    assert test.index[:6].tolist() == [1, 2, 3, 5, 7, 8]
    assert (test.labels.bincount() - 54).abs().max() <= 2
    x = test.fetch(torch.arange(len(test)))
    check_inputs(x, test.name)
    assert (x.min(), x.max()) == (0, 1)
    assert test.classes == tuple("0123456789")


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for data in (load_data("digits", split="train"), load_data("digits")):
        x = data.fetch(range(len(data))).flatten(1).double() * 16
        assert torch.equal(x, torch.from_numpy(images)[data.index])
        assert torch.equal(data.labels, torch.from_numpy(labels)[data.index])


def test_a_limit_draws_by_class() -> None:
    data = load_data("digits", limit=20, seed=3)
    assert data.labels.bincount().tolist() == [2] * 10
    assert torch.equal(data.index, load_data("digits", limit=20, seed=3).index)


@needs_mnist
def test_mnist_is_read_from_its_archives_alone() -> None:
    data = load_data("mnist", root=SHARED)
    assert (len(data), data.shape, data.labels[:4].tolist()) == (10_000, (1, 28, 28), [7, 2, 1, 0])
    assert data.fetch([0]).max() == 1


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_is_read_packed_or_unpacked_and_its_folder_is_left_alone(tmp_path: Path, packed: bool) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 4)):
        images = np.arange(count * 28 * 28, dtype=np.uint8).reshape(count, 28, 28)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8))):
            content = idx(array)
            name = f"{part}-{kind}-ubyte"
            (raw / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    before = sorted(raw.iterdir())
    assert len(load_data("fashion-mnist", root=tmp_path, split="train")) == 6
    test = load_data("fashion-mnist", root=tmp_path)
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert test.fetch([0])[0, 0, 0, :3].tolist() == pytest.approx([0, 1 / 255, 2 / 255])
    assert test.classes[0] == "T-shirt/top"
    assert sorted(raw.iterdir()) == before
    (before[0]).write_bytes(b"damaged")
    with pytest.raises(UserError, match="fashion-mnist: can't be read from"):
        load_data("fashion-mnist", root=tmp_path)


@pytest.mark.parametrize("source", ["mnist", "fashion-mnist", "cifar10", "cifar100", "imagenet"])
def test_without_a_root_or_with_an_empty_one_the_cure_is_told(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match=r"none was given; .*--data-root"):
        load_data(source)
    with pytest.raises(UserError, match=r"can't be read from (.|\n)*--data-root"):
        load_data(source, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_imagenet_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be downloaded"):
        load_data("imagenet", root=tmp_path, download=True)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("digts", "unknown data source 'digts': did you mean digits"),
        ("something-else-entirely", "expected one of digits, mnist, .*imagefolder:PATH"),
        ("npz:", "unknown data source"),
        ("npz:missing.npz", "no such file"),
        ("imagefolder:missing", "no such folder"),
        ("rblite_no_such.module:make", "no module named 'rblite_no_such'"),
        ("imagefoler:some/folder", r"no module named 'imagefoler'.*; did you mean imagefolder:some/folder\?"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(source: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_data(source)


def test_a_path_without_its_form_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").touch()
    with pytest.raises(UserError, match=r"did you mean npz:.*mine\.npz"):
        load_data(str(tmp_path / "mine.npz"))


def test_an_unknown_split_is_told() -> None:
    with pytest.raises(UserError, match="split is 'val': expected train or test"):
        load_data("digits", split="val")  # type: ignore[arg-type]


# --- image folders


def picture(path: Path, size: tuple[int, int] = (6, 4), colour: tuple[int, int, int] = (255, 51, 0)) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_images_is_read_by_class(tmp_path: Path) -> None:
    for name in ("bee", "ape"):
        picture(tmp_path / name / "1.png")
    data = load_data(f"imagefolder:{tmp_path}")
    assert (data.classes, data.labels.tolist(), data.shape) == (("ape", "bee"), [0, 1], (3, 4, 6))
    assert data.fetch([0])[0, :, 0, 0].tolist() == pytest.approx([1, 0.2, 0])


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_folder_with_splits_is_read_by_split(tmp_path: Path, name: str) -> None:
    picture(tmp_path / name / "ape" / "1.png")
    for number in range(2):
        picture(tmp_path / "train" / "ape" / f"{number}.png")
    assert len(load_data(f"imagefolder:{tmp_path}")) == 1
    assert len(load_data(f"imagefolder:{tmp_path}", split="train")) == 2


def test_images_of_two_sizes_damaged_images_and_empty_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder of images for each class"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "ape").mkdir()
    with pytest.raises(UserError, match="no valid file for the classes ape"):
        load_data(f"imagefolder:{tmp_path}")
    picture(tmp_path / "ape" / "1.png")
    picture(tmp_path / "ape" / "2.png", size=(5, 5))
    (tmp_path / "ape" / "3.png").write_bytes(b"no picture")
    data = load_data(f"imagefolder:{tmp_path}")
    with pytest.raises(UserError, match=r"sample 0 has shape \(3, 4, 6\), sample 1 has \(3, 5, 5\)"):
        data.fetch([0, 1])
    with pytest.raises(UserError, match=r"sample 2 can't be read: UnidentifiedImageError: .*3\.png"):
        data.fetch([2])


# --- npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_an_npz_file_is_read(tmp_path: Path, save: Any, dtype: Any) -> None:
    x = X.numpy() if dtype != np.uint8 else (X * 255).byte().numpy()
    save(tmp_path / "data.npz", x=x.astype(dtype), y=Y.numpy().astype(np.uint8))
    data = load_data(f"npz:{tmp_path / 'data.npz'}")
    assert data.name == f"npz:{tmp_path / 'data.npz'}"
    expected = X if dtype != np.uint8 else (X * 255).byte().float() / 255
    assert torch.equal(data.fetch([5]), expected[5:6])
    assert data.labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"images": X.numpy(), "y": Y.numpy()}, "holds images, y, not x; expected x"),
        ({}, "holds nothing, not x and y"),
        ({"x": X.numpy(), "y": Y.numpy()[1:]}, "12 samples and 11 labels"),
        ({"x": X.permute(0, 2, 3, 1).numpy(), "y": Y.numpy()}, r"channels last.*save x\.transpose\(0, 3, 1, 2\)"),
        ({"x": np.zeros((2, 8, 8, 1), np.float32), "y": np.zeros(2, int)}, "channels last"),
        ({"x": np.array([{}, {}], dtype=object), "y": Y.numpy()}, "Object arrays .*; convert it to numbers"),
        ({"x": X.numpy(), "y": np.array(["a"] * N)}, "labels: has dtype <U1"),
    ],
)
def test_an_npz_file_that_holds_something_else_is_told(tmp_path: Path, arrays: Any, told: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UserError, match=told):
        load_data(f"npz:{tmp_path / 'data.npz'}")


@pytest.mark.parametrize("kept", [0, 10, 300, -10])
def test_a_truncated_npz_file_is_told(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=X.numpy(), y=Y.numpy())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="can't be read"):
        load_data(f"npz:{path}")


def test_an_npz_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.zeros((4, 1, 500, 500), np.float32), y=np.zeros(4, int))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(sources, "NPZ_LIMIT", 1_000_000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UserError, match="would unpack to"):
        load_data(f"npz:{path}")


def test_a_header_that_claims_more_than_there_is_does_not_take_the_memory(tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 3, 1000, 1000), }".ljust(117) + "\n"
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr(
            "x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\x00" * 64
        )
        archive.writestr("y.npy", b"")
    with pytest.raises(UserError, match="can't be read"):
        load_data(f"npz:{tmp_path / 'data.npz'}")


# --- a user's code


def test_a_callable_may_return_anything_and_is_told_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rblite_mine_3.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "SIZES = {'test': 2, 'train': 4}\n"
        "def pair(split): return torch.rand(SIZES[split], 1, 2, 2), [0] * SIZES[split]\n"
        "def plain(): return TensorDataset(torch.rand(3, 1, 2, 2), torch.arange(3))\n"
        "def named(**options): return 'digits'\n"
        "ready = plain()\n"
        "def broken(): raise OSError('the disk is full')\n"
        "def nothing(): return None\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(load_data("rblite_mine_3.py:pair")) == 2
    assert len(load_data("rblite_mine_3:pair", split="train")) == 4
    assert load_data("rblite_mine_3:plain").name == "rblite_mine_3:plain"
    assert len(load_data("rblite_mine_3:ready")) == 3
    assert load_data("rblite_mine_3:named").name == "rblite_mine_3:named"
    with pytest.raises(UserError, match=r"OSError: the disk is full \(.*rblite_mine_3\.py:8\)"):
        load_data("rblite_mine_3:broken")
    with pytest.raises(UserError, match="type NoneType: expected a pair"):
        load_data("rblite_mine_3:nothing")
    with pytest.raises(UserError, match="did you mean broken"):
        load_data("rblite_mine_3:brokn")


# --- splits of a folder of images


def folder_of(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        pixels = np.full((4, 4, 3), 10 * number, np.uint8)
        Image.fromarray(pixels).save(root / name / "0.png")
    return root


@pytest.mark.parametrize("test", ["test", "val", "Validation", "TEST"])
def test_the_name_of_a_folder_says_which_split_was_read(tmp_path: Path, test: str) -> None:
    folder_of(tmp_path, "train/ant", "train/bee", f"{test}/ant", f"{test}/bee", f"{test}/cat")
    known, judged = load_data(f"imagefolder:{tmp_path}", split="train"), load_data(f"imagefolder:{tmp_path}")
    assert (known.name, len(known)) == (f"imagefolder:{tmp_path / 'train'}", 2)
    assert (judged.name, len(judged)) == (f"imagefolder:{tmp_path / test}", 3)
    assert load_data(f"imagefolder:{tmp_path / 'train'}").name == f"imagefolder:{tmp_path / 'train'}"


@pytest.mark.parametrize(("there", "asked"), [("train", "test"), ("test", "train"), ("val", "train")])
def test_a_split_that_is_missing_is_not_made_of_another(tmp_path: Path, there: str, asked: Any) -> None:
    folder_of(tmp_path, f"{there}/ant", f"{there}/bee")
    with pytest.raises(UserError, match=rf"holds {there}/ and no .*give imagefolder:.*/{there}$"):
        load_data(f"imagefolder:{tmp_path}", split=asked)
    assert load_data(f"imagefolder:{tmp_path / there}", split=asked).classes == ("ant", "bee")


def test_a_class_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    folder_of(tmp_path, "bus", "train")
    data = load_data(f"imagefolder:{tmp_path}")
    assert (data.classes, data.notes) == (("bus", "train"), ())
