"""Weights and model folders that lie, are cut short or would run code: refused, and nothing executed or loaded."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import main
from robustbench_lite.model.loading import load_target
from robustbench_lite.model.weights import load_weights

some_cases = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([5.0, 6.0])}
HEADER = {
    "weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "bias": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
}


class Bomb:
    """Makes a file when it is unpickled, one way or another."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def net():
    module = nn.Linear(2, 2)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def refused(path):
    """The message with which weights are refused; it names the file, and the module is left as it was."""
    module = net()
    with pytest.raises(UserError) as caught:
        load_weights(module, path)
    assert str(path) in str(caught.value)
    assert not any(value.any() for value in module.state_dict().values())
    return str(caught.value)


def safetensors(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


# --- safetensors


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weight", {"data_offsets": [0, 10**15]}),
        ("weight", {"data_offsets": [-4, 12]}),
        ("weight", {"data_offsets": [8, 24]}),
        ("weight", {"data_offsets": [16, 0]}),
        ("weight", {"shape": [2**62, 4]}),
        ("weight", {"shape": [-2, -2]}),
        ("weight", {"shape": [4]}),
        ("weight", {"dtype": "F99"}),
        ("weight", {"dtype": "F64"}),
        ("weight", {"dtype": None}),
        ("__metadata__", {"code": ["os.system"]}),
        ("../../weight", {"dtype": "F32", "shape": [0], "data_offsets": [24, 24]}),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, name, change):
    header = {**HEADER, name: {**HEADER.get(name, {}), **change}}
    refused(safetensors(tmp_path / "a.safetensors", header, bytes(range(24))))
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("length", [0, 1, 99_999_999, 2**63, 2**64 - 1])
def test_a_header_of_another_length_than_it_says_is_refused(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + to_safetensors(GOOD)[8:])
    refused(path)


@pytest.mark.parametrize("header", [b"", b"[]", b"[" * 100_000, b"\xff\xfe{}", b"null", b'{"weight": NaN}'])
def test_a_header_that_is_none_is_refused(tmp_path, header):
    refused(safetensors(tmp_path / "a.safetensors", header, bytes(24)))


@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
@some_cases
def test_damaged_safetensors_give_weights_or_an_error(tmp_path, at, byte, cut):
    path, content = tmp_path / "a.safetensors", to_safetensors(GOOD)
    place = int(at * (len(content) - 1))
    path.write_bytes(content[:place] + (b"" if cut else bytes([byte]) + content[place + 1 :]))
    try:
        load_weights(net(), path)
    except UserError as fault:
        told = str(fault)
    else:
        told = str(path)
    assert str(path) in told


# --- torch's files


@pytest.mark.parametrize("legacy", [False, True])
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
@some_cases
def test_damaged_state_dicts_give_weights_or_an_error(tmp_path, legacy, at, byte, cut):
    path = tmp_path / "a.pt"
    torch.save(GOOD, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    place = int(at * (len(content) - 1))
    path.write_bytes(content[:place] + (b"" if cut else bytes([byte]) + content[place + 1 :]))
    try:
        load_weights(net(), path)
    except UserError as fault:
        told = str(fault)
    else:
        told = str(path)
    assert str(path) in told


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "within", "safetensors"])
@pytest.mark.parametrize(
    "bomb",
    [
        lambda path: Bomb(os.system, f"touch {path}"),
        lambda path: Bomb(os.mkdir, str(path)),
        lambda path: Bomb(exec, f"import os; os.mkdir({str(path)!r})"),
        lambda path: Bomb(eval, f"__import__('os').mkdir({str(path)!r})"),
        lambda path: Bomb(Path(path).touch),
        lambda path: Bomb(torch.save, {}, str(path)),
    ],
)
def test_no_pickle_makes_a_file(tmp_path, form, bomb):
    made = tmp_path / "made"
    content = {**GOOD, "extra": bomb(made)} if form == "within" else bomb(made)
    path = tmp_path / f"a.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form in ("pickle", "safetensors"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    refused(path)
    assert not made.exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name]
    pickle.loads(pickle.dumps(bomb(made)))  # and it would have
    assert made.exists()


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "a.pt")
    assert "no tensors (state_dict)" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        (lambda: torch.eye(2).to_sparse(), "sparse_coo in the file"),
        (lambda: torch.eye(2) * 1j, "complex in the file"),
        (lambda: torch.empty(2, 2, device="meta"), "without values in the file"),
        (lambda: torch.zeros(1).expand(10**12), r"shape (1000000000000,) in the file"),
        (lambda: torch.zeros(()), "shape () in the file"),
        (lambda: torch.zeros(0, 2), "shape (0, 2) in the file"),
    ],
)
def test_tensors_that_are_no_such_weights_are_told_with_their_name(tmp_path, weight, told):
    torch.save({**GOOD, "weight": weight()}, tmp_path / "a.pt")
    assert f"weight: {told}" in refused(tmp_path / "a.pt").replace("plain, ", "")


def test_a_module_that_refuses_its_weights_is_told(tmp_path):
    class Strict(nn.Linear):
        def _load_from_state_dict(self, *_):
            raise RuntimeError("not mine")

    torch.save(GOOD, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: Strict doesn't take them \(RuntimeError: not mine\)"):
        load_weights(Strict(2, 2), tmp_path / "a.pt")


def test_a_checkpoint_that_unpacks_to_far_more_is_refused_before_it_is(tmp_path, monkeypatch):
    torch.save(GOOD, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bomb,
    ):
        for member in whole.infolist():
            packed = bytes(80_000_000) if member.filename.endswith("data/0") else whole.read(member)
            bomb.writestr(member.filename, packed)
    assert (tmp_path / "bomb.pt").stat().st_size < 200_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    assert "would unpack to 0.1 GiB" in refused(tmp_path / "bomb.pt")


def test_an_archive_that_leads_out_of_its_folder_writes_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.pt", "w") as archive:
        for name in ("../out", "storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    refused(tmp_path / "in" / "a.pt")
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


# --- model folders


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ("[" * 100_000, "nested too deep"),
        ("", "can't be read as JSON"),
        ('{"spec": "a.py:b", "spec": "b.py:c"}', "stands twice"),
        ('{"spec": "a.py:b", "normalize": {"mean": [NaN], "std": [1]}, "classes": 2}', "no finite number"),
        ('{"spec": "a.py:b", "normalize": {"mean": [0], "std": [1e999]}, "classes": 2}', "no finite number"),
        ('{"spec": "a.py:b", "normalize": null, "classes": %s}' % ("9" * 40), "too large"),
        ('{"spec": "gone.py:b", "normalize": null, "classes": 2}', "which isn't there"),
        ('{"spec": "../../../gone.py:b", "normalize": null, "classes": 2}', "leads out of the folder"),
        ('{"spec": "..:b", "normalize": null, "classes": 2}', "expected package.module:name"),
        ('{"spec": "../x:b", "normalize": null, "classes": 2}', "no module named|package.module:name"),
        ('{"spec": "\\u0000.py:b", "normalize": null, "classes": 2}', "no path"),
        ('{"spec": "%s.py:b", "normalize": null, "classes": 2}' % ("a" * 5000), "no path"),
        ('{"spec": "\\ud800.py:b", "normalize": null, "classes": 2}', "can't be read as JSON"),
        ('{"spec": "", "normalize": null, "classes": 2}', "nothing stands before the colon"),
        ('{"spec": "json:JSONDecoder", "normalize": null, "classes": 2}', "expected a torch.nn.Module"),
    ],
)
def test_a_model_file_that_leads_nowhere_is_told(tmp_path, stored, told):
    (tmp_path / "model.json").write_text(stored, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        load_target(str(tmp_path))


def test_a_model_file_names_no_code_by_a_path_from_the_root(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')")
    folder = tmp_path / "model"
    folder.mkdir()
    spec = f"{tmp_path / 'evil.py'}:make"
    (folder / "model.json").write_text(json.dumps({"spec": spec, "normalize": None, "classes": 2}))
    with pytest.raises(UserError, match="expected a path from the folder"):
        load_target(str(folder))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("how", ["../evil.py", "link.py", "sub/../../evil.py"])
def test_a_model_file_names_no_code_outside_its_folder(tmp_path, how):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')")
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.py").symlink_to("../evil.py")
    (folder / "model.json").write_text(json.dumps({"spec": f"{how}:make", "normalize": None, "classes": 2}))
    with pytest.raises(UserError, match=r"leads out of the folder .* give the architecture as MODEL, with --weights"):
        load_target(str(folder))
    assert not (tmp_path / "made").exists()


# --- from outside


def test_the_command_line_tells_weights_that_would_run_code(tmp_path):
    torch.save({"weight": Bomb(os.system, f"touch {tmp_path / 'made'}")}, tmp_path / "a.pt")
    (tmp_path / "model.py").write_text("import torch\ndef make(): return torch.nn.Linear(2, 2)\n")
    asked = ["evaluate", f"{tmp_path / 'model.py'}:make", "--weights", str(tmp_path / "a.pt"), "--data", "digits"]
    seen = CliRunner().invoke(main, [*asked, "--json", str(tmp_path / "card.json")])
    assert seen.exit_code == 2
    assert "a.pt: refused, because loading it would run code" in seen.output
    assert "Traceback" not in seen.output
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["a.pt", "model.py"]
