"""The cache: an unchanged question costs no pass, a changed one is never answered, and what is in use stays."""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from robustbench_lite import Budget, Scorecard, evaluate, load_suite, load_target
from robustbench_lite.core.errors import UserError
from robustbench_lite.evaluating.cache import code_sha256, kept, prune, slot
from robustbench_lite.faces.cli import main

SEEN: list[int] = []
QUESTION = {
    "target": "net",
    "suite": {"name": "linf_quick", "threats": [{"norm": "Linf", "eps_text": "8/255"}]},
    "data": "digits/test",
}


class Net(nn.Module):
    """Settings of every kind, none of them in the state dict; what goes through it is counted outside of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(16, 3)
        self.scale = 2.0
        self.clip: float | None = None
        self.mean = torch.tensor(0.25)
        self.register_buffer("std", torch.tensor(0.5), persistent=False)
        self.table = np.arange(3.0)
        self.hidden = [nn.Linear(3, 3)]
        self.activation: Any = functools.partial(nn.functional.leaky_relu, negative_slope=0.1)
        self.options = {"shift": [0.0, {"deep": 1}]}

    def forward(self, x):
        SEEN.append(len(x))
        x = (x - self.mean) / self.std
        return self.hidden[0](self.activation(self.linear(x.flatten(1)) * self.scale))


@pytest.fixture(autouse=True)
def _seen() -> Iterator[None]:
    SEEN.clear()
    with torch.random.fork_rng(devices=[]):
        yield


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(12, 1, 4, 4, generator=generator)
    with torch.no_grad():
        return x, Net()(x).argmax(1)


def ask(folder: Path, model: nn.Module | None = None, **changes: Any) -> Scorecard:
    given = {"data": data(), "suite": ["fgsm"], "threat": "Linf 0.1", "seed": 0} | changes
    SEEN.clear()
    return evaluate(Net() if model is None else model, given.pop("data"), cache=folder, **given)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the plain question of `ask` has its answer."""
    folder = tmp_path_factory.mktemp("answered")
    with torch.random.fork_rng(devices=[]):
        ask(folder)
    return folder


# Questions


def test_an_unchanged_question_is_answered_without_a_pass(tmp_path: Path) -> None:
    first = ask(tmp_path)
    assert sum(SEEN) > 12
    again = ask(tmp_path)
    assert SEEN == []
    assert again == first


def test_neither_batch_size_nor_gates_nor_budget_make_another_question(answered: Path) -> None:
    card = ask(answered, batch_size=5, gates={"min_clean_accuracy": 1.0}, budget=Budget(passes=10**6))
    assert SEEN == []
    assert [gate.name for gate in card.gates] == ["min_clean_accuracy"]


def test_the_witnesses_are_kept_with_the_answer(tmp_path: Path) -> None:
    first = ask(tmp_path, threat="Linf 0.5", keep_witnesses=True)
    again = ask(tmp_path, threat="Linf 0.5", keep_witnesses=True)
    assert SEEN == []
    assert len(first.witnesses) > 0
    assert again.witnesses == first.witnesses


def test_an_answer_that_lost_its_witnesses_is_none(tmp_path: Path) -> None:
    first = ask(tmp_path, threat="Linf 0.5", keep_witnesses=True)
    for path in tmp_path.glob("*/*.npz"):
        path.unlink()
    again = ask(tmp_path, threat="Linf 0.5", keep_witnesses=True)
    assert sum(SEEN) > 0
    assert again.witnesses == first.witnesses


def changed_label() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = data()
    return x, torch.cat([(y[:1] + 1) % 3, y[1:]])


@pytest.mark.parametrize(
    "changes",
    [
        {"data": data(1)},
        {"data": changed_label()},
        {"data": tuple(part.flip(0) for part in data())},
        {"suite": ["pgd"]},
        {"suite": ["fgsm", "pgd"]},
        {"suite": load_suite("linf_quick")},
        {"threat": "Linf 0.11"},
        {"threat": "L2 0.1"},
        {"threat": "Linf 0.1 targeted"},
        {"seed": 1},
        {"limit": 6},
        {"independent": True},
        {"keep_witnesses": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_question_is_not_answered(answered: Path, changes: dict[str, Any]) -> None:
    ask(answered, **changes)
    assert sum(SEEN) > 0


def weights(net: Any) -> None:
    with torch.no_grad():
        net.linear.weight[0, 0] += 1e-4


def hidden_weights(net: Any) -> None:
    with torch.no_grad():
        net.hidden[0].bias[0] += 1e-4


CHANGES: dict[str, Callable[[Any], Any]] = {
    "weights": weights,
    "weights of a module in a list": hidden_weights,
    "number": lambda net: setattr(net, "scale", 2.5),
    "None": lambda net: setattr(net, "clip", 1.0),
    "tensor": lambda net: setattr(net, "mean", torch.tensor(0.3)),
    "buffer out of the state dict": lambda net: net.std.fill_(0.6),
    "array": lambda net: net.table.__setitem__(0, 9.0),
    "partial": lambda net: setattr(net, "activation", functools.partial(nn.functional.leaky_relu, negative_slope=0.2)),
    "function": lambda net: setattr(net, "activation", nn.functional.elu),
    "lambda": lambda net: setattr(net, "activation", lambda x: x * 3),
    "deep in a dict": lambda net: net.options["shift"][1].__setitem__("deep", 2),
    "layer": lambda net: setattr(net, "extra", nn.Identity()),
    "hook": lambda net: net.register_forward_hook(lambda module, inputs, logits: logits * 2),
    "forward": lambda net: setattr(net, "forward", lambda x: Net.forward(net, x) * 2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_model_is_not_answered(answered: Path, change: Callable[[Any], Any]) -> None:
    net = Net()
    change(net)
    ask(answered, net)
    assert sum(SEEN) > 0


@pytest.mark.parametrize("training", [True, False])
def test_train_or_eval_mode_makes_no_difference(answered: Path, training: bool) -> None:
    ask(answered, Net().train(training))
    assert SEEN == []


MODEL = """
from torch import nn

import cache_test_ops as ops


class Base(nn.Module):
    def forward(self, x):
        return self.last(ops.shrink(x.flatten(1))) * {factor}


class Net(Base):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(16, 3)
"""


def test_the_source_behind_a_model_is_part_of_the_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def code(factor: int, shrunk: str) -> str:
        (tmp_path / "cache_test_ops.py").write_text(f"def shrink(x):\n    return {shrunk}\n", encoding="utf-8")
        (tmp_path / "model.py").write_text(MODEL.format(factor=factor), encoding="utf-8")
        sys.modules.pop("cache_test_ops", None)
        return code_sha256(load_target("model.py:Net").module)

    first = code(1, "x * 1.0")
    assert code(1, "x * 1.0") == first
    assert code(2, "x * 1.0") != first  # a base class
    assert code(1, "x * 0.5 + 0") != first  # a function in another file
    assert code(1, "x * 1.0") == first


def test_what_was_typed_in_at_a_prompt_is_told_apart_by_its_bytecode() -> None:
    def typed(body: str) -> nn.Module:
        names: dict[str, Any] = {"nn": nn, "__name__": "typed_in_at_a_prompt"}
        exec(f"class Net(nn.Module):\n    def forward(self, x):\n        return {body}", names)
        return names["Net"]()

    assert code_sha256(typed("x + 1")) == code_sha256(typed("x + 1"))
    assert code_sha256(typed("x + 1")) != code_sha256(typed("x + 2"))


def test_a_model_that_holds_itself_and_deep_things_is_read() -> None:
    net = Net()
    net.__dict__["itself"] = net
    chain: list[Any] = []
    net.chain = chain
    for _ in range(5000):
        chain.append([])
        chain = chain[0]
    assert code_sha256(net) == code_sha256(net)


# Answers


def test_a_damaged_answer_is_asked_again_and_mended(tmp_path: Path) -> None:
    first = ask(tmp_path)
    [path] = tmp_path.glob("*/scorecard.json")
    path.write_text(path.read_text(encoding="utf-8")[:-300], encoding="utf-8")
    again = ask(tmp_path)
    assert sum(SEEN) > 0
    assert again.outcomes == first.outcomes
    assert Scorecard.load(path).outcomes == again.outcomes


def test_what_a_budget_cut_short_is_not_an_answer_and_is_gone_on_with(tmp_path: Path) -> None:
    suite = ["fgsm", "pgd"]
    whole = ask(tmp_path / "whole", suite=suite, batch_size=3)
    cut = ask(tmp_path / "cut", suite=suite, batch_size=3, budget=Budget(passes=150))
    assert cut.interrupted == "passes"
    spent = sum(SEEN)
    assert [one.done for one in kept(tmp_path / "cut")] == [False]

    again = ask(tmp_path / "cut", suite=suite, batch_size=3)
    assert sum(SEEN) < whole.passes.forward
    assert spent + sum(SEEN) > whole.passes.forward - 1
    assert again.outcomes == whole.outcomes
    assert again.passes == whole.passes
    assert list(tmp_path.glob("cut/*/*.jsonl")) == []


def test_an_attack_that_failed_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = ask(tmp_path)
    fault = card.attacks[0].model_copy(update={"fault": "OSError: disk full", "finished": False})
    for path in tmp_path.glob("*/scorecard.json"):
        path.unlink()
    with slot(tmp_path, QUESTION) as here:
        here.close(card.model_copy(update={"attacks": (fault,)}))
        assert here.answer() is None
        here.close(card)
        assert here.answer() == card


def test_an_attack_with_a_long_odd_name_has_a_journal(tmp_path: Path) -> None:
    with slot(tmp_path, QUESTION) as here:
        paths = {here.journal(name, "Linf 8/255")._path for name in ("a/../b", "a---b", "x" * 500, "é")}
    assert len(paths) == 4
    assert all(path.parent == here.folder and len(path.name) < 100 for path in paths)


# The folder


def test_a_new_folder_is_left_out_by_git_and_one_that_is_there_is_left_alone(tmp_path: Path) -> None:
    ask(tmp_path / "new")
    assert (tmp_path / "new/.gitignore").read_text(encoding="utf-8") == "*\n"
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/.gitignore").write_text("build/\n", encoding="utf-8")
    ask(tmp_path / "repo")
    assert (tmp_path / "repo/.gitignore").read_text(encoding="utf-8") == "build/\n"


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match=r"cache folder .*cache can't be written: .*choose another place"):
        ask(tmp_path / "cache")


def fill(folder: Path, ages: dict[str, float]) -> dict[str, Path]:
    """Slots of questions about targets of these names, last used so many seconds ago."""
    found = {}
    for name, age in ages.items():
        with slot(folder, QUESTION | {"target": name}) as here:
            found[name] = here.folder
        for path in here.folder.iterdir():
            os.utime(path, (time.time() - age,) * 2)
    return found


def test_kept_tells_what_is_there_the_newest_first(tmp_path: Path) -> None:
    fill(tmp_path, {"old": 5000, "new": 0, "middle": 300})
    assert [one.about for one in kept(tmp_path)] == [
        f"{name} · linf_quick, Linf 8/255 · digits/test" for name in ("new", "middle", "old")
    ]
    assert [round(one.age, -2) for one in kept(tmp_path)] == [0, 300, 5000]
    assert [one.done for one in kept(tmp_path)] == [False] * 3
    assert all(one.size == (tmp_path / one.name / "question.json").stat().st_size for one in kept(tmp_path))


def test_asking_again_makes_it_young(tmp_path: Path) -> None:
    ask(tmp_path)
    for path in tmp_path.glob("*/*.json"):
        os.utime(path, (time.time() - 9000,) * 2)
    ask(tmp_path)
    assert kept(tmp_path)[0].age < 60


def test_what_is_damaged_is_shown_and_can_be_pruned(tmp_path: Path) -> None:
    here = fill(tmp_path, {"net": 0})["net"]
    for text in ("", "{", "[]", "{}", '{"suite": 7}', '{"target": 1, "data": 2, "suite": {"threats": [3]}}'):
        (here / "question.json").write_text(text, encoding="utf-8")
        assert [one.about for one in kept(tmp_path)] == [f"{here.name} (damaged)"]
    assert len(prune(tmp_path)) == 1
    assert not here.exists()


def test_prune_takes_what_is_old_enough(tmp_path: Path) -> None:
    fill(tmp_path, {"old": 5000, "new": 0})
    assert [one.about.split()[0] for one in prune(tmp_path, older_than=1000)] == ["old"]
    assert [one.about.split()[0] for one in kept(tmp_path)] == ["new"]


def test_prune_leaves_alone_what_is_in_use(tmp_path: Path) -> None:
    fill(tmp_path, {"idle": 0})
    with slot(tmp_path, QUESTION | {"target": "busy"}) as here:
        assert [one.about.split()[0] for one in prune(tmp_path)] == ["idle"]
        assert here.folder.is_dir()
    assert [one.about.split()[0] for one in prune(tmp_path)] == ["busy"]


def test_prune_deletes_nothing_that_is_not_the_caches(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/question.json").write_text("{}", encoding="utf-8")
    (tmp_path / ("a" * 32)).mkdir()
    (tmp_path / ("a" * 32) / "thesis.tex").write_text("\\documentclass", encoding="utf-8")
    elsewhere = tmp_path.with_name("elsewhere")
    fill(elsewhere, {"net": 0})
    [there] = (path for path in elsewhere.iterdir() if not path.name.startswith("."))
    (tmp_path / there.name).symlink_to(there)
    assert prune(tmp_path) == []
    assert (tmp_path / "data/question.json").is_file()
    assert (there / "question.json").is_file()


def test_one_who_waits_while_the_slot_is_pruned_gets_a_new_one(tmp_path: Path) -> None:
    from filelock import FileLock

    with slot(tmp_path, {"target": "net"}) as here:
        pass
    began, found = threading.Event(), []

    def wait() -> None:
        began.set()
        with slot(tmp_path, {"target": "net"}) as mine:
            found.append((mine.folder / "question.json").is_file())

    waiter = threading.Thread(target=wait)
    with FileLock(tmp_path / ".locks" / here.folder.name):
        waiter.start()
        began.wait()
        time.sleep(0.2)
        assert found == []
        (here.folder / "question.json").unlink()
        here.folder.rmdir()  # as prune does, under the same lock
    waiter.join(30)
    assert found == [True]


# The command


def command(*given: object) -> str:
    done = CliRunner().invoke(main, ["cache", *map(str, given)], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return re.sub(r" +\n", "\n", done.output)


def test_the_command_shows_what_is_kept(tmp_path: Path) -> None:
    fill(tmp_path, {"old": 3 * 86400, "new": 0, "[bold]odd": 7300})
    ask(tmp_path)
    shown = command("--dir", tmp_path)
    lines = shown.splitlines()
    assert lines[0].split() == ["what", "state", "size", "last", "used"]
    assert max(map(len, lines[:-1])) <= 80
    assert re.search(r"Net · custom, Linf 0\.1 · arrays +done +[\d.]+ kB +just now", shown)
    assert re.search(r"old · linf_quick, Linf 8/255 · digits/test +partial +\d+ B +3 days ago", shown)
    assert re.search(r"\[bold\]odd · .*2 h ago", shown)
    assert re.fullmatch(rf"Kept: 4 evaluations, [\d.]+ kB in {tmp_path}", lines[-1])


def test_the_command_prunes(tmp_path: Path) -> None:
    fill(tmp_path, {"old": 3 * 86400, "new": 0})
    assert "old" in command("--dir", tmp_path, "--older-than", 1)
    assert len(kept(tmp_path)) == 2
    with slot(tmp_path, QUESTION | {"target": "busy"}):
        shown = command("--dir", tmp_path, "--older-than", 1, "--prune")
        assert re.search(rf"^Deleted: 1 evaluation, \d+ B in {tmp_path}$", shown, re.MULTILINE)
        assert [one.about.split()[0] for one in kept(tmp_path)] == ["busy", "new"]
        shown = command("--dir", tmp_path, "--prune")
    assert shown.endswith("1 in use, left alone\n")
    assert [one.about.split()[0] for one in kept(tmp_path)] == ["busy"]


def test_the_command_says_that_there_is_nothing(tmp_path: Path) -> None:
    told = command("--dir", tmp_path / "none").splitlines()
    assert told[0] == f"Kept: 0 evaluations, 0 B in {tmp_path / 'none'}"
    assert told[1].startswith("Next")
    assert not (tmp_path / "none").exists()
    assert command("--dir", tmp_path / "none", "--prune").startswith("Deleted")
