"""ExecuTorch programs: exported and verified, answered as the model does, attacked; and what is damaged is refused."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from robustbench_lite import Target, evaluate, load_target
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import main
from robustbench_lite.model import executorch as ours
from robustbench_lite.model.export import ExportReport

pytest.importorskip("executorch.runtime")
pytestmark = pytest.mark.filterwarnings("ignore")  # of ExecuTorch's own code, and of flatbuffers

LAYERS = "nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)"


@pytest.fixture(scope="module")
def digits(train_on_digits: Callable[..., Any]) -> tuple[nn.Module, Tensor, Tensor]:
    model, x, y = train_on_digits(400, 6)
    return model.eval(), x, y


@pytest.fixture(scope="module")
def exported(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    torch.save(digits[0].state_dict(), folder / "net.pt")
    (folder / "net.py").write_text(f"from torch import nn\ndef build():\n    return nn.Sequential({LAYERS})\n")
    given = ("--data", "digits", "--weights", str(folder / "net.pt"), "--limit", "100", "--normalize", "0.5/0.5")
    out = folder / "out.pte"
    run = CliRunner().invoke(
        main, ["export", f"{folder / 'net.py'}:build", "--format", "executorch", *given, "--out", str(out)]
    )
    assert run.exit_code == 0, run.output
    assert "batches of up to 64" in run.output
    assert f"rblite evaluate executorch:{out} --twin" in run.output.replace("\n", " ")
    return out


def test_it_answers_as_the_model_for_any_batch(exported: Path, digits: Any) -> None:
    told = ExportReport.model_validate_json(exported.with_name("out.pte.json").read_text())
    assert (told.opset, told.largest_batch, told.bytes) == (None, 64, exported.stat().st_size)
    assert told.equal_predictions == 1
    assert told.largest_logit_difference < 1e-3
    assert told.runtime.startswith("executorch ")
    file = load_target(f"executorch:{exported}")
    own = Target(digits[0], mean=[0.5], std=[0.5])
    x = digits[1]
    for size in (1, 7, 64, 100):
        assert torch.allclose(file(x[:size]), own(x[:size]).detach(), atol=1e-4)
    again = pickle.loads(pickle.dumps(file))
    assert torch.equal(again(x[:9]), file(x[:9]))


def test_it_is_attacked_alone_and_with_its_twin(exported: Path, digits: Any) -> None:
    _, x, y = digits
    spec = f"executorch:{exported}"
    twin = load_target(
        f"{exported.with_name('net.py')}:build", weights=exported.with_name("net.pt"), normalize="0.5/0.5"
    )
    suite = [{"attack": "pgd", "params": {"steps": 5}}, {"attack": "square", "params": {"steps": 20}}]
    card = evaluate(load_target(spec), (x[400:430], y[400:430]), suite, "Linf 0.1", twin=twin)
    assert card.adaptation is not None
    assert card.robust_accuracy.count <= card.adaptation.robust_accuracy.count < 30
    assert card.environment.packages["executorch"]
    assert any("ExecuTorch answers" in one.message for one in card.validity if one.code == "RB107")
    assert card.target.weights_sha256 == load_target(spec).weights_sha256()


def test_a_program_of_one_size_is_filled_to_it(tmp_path: Path) -> None:
    from executorch.exir import to_edge_transform_and_lower

    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4)).eval()
    program = torch.export.export(model, (torch.rand(3, 1, 3, 3),))
    (tmp_path / "m.pte").write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)
    target = load_target(f"executorch:{tmp_path / 'm.pte'}")
    x = torch.rand(8, 1, 3, 3)
    assert torch.allclose(target(x), model(x).detach(), atol=1e-5)
    assert target.predictor.batching.fixed == 3


@pytest.mark.parametrize("content", ["", "no program at all", "half"])
def test_what_is_no_program_is_refused(content: str, exported: Path, tmp_path: Path) -> None:
    whole = exported.read_bytes()
    (tmp_path / "m.pte").write_bytes(whole[: len(whole) // 2] if content == "half" else content.encode())
    with pytest.raises(UserError, match=r"is no ExecuTorch program|damaged, or of another version"):
        load_target(f"executorch:{tmp_path / 'm.pte'}")
    with pytest.raises(UserError, match="no such file"):
        load_target(f"executorch:{tmp_path / 'gone.pte'}")


@pytest.mark.parametrize("seed", range(2))
def test_flipped_bytes_never_end_this_process(seed: int, exported: Path, tmp_path: Path) -> None:
    content = bytearray(exported.read_bytes())
    for at in random.Random(seed).sample(range(8, 4000), 12):
        content[at] ^= 0x41
    (tmp_path / "m.pte").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|expected one"):
        load_target(f"executorch:{tmp_path / 'm.pte'}")


def test_a_program_that_ends_its_process_is_told(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_TRY", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(UserError, match="ended by signal 11, in a process of its own"):
        load_target(f"executorch:{exported}")
    monkeypatch.setattr(ours, "_TRY", "import time; time.sleep(60)")
    monkeypatch.setattr(ours, "_SECONDS", 1)
    with pytest.raises(UserError, match="no answer in 1 s"):
        load_target(f"executorch:{exported}")


def test_other_shapes_are_refused(exported: Path) -> None:
    with pytest.raises(UserError, match=r"takes inputs of shape \(1, 8, 8\), and was given \(3, 8, 8\)"):
        load_target(f"executorch:{exported}").probe(torch.rand(2, 3, 8, 8))
