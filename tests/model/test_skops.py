"""Targets from skops files: what they answer, and what is refused before anything in them is made."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from robustbench_lite import evaluate, load_target
from robustbench_lite.core.errors import UserError

skops = pytest.importorskip("skops.io")

BLACK_BOX = [{"attack": "art:HopSkipJump", "params": {"max_iter": 2, "max_eval": 200, "init_eval": 20}}]
RNG = np.random.default_rng(0)
X = RNG.random((60, 4)).astype(np.float32)
Y = (X[:, 0] > 0.5).astype(int) + (X[:, 1] > 0.6).astype(int)
TREE = "sklearn.tree._tree.Tree"
WHOLE = skops.dumps(LogisticRegression().fit(X, Y))


def saved(folder: Path, model: Any, trusted: str = "") -> str:
    (folder / "model.skops").write_bytes(skops.dumps(model))
    return f"skops:{folder / 'model.skops'}" + (f"#trusted={trusted}" if trusted else "")


@pytest.mark.parametrize(
    ("model", "method", "trusted"),
    [
        (LogisticRegression(), "decision_function", ""),
        (make_pipeline(StandardScaler(), SVC()), "decision_function", ""),
        (SVC(decision_function_shape="ovo"), "predict", ""),
        (LinearSVC(), "decision_function", ""),
        (GaussianNB(), "predict_proba", ""),
        (DecisionTreeClassifier(max_depth=4), "predict_proba", TREE),
        (RandomForestClassifier(5, random_state=0), "predict_proba", TREE),
    ],
)
def test_it_says_the_class_that_the_model_predicts(tmp_path: Path, model: Any, method: str, trusted: str) -> None:
    model.fit(X, Y)
    target = load_target(saved(tmp_path, model, trusted))
    assert target.probe(torch.from_numpy(X[:2])) == 3
    assert target(torch.from_numpy(X)).argmax(1).tolist() == model.predict(X).tolist()
    assert target.access == ("labels" if method == "predict" else "scores")
    assert method in target.predictor.notes()[-1]
    again = pickle.loads(pickle.dumps(target))
    assert torch.equal(again(torch.from_numpy(X)), target(torch.from_numpy(X)))


def test_flat_features_are_attacked_and_it_is_known_by_its_hash(tmp_path: Path) -> None:
    spec = saved(tmp_path, LogisticRegression(C=10).fit(X, Y))
    target = load_target(spec)
    x = torch.from_numpy(X[:8])
    card = evaluate(target, (x, target(x).argmax(1)), BLACK_BOX, "Linf 0.3")
    assert card.robust_accuracy.value < card.clean_accuracy.value == 1
    assert (card.target.access, card.verdict) == ("scores", "MEASURED")
    assert card.target.weights_sha256 == load_target(spec).weights_sha256()
    saved(tmp_path, LogisticRegression(C=1).fit(X, Y))
    assert load_target(spec).weights_sha256() != card.target.weights_sha256


def test_images_are_flattened_and_other_sizes_refused(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X, Y)
    target = load_target(saved(tmp_path, model))
    assert target(torch.from_numpy(X).reshape(-1, 1, 2, 2)).argmax(1).tolist() == model.predict(X).tolist()
    with pytest.raises(UserError, match=r"takes 4 features, and was given inputs of shape \(3, 2, 2\), which are 12"):
        target.probe(torch.rand(2, 3, 2, 2))


def test_two_classes_and_names_of_classes(tmp_path: Path) -> None:
    names = np.array(["cat", "dog"])[(Y > 0).astype(int)]
    model = LogisticRegression().fit(X, names)
    target = load_target(saved(tmp_path, model))
    assert target.class_names == ("cat", "dog")
    found = target(torch.from_numpy(X))
    assert found.shape == (60, 2)
    assert [target.class_names[at] for at in found.argmax(1)] == model.predict(X).tolist()


def test_only_trusted_types_are_made(tmp_path: Path) -> None:
    spec = saved(tmp_path, DecisionTreeClassifier().fit(X, Y))
    with pytest.raises(UserError, match=rf"doesn't trust: {TREE}; .* name them: skops:model.skops#trusted={TREE}"):
        load_target(spec)
    with pytest.raises(UserError, match=f"doesn't trust: {TREE}"):
        load_target(f"{spec}#trusted=os.system")
    with pytest.raises(UserError, match="trust: unknown key 'trust': did you mean trusted"):
        load_target(f"{spec}#trust={TREE}")


def test_nothing_is_imported_that_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as whole:
        schema = json.loads(whole.read("schema.json"))
    schema |= {"__module__": "evil_module", "__class__": "Evil"}
    (tmp_path / "model.skops").write_bytes(WHOLE)
    with zipfile.ZipFile(tmp_path / "model.skops", "a") as spoilt, pytest.warns(UserWarning, match="Duplicate name"):
        spoilt.writestr("schema.json", json.dumps(schema))
    with pytest.raises(UserError, match=r"doesn't trust: evil_module\.Evil"):
        load_target(f"skops:{tmp_path / 'model.skops'}")


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl", "model.pickle"])
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    class Boom:
        def __reduce__(self) -> Any:
            return (tmp_path / "ran").write_text, ("it was run",)

    (tmp_path / name).write_bytes(pickle.dumps(Boom()))
    for spec in (str(tmp_path / name), f"skops:{tmp_path / name}"):
        with pytest.raises(UserError, match=r"none is loaded; where you trust it, save the model once as skops"):
            load_target(spec)
    assert not (tmp_path / "ran").exists()


def packed(**entries: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, content in entries.items():
            made.writestr(name.replace("_json", ".json"), content)
    return stream.getvalue()


def bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("schema.json", "{}")
    content = stream.getvalue()  # the size that its directory tells, 5 GB, is not what is in it
    at = content.rindex(b"PK\x01\x02") + 24
    return content[:at] + (2**32 - 2).to_bytes(4, "little") + content[at + 4 :]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (WHOLE[: len(WHOLE) // 2], "is no skops file"),
        (b"", "is no skops file"),
        (WHOLE.replace(b"PK\x01\x02", b"PK\x01\x03"), "is no skops file"),
        (packed(other="x"), "holds no schema.json"),
        (packed(schema_json="{}"), "damaged, or of another version"),
        (packed(schema_json="[" * 100_000), "damaged, or of another version"),
        (packed(schema_json="not json"), "damaged, or of another version"),
        (bomb(), "damaged, or of another version|unpacks to"),
        (skops.dumps(LinearRegression().fit(X, Y)), "LinearRegression is no classifier"),
        (skops.dumps([1, 2]), "list is no classifier"),
        (skops.dumps(LogisticRegression()), "isn't fitted"),
        (skops.dumps(LogisticRegression().fit(X, Y + 1)), "fitted to the labels 1, 2, 3: expected 0 to 2"),
        (
            skops.dumps(KNeighborsClassifier(3, algorithm="brute").fit(X, np.stack([Y, Y], 1))),
            "several questions at once",
        ),
    ],
)
def test_a_spoilt_file_and_what_is_no_classifier_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "model.skops").write_bytes(content)
    with pytest.raises(UserError, match=told):
        load_target(f"skops:{tmp_path / 'model.skops'}")


@pytest.mark.parametrize("at", range(0, len(WHOLE), len(WHOLE) // 40))
def test_flipped_bytes_are_told_or_change_numbers_alone(tmp_path: Path, at: int) -> None:
    content = bytearray(WHOLE)
    content[at] ^= 0x15
    (tmp_path / "model.skops").write_bytes(content)
    try:
        target = load_target(f"skops:{tmp_path / 'model.skops'}")
        assert target.probe(torch.from_numpy(X[:2])) == 3
    except UserError as fault:
        assert "skops" in str(fault)  # noqa: PT017 - either may happen


def wrong_use(tmp_path: Path) -> dict[str, tuple[Callable[[], Any], str]]:
    spec = saved(tmp_path, LogisticRegression().fit(X, Y))
    return {
        "no file": (lambda: load_target("skops:gone.skops"), "no such file"),
        "weights": (lambda: load_target(spec, weights="w.pt"), "holds its own weights"),
    }


@pytest.mark.parametrize("what", ["no file", "weights"])
def test_wrong_use_is_told(tmp_path: Path, what: str) -> None:
    act, told = wrong_use(tmp_path)[what]
    with pytest.raises(UserError, match=told):
        act()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = saved(tmp_path, LogisticRegression().fit(X, Y))
    monkeypatch.setitem(__import__("sys").modules, "skops", None)
    with pytest.raises(UserError, match=r"install robustbench_lite\[skops\]"):
        load_target(spec)
