"""Data without a model: planted faults are found, by their samples and no others; on clean digits nearly nothing is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data, load_data
from robustbench_lite.data.quality import examine_data, other_split
from robustbench_lite.results.data_quality import DataQuality, Fault

TEST, TRAIN = load_data("digits"), load_data("digits", split="train")


def arrays(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    return data.fetch(range(len(data))).clone(), data.labels.clone()


def found(x: torch.Tensor, y: torch.Tensor, known: Data | None = TRAIN) -> dict[str, Fault]:
    faults = examine_data(from_arrays(x, y, "planted", TEST.classes), known).faults
    assert len({fault.finding.code for fault in faults}) == len(faults)
    return {fault.finding.code: fault for fault in faults}


def of_test(fault: Fault) -> set[int]:
    return {one.index for one in fault.suspects if one.split == "test"}


@pytest.fixture(scope="module")
def clean() -> DataQuality:
    return examine_data(TEST, TRAIN)


def test_of_clean_digits_nearly_nothing_is_told(clean: DataQuality) -> None:
    assert clean.samples == {"test": 539, "train": 1258}
    assert all(check.asked for check in clean.checks)
    assert [(fault.finding.code, fault.finding.severity) for fault in clean.faults] == [("RB159", "info")]
    assert len(clean.faults[0].suspects) <= 4
    assert clean.errors == 0


def test_planted_faults_are_found_by_their_samples(clean: DataQuality) -> None:
    (x, y), (known, _) = arrays(TEST), arrays(TRAIN)
    noise = torch.Generator().manual_seed(0)
    exact, near, flat = [3, 50, 77], [11, 200], [19]
    x[exact], y[exact] = known[[5, 6, 7]], TRAIN.labels[[5, 6, 7]]
    x[near] = (known[[8, 9]] + 0.01 * torch.randn(2, 1, 8, 8, generator=noise)).clamp(0, 1)
    y[near] = TRAIN.labels[[8, 9]]
    x[flat] = 0.5
    told = found(x, y)
    assert of_test(told["RB151"]) == set(exact)
    assert told["RB151"].finding.severity == "warning", "3 of 539 may be less than 1 in 100"
    assert told["RB151"].suspects[0].why == f"is train {int(TRAIN.index[5])} ({int(TRAIN.labels[5])})"
    assert of_test(told["RB152"]) == set(near)
    assert of_test(told["RB156"]) == set(flat)
    assert set(told) == {"RB151", "RB152", "RB156", "RB159"}
    assert {one.index for one in told["RB159"].suspects if one.split == "train"} <= {
        one.index for one in clean.faults[0].suspects
    } | set(TRAIN.index.tolist())


def test_many_known_samples_are_an_error() -> None:
    x, y = arrays(TEST)
    x[:30], y[:30] = arrays(TRAIN)[0][:30], TRAIN.labels[:30]
    assert found(x, y)["RB151"].finding.severity == "error"


def test_wrong_labels_are_found_and_said_to_be_what_they_were() -> None:
    x, y = arrays(TEST)
    wrong = [20, 60, 100, 140, 180, 220, 260, 300]
    was = y[wrong].tolist()
    y[wrong] = (y[wrong] + 3) % 10
    told = found(x, y)["RB159"]
    caught = of_test(told) & set(wrong)
    assert len(caught) >= 6, "most of them"
    assert len(told.suspects) - len(caught) <= 4, "and few others"
    for one in told.suspects:
        if one.index in caught and one.split == "test":
            assert one.why.startswith(f"looks like {was[wrong.index(one.index)]} (p = ")


def test_the_same_sample_twice_and_under_two_labels() -> None:
    x, y = arrays(TEST)
    x[[40, 41]], y[40] = x[[30, 31]], y[30]
    y[41] = (y[31] + 1) % 10
    told = found(x, y, None)
    assert of_test(told["RB153"]) == {40}
    assert of_test(told["RB154"]) == {41}


def test_classes_of_unlike_sizes() -> None:
    x, y = arrays(TEST)
    few = torch.cat([(y != 7).nonzero()[:, 0], (y == 7).nonzero()[:5, 0]])
    told = found(x[few], y[few])["RB155"]
    assert told.finding.severity == "warning"
    assert "5 7: always saying the first" in told.finding.message
    none = (y != 7).nonzero()[:, 0]
    assert "1 of 10 classes have no test sample (7)" in found(x[none], y[none])["RB155"].finding.message


@pytest.mark.parametrize(
    ("change", "told", "named"),
    [
        (lambda x: x * 255, "from 0 to 255.*divide by 255", 539),
        (lambda x: x / 255, "no value of any sample is above 0.0039.*divide them once", 0),
        (lambda x: x - 0.5, "undo the normalisation", 539),
        (lambda x: torch.where(torch.arange(539)[:, None, None, None] == 9, torch.nan, x), "1 of 539.*NaN.*clean", 1),
    ],
)
def test_values_out_of_range(change: object, told: str, named: int) -> None:
    assert callable(change)
    x, y = arrays(TEST)
    fault = found(change(x), y, None)["RB158"]
    assert fault.finding.severity == "error"
    text = f"{fault.finding.message} {fault.finding.cure}"
    assert re.search(told, text), text
    assert len(fault.suspects) == named


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(12):
            Image.fromarray(dice.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / name / f"{number:02}.png")
    damaged = tmp_path / "bee" / "05.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    quality = examine_data(load_data(f"imagefolder:{tmp_path}"))
    [fault] = quality.faults
    assert (fault.finding.code, fault.finding.severity) == ("RB157", "error")
    assert [(one.file, one.index) for one in fault.suspects] == [("bee/05.png", 17)]
    assert "OSError" in fault.suspects[0].why
    assert not next(check for check in quality.checks if check.name == "labels can be believed").asked


def test_where_nothing_can_be_read_the_reason_is_raised() -> None:
    class Broken:
        targets = (0, 1) * 10

        def __len__(self) -> int:
            return 20

        def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
            if position:
                raise OSError("the disk is gone")
            return torch.rand(1, 4, 4), 0

    with pytest.raises(UserError, match="the disk is gone"):
        examine_data(as_data(Broken()))


def test_data_that_change_are_a_finding() -> None:
    class Jittered:
        targets = (0, 1) * 10

        def __len__(self) -> int:
            return 20

        def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
            return torch.rand(1, 4, 4), position % 2

    assert "RB141" in {fault.finding.code for fault in examine_data(as_data(Jittered())).faults}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (torch.arange(200) % 4, set()),
        (torch.arange(50) % 2, set()),
        ((torch.arange(200) % 5 == 0).long(), {"RB155"}),  # four in five are of one class
    ],
)
def test_a_classifier_that_knows_nothing_doubts_no_label(labels: torch.Tensor, told: set[str]) -> None:
    x = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    quality = examine_data(from_arrays(x, labels, "noise"))
    assert {fault.finding.code for fault in quality.faults} == told
    [check] = [check for check in quality.checks if check.name == "labels can be believed"]
    assert not check.asked
    commonest = labels.bincount().max() / len(labels)
    assert "can't be told from the pixels" in check.saw
    assert f"one who always says the commonest class for {commonest:.0%}" in check.saw


def test_the_same_samples_are_no_other_split() -> None:
    assert other_split(TEST, lambda: TRAIN) is TRAIN
    assert other_split(TEST, lambda: load_data("digits")) is None

    def missing() -> Data:
        raise UserError("there is none")

    assert other_split(TEST, missing) is None
