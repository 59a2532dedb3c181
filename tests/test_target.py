"""The target: what it hands the model, what it hands back, and every way to name, load and save one."""

from __future__ import annotations

import json
import os
import pickle
import textwrap
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError
from robustbench_lite.target import Target, as_target, load_target, load_weights, parse_normalisation, save_model

YARDSTICKS = Path(__file__).parents[2] / "shared" / "yardsticks"
X = torch.linspace(0, 1, 3 * 3 * 4 * 4).reshape(3, 3, 4, 4)

needs_yardsticks = pytest.mark.skipif(not YARDSTICKS.is_dir(), reason=f"{YARDSTICKS} is absent")


def net(channels: int = 3, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, classes)
    )


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


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


MAKER = """
    import torch
    from torch import nn

    def make():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
"""


class Recorder(nn.Module):
    """Keeps what it is given."""

    def __init__(self, output: object = None) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> object:
        self.seen = x
        return x.flatten(1) if self.output is None else self.output


# --- the call


def test_inputs_are_normalised_by_channel_and_logits_come_back() -> None:
    recorder = Recorder()
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    logits = Target(recorder, mean=mean, std=std)(X)
    expected = (X - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    torch.testing.assert_close(recorder.seen, expected)
    assert logits.shape == (3, 48)


def test_one_value_normalises_inputs_of_any_shape() -> None:
    recorder = Recorder()
    Target(recorder, mean=[0.5], std=[0.5])(torch.rand(2, 7))
    assert recorder.seen.shape == (2, 7)
    assert recorder.seen.min() < 0


def test_one_channel_is_not_broadcast_to_the_three_of_the_normalisation() -> None:
    target = Target(Recorder(), mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    with pytest.raises(UserError, match=r"3 channels.*\(2, 1, 4, 4\)"):
        target(torch.rand(2, 1, 4, 4))


def test_gradients_reach_the_input_through_the_normalisation_even_after_inference_mode() -> None:
    target = Target(Recorder(), mean=(0.11, 0.22, 0.33), std=(0.5, 0.5, 0.25))
    with torch.inference_mode():
        target(X)
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target(x).sum(), x)
    assert gradient[0, :, 0, 0].tolist() == [2, 2, 4]


@pytest.mark.parametrize(
    ("dtype", "seen", "out"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float64, torch.float64),
    ],
)
def test_inputs_take_the_models_dtype_and_logits_are_float32_or_wider(
    dtype: torch.dtype, seen: torch.dtype, out: torch.dtype
) -> None:
    module = nn.Sequential(nn.Flatten(), recorder := Recorder(), nn.Linear(48, 5)).to(dtype)
    target = Target(module)
    assert target.dtype == dtype
    assert target(X).dtype == out
    assert recorder.seen.dtype == seen


def test_a_module_without_parameters_is_float32_on_the_cpu() -> None:
    target = Target(nn.Flatten())
    assert (target.dtype, target.device) == (torch.float32, torch.device("cpu"))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match=r"type function: expected a torch\.nn\.Module"):
        Target(lambda x: x)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta:meta"])
def test_a_device_that_is_not_there_is_told(device: str) -> None:
    with pytest.raises(UserError, match=r"can't be used .*give cpu, cuda"):
        Target(net(), device=device)


def test_auto_is_a_device_that_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Target(net(), device="auto").device.type == expected


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), None), (None, (0.5,)), ((0.5,), (0.0,)), ((0.5, 0.5), (1.0,)), ((float("nan"),), (1.0,)), ((), ())],
)
def test_a_normalisation_that_is_none_is_refused(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    with pytest.raises(UserError, match="normalisation"):
        Target(net(), mean=mean, std=std)


def test_as_target_wraps_a_module_and_hands_a_target_back() -> None:
    module = net()
    target = as_target(module)
    assert target.module is module
    assert as_target(target) is target
    assert as_target(target, "cpu") is target


# --- attacking


def state_of(module: nn.Module) -> tuple[list[bool], list[bool]]:
    return [part.training for part in module.modules()], [p.requires_grad for p in module.parameters()]


def test_attacking_freezes_and_leaves_everything_as_it_came_even_after_an_exception() -> None:
    module = net().train()
    module[1].eval()
    module[0].bias.requires_grad_(False)
    before = state_of(module)
    statistics = module[1].running_mean.clone()
    target = Target(module)
    with pytest.raises(KeyError), target.attacking():  # noqa: PT012
        assert not any(chain(*state_of(module)))
        with target.attacking():
            target(X)
        assert not any(chain(*state_of(module)))
        raise KeyError
    assert state_of(module) == before
    assert torch.equal(module[1].running_mean, statistics)


# --- hash


def test_the_hash_follows_names_values_dtypes_and_normalisation_and_nothing_else() -> None:
    module = net()
    original = Target(module, name="a").weights_sha256()
    assert Target(net(), name="b").weights_sha256() == original
    assert Target(module.eval()).weights_sha256() == original
    assert Target(module, mean=[0.0], std=[1.0]).weights_sha256() != original
    assert Target(nn.Sequential(nn.Identity(), *net())).weights_sha256() != original
    assert Target(net().double()).weights_sha256() != original
    with torch.no_grad():
        module[4].bias[0] += 1e-6
    assert Target(module).weights_sha256() != original


def test_info_counts_the_parameters() -> None:
    info = Target(nn.Linear(3, 2)).info()
    assert (info.name, info.parameters, info.device) == ("Linear", 8, "cpu")
    assert len(info.weights_sha256) == 64


@pytest.mark.parametrize("module", [nn.Flatten(), nn.Embedding(0, 3), nn.BatchNorm1d(2).bfloat16()])
def test_states_that_are_empty_scalar_or_half_have_a_hash(module: nn.Module) -> None:
    assert len(Target(module).weights_sha256()) == 64


# --- probe


def test_probe_tells_the_number_of_classes_and_leaves_the_mode() -> None:
    target = Target(net(classes=7).train())
    assert target.probe(X) == 7
    assert target.classes == 7
    assert target.module.training


def test_probe_tells_the_shape_given_the_models_words_and_its_first_layer() -> None:
    with pytest.raises(UserError) as told:
        Target(net(channels=1)).probe(X)
    message = str(told.value)
    assert "(3, 3, 4, 4)" in message
    assert "to have 1 channels, but got 3" in message
    assert "(0, Conv2d) has in_channels=1" in message


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ((torch.zeros(3, 5),), "returns tuple: expected a tensor"),
        ({"logits": torch.zeros(3, 5)}, "returns dict: expected a tensor"),
        (torch.zeros(3, 5, 1), r"returns shape \(3, 5, 1\)"),
        (torch.zeros(3), r"returns shape \(3,\)"),
        (torch.zeros(1, 5), r"one row of logits a sample, \(3, K\)"),
        (torch.zeros(3, 1), "returns 1 logit a sample"),
        (torch.zeros(3, 5, dtype=torch.int64), "not predicted classes"),
        (torch.full((3, 5), torch.nan), "NaN or infinity"),
        (torch.full((3, 5), torch.inf), "NaN or infinity"),
    ],
)
def test_probe_refuses_what_are_no_logits(output: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Target(Recorder(output)).probe(X)


def test_probe_takes_logits_without_a_gradient() -> None:
    assert Target(Recorder(torch.zeros(3, 5))).probe(X) == 5


# --- models by name


def test_a_file_and_a_module_of_the_working_directory_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rblite_zoo_1" / "small.py", MAKER)
    monkeypatch.chdir(tmp_path)
    by_file = load_target("rblite_zoo_1/small.py:make")
    by_module = load_target("rblite_zoo_1.small:make")
    assert by_file.probe(X) == 5
    assert by_file.name == "small.py:make"
    assert by_module.name == "rblite_zoo_1.small:make"
    assert by_file.weights_sha256() == by_module.weights_sha256()


def test_two_files_of_one_name_do_not_clash(tmp_path: Path) -> None:
    for classes in (2, 3):
        write(
            tmp_path / str(classes) / "model.py",
            f"from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(48, {classes}))",
        )
    assert [load_target(f"{tmp_path}/{classes}/model.py:make").probe(X) for classes in (2, 3, 2)] == [2, 3, 2]


def test_a_file_finds_the_files_beside_it_and_the_search_path_is_left_alone(tmp_path: Path) -> None:
    import sys

    write(tmp_path / "rblite_layers_2.py", "WIDTH = 6")
    path = write(
        tmp_path / "model.py",
        """
        def make():
            import rblite_layers_2
            from torch import nn
            return nn.Sequential(nn.Flatten(), nn.Linear(48, rblite_layers_2.WIDTH))
        """,
    )
    before = list(sys.path)
    assert load_target(f"{path}:make").probe(X) == 6
    assert sys.path == before


def test_the_named_object_may_be_a_module_a_class_or_a_target(tmp_path: Path) -> None:
    path = write(
        tmp_path / "model.py",
        """
        from torch import nn
        from robustbench_lite import Target

        ready = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        target = Target(ready, name="mine", mean=[0.5], std=[0.25])

        class Net(nn.Sequential):
            def __init__(self, num_classes):
                super().__init__(nn.Flatten(), nn.Linear(48, num_classes))

        def wide(classes=9):
            return Net(classes)
        """,
    )
    assert load_target(f"{path}:ready").probe(X) == 2
    assert load_target(f"{path}:Net", classes=4).probe(X) == 4
    assert load_target(f"{path}:wide").probe(X) == 9
    assert load_target(f"{path}:wide", classes=3).probe(X) == 3
    mine = load_target(f"{path}:target")
    assert (mine.name, mine.mean, mine.std) == ("mine", (0.5,), (0.25,))
    assert load_target(f"{path}:target", normalize="none").mean is None
    with pytest.raises(UserError, match="needs num_classes; give the number of classes"):
        load_target(f"{path}:Net")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", r"ZeroDivisionError: division by zero \(.*model\.py:5\)"),
        ("leaves", r"SystemExit: 3 \(.*model\.py:8\)"),
        ("deep", r"(?s)RuntimeError: .*\(.*model\.py:12\)"),
        ("nothing", "returned NoneType; expected a torch.nn.Module"),
        ("NUMBER", "is of type int; expected a callable"),
        ("needy", "needs an argument 'width'"),
        ("brocken", "did you mean broken"),
    ],
)
def test_what_fails_in_the_users_code_is_told_with_its_line(tmp_path: Path, name: str, told: str) -> None:
    path = write(
        tmp_path / "model.py",
        """\
        import torch
        NUMBER = 1

        def broken():
            return 1 / 0

        def leaves():
            raise SystemExit(3)

        def deep():
            import torch.nn as nn
            return nn.Linear(2, 2).load_state_dict({})

        def nothing():
            return None

        def needy(width):
            return None
        """,
    )
    with pytest.raises(UserError, match=told):
        load_target(f"{path}:{name}")


def test_a_file_that_fails_to_import_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", "x = 1\nimport rblite_is_not_there\n")
    with pytest.raises(UserError, match=r"ModuleNotFoundError: .*rblite_is_not_there.*a\.py:2\)"):
        load_target(f"{path}:make")
    path = write(tmp_path / "b.py", "x = 1\n\ndef make(:\n")
    with pytest.raises(UserError, match=r"SyntaxError: .*b\.py:3\)"):
        load_target(f"{path}:make")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("missing.py:make", r"missing\.py: no such file"),
        ("rblite_no_such.thing:make", "no module named 'rblite_no_such'"),
        ("torch.nn_no_such:make", r"no module named 'torch\.nn_no_such'"),
        ("resnet18", "no such folder; expected package.module:callable"),
        ("torchvision:resnet19", "unknown torchvision model 'resnet19': did you mean resnet18"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(spec: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_target(spec)


def test_a_file_alone_is_told_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "model.py", MAKER)
    with pytest.raises(UserError, match=r"such as .*model\.py:make_model"):
        load_target(str(path))
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="this file with --weights"):
        load_target(str(tmp_path / "weights.pt"))


def test_a_torchvision_model_is_normalised_as_imagenet() -> None:
    target = load_target("torchvision:squeezenet1_1", classes=4)
    assert target.mean == (0.485, 0.456, 0.406)
    assert target.probe(torch.rand(2, 3, 32, 32)) == 4
    assert load_target("torchvision:squeezenet1_1", normalize="none").mean is None


def test_normalisations_by_name_and_by_number() -> None:
    assert parse_normalisation("none") == (None, None)
    assert parse_normalisation("mnist") == ((0.1307,), (0.3081,))
    assert parse_normalisation("0.5, 0.4/0.25,1") == ((0.5, 0.4), (0.25, 1.0))


@pytest.mark.parametrize("text", ["cifar", "0.5", "a/b", "1/2/3", "0.5/0", "1,2/1", "/", ""])
def test_a_wrong_normalisation_is_told(text: str) -> None:
    with pytest.raises(UserError, match="normalisation"):
        parse_normalisation(text)


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


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
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
    assert stored["spec"] == "../../code/model.py:make"
    (tmp_path / "repo").rename(tmp_path / "moved")
    again = load_target(str(tmp_path / "moved/out/hardened"))
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
        ('{"spec": 3, "extra": 1}', "spec: Input should be a valid string"),
        ('{"spec": "../gone.py:make", "normalize": null, "classes": null}', r"gone\.py, which isn't there"),
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
