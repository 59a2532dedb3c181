"""Weights: what is read and what is refused, and models that come back from their folder."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.loading import load_target, save_model
from robustbench_lite.model.target import Target
from robustbench_lite.model.weights import load_weights

from .conftest import MAKER, write

YARDSTICKS = Path(__file__).parents[3] / "shared" / "yardsticks"
X = torch.linspace(0, 1, 3 * 3 * 4 * 4).reshape(3, 3, 4, 4)


def net(channels: int = 3, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, classes)
    )


needs_yardsticks = pytest.mark.skipif(not YARDSTICKS.is_dir(), reason=f"{YARDSTICKS} is absent")


class LeNet5(nn.Module):
    """advertorch's, as DESIGN.md tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(3136, 200)
        self.linear2 = nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.linear2(self.linear1(x.flatten(1)).relu())


def wk17a() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


# --- weights


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [(), ("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict")])
def test_state_dicts_load_alone_or_in_a_checkpoint(tmp_path: Path, wrapped: tuple[str, ...], legacy: bool) -> None:
    content: object = net().state_dict()
    for key in reversed(wrapped):
        content = {"epoch": 3, key: content}
    path = tmp_path / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    blank = net()
    nn.init.zeros_(blank[4].weight)
    load_weights(blank, path)
    assert torch.equal(blank[4].weight, net()[4].weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model._orig_mod."])
def test_prefixes_of_wrappers_are_dropped(tmp_path: Path, prefix: str) -> None:
    torch.save({f"{prefix}{name}": value for name, value in net().state_dict().items()}, tmp_path / "weights.pt")
    load_weights(net(), tmp_path / "weights.pt")


def test_data_parallel_weights_load_into_the_plain_and_into_the_wrapped_model(tmp_path: Path) -> None:
    torch.save(nn.DataParallel(net()).state_dict(), tmp_path / "weights.pt")
    load_weights(net(), tmp_path / "weights.pt")
    load_weights(nn.DataParallel(net()), tmp_path / "weights.pt")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": Bomb(tmp_path / "boom")}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"would run code from the file \(posix\.system\); save model\.state_dict\(\)"):
        load_weights(net(), path)
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(UserError, match="refused"):
        load_weights(net(), path)
    assert not (tmp_path / "boom").exists()


def test_a_whole_pickled_model_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"run code from the file \(torch\.nn\.modules\.\S+\); save model\.state_dict"):
        load_weights(net(), tmp_path / "weights.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="is a TorchScript archive"):
        load_weights(net(), tmp_path / "weights.pt")


@pytest.mark.parametrize("kept", [0, 1, 200, -10])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_told(tmp_path: Path, form: str, kept: int) -> None:
    from safetensors.torch import save_file

    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(net().state_dict(), path)
    else:
        torch.save(net().state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"damaged|refused"):
        load_weights(net(), path)


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"\x89PNG what a surprise, this is no checkpoint at all")
        with pytest.raises(UserError, match=r"damaged|refused"):
            load_weights(net(), tmp_path / name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (3, "an object of type int; expected a state dict"),
        (torch.zeros(3), "an object of type Tensor"),
        ({}, "holds nothing"),
        ({"epoch": 3, "weight": torch.zeros(1)}, r"no tensors \(epoch\)"),
    ],
)
def test_what_is_no_state_dict_is_told(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=told):
        load_weights(net(), tmp_path / "weights.pt")


def test_every_misfit_is_told_at_once_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = net(classes=6).state_dict()
    del state["0.bias"]
    state["9.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "weights.pt")
    module = net()
    before = Target(module).weights_sha256()
    with pytest.raises(UserError) as told:
        load_weights(module, tmp_path / "weights.pt")
    for line in ("missing: 0.bias", "unexpected: 9.extra", "4.weight: shape (6, 64) in the file, (5, 64) in the model"):
        assert line in str(told.value)
    assert Target(module).weights_sha256() == before


def test_where_only_the_number_of_classes_is_another_it_is_named(tmp_path: Path) -> None:
    def layers(hidden: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, hidden), nn.Linear(hidden, classes))

    torch.save(layers(8, 3).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"last layer has 3 outputs: give that number of classes \(--classes 3\)"):
        load_weights(layers(8, 10), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="give the architecture that they were trained with"):
        load_weights(layers(6, 3), tmp_path / "weights.pt")


def test_of_many_misfits_eight_are_told(tmp_path: Path) -> None:
    torch.save({f"layer{number}": torch.zeros(1) for number in range(20)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="and 12 more"):
        load_weights(nn.Flatten(), tmp_path / "weights.pt")


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_weights(net(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"is a folder; give the file in it, such as .*model\.safetensors"):
        load_weights(net(), tmp_path)


@needs_yardsticks
@pytest.mark.parametrize(
    ("file", "make"),
    [("mnist_lenet5_clean.pt", LeNet5), ("mnist_lenet5_adv.pt", LeNet5), ("mnist_wk17a.pth", wk17a)],
)
def test_the_yardsticks_load(file: str, make: type[nn.Module]) -> None:
    module = make()
    load_weights(module, YARDSTICKS / file)
    assert Target(module).probe(torch.rand(2, 1, 28, 28)) == 10


# --- folders


def test_a_model_of_a_file_comes_back_from_its_folder_in_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "repo" / "code" / "model.py", MAKER)
    monkeypatch.chdir(tmp_path / "repo")
    target = load_target("code/model.py:make", normalize="0.5,0.4,0.3/0.2,0.2,0.2")
    with torch.no_grad():
        target.module[1].weight.mul_(2)
    monkeypatch.chdir(tmp_path)
    save_model(target, Path("repo/out/hardened"))
    stored = json.loads((tmp_path / "repo/out/hardened/model.json").read_text())
    assert stored["spec"] == "model.py:make"
    (tmp_path / "repo/out").rename(tmp_path / "moved")
    (tmp_path / "repo/code/model.py").write_text("raise RuntimeError('the folder runs its own code')")
    again = load_target(str(tmp_path / "moved/hardened"))
    assert again.name == "hardened"
    assert again.weights_sha256() == target.weights_sha256()
    assert torch.equal(again(X), target(X))
    save_model(again, tmp_path / "twice")
    assert load_target(str(tmp_path / "twice")).weights_sha256() == target.weights_sha256()


def test_a_folder_keeps_classes_and_normalisation_unless_told_otherwise(tmp_path: Path) -> None:
    target = load_target("torchvision:squeezenet1_1", classes=4, normalize="none")
    save_model(target, tmp_path / "model")
    again = load_target(str(tmp_path / "model"))
    assert (again.mean, again.classes) == (None, 4)
    assert again.weights_sha256() == target.weights_sha256()
    assert load_target(str(tmp_path / "model"), normalize="imagenet").mean == (0.485, 0.456, 0.406)


def test_a_live_model_keeps_its_weights_and_tells_what_else_is_needed(tmp_path: Path) -> None:
    target = Target(net())
    save_model(target, tmp_path / "model")
    with pytest.raises(UserError, match=r"saved from a live object.*--weights .*model\.safetensors"):
        load_target(str(tmp_path / "model"))
    blank = net()
    nn.init.zeros_(blank[4].weight)
    load_weights(blank, tmp_path / "model" / "model.safetensors")
    assert Target(blank).weights_sha256() == target.weights_sha256()


def test_tied_weights_are_saved_and_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    shared = nn.Linear(4, 4)
    module = nn.Sequential(shared, nn.ReLU(), shared)
    save_model(Target(module), tmp_path)
    save_model(Target(module), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    load_weights(module, tmp_path / "model.safetensors")
    reference = tmp_path / "reference"
    reference.touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == reference.stat().st_mode


def test_a_state_that_is_more_than_tensors_is_not_saved(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> object:
            return {"version": 1}

        def set_extra_state(self, state: object) -> None:
            pass

    target = Target(Odd(2, 2))
    assert len(target.weights_sha256()) == 64
    with pytest.raises(UserError, match=r"_extra_state .*are no tensors"):
        save_model(target, tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, r"holds no model\.json"),
        ("{", "can't be read as JSON"),
        ('{"spec": 3, "extra": 1}', "spec: expected a valid string"),
        ('{"spec": "gone.py:make", "normalize": null, "classes": null}', r"gone\.py, which isn't there"),
        ('{"spec": "../out.py:make", "normalize": null, "classes": null}', "leads out of the folder .* --weights"),
    ],
)
def test_a_damaged_folder_is_told(tmp_path: Path, text: str | None, told: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if text is not None:
        (folder / "model.json").write_text(text)
    with pytest.raises(UserError, match=told):
        load_target(str(folder))


def test_a_folder_whose_weights_are_gone_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "model.py", MAKER)
    save_model(load_target(f"{path}:make"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_target(str(tmp_path / "model"))


def test_a_folder_keeps_what_its_outputs_are_called(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("from torch import nn\ndef net(): return nn.Sequential(nn.Linear(4, 2))\n")
    target = load_target(f"{tmp_path / 'nets.py'}:net", classes=["ant", "bee"])
    save_model(target, tmp_path / "model")
    assert load_target(str(tmp_path / "model")).class_names == ("ant", "bee")
    assert load_target(str(tmp_path / "model"), classes=["cat", "dog"]).class_names == ("cat", "dog")
