"""Labels in every form: what is unambiguous is taken and told, the rest is refused with its cure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.labels import as_label, as_labels
from robustbench_lite.data.load import as_data

Y = [0, 2, 1, 1]
Y2 = [0, 1, 1, 0]
ONE_HOT = torch.eye(3)[torch.tensor(Y)]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_of_every_width_are_classes(dtype: str) -> None:
    labels, note = as_labels(np.array(Y, dtype), "mine")
    assert (labels.dtype, labels.tolist(), note) == (torch.int64, Y, "")
    if hasattr(torch, dtype) and dtype not in ("uint16", "uint32", "uint64"):
        assert as_labels(torch.tensor(Y, dtype=getattr(torch, dtype)), "mine")[0].tolist() == Y


@pytest.mark.parametrize(
    ("given", "expected", "told"),
    [
        (torch.tensor(Y2, dtype=torch.bool), Y2, "False is class 0"),
        (np.array(Y2, bool), Y2, "False is class 0"),
        (torch.tensor(Y).float(), Y, "float32 and whole"),
        (np.array(Y, np.float16), Y, "float16 and whole"),
        ([0.0, 2.0, 1.0, 1.0], Y, "float64 and whole"),
        (ONE_HOT, Y, "one-hot"),
        (ONE_HOT.numpy().astype(np.uint8), Y, "one-hot"),
        (ONE_HOT.bool(), Y, "one-hot"),
        (torch.tensor(Y)[:, None], Y, ""),
    ],
)
def test_what_is_unambiguous_is_taken_and_told(given: Any, expected: list[int], told: str) -> None:
    labels, note = as_labels(given, "mine")
    assert (labels.dtype, labels.tolist()) == (torch.int64, expected)
    assert told in note


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([0.0, 0.5, 1.0], r"fractions \(row 1 has 0.5\).*\(y > 0.5\)"),
        ([0.0, float("nan")], r"NaN or infinity \(the first at row 1\).*leave them out"),
        (torch.tensor([[0.0, float("inf")]]), "NaN or infinity"),
        (torch.tensor([[1.0, 0.0], [0.3, 0.7]]), r"soft \(row 1 .* at most 0.7\).*argmax\(1\)"),
        (torch.tensor([[1, 0], [1, 1]]), r"no one-hot rows \(row 1 is \[1, 1\]\).*several classes"),
        (torch.tensor([[1, 0], [0, 0]]), r"no one-hot rows \(row 1 is \[0, 0\]\)"),
        (torch.tensor([[3, 4], [0, 1]]), "no one-hot rows"),
        (torch.zeros(2, 3, 3), r"of shape \(2, 3, 3\)"),
        (np.array([1j]), "complex|has dtype"),
        (np.array(["ant", "bee"]), r"has dtype <U3.*numpy.unique"),
    ],
)
def test_what_is_ambiguous_is_refused_with_its_cure(given: Any, told: str) -> None:
    with pytest.raises(UserError, match=f"^mine: .*{told}"):
        as_labels(given, "mine")


@pytest.mark.parametrize("given", [2, np.int8(2), torch.tensor(2), 2.0, torch.tensor([2.0]), np.eye(3)[2], ONE_HOT[1]])
def test_the_label_of_one_sample_is_read_as_those_of_many(given: Any) -> None:
    assert as_label(given, "sample 0")[0] == 2


@pytest.mark.parametrize("given", [None, "ant", {"label": 2}, 2.5, [0.2, 0.8], torch.zeros(2, 2)])
def test_a_label_that_is_no_class_is_told_with_its_sample(given: Any) -> None:
    with pytest.raises(UserError, match="sample 7"):
        as_label(given, "mine: sample 7")


def test_what_was_done_is_known_to_the_data() -> None:
    data = as_data((torch.zeros(4, 1, 2, 2), ONE_HOT))
    assert data.labels.tolist() == Y
    assert data.notes == ("one-hot labels are read as the class of their 1",)
