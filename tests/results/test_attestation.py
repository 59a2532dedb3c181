"""Statements: what they are about, and that one byte that is changed is told."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.results import attestation
from robustbench_lite.results.scorecard import Finding


@pytest.fixture
def attested(make_card, tmp_path):
    """A card, its files, and the path of the statement about them."""
    card = make_card(samples=10)
    card.save(tmp_path / "card.json")
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    (tmp_path / "photos" / "ant" / "1.png").write_bytes(b"one")
    (tmp_path / "photos" / "2.png").write_bytes(b"two")
    path = tmp_path / "card.intoto.json"
    path.write_text(attestation.statement(card, given(tmp_path)))
    return card, tmp_path, path


def given(folder):
    return [
        *attestation.files("scorecard", [folder / "card.json"]),
        *attestation.files("weights", [folder / "net.safetensors"]),
        *attestation.files("data", [folder / "photos"]),
    ]


def states(path, card, folder):
    return {one.name: one.state for one in attestation.check(path, card, given(folder))}


def test_a_statement_names_every_file_by_its_bytes(attested):
    card, folder, path = attested
    told = json.loads(path.read_text())
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    digests = {one["name"]: one["digest"]["sha256"] for one in told["subject"]}
    assert digests == {
        "card.json": hashlib.sha256((folder / "card.json").read_bytes()).hexdigest(),
        "net.safetensors": hashlib.sha256(b"weights").hexdigest(),
        "photos/2.png": hashlib.sha256(b"two").hexdigest(),
        "photos/ant/1.png": hashlib.sha256(b"one").hexdigest(),
    }
    assert told["predicate"]["result"] == "PASSED"
    assert told["predicate"]["robustbench_lite"]["notice"].startswith("Evidence, not conformity")
    assert set(states(path, card, folder).values()) == {"as attested"}


@pytest.mark.parametrize("name", ["card.json", "net.safetensors", "photos/2.png", "photos/ant/1.png"])
def test_one_byte_that_is_changed_is_told(attested, name):
    card, folder, path = attested
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    found = states(path, card, folder)
    assert found.pop(name) == "changed"
    assert set(found.values()) == {"as attested"}


def test_files_that_are_missing_new_or_renamed_are_told(attested):
    card, folder, path = attested
    (folder / "photos" / "2.png").rename(folder / "photos" / "two.png")
    assert states(path, card, folder)["photos/two.png"] == "as attested"
    (folder / "photos" / "two.png").unlink()
    (folder / "photos" / "3.png").write_bytes(b"three")
    found = states(path, card, folder)
    assert (found["photos/3.png"], found["photos/2.png"]) == ("not attested", "not given")


def test_weights_are_no_data(attested):
    card, folder, path = attested
    swapped = [
        *attestation.files("scorecard", [folder / "card.json"]),
        *attestation.files("weights", [folder / "photos"]),
    ]
    assert {one.state for one in attestation.check(path, card, swapped)} == {"as attested", "not attested", "not given"}


@pytest.mark.parametrize("form", ["envelope", "bundle"])
def test_a_signed_statement_is_read_out_of_its_envelope(attested, form):
    card, folder, path = attested
    envelope = {"payload": base64.b64encode(path.read_bytes()).decode(), "payloadType": attestation.PAYLOAD_TYPE}
    path.write_text(json.dumps({"dsseEnvelope": envelope} if form == "bundle" else envelope))
    assert set(states(path, card, folder).values()) == {"as attested"}


def test_numbers_that_are_not_the_card_s_are_refused(attested):
    card, folder, path = attested
    told = json.loads(path.read_text())
    told["predicate"]["robustbench_lite"]["robust_accuracy"]["Linf 0.3"]["value"] = 1.0
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match="its numbers are not those of the scorecard"):
        states(path, card, folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "can't be read as JSON"),
        ("[]", "is no in-toto statement"),
        ('{"payload": "%"}', "payload can't be read"),
        ('{"_type": "https://in-toto.io/Statement/v1", "predicateType": "x"}', "of another kind"),
    ],
)
def test_what_is_no_statement_is_refused(attested, text, told):
    card, folder, path = attested
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        states(path, card, folder)


def test_verdicts_and_gates_as_results_of_tests(make_card, make_gate):
    gates = (
        make_gate("max_drop", 0.1, 0.4, passed=False),
        make_gate("min_clean_accuracy", 0.9, 0.91, decided=False),
        make_gate("min_robust_accuracy", 0.2, 0.6),
    )
    fault = Finding(code="RB201", severity="error", message="m", cure="c")
    card = make_card(samples=4, verdict="INVALID", gates=gates, validity=(fault,))
    told = json.loads(attestation.statement(card, []))["predicate"]
    assert told["result"] == "FAILED"
    assert told["passedTests"] == ["min_robust_accuracy"]
    assert told["warnedTests"] == ["min_clean_accuracy"]
    assert told["failedTests"] == ["max_drop", "RB201"]
    assert json.loads(attestation.statement(make_card(verdict="MEASURED"), []))["predicate"]["result"] == "WARNED"


def test_a_folder_without_files_and_a_file_that_is_not_there_are_refused(tmp_path):
    for place, told in ((tmp_path, "holds no files"), (tmp_path / "gone", "can't be read")):
        with pytest.raises(UserError, match=told):
            attestation.files("data", [place])


def test_of_a_folder_it_tells_how_many_files_are_hashed(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    for name in "ab":
        (tmp_path / name).write_text(name)
    found = attestation.files("data", [tmp_path], lambda *event: told.append(event))
    assert len(found) == 2
    assert told == [("data", 0, 2), ("data", 1, 2)]
