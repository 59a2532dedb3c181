"""Exports: the file answers as the model does, for any batch, with a report beside it; or it isn't kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from robustbench_lite import Target, load_data, load_target
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import main
from robustbench_lite.faces.cli.export import _FORMATS
from robustbench_lite.model.export import FORMATS, OPSET, ExportReport, export

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_the_command_and_the_function_know_the_same_formats() -> None:
    assert tuple(_FORMATS) == FORMATS


@pytest.mark.parametrize("format", ["onnx", "onnx-int8"])  # the third: tests/extras/test_executorch.py
def test_the_command_writes_a_file_that_answers_as_the_model(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_on_digits: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, *_ = train_on_digits(400, 6)
    torch.save(model.state_dict(), "weights.pt")
    layers = "nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)"
    Path("model.py").write_text(f"from torch import nn\ndef build():\n    return nn.Sequential({layers})\n")
    options = ("--data", "digits", "--weights", "weights.pt", "--normalize", "0.5/0.5", "--limit", "100")
    run = CliRunner().invoke(
        main, ["export", "model.py:build", "--format", format, *options, "--out", "out.onnx", "--min-agreement", "0.9"]
    )
    assert run.exit_code == 0, run.output
    told = ExportReport.model_validate_json(Path("out.onnx.json").read_text())
    assert (told.file, told.opset, told.verified_on) == ("out.onnx", OPSET, 100)
    assert told.bytes == Path("out.onnx").stat().st_size
    assert told.calibrated_on == (256 if format == "onnx-int8" else 0)
    assert [one.batch for one in told.latency] == [1, 64]
    assert f"{told.equal_predictions:.1%} of 100 samples get the same class" in run.output
    assert str(tmp_path).encode() not in Path("out.onnx").read_bytes()

    stored = onnx.load("out.onnx")
    assert stored.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    file = load_target("onnx:out.onnx")
    own = Target(model, mean=[0.5], std=[0.5])
    seen = load_data("digits", limit=100).fetch(range(100))
    for size in (1, 7, 100):
        far = float((file(seen[:size]) - own(seen[:size]).detach()).abs().max())
        assert far <= (1e-4 if format == "onnx" else told.largest_logit_difference * 1.001)
    if format == "onnx-int8":
        assert {one.data_type for one in stored.graph.initializer} & {onnx.TensorProto.INT8}
        assert far > 1e-4

    again = CliRunner().invoke(main, ["export", "model.py:build", *options, "--out", "out.onnx"])
    assert again.exit_code == 2
    assert "is there already; give another --out" in again.output


class ByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out * 2 if float(x.mean()) > 0.5 else out


class ByMode(nn.Module):
    """Answers otherwise where it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return -out if torch.compiler.is_compiling() else out


def test_what_depends_on_values_cannot_be_exported(tmp_path: Path) -> None:
    x = torch.rand(8, 4)
    with pytest.raises(UserError, match="must not depend on values"):
        export(Target(ByValue()), tmp_path / "out.onnx", "onnx", samples=x, calibration=x)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path) -> None:
    x = torch.rand(8, 4)
    with pytest.raises(UserError, match=r"disagrees with the model that it was made from.*it was not kept"):
        export(Target(ByMode()), tmp_path / "out.onnx", "onnx", samples=x, calibration=x)
    assert list(tmp_path.iterdir()) == []


def test_one_logit_for_two_classes_becomes_two(tmp_path: Path) -> None:
    x = torch.rand(8, 4)
    target = Target(nn.Linear(4, 1))
    export(target, tmp_path / "out.onnx", "onnx", samples=x, calibration=x)
    assert torch.allclose(load_target(f"onnx:{tmp_path / 'out.onnx'}")(x), target(x), atol=1e-5)
    assert json.loads((tmp_path / "out.onnx.json").read_text())["equal_predictions"] == 1


def test_a_function_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    x = torch.rand(8, 4)
    with pytest.raises(UserError, match="is no PyTorch module"):
        export(Target.from_callable(lambda x: x), tmp_path / "o", "onnx", samples=x, calibration=x)
    with pytest.raises(UserError, match="expected one of onnx, onnx-int8, executorch"):
        export(Target(nn.Linear(4, 3)), tmp_path / "o", "pt", samples=x, calibration=x)  # type: ignore[arg-type]
