"""Published cases, run from a user's files: what reproduces, what differs, and what can't be true.

The published networks and MNIST stand beside the project, in ``../shared``; where they don't, the tests that run them
are skipped. The others run a small network on data of MNIST's form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import AttackSpec, Suite
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.load import load_data
from robustbench_lite.evaluating.calibration import (
    CASES,
    Calibration,
    Case,
    Measured,
    Number,
    Weights,
    calibrate,
    check_number,
    numbers,
    run,
)
from robustbench_lite.faces.cli import main
from robustbench_lite.faces.cli.tables import calibration as table
from robustbench_lite.results.scorecard import Interval

SHARED = Path(__file__).resolve().parents[3] / "shared"
YARDSTICKS, MNIST = SHARED / "yardsticks", SHARED / "data"

needs_shared = pytest.mark.skipif(
    not (YARDSTICKS.is_dir() and (MNIST / "MNIST" / "raw").is_dir()),
    reason=f"{SHARED} holds no yardsticks and no MNIST",
)
EXACT = CASES["wk17a"].numbers[1]


def share(count: int, total: int) -> Measured:
    return Measured.of(Interval.of(count, total))


# -- the judge -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "verdict"),
    [(9561, "impossible"), (9562, "reproduces"), (9570, "reproduces"), (9571, "differs"), (0, "impossible")],
)
def test_all_samples_are_held_against_the_proof(count: int, verdict: str) -> None:
    assert check_number(EXACT, share(count, 10_000), whole=True) == verdict


@pytest.mark.parametrize(
    ("count", "verdict"), [(180, "impossible"), (0, "impossible"), (190, "reproduces"), (196, "reproduces")]
)
def test_a_part_is_held_against_the_proof_by_its_interval(count: int, verdict: str) -> None:
    assert check_number(EXACT, share(count, 200), whole=False) == verdict


def test_a_part_that_is_too_robust_differs() -> None:
    assert check_number(EXACT, share(1000, 1000), whole=False) == "differs"


def test_a_proof_is_about_the_official_data_alone() -> None:
    assert check_number(EXACT, share(180, 200), whole=False, official=False) == "differs"


def test_what_is_below_an_unproved_number_merely_differs() -> None:
    unproved = dataclasses.replace(EXACT, proved=False)
    assert check_number(unproved, share(9561, 10_000), whole=True) == "differs"


@pytest.mark.parametrize(("count", "verdict"), [(9888, "differs"), (9889, "reproduces"), (9890, "differs")])
def test_clean_accuracy_is_exact_to_the_sample(count: int, verdict: str) -> None:
    assert check_number(CASES["lenet5_clean_pgd"].numbers[0], share(count, 10_000), whole=True) == verdict


@pytest.mark.parametrize(
    ("count", "verdict"), [(674, "differs"), (675, "reproduces"), (685, "reproduces"), (686, "differs")]
)
def test_an_attacks_success_may_differ_by_five_samples(count: int, verdict: str) -> None:
    number = CASES["lenet5_adv_pgd"].numbers[1]
    assert number.demand == "6.80% ± 0.05%"
    assert check_number(number, share(count, 10_000), whole=True) == verdict


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.872, "reproduces"), (1.6, "reproduces"), (1.873, "differs"), (0.0, "differs")]
)
def test_a_distance_may_be_smaller_than_published_but_not_absurdly(value: float, verdict: str) -> None:
    number = CASES["lenet5_adv_ddn"].numbers[0]
    assert check_number(number, Measured(value, 0.0, float("inf")), whole=True) == verdict


def test_every_published_number_reproduces_itself() -> None:
    for case in CASES.values():
        for number in case.numbers:
            here = Measured(number.published, number.published, number.published)
            assert check_number(number, here, whole=True) == "reproduces", number
            assert number.source.startswith("https://")
            assert number.demand


def test_the_medians_interval_covers() -> None:
    """Of samples of a known distribution, the interval holds the true median in at least 95 of 100."""

    class Card:
        def __init__(self, distances: list[float]) -> None:
            self.distances = tuple(sorted(distances))

        def curve(self) -> Card:
            return self

    dice = np.random.default_rng(0)
    found = [numbers.median_distance(Card(dice.exponential(size=40).tolist())) for _ in range(2000)]  # type: ignore[arg-type]
    held = np.mean([one.low <= np.log(2) <= one.high for one in found])
    assert 0.95 <= held <= 0.985
    assert all(one.low <= one.value <= one.high for one in found)
    few = numbers.median_distance(Card([1.0, 2.0]))  # type: ignore[arg-type]
    assert few == (1.0, 0.0, float("inf"))


# -- a small case --------------------------------------------------------------------------------------------------


def small() -> nn.Module:
    """The class is the brightest of the first ten pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False))
    model[1].weight.data = torch.eye(10, 784)
    return model


def arrays(number: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Images of which none is broken within Linf 0.29, and all within 0.31."""
    y = np.arange(number, dtype=np.uint8) % 10
    x = np.full((number, 784), 51, np.uint8)
    x[np.arange(number), y] = 204
    return x.reshape(number, 28, 28), y


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The one case there is, its file in place and its data, MNIST's in form, taken for the official ones."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "weights").mkdir()
    torch.save(small().state_dict(), tmp_path / "weights" / "theirs.pt")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    x, y = arrays()
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">HBB3I", 0, 8, 3, *x.shape) + x.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, len(y)) + y.tobytes())
    robust = Number(
        what="robust accuracy",
        published=1.0,
        accepted=(1.0, 1.0),
        measure=numbers.robust_accuracy,
        source="https://example.org/proof",
        proved=True,
    )
    one = Case(
        name="small",
        architecture=small,
        weights=Weights(
            names=("ours.pt", "theirs.pt"),
            sha256=hashlib.sha256((tmp_path / "weights" / "theirs.pt").read_bytes()).hexdigest(),
            repository="https://example.org/repository",
            path="models/theirs.pt",
        ),
        suite=Suite(name="one", threats=("Linf 0.2",), attacks=(AttackSpec(attack="fgsm"),)),
        threat="Linf 0.2",
        numbers=(robust,),
    )
    use(monkeypatch, one)
    monkeypatch.setattr(run, "MNIST_SHA256", hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest())
    return one


def use(monkeypatch: pytest.MonkeyPatch, *cases: Case) -> None:
    monkeypatch.setattr(run, "CASES", {one.name: one for one in cases})


def rblite(folder: Path, *more: str) -> Result:
    result = CliRunner().invoke(
        main, ["calibrate", "--weights", str(folder / "weights"), "--data-root", str(folder), *more]
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def test_what_reproduces_ends_with_0(case: Case, tmp_path: Path) -> None:
    result = rblite(tmp_path, "--json", str(tmp_path / "out" / "numbers.json"))
    assert result.exit_code == 0, result.output
    assert "reproduces 1 of 1" in result.output
    assert "interval" not in result.output
    assert "official" not in result.output
    told = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert told["official_data"] is True
    assert (told["samples"], told["available"]) == (40, 40)
    [row] = told["results"]
    assert (row["case"], row["what"], row["verdict"], row["here"]["value"]) == (
        *("small", "robust accuracy", "reproduces"),
        1.0,
    )
    assert row["weights"]["sha256"] == case.weights.sha256


def test_what_differs_ends_with_1_and_tells_the_source(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = dataclasses.replace(case.numbers[0], published=0.9, accepted=(0.9, 0.9))
    use(monkeypatch, dataclasses.replace(case, numbers=(number,)))
    result = rblite(tmp_path)
    assert result.exit_code == 1
    assert "differs" in result.output
    assert "https://example.org/proof" in result.output
    assert "PROOF" not in result.output


def test_below_the_proof_is_told_loudly(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, dataclasses.replace(case, threat="Linf 0.31"))
    for more in ((), ("--limit", "20")):
        result = rblite(tmp_path, *more)
        assert result.exit_code == 1
        assert "BELOW THE PROOF" in result.output
        assert "https://example.org/proof" in " ".join(result.output.split())


def test_a_part_says_that_it_is_one(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = dataclasses.replace(case.numbers[0], published=0.9, accepted=(0.9, 0.9), proved=False)
    use(monkeypatch, dataclasses.replace(case, numbers=(number,)))
    result = rblite(tmp_path, "--limit", "20")  # 20 of 20: 0.9 is in the interval
    assert result.exit_code == 0
    assert "20 of 40 samples: a part can't reproduce a published number exactly" in result.output
    assert "[83.2%, 100.0%]" in result.output


def test_a_limit_that_leaves_all_samples_is_no_part(case: Case, tmp_path: Path) -> None:
    result = rblite(tmp_path, "--limit", "40")
    assert result.exit_code == 0
    assert "interval" not in result.output


@pytest.mark.parametrize(
    ("content", "told"), [(None, "ours.pt or gone.pt is not in"), (b"x", "gone.pt is another file")]
)
def test_a_file_that_lacks_is_told_and_the_others_run(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, told: str
) -> None:
    weights = dataclasses.replace(case.weights, names=("ours.pt", "gone.pt"))
    if content:
        (tmp_path / "weights" / "gone.pt").write_bytes(content)
    use(monkeypatch, dataclasses.replace(case, name="lacking", weights=weights), case)
    result = rblite(tmp_path)
    assert result.exit_code == 0
    whole = "".join(result.output.split())  # a long path is folded anywhere
    for part in (told, "lacking: ", "reproduces 1 of 1 published numbers. 1 not run."):
        assert part.replace(" ", "") in whole
    assert all(part in result.output for part in (weights.sha256, weights.repository, weights.path))  # in one line each


def test_where_nothing_ran_the_code_is_2(case: Case, tmp_path: Path) -> None:
    (tmp_path / "weights" / "theirs.pt").unlink()
    result = rblite(tmp_path)
    assert result.exit_code == 2
    assert "Nothing was run" in result.output


def test_the_publishers_file_is_found_behind_another_of_our_name(case: Case, tmp_path: Path) -> None:
    (tmp_path / "weights" / "ours.pt").write_bytes(b"another")
    assert rblite(tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--case", "smal"), "did you mean small"),
        (("--weights", "nowhere"), "nowhere"),
        (("--data-root", "nowhere"), "nowhere"),
        (("--limit", "0"), "limit"),
        (("--json", "."), "is a folder"),
    ],
)
def test_wrong_usage_ends_with_2(case: Case, tmp_path: Path, options: tuple[str, str], told: str) -> None:
    result = rblite(tmp_path, *options)
    assert result.exit_code == 2
    assert told in result.output


def test_other_data_are_told_and_never_below_a_proof(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MNIST_SHA256", "0" * 64)
    result = rblite(tmp_path)
    assert result.exit_code == 0
    assert "not the official MNIST test set" in result.output
    assert "0" * 64 in result.output
    use(monkeypatch, dataclasses.replace(case, threat="Linf 0.31"))
    result = rblite(tmp_path)
    assert result.exit_code == 1
    assert "PROOF" not in result.output


def test_an_attack_that_fails_differs(case: Case) -> None:
    x, y = arrays()
    card = run.evaluate(small(), from_arrays(x[:, None], y, "small"), case.suite, "Linf 0.2")
    attack = card.attacks[0].model_copy(update={"fault": "RuntimeError: out of tea"})
    [result] = run._results(case, card.model_copy(update={"attacks": (attack,)}), whole=True, official=True)
    assert result.verdict == "differs"
    assert "out of tea" in result.note


def test_what_was_interrupted_was_not_run(case: Case) -> None:
    x, y = arrays()
    card = run.evaluate(small(), from_arrays(x[:, None], y, "small"), case.suite, "Linf 0.2")
    card = card.model_copy(update={"interrupted": "interrupt"})
    [result] = run._results(case, card, whole=True, official=True)
    assert (result.verdict, result.here) == ("not run", None)


# -- what is published ---------------------------------------------------------------------------------------------


def test_the_report_fits_80_columns() -> None:
    from rich.console import Console

    wide = Measured(0.12345, 0.12345, 1.0)
    results = tuple(
        run.Result(case, number, verdict, here, run._note(number, verdict))
        for case in CASES.values()
        for number in case.numbers
        for verdict, here in (("reproduces", wide), ("impossible", wide), ("not run", None))
    )
    found = Calibration(results=results, samples=200, available=10_000, data_sha256=run.MNIST_SHA256)
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(table.report(found))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(" reproduces" in line and "[12.3%, 100.0%]" in line for line in lines) == 6  # none is folded
    json.loads(run.as_json(found))


def test_help_names_every_case() -> None:
    told = " ".join(CliRunner().invoke(main, ["calibrate", "--help"]).output.split())
    assert all(name in told for name in CASES)


@needs_shared
def test_the_files_at_hand_are_the_published_ones() -> None:
    for case in CASES.values():
        assert case.weights.find(YARDSTICKS).name == case.weights.names[0]
    assert run._sha256(load_data("mnist", root=MNIST)) == run.MNIST_SHA256


@needs_shared
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("lenet5_clean_pgd", 30),
        ("lenet5_adv_pgd", 16),
        ("lenet5_clean_ddn", 8),
        ("lenet5_adv_ddn", 8),
        ("wk17a", 30),
    ],
)
def test_a_published_case_reproduces_on_a_part(name: str, limit: int) -> None:
    found = calibrate(YARDSTICKS, load_data("mnist", root=MNIST), [name], limit=limit)
    assert found.official
    assert not found.whole
    assert [result.verdict for result in found.results] == ["reproduces"] * len(CASES[name].numbers)


def test_an_unknown_case_is_refused(tmp_path: Path) -> None:
    x, y = arrays()
    with pytest.raises(UserError, match="did you mean wk17a"):
        calibrate(tmp_path, from_arrays(x[:, None], y, "small"), ["wk17"])
