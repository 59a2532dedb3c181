"""What the README and the pages beside it show is there and works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from robustbench_lite import Scorecard, evaluate
from robustbench_lite.faces.cli import main
from tests.forked import PYTEST, ran

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("attacks", "cli", "scorecard", "tutorial")))
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [
    block for text in TEXTS.values() for block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [
    command
    for kind, text in BLOCKS
    if not kind
    for command in text.replace("\\\n", " ").splitlines()
    if command.startswith("rblite ")
]


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
    catalogue = re.search(r"`(CATALOGUE = .*?)`", TEXTS[ROOT / "docs" / "attacks.md"])
    assert catalogue is not None
    (here / "attacks/__init__.py").write_text(catalogue.group(1))
    (here / "attacks/sign_step.py").write_text(_block("class SignStep"))
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    card = evaluate(model, (x, y), suite=["sign_step"], threat="Linf 0.1", anyway=True)  # it knows nothing
    assert [result.attack for result in card.attacks] == ["sign_step"]


def test_the_test_example_passes(here):
    (here / "my").mkdir()
    (here / "my/__init__.py").touch()
    (here / "my/models.py").write_text("from robustbench_lite.faces.cli.demo import small_cnn as build\n")
    given = 'min_robust_accuracy=0.0, limit=40, allow_invalid="it is not trained"'
    test = _block("from my.models import build").replace("min_robust_accuracy=0.45", given)
    (here / "test_readme_example.py").write_text(test)
    done = ran(PYTEST, "-q", "--import-mode=prepend", "-p", "no:cacheprovider")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_commands_and_their_options_are_there():
    for command in COMMANDS:
        name, *arguments = shlex.split(command)[1:]
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= known, command
    shown = {command.split()[1] for command in COMMANDS}
    assert shown == set(main.commands) - {"demo"}


def test_the_tutorial_works(here, capsys):
    images = torch.rand(4, 10, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    for number, some in enumerate((images * 255).byte().numpy()):
        for label, image in enumerate(some):
            folder = here / "photos" / "test" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    (here / "my_model.py").write_text(_block("# my_model.py"))
    names: dict[str, Any] = {}
    exec(_block("# my_model.py"), names)
    torch.manual_seed(0)
    torch.save(names["build"]().state_dict(), here / "weights.pt")

    [command] = [
        one for one in COMMANDS if "--suite linf_quick" in one and "weights.pt" in one and "my_weights" not in one
    ]
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:], standalone_mode=False)
    assert ended.value.code == 3  # its weights were drawn at random: INVALID, and so it says
    assert "RB114" in capsys.readouterr().out

    demand = "min_robust_accuracy=0.1, limit=200"
    test = _block("# test_robustness.py").replace(demand, 'min_robust_accuracy=0.0, allow_invalid="untrained"')
    test = test.replace('return "hardened"', 'return "my_model.py:build"')
    (here / "test_robustness.py").write_text(test)
    done = ran(PYTEST, "-q", "-p", "no:cacheprovider")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_suite_example_is_valid(here):
    from robustbench_lite import load_suite

    toml = [text for kind, text in BLOCKS if kind == "toml"]
    (here / "mine.toml").write_text(toml[0])
    assert len(load_suite(here / "mine.toml").attacks) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", TEXTS[page])
    assert [link for link in links if not (page.parent / link).exists()] == []
