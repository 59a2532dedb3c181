"""The data: every form they come in, the stratified draw, and what is refused."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from robustbench_lite import data as data_module
from robustbench_lite.data import Data, as_data, check_inputs, check_labels, load_data
from robustbench_lite.errors import UserError

SHARED = Path(__file__).parents[2] / "shared" / "data"

needs_mnist = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")

N = 12
X = torch.rand(N, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


class Pairs(Dataset[Any]):
    """A map-style data set that counts how often it is read."""

    def __init__(self, x: Any = X, y: Any = Y, **attributes: Any) -> None:
        self.x, self.y, self.reads = x, y, 0
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, position: int) -> Any:
        self.reads += 1
        return self.x[position], self.y[position]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(x, int(y)) for x, y in zip(X, Y, strict=True)])


def labelled(labels: list[int]) -> Data:
    return as_data((torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels)))


# --- the forms of data


@pytest.mark.parametrize(
    "given_data",
    [
        (X, Y),
        [X.numpy(), Y.numpy()],
        (X.double().numpy(), Y.tolist()),
        (X.numpy().astype(">f4"), Y.numpy().astype(">i2")),
        (X.numpy(), Y.numpy().astype(np.uint16)),
        (X.clone().requires_grad_(), Y),
        TensorDataset(X, Y),
        Pairs(),
        Pairs(targets=Y.tolist()),
        Pairs(x=X.numpy(), y=Y.numpy()),
        Stream(),
        DataLoader(Pairs(), batch_size=5, shuffle=True),
        DataLoader(Stream(), batch_size=5),
        DataLoader([(x, int(y)) for x, y in zip(X, Y, strict=True)], batch_size=5),
    ],
)
def test_every_form_gives_the_same_samples_and_labels(given_data: Any) -> None:
    data = as_data(given_data)
    assert (len(data), data.shape) == (N, (3, 4, 4))
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == Y.tolist()
    assert data.index.tolist() == list(range(N))
    x = data.fetch(torch.tensor([7, 0, 7]))
    assert x.dtype == torch.float32
    assert torch.equal(x, X[[7, 0, 7]])
    assert as_data(data) is data


def test_read_only_and_reversed_arrays_are_taken() -> None:
    x = X.numpy()[::-1]
    y = Y.numpy().copy()
    y.flags.writeable = False
    data = as_data((x, y))
    assert torch.equal(data.fetch([0]), X[-1:])


def test_bytes_are_kept_as_bytes_and_scaled_when_fetched() -> None:
    x = torch.arange(4 * 2 * 2 * 2, dtype=torch.uint8).reshape(4, 2, 2, 2) * 8
    data = as_data((x, torch.zeros(4, dtype=torch.int64)))
    assert torch.equal(data.fetch([3]), x[3:].float() / 255)


def test_a_lazy_data_set_is_read_when_it_is_fetched() -> None:
    pairs = Pairs(targets=Y, classes=["ape", "bee", "cat"])
    data = as_data(pairs)
    assert pairs.reads == 1  # one for the shape
    assert data.classes == ("ape", "bee", "cat")
    data.fetch([3, 4])
    assert pairs.reads == 3


def test_labels_that_a_target_transform_changes_are_read_from_the_samples() -> None:
    data = as_data(Pairs(y=Y + 10, targets=Y, target_transform=lambda y: y + 10))
    assert data.labels.tolist() == (Y + 10).tolist()


def test_targets_that_are_not_the_labels_are_found_out() -> None:
    data = as_data(Pairs(targets=(Y + 1) % 3))
    with pytest.raises(UserError, match="sample 2 had label 0 and now has 2"):
        data.fetch([2])


def test_a_subset_has_its_own_labels() -> None:
    whole = Pairs(targets=Y)
    data = as_data(Subset(Subset(whole, [1, 3, 5, 7]), [3, 0]))
    assert whole.reads == 1
    assert data.labels.tolist() == [Y[7], Y[1]]
    assert torch.equal(data.fetch([0]), X[7:8])


@pytest.mark.parametrize(
    ("given_data", "told"),
    [
        (X, "type Tensor: expected a pair"),
        (3, "type int: expected a pair"),
        ((X, Y, Y), "type tuple: expected a pair"),
        ({"x": X, "y": Y}, "type dict: expected a pair"),
        ((X, Y[:-1]), "12 samples and 11 labels"),
        ((X[:0], Y[:0]), "holds no samples"),
        ((X[:, 0, 0, 0], Y), r"x has shape \(12,\)"),
        ((X.long(), Y), "x is int64; expected float in"),
        ((X > 0.5, Y), "x is bool; expected float in"),
        ((X, Y.float()), "labels are float32; expected integers"),
        ((X, Y > 0), "labels are bool; expected integers"),
        ((X, torch.eye(3)[Y]), r"as if one-hot; .*argmax\(1\)"),
        ((X, Y[:, None]), r"shape \(12, 1\); .*flatten"),
        ((np.array([None, "a"]), Y), "x: has dtype object"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "x: can't be made an array"),
        ((X, ["cat"] * N), "labels: has dtype <U3"),
        (Pairs(x=X[:0]), "holds no samples"),
        (Pairs(x=(X * 255).to(torch.uint8)), r"sample 0 is of type uint8.*ToDtype\(torch.float32, scale=True\)"),
        (Pairs(x=["picture"] * N), r"sample 0 is of type str.*ToTensor\(\)"),
        (Pairs(y=torch.eye(3)[Y]), "label of type Tensor; expected one integer"),
        (Pairs(y=Y.float()), "label of type Tensor; expected one integer"),
        (Pairs(x={}, y=Y), "holds no samples"),
        (DataLoader([X[0], X[1]]), "sample 0 is of type Tensor; expected a pair"),
        (DataLoader(Stream(), collate_fn=lambda batch: 1 / 0), "can't be read to its end: ZeroDivisionError"),
    ],
)
def test_what_are_no_labelled_samples_is_refused(given_data: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        as_data(given_data)


def test_samples_of_two_sizes_are_told_with_both() -> None:
    data = as_data(Pairs(x=[torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)], y=[0, 1], targets=[0, 1]))
    with pytest.raises(UserError, match=r"sample 0 has shape \(3, 4, 4\), sample 1 has \(3, 5, 4\).*resize"):
        data.fetch([1])


def test_a_sample_that_fails_is_told_with_its_position() -> None:
    data = as_data(Pairs(y={0: 0, 1: 1}, targets=Y))
    with pytest.raises(UserError, match="sample 7 can't be read: KeyError: 7"):
        data.fetch([1, 7])


# --- stratified


LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=80)


@given(labels=LABELS, limit=st.integers(1, 90), seed=st.integers(0, 2**32 - 1))
def test_a_stratified_draw_is_proportional_sorted_and_keeps_every_class(
    labels: list[int], limit: int, seed: int
) -> None:
    data = labelled(labels)
    part = data.stratified(limit, seed)
    assert len(part) == min(limit, len(labels))
    assert part.index.tolist() == sorted(set(part.index.tolist()))
    assert part.labels.tolist() == [labels[position] for position in part.index]
    present = set(labels)
    if limit >= len(present):
        assert set(part.labels.tolist()) == present
    for label in present:
        exact = min(limit, len(labels)) * labels.count(label) / len(labels)
        drawn = part.labels.tolist().count(label)
        assert drawn < max(exact, 1) + 1
        if limit < len(present) or all(limit * labels.count(other) >= len(labels) for other in present):
            assert abs(drawn - exact) < 1  # no class had to be raised to one


@given(labels=LABELS, limit=st.integers(1, 90), seed=st.integers(0, 2**32 - 1))
def test_a_stratified_draw_depends_on_its_seed_alone(labels: list[int], limit: int, seed: int) -> None:
    data = labelled(labels)
    first = data.stratified(limit, seed).index
    before = torch.random.get_rng_state()
    torch.rand(3)
    assert torch.equal(data.stratified(limit, seed).index, first)
    torch.random.set_rng_state(before)
    data.stratified(limit, seed)
    assert torch.equal(torch.random.get_rng_state(), before)


@given(labels=LABELS.filter(lambda labels: len(labels) > 1), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_split_parts_the_samples_in_two(labels: list[int], share: float, seed: int) -> None:
    stays, held = labelled(labels).split(share, seed)
    assert len(stays) > 0
    assert len(held) > 0
    assert sorted([*stays.index.tolist(), *held.index.tolist()]) == list(range(len(labels)))
    assert abs(len(held) - share * len(labels)) <= 1
    if len(stays) >= len(set(labels)):
        assert set(stays.labels.tolist()) == set(labels)


def test_another_seed_draws_others() -> None:
    data = labelled([0, 1] * 50)
    assert not torch.equal(data.stratified(10, 0).index, data.stratified(10, 1).index)


def test_a_part_of_a_part_keeps_the_positions_of_the_whole() -> None:
    data = as_data((X, Y)).take([9, 4, 2]).take(torch.tensor([2, 0]))
    assert data.index.tolist() == [2, 9]
    assert torch.equal(data.fetch([1]), X[9:10])
    assert data.labels.tolist() == [Y[2], Y[9]]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(UserError, match=f"limit is {limit}"):
        labelled([0, 1]).stratified(limit, 0)


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="share"):
        labelled([0, 1]).split(share, 0)


# --- checks


def test_inputs_in_range_pass_within_rounding() -> None:
    check_inputs(torch.tensor([[0.0 - 5e-7, 1.0 + 5e-7]]), "data")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0.0, 255.0], "range from 0 to 255.*divide by 255"),
        ([-2.1, 2.6], "range from -2.1 to 2.6.*undo the normalisation"),
        ([0.0, 1.1], "range from 0 to 1.1.*scale or clip"),
        ([0.0, float("nan")], "1 of 1 samples hold NaN or infinity"),
        ([0.0, float("inf")], "NaN or infinity"),
    ],
)
def test_inputs_out_of_range_are_told_with_a_guess(values: list[float], told: str) -> None:
    with pytest.raises(UserError, match=f"^mine: .*{told}"):
        check_inputs(torch.tensor([values]), "mine")


def test_labels_with_a_logit_pass() -> None:
    check_labels(torch.tensor([0, 2, 1]), 3)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, 3], "row 2 has label 3.*labels are 0 to 2; take a model"),
        ([0, -1, 1], "row 1 has label -1"),
        ([1, 2, 3], "subtract 1"),
    ],
)
def test_labels_without_a_logit_are_told(labels: list[int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_labels(torch.tensor(labels), 3)


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
    monkeypatch.setattr(data_module, "NPZ_LIMIT", 1_000_000)
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
