"""A scorecard as an in-toto statement: which files it is about, to the byte, so that others can sign it.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md,
https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md

The statement names the files of card, weights and data by their SHA-256. Signing it is the work of other tools;
`check` tells whether files are those that a statement names. It is evidence, not conformity.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from robustbench_lite.core.cost import OnProgress, unheard
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import file_sha256, read_json
from robustbench_lite.results.scorecard import Scorecard

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
NOTICE = (
    "Evidence, not conformity: this is what the attacks that were run found on the samples that were tested. It is no "
    "proof of robustness, and no statement that any standard or law is met."
)

Role = Literal["scorecard", "weights", "data"]
_RESULT = {"PASS": "PASSED", "FAIL": "FAILED", "INVALID": "FAILED", "MEASURED": "WARNED", "UNDECIDED": "WARNED"}


class File(NamedTuple):
    """A file that a statement is about."""

    role: Role
    name: str
    """Its name; of a file in a folder that was given, the path from that folder on."""
    sha256: str


class Checked(NamedTuple):
    """What a look at a file, or for one, found."""

    state: Literal["as attested", "changed", "not attested", "not given"]
    role: str
    name: str


def files(role: Role, places: Sequence[Path], on_progress: OnProgress = unheard) -> list[File]:
    """Hash files, and all files in folders.

    ``on_progress`` is told the role, and how many files of a folder are done, of how many.

    Raises
    ------
    UserError
        For what isn't there or can't be read, and for a folder without files.
    """
    found = []
    for place in places:
        members = sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]
        if not members:
            raise UserError(f"{place}: holds no files; expected a file, or a folder of them")
        for done, one in enumerate(members):
            if len(members) > 1:
                on_progress(role, done, len(members))
            name = one.relative_to(place.parent).as_posix() if place.is_dir() else one.name
            found.append(File(role, name, _sha256(one)))
    return found


def statement(card: Scorecard, about: Sequence[File]) -> str:
    """Write the statement that a card is about these files, the card's own among them; JSON, the same each time."""
    told = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": one.name, "digest": {"sha256": one.sha256}, "annotations": {"role": one.role}} for one in about
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": _predicate(card),
    }
    return json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def check(path: Path, card: Scorecard, about: Sequence[File]) -> list[Checked]:
    """Hold files against a statement, or against one in the envelope of a signature, which is not checked here.

    Parameters
    ----------
    path
        The statement, a DSSE envelope around it, or a Sigstore bundle.
    card
        The scorecard that it should be about.
    about
        The files that are there, the card's own among them.

    Returns
    -------
    list of Checked
        One for each file that is given, and one for each that the statement names and nobody gave.

    Raises
    ------
    UserError
        For a file that is no such statement, and for one whose numbers are not the card's.
    """
    told = _read(path)
    attested = _subjects(told, path)
    found = list(_held_against(attested, about))
    named = any(one.state == "as attested" and one.role == "scorecard" for one in found)
    if named and told["predicate"] != json.loads(json.dumps(_predicate(card))):
        raise UserError(f"{path}: its numbers are not those of the scorecard that it names; don't trust it")
    return found


def _held_against(attested: Sequence[File], about: Sequence[File]) -> Iterator[Checked]:
    digests = {(one.role, one.sha256) for one in attested}
    names = {(one.role, one.name) for one in attested}
    for one in about:
        known, named = (one.role, one.sha256) in digests, (one.role, one.name) in names
        yield Checked("as attested" if known else "changed" if named else "not attested", one.role, one.name)
    given = {(one.role, one.sha256) for one in about}
    told = {(one.role, one.name) for one in about}
    for one in attested:
        if (one.role, one.sha256) not in given and (one.role, one.name) not in told:
            yield Checked("not given", one.role, one.name)


def _predicate(card: Scorecard) -> dict[str, Any]:
    failed = [gate.name for gate in card.gates if not gate.passed]
    open_ = [gate.name for gate in card.gates if gate.passed and not gate.decided]
    suite = hashlib.sha256(card.suite.model_dump_json().encode()).hexdigest()
    return {
        "result": _RESULT[card.verdict],
        "configuration": [{"name": card.suite.name, "digest": {"sha256": suite}}],
        "passedTests": [gate.name for gate in card.gates if gate.passed and gate.decided],
        "warnedTests": open_,
        "failedTests": [*failed, *(one.code for one in card.validity if one.severity == "error")],
        "robustbench_lite": {
            "notice": NOTICE,
            "verdict": card.verdict,
            "created": card.created,
            "version": card.version,
            "target": card.target.name,
            "weights_state_sha256": card.target.weights_sha256,
            "data": card.data.name,
            "samples_sha256": card.data.sha256,
            "samples": len(card.outcomes),
            "clean_accuracy": card.clean_accuracy.model_dump(),
            "robust_accuracy": {str(one.threat): one.robust_accuracy.model_dump() for one in card.threats},
            "seed": card.seed,
            "interrupted": card.interrupted,
        },
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected what 'rblite attest' wrote") from None
    except (OSError, ValueError) as fault:
        raise UserError(f"{path}: can't be read as JSON ({fault}); expected what 'rblite attest' wrote") from None
    for key in ("dsseEnvelope", "payload"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    if isinstance(found, str):
        try:
            found = json.loads(base64.b64decode(found, validate=True))
        except (binascii.Error, ValueError, RecursionError):
            raise UserError(f"{path}: is an envelope whose payload can't be read; get it again") from None
    if not isinstance(found, dict) or found.get("_type") != STATEMENT_TYPE:
        raise UserError(f"{path}: is no in-toto statement; expected what 'rblite attest CARD --out FILE' wrote")
    if found.get("predicateType") != PREDICATE_TYPE or not isinstance(found.get("predicate"), dict):
        raise UserError(f"{path}: is an in-toto statement of another kind; expected what 'rblite attest' wrote")
    return found


def _subjects(told: dict[str, Any], path: Path) -> list[File]:
    try:
        found = [
            File(one["annotations"]["role"], str(one["name"]), str(one["digest"]["sha256"])) for one in told["subject"]
        ]
    except (KeyError, TypeError):
        raise UserError(f"{path}: a subject has no name, role or sha256; write the statement again") from None
    if not found:
        raise UserError(f"{path}: is about no file; write the statement again")
    return found


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as fault:
        raise UserError(f"{path}: can't be read ({fault.strerror or fault}); expected a file or a folder") from None
