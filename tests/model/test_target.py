"""The target: what it hands the model, what it hands back, and every way to name one."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.loading import load_target, parse_normalisation
from robustbench_lite.model.target import Target, as_target

from .conftest import MAKER, write

X = torch.linspace(0, 1, 3 * 3 * 4 * 4).reshape(3, 3, 4, 4)


def net(channels: int = 3, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, classes)
    )


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


def test_the_device_is_that_of_the_first_tensor_and_the_type_that_of_the_first_of_floats() -> None:
    module = nn.Module()
    target = Target(module)
    module.register_buffer("seen", torch.zeros(3, dtype=torch.int64, device="meta"))
    assert (target.dtype, target.device) == (torch.float32, torch.device("meta"))
    module.register_buffer("scale", torch.ones(3, dtype=torch.float64))
    assert (target.dtype, target.device) == (torch.float64, torch.device("meta"))


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
        ("logits", "returns str: expected a tensor"),
        ((torch.zeros(3, 5), torch.zeros(3, 7)), r"returns tuple with 2 tensors \(0 of shape \(3, 5\), 1 of shape"),
        ({"a": torch.zeros(3, 5), "b": torch.zeros(3, 7)}, r"say which they are, as Target\(model, output='a'\)"),
        (torch.zeros(3, 5, 1), r"returns shape \(3, 5, 1\)"),
        (torch.zeros(4), r"returns shape \(4,\)"),
        (torch.zeros(1, 5), r"one row of logits a sample, \(3, K\)"),
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
        ("broken", r"ZeroDivisionError: division by zero \(.*model\.py:4\)"),
        ("nothing", "returned NoneType; expected a torch.nn.Module"),
        ("NUMBER", "is of type int; expected a callable"),
        ("needy", "needs an argument 'width'"),
    ],
)
def test_what_makes_no_model_is_told(tmp_path: Path, name: str, told: str) -> None:
    path = write(
        tmp_path / "model.py",
        """\
        NUMBER = 1

        def broken():
            return 1 / 0

        def nothing():
            return None

        def needy(width):
            return None
        """,
    )
    with pytest.raises(UserError, match=told):
        load_target(f"{path}:{name}")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("missing.py:make", r"missing\.py: no such file"),
        ("resnet18", "no such folder; expected package.module:callable"),
        ("torchvision:resnet19", "unknown torchvision model 'resnet19': did you mean resnet18"),
        ("torchvison:resnet18", r"no module named 'torchvison'.*; did you mean torchvision:resnet18\?"),
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


# Preprocessing


def test_a_preprocessing_comes_before_the_normalisation():
    target = Target(nn.Flatten(), mean=[0.5], std=[0.5], preprocessing=lambda x: x.round())
    assert target(torch.tensor([[[[0.2, 0.9]]]])).tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("preprocessing", [0.5, lambda x: x[:, :, ::2], lambda x: None])
def test_a_preprocessing_that_is_none_is_refused(preprocessing):
    with pytest.raises(UserError, match="preprocessing"):
        Target(nn.Flatten(), preprocessing=preprocessing)(torch.zeros(1, 1, 4, 4))


# --- names of the outputs


def test_outputs_have_names_of_the_users_or_the_modules_own() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert Target(module).class_names == ()
    assert Target(module, classes=["cat", "dog"]).class_names == ("cat", "dog")
    module.config = SimpleNamespace(id2label={0: "ant", 1: "bee"})  # type: ignore[assignment]
    assert Target(module).class_names == ("ant", "bee")
    assert Target(module, classes=["cat", "dog"]).class_names == ("cat", "dog")
    module.config = SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})  # type: ignore[assignment]
    assert Target(module).class_names == ()
    function = Target.from_callable(lambda x: x.reshape(len(x), -1)[:, :2], classes=["cat", "dog"])
    assert function.class_names == ("cat", "dog")
    assert function.probe(torch.rand(2, 1, 2, 2)) == 2


@pytest.mark.parametrize("names", [["cat"], ["cat", "cat"], ["cat", 1], "cat"])
def test_what_are_no_names_is_told(names: Any) -> None:
    with pytest.raises(UserError, match=r"expected the names of the outputs, in their order"):
        Target(nn.Flatten(), classes=names)


def test_as_many_names_as_outputs_are_expected() -> None:
    target = Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), classes=["ant", "bee", "cat"])
    with pytest.raises(UserError, match=r"has 2 outputs, and 3 names of classes were given \(ant, bee, cat\)"):
        target.probe(torch.rand(2, 1, 2, 2))
