"""Tables: how rows become samples, and what is said of a cell that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.load import load_data

ROWS = [(place, 100 - place, place % 3 == 0) for place in range(40)]
TEXT = "age,height,label\n" + "".join(f"{a},{b},{'yes' if c else 'no'}\n" for a, b, c in ROWS)


def write(folder: Path, text: str) -> str:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return f"csv:{folder / 'table.csv'}"


def test_a_table_is_split_once_and_scaled_by_its_training_part(tmp_path: Path) -> None:
    source = f"{write(tmp_path, TEXT)}?scale=range"
    train, test = load_data(source, split="train"), load_data(source, split="test")
    assert (len(train), len(test), train.shape, train.classes) == (28, 12, (2,), ("no", "yes"))
    assert train.name == f"{source}/train"
    assert not {*train.index.tolist()} & {*test.index.tolist()}
    x = train.fetch(range(len(train)))
    assert torch.equal(x.min(0).values, torch.zeros(2))
    assert torch.equal(x.max(0).values, torch.ones(2))
    first, last = (float(ROWS[place][0]) for place in (train.index.min(), train.index.max()))
    expected = torch.tensor([(ROWS[place][0] - first) / (last - first) for place in test.index.tolist()])
    assert torch.allclose(test.fetch(range(len(test)))[:, 0], expected.clamp(0, 1), atol=1e-6)
    assert test.labels.tolist() == [int(ROWS[place][2]) for place in test.index.tolist()]
    assert "goes from its range" in " ".join(train.notes)
    assert "eps" not in " ".join(train.notes)
    assert torch.equal(load_data(source, split="train").index, train.index)


def test_by_default_a_table_is_in_standardised_units(tmp_path: Path) -> None:
    rows = "".join(f"{a},{7},{1000 if a == 20 else a % 2},{c}\n" for a, _, c in ROWS)
    source = write(tmp_path, "age,constant,rare,label\n" + rows)
    train, test = load_data(source, split="train"), load_data(source, split="test")
    ages = torch.tensor([float(ROWS[place][0]) for place in train.index.tolist()], dtype=torch.float64)
    x = train.fetch(range(len(train)))
    z_scores = (ages - ages.mean()) / ages.std(correction=0)
    assert torch.allclose(x[:, 0].double(), 0.5 + z_scores / 10, atol=1e-6)
    assert torch.equal(x[:, 1], torch.full((len(train),), 0.5))
    assert 0 <= float(x[:, 2].max()) <= 1  # 1000 is more than five standard deviations away
    told = " ".join((*train.notes, *test.notes))
    assert "from 5 standard deviations below its mean" in told
    assert "so that eps 0.1 is one standard deviation" in told
    assert "1 of 40 rows hold values beyond that, which are cut off" in told
    assert load_data(f"{source}?scale=std").notes == test.notes


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_column_of_labels_is_found_or_named(tmp_path: Path, delimiter: str) -> None:
    rows = "".join(f"{place % 2},{place % 5},{place}\n" for place in range(20))
    text = ("\ufeffclass,other,last\n" + rows).replace(",", delimiter)
    source = write(tmp_path, text)
    assert load_data(source).classes == ("0", "1")
    assert load_data(f"{source}@other").classes == ("0", "1", "2", "3", "4")
    assert load_data(f"{source}@other").shape == (2,)
    with pytest.raises(UserError, match=r"unknown column 'othr': did you mean other"):
        load_data(f"{source}@othr")
    unnamed = write(tmp_path, text.replace("class", "first"))
    assert len(load_data(unnamed, split="train").classes) == 20


def test_classes_that_are_numbers_stand_in_their_order(tmp_path: Path) -> None:
    source = write(tmp_path, "a,label\n" + "".join(f"{place},{(2, 10, 1)[place % 3]}\n" for place in range(12)))
    assert load_data(source).classes == ("1", "2", "10")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,label\n1,x\nred,y\n", r"line 3, column 'a': holds 'red': expected a number; encode it"),
        ("a,label\n1,x\n,y\n", r"line 3, column 'a': is empty"),
        ("a,label\n1,x\nnan,y\n", r"line 3, column 'a': holds 'nan': expected a finite number"),
        ("a,label\n1,x\n2\n", r"line 3: has 1 cells: expected 2"),
        ("a,label\n1,x\n2,\n", r"line 3: has no 'label'"),
        ("a,label\n1,x\n2,x\n", "all rows have the label 'x'"),
        ("1,2\n3,4\n5,6\n", "first line holds numbers"),
        ("a,a\n3,4\n5,6\n", "has the column 'a' twice"),
        ("label\nx\ny\n", "the column 'label' alone"),
        ("a,label\n1,x\n", "holds 1 rows"),
        ("", "holds 0 rows"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_data(write(tmp_path, text))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_data(f"csv:{tmp_path / 'nowhere.csv'}")
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00a,b\n" * 4)
    with pytest.raises(UserError, match="can't be read as CSV"):
        load_data(f"csv:{tmp_path / 'table.csv'}")
    source = write(tmp_path, TEXT)
    with pytest.raises(UserError, match="holds no pictures"):
        load_data(source, resize=8)


def test_columns_have_roles(tmp_path: Path) -> None:
    rows = "".join(f"{20 + a},{b / 3},{a % 4},{c}\n" for a, b, c in ROWS)
    source = write(tmp_path, "age,height,visits,sick\n" + rows)
    data = load_data(f"{source}?label=sick&immutable=age&integer=age,visits&scale=range")
    assert data.name == f"{source}?label=sick&immutable=age&integer=age,visits&scale=range/test"
    assert data.columns is not None
    assert data.columns.fixed.tolist() == [True, False, False]
    train = load_data(source, split="train").index
    ages = [20 + ROWS[place][0] for place in train.tolist()]
    assert data.columns.whole.tolist() == [max(ages) - min(ages), 0, 3]
    x = data.fetch(range(len(data)))
    assert data.columns.kept(x, torch.full_like(x, -1)).logical_not().all()  # age differs from that of another row
    assert torch.equal(data.columns.allowed(x, x.roll(1, 0))[:, 2], x[:, 2])
    told = " ".join(data.notes)
    assert "leaves 1 of 3 columns as they are: age" in told
    assert "2 of 3 columns take whole numbers alone: age, visits" in told
    plain, free = load_data(source), load_data(f"{source}?label=sick")
    assert (plain.columns, free.columns, plain.notes, plain.name) == (None, None, free.notes, free.name)
    assert torch.equal(plain.fetch(range(len(plain))), free.fetch(range(len(free))))


def test_whole_numbers_stay_whole_in_standardised_units(tmp_path: Path) -> None:
    """Whatever the mean and the deviation, what an adversary is let through is a whole number in the column's unit."""
    rows = "".join(f"{20 + a},{int(a == 7)},{c}\n" for a, _, c in ROWS)  # a count, and a flag that is rare
    source = write(tmp_path, "age,flag,label\n" + rows)
    train = load_data(f"{source}?integer=age,flag", split="train")
    assert train.columns is not None
    ages = torch.tensor([20.0 + ROWS[place][0] for place in train.index.tolist()], dtype=torch.float64)
    low, span = ages.mean() - 5 * ages.std(correction=0), 10 * ages.std(correction=0)
    x = train.fetch(range(len(train)))
    for direction in (-1, 1):
        asked = (x + direction * 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
        found = train.columns.allowed(asked, x)
        assert train.columns.kept(found, x).all()
        assert ((found - x).abs() <= (asked - x).abs() + 1e-6).all()
        own = low + found[:, 0].double() * span
        assert torch.allclose(own, own.round(), atol=1e-5)
        assert not torch.equal(found[:, 0], x[:, 0])
        assert torch.equal(found[:, 1], x[:, 1])  # the next whole number is more than one deviation away
    assert not train.columns.kept(x + 0.01, x).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("immutable=agee", r"option immutable: unknown column 'agee': did you mean age\?"),
        ("integer=label", r"option integer: unknown column 'label'"),
        ("label=nothing", r"unknown column 'nothing'"),
        ("immutable=age,height", "all 2 columns are immutable: expected one that an adversary can change"),
        ("fixed=age", r"unknown option 'fixed'"),
        ("scale=minmax", r"unknown scale 'minmax': expected one of std, range"),
        ("scale=", r"the option scale has no value: expected scale=std or range"),
        ("immutable=", r"the option immutable has no value: expected immutable=COLUMN,COLUMN"),
        ("immutable=age&immutable=height", "the option immutable is there twice"),
    ],
)
def test_roles_of_no_columns_are_told(tmp_path: Path, options: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_data(f"{write(tmp_path, TEXT)}?{options}")


def test_a_column_of_whole_numbers_holds_them(tmp_path: Path) -> None:
    source = write(tmp_path, "a,label\n1,x\n2.5,y\n3,x\n4,y\n")
    with pytest.raises(UserError, match=r"line 3, column 'a': holds 2.5: expected whole numbers"):
        load_data(f"{source}?integer=a")
    source = write(tmp_path, "a,label\n1,x\n9999999,y\n3,x\n9999998,y\n2,x\n9999997,y\n")
    with pytest.raises(UserError, match=r"from 0 to 1 go \d+,999,9\d\d whole numbers, more than 1,000,000"):
        load_data(f"{source}?integer=a")
