"""Each worker has a GPU of its own, as far as they go."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from robustbench_lite import Target
from robustbench_lite.workers import gpus


def first(place: int, count: int, visible: str | None = None) -> str:
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return gpus.one_for(place, variables, count)["CUDA_VISIBLE_DEVICES"]


def test_workers_find_their_gpus_turned_by_their_place() -> None:
    assert [first(place, 3) for place in range(4)] == ["0,1,2", "1,2,0", "2,0,1", "0,1,2"]


def test_what_was_made_visible_is_what_is_shared_out() -> None:
    assert [first(place, 2, "5,3") for place in range(2)] == ["5,3", "3,5"]
    assert first(1, 2, "GPU-aa,GPU-bb,-1,7") == "GPU-bb,GPU-aa", "a -1 ends what CUDA sees"


@pytest.mark.parametrize("visible", ["", "0"])
def test_a_list_that_was_changed_after_the_count_is_left_alone(visible: str) -> None:
    assert gpus.one_for(1, {"CUDA_VISIBLE_DEVICES": visible}, 2) == {}


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_need_no_placing(count: int) -> None:
    assert gpus.one_for(1, {"CUDA_VISIBLE_DEVICES": "0"}, count) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_where_there_is_no_gpu_what_was_on_one_is_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "_package_registry", list(torch.serialization._package_registry))
    torch.serialization.register_package(0, lambda _: "cuda:1", lambda *_: None)  # as a machine with GPUs writes it
    module = nn.Linear(3, 2)
    sent = pickle.dumps(module)
    with pytest.raises(RuntimeError, match="CUDA"):
        pickle.loads(sent)
    gpus.or_memory()
    assert torch.equal(pickle.loads(sent).weight, module.weight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_target_without_tensors_is_not_left_on_a_gpu_that_is_not_there() -> None:
    target = Target(nn.Flatten())
    target._device = torch.device("cuda:1")
    assert pickle.loads(pickle.dumps(target)).device == torch.device("cpu")
