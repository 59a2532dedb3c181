"""What a loader yields is what is judged, by its sampler and its collate function; or it is refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data, check_steady
from robustbench_lite.data.load import as_data

N = 60
X = torch.rand(N, 1, 2, 2, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
PAIRS = TensorDataset(X, Y)
EVEN = list(range(0, N, 2))


class Dicts(Dataset[Any]):
    def __init__(self, image: str = "image", label: str = "label", **more: Any) -> None:
        self.image, self.label, self.more = image, label, more

    def __len__(self) -> int:
        return N

    def __getitem__(self, position: int) -> Any:
        return {"id": position, self.image: X[position], self.label: int(Y[position]), **self.more}


class Stream(IterableDataset[Any]):
    def __init__(self, source: Dataset[Any]) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Any]:
        return (self.source[position] for position in range(N))


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


def labelled_by_hand(batch: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The data set's labels are of no use: these are."""
    x = torch.stack([sample for sample, _ in batch])
    return x, (x.mean((1, 2, 3)) > 0.5).long()


def is_samples(data: Data, rows: list[int]) -> bool:
    return (
        torch.equal(data.fetch(range(len(data))), X[rows])
        and data.labels.tolist() == Y[rows].tolist()
        and data.index.tolist() == list(range(len(rows)))
    )


@pytest.mark.parametrize(
    ("loader", "rows"),
    [
        (DataLoader(PAIRS, sampler=EVEN), EVEN),
        (DataLoader(PAIRS, sampler=[5, 3, 5]), [5, 3, 5]),
        (DataLoader(PAIRS, sampler=SubsetRandomSampler(EVEN), batch_size=7), EVEN),
        (DataLoader(PAIRS, batch_sampler=[[8, 9], [1]]), [8, 9, 1]),
        (DataLoader(PAIRS, batch_sampler=BatchSampler(EVEN, 7, drop_last=True)), EVEN[:28]),
        (DataLoader(PAIRS, batch_size=16, drop_last=True), list(range(48))),
        (DataLoader(PAIRS, batch_size=15, shuffle=True, drop_last=True), list(range(N))),
        (DataLoader(PAIRS, batch_size=None), list(range(N))),
        (DataLoader(Dicts(), sampler=EVEN), EVEN),
    ],
)
def test_the_samples_are_those_that_the_sampler_draws(loader: DataLoader[Any], rows: list[int]) -> None:
    before = torch.random.get_rng_state()
    data = as_data(loader)
    assert is_samples(data, rows)
    assert torch.equal(torch.random.get_rng_state(), before)
    part = any(f"draws {len(set(rows))} of the 60 samples" in note for note in data.notes)
    assert part == (rows != list(range(N)))


def test_a_generator_of_the_users_is_left_as_it_was() -> None:
    dice = torch.Generator().manual_seed(1)
    before = dice.get_state()
    as_data(DataLoader(PAIRS, shuffle=True, generator=dice))
    assert torch.equal(dice.get_state(), before)


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        (
            DataLoader(PAIRS, sampler=WeightedRandomSampler([1.0] * N, N)),
            "WeightedRandomSampler.* other samples",
        ),
        (DataLoader(PAIRS, batch_size=16, shuffle=True, drop_last=True), "drop_last=True.*shuffle=False"),
        (DataLoader(PAIRS, sampler=Endless()), "perhaps without end"),
        (DataLoader(PAIRS, sampler=[N + 1]), "draws sample 61 of a data set of 60"),
        (DataLoader(PAIRS, sampler=[]), "no samples"),
    ],
)
def test_a_loader_without_a_fixed_set_of_samples_is_refused(loader: DataLoader[Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        as_data(loader)


@pytest.mark.parametrize("shuffle", [False, True])
def test_labels_that_the_collate_function_makes_are_the_labels(shuffle: bool) -> None:
    data = as_data(DataLoader(PAIRS, batch_size=7, shuffle=shuffle, collate_fn=labelled_by_hand))
    x = data.fetch(range(N))
    assert sorted(x.flatten(1).sum(1).tolist()) == pytest.approx(sorted(X.flatten(1).sum(1).tolist()))
    assert data.labels.tolist() == (x.mean((1, 2, 3)) > 0.5).long().tolist()
    check_steady(data)


def test_a_collate_function_that_draws_at_random_is_found() -> None:
    def jitter(batch: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = labelled_by_hand(batch)
        return (x + 0.1 * torch.rand(len(x), 1, 1, 1)).clamp(0, 1), y

    with pytest.raises(UserError, match="the data change"):
        check_steady(as_data(DataLoader(PAIRS, batch_size=7, collate_fn=jitter)))


def test_a_loader_of_another_kind_is_read_as_it_is_iterated() -> None:
    class Half(DataLoader[Any]):
        def __iter__(self) -> Any:
            return iter([(X[:5], Y[:5]), (X[5:8], Y[5:8])])

    assert is_samples(as_data(Half(PAIRS)), list(range(8)))


@pytest.mark.parametrize(
    "data",
    [
        Dicts(),
        Dicts("img", "target"),
        Dicts("pixel_values", "labels"),
        DataLoader(Dicts(), batch_size=7),
        Stream(Dicts()),
        DataLoader(Stream(Dicts()), batch_size=7),
    ],
)
def test_dicts_are_read_by_their_names_and_this_is_told(data: Any) -> None:
    found = as_data(data)
    assert is_samples(found, list(range(N)))
    assert "is taken as the sample and" in found.notes[0]


def test_entries_that_are_not_clear_are_to_be_named() -> None:
    fine = Dicts("image", "fine_label", coarse_label=0)
    with pytest.raises(UserError, match=r"a dict of 'id', 'image', 'fine_label', 'coarse_label': none is known.*keys="):
        as_data(fine)
    with pytest.raises(UserError, match="'image' and 'x' could each be the sample"):
        as_data(Dicts("image", x=1))
    with pytest.raises(UserError, match="there is no 'label' in it"):
        as_data(fine, keys=("image", "label"))
    found = as_data(fine, keys=("image", "fine_label"))
    assert is_samples(found, list(range(N)))
    assert found.notes == ()


def test_a_third_entry_of_a_tuple_is_left_out_and_this_is_told() -> None:
    triples: Any = [(x, int(y), 7) for x, y in zip(X, Y, strict=True)]
    data = as_data(DataLoader(triples, batch_size=4))
    assert is_samples(data, list(range(N)))
    assert data.notes == ("of each item the first two of 3 entries are taken",)
