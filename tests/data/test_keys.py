"""Keys tell samples apart by input and label, whatever the batch."""

from __future__ import annotations

import torch

from robustbench_lite.data.keys import key_text, keys_of
from robustbench_lite.data.load import as_data


def test_a_key_is_of_input_and_label_alone() -> None:
    x = torch.rand(5, 1, 2, 2)
    keys = keys_of(as_data((x, torch.tensor([0, 1, 0, 1, 0]))), 2).tolist()
    assert keys == keys_of(as_data((x, torch.tensor([0, 1, 0, 1, 0]))), 5).tolist()
    other = keys_of(as_data((x, torch.tensor([0, 1, 0, 1, 1]))), 5).tolist()
    assert (keys[:4], keys[4] == other[4]) == (other[:4], False)
    assert len(set(keys)) == 5


def test_a_key_as_text_has_sixteen_digits() -> None:
    assert (key_text(1), key_text(-1)) == ("0" * 15 + "1", "f" * 16)
