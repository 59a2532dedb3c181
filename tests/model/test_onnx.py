"""Targets from ONNX files: what they answer, and what is refused before anything is run."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_lite import evaluate, load_target
from robustbench_lite.core.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

X = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(0))
WEIGHT = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)


def graph(
    *,
    batch: Any = "batch",
    dtype: int = 1,
    outputs: tuple[str, ...] = ("logits",),
    weight: Any = None,
    shape: tuple[Any, ...] = (1, 3, 3),
) -> Any:
    """A linear classifier of 9 pixels: logits, or their class."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    weight = numpy_helper.from_array(WEIGHT.astype(kind), "weight") if weight is None else weight
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        helper.make_node("Identity", ["logits"], ["other"]),
    ]
    known = {"logits": (dtype, [batch, 4]), "label": (7, [batch]), "other": (dtype, [batch, 4])}
    made = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", dtype, [batch, *shape])],
        [helper.make_tensor_value_info(name, *known[name]) for name in outputs],
        [weight],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def saved(tmp_path: Path, model: Any) -> str:
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    return f"onnx:{tmp_path / 'model.onnx'}"


@pytest.mark.parametrize("dtype", [1, 10, 11])
@pytest.mark.parametrize("batch", ["batch", 1, 8])
def test_scores_come_back_for_any_type_and_size_of_batch(tmp_path: Path, dtype: int, batch: Any) -> None:
    target = load_target(saved(tmp_path, graph(batch=batch, dtype=dtype)))
    assert target.probe(X[:2]) == 4
    assert target.access == "scores"
    expected = X.flatten(1).numpy() @ WEIGHT
    assert np.allclose(target(X).numpy(), expected, atol=2e-2 if dtype == 10 else 1e-5)
    assert target.predictor.batching.fixed == (None if batch == "batch" else batch)


def test_labels_are_told_from_scores_and_logits_from_other_outputs(tmp_path: Path) -> None:
    labels = load_target(saved(tmp_path, graph(outputs=("label",))))
    labels.predictor.expect(4)
    assert labels(X).argmax(1).tolist() == (X.flatten(1).numpy() @ WEIGHT).argmax(1).tolist()
    assert labels.access == "labels"
    scores = load_target(saved(tmp_path, graph(outputs=("other", "label", "logits"))))
    assert np.allclose(scores(X).numpy(), X.flatten(1).numpy() @ WEIGHT, atol=1e-5)


def test_it_is_attacked_measured_and_known_by_its_hash(tmp_path: Path) -> None:
    spec = saved(tmp_path, graph())
    target = load_target(spec)
    labels = target(X).argmax(1)
    card = evaluate(
        target, (X, labels), ["square"], "Linf 0.4", measures=["bytes", "nonzero_parameters", "multiply_adds"]
    )
    assert card.robust_accuracy.value < card.clean_accuracy.value == 1
    found = {one.name: one.value for one in card.measures}
    size = (tmp_path / "model.onnx").stat().st_size
    assert found == {"bytes": size, "nonzero_parameters": 36, "multiply_adds": 36}
    assert card.target.parameters == 36
    assert card.environment.packages["onnxruntime"]
    assert any("isn't asked in float64" in one.message for one in card.validity if one.code == "RB107")
    assert card.target.weights_sha256 == load_target(spec).weights_sha256()
    (tmp_path / "other").mkdir()
    other = load_target(saved(tmp_path / "other", graph(weight=onnx.numpy_helper.from_array(WEIGHT + 1, "weight"))))
    assert other.weights_sha256() != card.target.weights_sha256


def test_a_copy_answers_the_same(tmp_path: Path) -> None:
    target = load_target(saved(tmp_path, graph()))
    for other in (copy.deepcopy(target), pickle.loads(pickle.dumps(target))):
        assert torch.equal(other(X), target(X))


def external(location: str, length: int = 144, offset: int = 0) -> Any:
    tensor = onnx.TensorProto(name="weight", data_type=1, dims=(9, 4))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_tensors_beside_the_file_count(tmp_path: Path) -> None:
    (tmp_path / "weight.bin").write_bytes(WEIGHT.tobytes())
    target = load_target(saved(tmp_path, graph(weight=external("weight.bin"))))
    assert np.allclose(target(X).numpy(), X.flatten(1).numpy() @ WEIGHT, atol=1e-5)
    assert target.predictor.size().bytes == (tmp_path / "model.onnx").stat().st_size + 144
    before = target.weights_sha256()
    (tmp_path / "weight.bin").write_bytes((WEIGHT + 1).tobytes())
    assert load_target(f"onnx:{tmp_path / 'model.onnx'}").weights_sha256() != before


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "/etc/hostname", "..\\secret.bin", ""])
def test_nothing_outside_the_folder_is_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="not in the model's folder: expected a file beside it; nothing was read"):
        load_target(saved(tmp_path / "in", graph(weight=external(location))))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "weight.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(UserError, match="not in the model's folder"):
        load_target(saved(tmp_path / "in", graph(weight=external("weight.bin"))))


def huge() -> Any:
    helper = onnx.helper
    shape = onnx.numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["wide"]),
        helper.make_node("MatMul", ["x", "wide"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "huge",
        [helper.make_tensor_value_info("x", 1, ["batch", 10**6])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 10**6])],
        [shape],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


WHOLE = graph().SerializeToString()
LYING = onnx.TensorProto(name="weight", data_type=1, dims=(9, 2**40), raw_data=WEIGHT.tobytes())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (WHOLE[: len(WHOLE) // 2], "damaged, or no ONNX file|not a valid model"),
        (b"", "damaged, or no ONNX file"),
        (b"no protobuf at all", "damaged, or no ONNX file"),
        (graph(weight=LYING).SerializeToString(), "not a valid model"),
        (huge().SerializeToString(), "too large to run"),
        (graph(weight=external("gone.bin")).SerializeToString(), "which isn't there"),
        (graph(shape=(2, 2, 2)).SerializeToString(), "can't run it|not a valid model"),
        (graph(outputs=("other", "label")).SerializeToString(), None),
        (graph(dtype=1, outputs=()).SerializeToString(), "not a valid model|its outputs are none"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: bytes, told: str | None) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    if told is None:
        load_target(f"onnx:{tmp_path / 'model.onnx'}")
        return
    with pytest.raises(UserError, match=told):
        load_target(f"onnx:{tmp_path / 'model.onnx'}")


def test_external_data_beyond_the_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weight.bin").write_bytes(WEIGHT.tobytes())
    for tensor in (external("weight.bin", length=145), external("weight.bin", offset=-1)):
        with pytest.raises(UserError, match="beyond its end"):
            load_target(saved(tmp_path, graph(weight=tensor)))


def wrong_use(tmp_path: Path) -> dict[str, tuple[Callable[[], Any], str]]:
    spec = saved(tmp_path, graph())
    return {
        "no file": (lambda: load_target("onnx:gone.onnx"), "no such file"),
        "weights": (lambda: load_target(spec, weights="w.pt"), "holds its own weights"),
        "shape": (lambda: load_target(spec).probe(torch.rand(2, 3, 3, 3)), r"takes inputs of shape \(batch, 1, 3, 3\)"),
        "rank": (lambda: load_target(spec).probe(torch.rand(2, 9)), r"was given \(2, 9\)"),
    }


@pytest.mark.parametrize("what", ["no file", "weights", "shape", "rank"])
def test_wrong_use_is_told(tmp_path: Path, what: str) -> None:
    act, told = wrong_use(tmp_path)[what]
    with pytest.raises(UserError, match=told):
        act()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    spec = saved(tmp_path, graph())
    with pytest.raises(UserError, match=r"install robustbench_lite\[onnx\]"):
        load_target(spec)
