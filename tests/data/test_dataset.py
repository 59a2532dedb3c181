"""The data: every form they come in, the stratified draw, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from robustbench_lite import evaluate
from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data, check_inputs, check_labels, check_steady
from robustbench_lite.data.load import as_data

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
        ((np.array([None, "a"]), Y), "x: has dtype object"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "x: can't be made an array"),
        ((X, ["cat"] * N), "labels: has dtype <U3"),
        (Pairs(x=X[:0]), "holds no samples"),
        (Pairs(x=(X * 255).to(torch.uint8)), r"sample 0 is of type uint8.*ToDtype\(torch.float32, scale=True\)"),
        (Pairs(x=["picture"] * N), r"sample 0 is of type str.*ToTensor\(\)"),
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
        ([0.0, float("nan")], "NaN or infinity in 1 of 1 samples that were read"),
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


def test_labels_of_minus_and_plus_one_are_told_with_their_cure() -> None:
    with pytest.raises(UserError, match=r"they are -1 and 1: give \(labels \+ 1\) // 2"):
        check_labels(torch.tensor([1, -1, 1]), 2)


# --- data that change


class Jittered(Pairs):
    """A training set: each reading moves the picture."""

    def __getitem__(self, position: int) -> Any:
        x, y = super().__getitem__(position)
        return (x + 0.1 * torch.rand(3, 1, 1)).clamp(0, 1), y


def test_data_that_change_are_told_as_such() -> None:
    check_steady(as_data(Pairs()))
    jittered = as_data(Jittered())
    before = torch.random.get_rng_state()
    with pytest.raises(UserError, match=r"^Jittered: the data change .*12 of 12 samples .* Take random transforms"):
        check_steady(jittered)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_data_that_change_are_refused_by_an_evaluation_before_the_model_is_asked() -> None:
    def model(x: Any) -> Any:
        raise AssertionError("the model was asked")

    with pytest.raises(UserError, match="the data change"):
        evaluate(model, Jittered(), "black_box", "Linf 0.1")
