"""Compression as steps: what becomes smaller, what stays zero, and folders that load again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from robustbench_lite import Scorecard, Target, evaluate, load_target
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.faces.cli import main
from robustbench_lite.hardening.pipeline import Hardened, harden
from robustbench_lite.hardening.recipe import Recipe, RecipeStep
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.model.quantized import Quantized
from robustbench_lite.model.size import multiply_adds, size_of

SUITE = Suite.model_validate(
    {"name": "short", "threats": ["Linf 0.05"], "attacks": [{"attack": "pgd", "params": {"steps": 3}}]}
)
CODE = """
from torch import nn
def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
def normed():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 10)
    )
"""


@pytest.fixture(scope="module")
def digits(train_on_digits: Callable[..., Any]) -> tuple[nn.Module, Tensor, Tensor]:
    model: nn.Module
    model, x, y = train_on_digits(600, 6)
    return model.eval(), x, y


@pytest.fixture
def start(digits: Any, tmp_path: Path) -> Target:
    (tmp_path / "net.py").write_text(CODE)
    torch.save(digits[0].state_dict(), tmp_path / "net.pt")
    return load_target(f"{tmp_path / 'net.py'}:build", weights=tmp_path / "net.pt", classes=10)


def run(target: Target, digits: Any, *steps: dict[str, Any], out: Path | None = None, epochs: int = 1) -> Hardened:
    _, x, y = digits
    schedule = Schedule(epochs=epochs, batch_size=30, lr=0.003, optimizer="adam")
    recipe = Recipe(
        name="short",
        description="",
        steps=tuple(RecipeStep.model_validate(step) for step in steps),
        threat="Linf 0.05",
        schedule=schedule,
    )
    return harden(target, (x[:300], y[:300]), recipe, test_data=(x[600:650], y[600:650]), suite=SUITE, out=out)


PGD = {"name": "pgd_training", "params": {"steps": 2}}


def answers(target: Target, x: Tensor) -> Tensor:
    with target.attacking(), torch.no_grad():
        return target(x)


def share_of_zeros(target: Target) -> float:
    weights = [one for name, one in target.module.named_parameters() if name.endswith("weight")]
    return sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)


@pytest.mark.parametrize(
    "step",
    [
        {"name": "prune", "params": {"amount": 0.8}},
        {"name": "prune", "params": {"amount": 0.8, "across": "layer"}},
        {"name": "prune_learnt", "params": {"amount": 0.8, "steps": 2}},
    ],
)
def test_what_is_pruned_stays_so_while_it_is_fine_tuned(step: Any, start: Target, digits: Any, tmp_path: Path) -> None:
    hardened = run(start, digits, step, PGD, out=tmp_path / "out", epochs=3)
    assert share_of_zeros(hardened.target) == pytest.approx(0.8, abs=0.01)
    assert share_of_zeros(start) < 0.01
    assert all(one.requires_grad for one in hardened.target.module.parameters())
    again = load_target(str(tmp_path / "out"))
    assert set(again.module.state_dict()) == set(start.module.state_dict())
    _, x, y = digits
    assert torch.equal(answers(again, x[:9]), answers(hardened.target, x[:9]))
    assert size_of(again.module).nonzero < 0.35 * size_of(start.module).parameters
    assert float((hardened.target(x[600:]).argmax(1) == y[600:]).float().mean()) > 0.5


def test_magnitude_takes_the_smallest_of_all_layers(start: Target, digits: Any) -> None:
    pruned = run(start, digits, {"name": "prune", "params": {"amount": 0.5}}).target
    before = torch.cat([start.module[at].weight.detach().abs().flatten() for at in (0, 4)])  # type: ignore[index]
    after = torch.cat([pruned.module[at].weight.detach().flatten() for at in (0, 4)])  # type: ignore[index]
    assert float(before[after == 0].max()) <= float(before[after != 0].min())


def test_learnt_scores_leave_the_weights_as_they_were(start: Target, digits: Any) -> None:
    pruned = run(start, digits, {"name": "prune_learnt", "params": {"amount": 0.5, "steps": 1}}, epochs=2).target
    one, other = start.module[4].weight, pruned.module[4].weight  # type: ignore[index]
    kept = other != 0
    assert torch.equal(one[kept], other[kept])
    assert torch.equal(start.module[4].bias, pruned.module[4].bias)  # type: ignore[index]
    smallest = one.detach().abs().flatten().argsort()[: one.numel() // 2]
    assert int(kept.flatten()[smallest].sum()) > 0  # not only by magnitude


@pytest.mark.parametrize("by", ["loss", "magnitude"])
def test_channels_are_really_removed_and_the_folder_loads(by: str, digits: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    (tmp_path / "net.py").write_text(CODE)
    start = load_target(f"{tmp_path / 'net.py'}:normed", classes=10)
    step = {"name": "prune_channels", "params": {"amount": 0.5, "by": by, "samples": 60, "steps": 2}}
    hardened = run(start, digits, step, PGD, out=tmp_path / "out")
    _, x, _ = digits
    small, large = size_of(hardened.target.module), size_of(start.module)
    assert small.bytes < 0.7 * large.bytes
    assert multiply_adds(hardened.target.module, x[:1]) < 0.8 * multiply_adds(start.module, x[:1])
    again = load_target(str(tmp_path / "out"))
    assert torch.equal(answers(again, x[:9]), answers(hardened.target, x[:9]))
    assert size_of(again.module) == small
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < small.bytes + 4096


@pytest.mark.parametrize(
    ("step", "most"),
    [
        ({"name": "quantize"}, 0.35),
        ({"name": "quantize", "params": {"bits": 4, "activations": False}}, 0.25),
        ({"name": "quantize_training", "params": {"bits": 4, "steps": 2}}, 0.25),
    ],
)
def test_integers_take_less_and_answer_alike(
    step: Any, most: float, start: Target, digits: Any, tmp_path: Path
) -> None:
    hardened = run(start, digits, step, out=tmp_path / "out")
    x = digits[1]
    layers = [one for one in hardened.target.module.modules() if isinstance(one, Quantized)]
    assert len(layers) == 2
    assert size_of(hardened.target.module).bytes < most * size_of(start.module).bytes
    bits = step.get("params", {}).get("bits", 8)
    assert all(int(one.unpacked().abs().max()) == 2 ** (bits - 1) - 1 for one in layers)
    if step["name"] == "quantize":
        same = hardened.target(x).argmax(1) == start(x).argmax(1)
        assert float(same.float().mean()) > (0.98 if bits == 8 else 0.9)
    again = load_target(str(tmp_path / "out"))
    assert torch.equal(answers(again, x[:9]), answers(hardened.target, x[:9]))
    stored = json.loads((tmp_path / "out" / "model.json").read_text())
    assert stored["changes"][0]["layers"] == ["0", "4"]


def test_a_quantised_network_is_attacked_by_its_own_gradient(start: Target, digits: Any) -> None:
    hardened = run(start, digits, {"name": "quantize"})
    _, x, y = digits
    card = evaluate(hardened.target, (x[600:630], y[600:630]), ["apgd"], "Linf 0.05")
    plain = evaluate(start, (x[600:630], y[600:630]), ["apgd"], "Linf 0.05")
    assert abs(card.robust_accuracy.value - plain.robust_accuracy.value) < 0.1
    assert card.verdict == "MEASURED", card.validity


def test_a_layer_of_integers_computes_its_rounded_weights() -> None:
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=1)
    x = torch.rand(2, 4, 9, 9)
    made = Quantized(layer, 8, None)
    step = layer.weight.detach().flatten(1).abs().amax(1) / 127
    rounded = (layer.weight / step.reshape(-1, 1, 1, 1)).round() * step.reshape(-1, 1, 1, 1)
    expected = nn.functional.conv2d(x, rounded, layer.bias, stride=2, padding=1, groups=2)
    assert torch.allclose(made(x), expected, atol=1e-5)
    assert made.double()(x.double()).dtype == torch.float64


def test_folding_a_batch_norm_gives_the_same_integers() -> None:
    layer, norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    apart = nn.Sequential(Quantized(layer, 8, (0.0, 1.0)), norm).eval()
    folded = Quantized(nn.utils.fuse_conv_bn_eval(layer.eval(), norm.eval()), 8, (0.0, 1.0)).eval()
    assert torch.equal(apart[0].unpacked().abs(), folded.unpacked().abs())  # type: ignore[operator]
    x = torch.rand(2, 4, 9, 9)
    assert torch.allclose(apart(x), folded(x), atol=1e-4)


def test_a_chain_prunes_and_quantises_and_loads_again(digits: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    (tmp_path / "net.py").write_text(CODE)
    start = load_target(f"{tmp_path / 'net.py'}:normed", classes=10)
    channels = {"name": "prune_channels", "params": {"amount": 0.5, "by": "magnitude"}}
    hardened = run(start, digits, PGD, channels, {"name": "quantize", "params": {"bits": 4}}, out=tmp_path / "out")
    again = load_target(str(tmp_path / "out"))
    assert torch.equal(answers(again, digits[1][:9]), answers(hardened.target, digits[1][:9]))


@pytest.mark.parametrize("method", ["rslad", "ard"])
def test_a_student_of_another_architecture_learns_from_the_teacher(
    method: str, start: Target, digits: Any, tmp_path: Path
) -> None:
    (tmp_path / "small.py").write_text(
        "from torch import nn\n"
        "def small(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    step = {
        "name": "robust_distillation",
        "params": {"student": f"{tmp_path / 'small.py'}:small", "method": method, "steps": 2, "temperature": 2.0},
    }
    hardened = run(start, digits, step, out=tmp_path / "out", epochs=6)
    _, x, y = digits
    assert size_of(hardened.target.module).parameters == 650
    again = load_target(str(tmp_path / "out"))
    assert torch.equal(answers(again, x[:9]), answers(hardened.target, x[:9]))
    assert float((again(x[600:]).argmax(1) == y[600:]).float().mean()) > 0.5
    assert hardened.steps[0].params["teacher"] == start.name


def test_a_teacher_is_named_as_a_model_is(start: Target, digits: Any, tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).state_dict(), tmp_path / "three.pt")
    (tmp_path / "three.py").write_text(
        "from torch import nn\ndef three():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    step = {"name": "robust_distillation", "params": {"teacher": f"{tmp_path / 'three.py'}:three"}}
    with pytest.raises(UserError, match=r"tells 3 classes apart, the student .* 10"):
        run(start, digits, step)
    with pytest.raises(UserError, match="neither a teacher nor a student"):
        run(start, digits, {"name": "robust_distillation"})


def test_what_cannot_be_compressed_says_why(start: Target, digits: Any) -> None:
    bare = Target(nn.Flatten())
    for name, told in (
        ("prune", "neither linear"),
        ("quantize", "neither linear"),
        ("prune_channels", "neither linear"),
    ):
        with pytest.raises(UserError, match=told):
            run(bare, digits, {"name": name})
    with pytest.raises(UserError, match="quantised already"):
        run(start, digits, {"name": "quantize"}, {"name": "quantize"})


@pytest.mark.parametrize("recipe", ["prune_90", "int8", "small_student", "small_and_int8"])
def test_the_recipes_as_shipped_run_from_the_command_line(
    recipe: str, start: Target, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--data", "digits", "--weights", "net.pt", "--epochs", "1", "--limit-train", "100")
    small = ("--suite", "linf_quick", "--limit", "10", "--out", "out", "--quiet")
    done = CliRunner().invoke(main, ["harden", "net.py:build", "--recipe", recipe, *given, *small])
    assert done.exit_code == 0, done.output
    made, card = load_target("out"), Scorecard.load("out/after.json")
    assert card.verdict != "INVALID", card.validity
    _, x, _ = digits
    sized, before = size_of(made.module), size_of(start.module)
    if recipe == "prune_90":
        assert share_of_zeros(made) == pytest.approx(0.9, abs=0.01)
    elif recipe == "small_student":
        assert type(made.module[5]).__name__ == "AdaptiveMaxPool2d"  # type: ignore[index]
    else:
        assert sized.bytes < 0.35 * before.bytes
    if recipe == "small_and_int8":
        assert multiply_adds(made.module, x[:1]) < 0.6 * multiply_adds(start.module, x[:1])


def spoiled(folder: Path, change: dict[str, Any]) -> str:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"changes": [change]}))
    return str(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "resized", "shapes": {"0": [900000, 1, 3, 3]}}, "expected a smaller one"),
        ({"kind": "resized", "shapes": {"nowhere": [1]}}, "has no layer 'nowhere'"),
        ({"kind": "in_integers", "layers": ["0"], "bits": 3, "activations": True}, "expected 8 or 4"),
        ({"kind": "in_integers", "layers": ["1"], "bits": 8, "activations": True}, "can't become integers"),
        ({"kind": "executed", "code": "x"}, "not a valid model file"),
    ],
)
def test_changes_that_do_not_fit_are_refused(change: dict[str, Any], told: str, start: Target, tmp_path: Path) -> None:
    from robustbench_lite.model.loading import save_model

    save_model(start, tmp_path / "out")
    with pytest.raises(UserError, match=told):
        load_target(spoiled(tmp_path / "out", change))
