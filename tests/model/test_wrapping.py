"""What is put around a target: saved by name, made again, and part of what the target is known by."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from robustbench_lite import Target, evaluate, load_target
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.model.loading import save_model
from robustbench_lite.model.wrapping import WrappedTarget, bare, wrapped

NET = """
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))
def purified():
    from robustbench_lite import Target
    from robustbench_lite.core import registry
    inner = Target(build(), mean=[0.5], std=[0.25])
    return registry.build("defenses", "median", {}).wrap(inner, "median")
"""


@pytest.fixture
def net(tmp_path: Path) -> Target:
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    return load_target(f"{tmp_path / 'net.py'}:build", normalize="0.5/0.25")


def around(target: Target, *steps: tuple[str, dict[str, object]]) -> WrappedTarget:
    for name, params in steps:
        target = registry.build("defenses", name, params).wrap(target, name)
    assert isinstance(target, WrappedTarget)
    return target


def images(number: int = 6) -> torch.Tensor:
    return torch.rand(number, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_wrappers_are_made_again_from_the_folder_in_their_order(net: Target, tmp_path: Path) -> None:
    target = around(net, ("bit_depth", {"bits": 2}), ("median", {}), ("smoothing", {"sigma": 0.1, "n0": 20}))
    net.probe(images(2))
    save_model(target, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "model.json").read_text())
    assert [one["name"] for one in stored["wrappers"]] == ["bit_depth", "median", "smoothing"]
    assert stored["classes"] == 5  # of the network, without the answer that smoothing may withhold
    again = load_target(str(tmp_path / "out"))
    assert [one.made_by.name for one in wrapped(again)] == ["smoothing", "median", "bit_depth"]
    assert torch.equal(again(images()), target(images()))
    assert again.weights_sha256() == target.weights_sha256()


def test_plain_torch_loads_the_weights_into_the_bare_network(net: Target, tmp_path: Path) -> None:
    save_model(around(net, ("jpeg", {})), tmp_path / "out")
    plain = copy.deepcopy(net.module)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    plain.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    assert torch.equal(plain(images()), net.module(images()))


def test_a_model_that_wraps_itself_is_saved_as_it_is_and_not_wrapped_twice(net: Target, tmp_path: Path) -> None:
    target = load_target(f"{tmp_path / 'net.py'}:purified")
    assert [one.made_by.name for one in wrapped(target)] == ["median"]
    save_model(target, tmp_path / "out")
    again = load_target(str(tmp_path / "out"))
    assert [one.made_by.name for one in wrapped(again)] == ["median"]
    assert torch.equal(again(images()), target(images()))


def test_what_it_is_known_by_tells_what_is_around_it(net: Target) -> None:
    hashes = {
        net.weights_sha256(),
        around(net, ("bit_depth", {"bits": 2})).weights_sha256(),
        around(net, ("bit_depth", {"bits": 3})).weights_sha256(),
        around(net, ("median", {})).weights_sha256(),
    }
    assert len(hashes) == 4


def test_a_copy_is_a_copy_all_the_way_in(net: Target) -> None:
    target = around(net, ("median", {}))
    other = copy.deepcopy(target)
    before = target(images())
    with torch.no_grad():
        for parameter in other.module.parameters():
            parameter.zero_()
    assert torch.equal(target(images()), before)
    assert not torch.equal(other(images()), before)
    assert bare(target) is net
    assert bare(other).module is not net.module


def test_the_cache_knows_a_wrapped_target_again(net: Target, tmp_path: Path) -> None:
    x = images(5)
    data = (x, net(x).argmax(1))
    first, again = (
        evaluate(around(net, ("bit_depth", {"bits": 2})), data, ["fgsm"], "Linf 0.1", cache=tmp_path / "cache")
        for _ in range(2)
    )
    assert again.created == first.created
    assert again.seconds == first.seconds
    other = evaluate(around(net, ("bit_depth", {"bits": 1})), data, ["fgsm"], "Linf 0.1", cache=tmp_path / "cache")
    assert other.target.weights_sha256 != first.target.weights_sha256


@pytest.mark.parametrize(
    ("wrapper", "told"),
    [
        ({"name": "smothing"}, "smoothing"),
        ({"name": "smoothing", "params": {"sigma": -1}}, "sigma"),
        ({"name": "pgd_training"}, "no wrapping step"),
        ({"name": 3}, "name"),
        ("smoothing", "wrappers"),
    ],
)
def test_a_wrapper_that_cannot_be_made_again_is_told(wrapper: object, told: str, net: Target, tmp_path: Path) -> None:
    save_model(net, tmp_path / "out")
    file = tmp_path / "out" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"wrappers": [wrapper]}))
    with pytest.raises(UserError, match=told) as fault:
        load_target(str(tmp_path / "out"))
    assert "out" in str(fault.value)


def test_a_folder_of_before_there_were_wrappers_loads(net: Target, tmp_path: Path) -> None:
    save_model(net, tmp_path / "out")
    file = tmp_path / "out" / "model.json"
    stored = json.loads(file.read_text())
    del stored["wrappers"]
    file.write_text(json.dumps(stored))
    assert torch.equal(load_target(str(tmp_path / "out"))(images()), net(images()))


def test_another_normalisation_goes_to_the_network_within(net: Target) -> None:
    target = around(net, ("bit_depth", {"bits": 2}))
    other = target.fed(mean=None, std=None)
    rounded = (images() * 3).round() / 3
    assert torch.equal(other(images()), net.module(rounded))
    assert torch.equal(target(images()), net(rounded))
