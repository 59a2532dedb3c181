"""What the README shows is there and works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_lite import Scorecard, evaluate
from robustbench_lite.faces.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _block(word: str) -> str:
    found = [text for text in PYTHON if word in text]
    assert len(found) == 1
    return found[0]


def test_the_python_example_runs(here, capsys):
    generator = torch.Generator().manual_seed(0)
    names = {
        "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "x": torch.rand(20, 1, 8, 8, generator=generator),
        "y": torch.arange(20) % 10,
    }
    exec(_block("print(card.verdict)"), names)
    assert Scorecard.load(here / "scorecard.json").verdict in capsys.readouterr().out


def test_the_attack_example_is_found_in_the_users_folder(here):
    (here / "attacks").mkdir()
    catalogue = re.search(r"`(CATALOGUE = .*?)`", README)
    assert catalogue is not None
    (here / "attacks/__init__.py").write_text(catalogue.group(1))
    (here / "attacks/sign_step.py").write_text(_block("class SignStep"))
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    card = evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (x, y), suite=["sign_step"], threat="Linf 0.1")
    assert [result.attack for result in card.attacks] == ["sign_step"]


def test_the_test_example_passes(here, pytester):
    pytester.makepyfile(
        **{"my/__init__": "", "my/models": "from robustbench_lite.faces.cli.demo import small_cnn as build\n"},
        test_readme_example=_block("def robust_target").replace(
            "min_robust_accuracy=0.45", 'min_robust_accuracy=0.0, allow_invalid="it is not trained"'
        ),
    )
    result = pytester.runpytest_subprocess("-q", "--import-mode=prepend", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_the_commands_are_there():
    shown = {
        line.split()[1] for kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith("rblite ")
    }
    assert shown <= set(main.commands)
    assert {"evaluate", "harden", "compare", "report", "list"} <= shown


def test_the_suite_example_is_valid(here):
    from robustbench_lite import load_suite

    toml = [text for kind, text in BLOCKS if kind == "toml"]
    (here / "mine.toml").write_text(toml[0])
    assert len(load_suite(here / "mine.toml").attacks) == 2


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
