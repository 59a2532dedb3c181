from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite, load_suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.hardening import training
from robustbench_lite.hardening.folder import recipe_text
from robustbench_lite.hardening.interface import TrainingProgress
from robustbench_lite.hardening.pipeline import Hardened, harden
from robustbench_lite.hardening.recipe import Recipe, load_recipe
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.model.loading import load_target
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Scorecard
from tests.forked import ROOT, Forked

SUITE = Suite.model_validate(
    {"name": "short", "threats": ["Linf 0.1"], "attacks": [{"attack": "pgd", "params": {"steps": 5}}]}
)
RECIPE = Recipe(
    name="short",
    description='Of a "few" steps',
    defense="pgd_training",
    params={"steps": 3},
    threat=ThreatModel.parse("Linf 0.1"),
    schedule=Schedule(epochs=3, batch_size=64, lr=0.05, decay="cosine"),
)
FILES = {"model.safetensors", "model.json", "recipe.toml", "log.jsonl", "before.json", "after.json"}


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 10)
        )


def hardened(model: nn.Module | Target | None = None, data: Any = "digits", **more: Any) -> Hardened:
    given = {"recipe": RECIPE, "suite": SUITE, "limit": 100} | more
    return harden(model or network(), data, **given)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def never(*_: object) -> None:
    raise AssertionError("the run had begun")


class InterruptAt:
    """Ctrl-C at the first step of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Hardened:
    return hardened(out=tmp_path_factory.mktemp("done") / "new" / "folder")


def test_it_hardens(done: Hardened) -> None:
    assert done.before.target.weights_sha256 != done.after.target.weights_sha256
    assert done.after.clean_accuracy.value > done.before.clean_accuracy.value + 0.3
    assert done.after.robust_accuracy.value > done.before.robust_accuracy.value + 0.3
    assert done.before.data == done.after.data
    assert done.after.data.samples == 100
    assert done.after.suite.name == "short"
    assert [line.epoch for line in done.log] == [1, 2, 3]
    assert not done.target.module.training


def test_it_says_what_was_gained_and_on_how_many_samples(done: Hardened) -> None:
    assert done.gain.word == "gained"
    assert f"{done.gain.robust.before.value:.1%} to {done.gain.robust.after.value:.1%}" in done.gain.why
    assert done.gain.clean.after == done.after.clean_accuracy
    assert done.sizes is not None
    assert (done.sizes.train, done.sizes.held_out, done.sizes.test) == (1132, 126, 100)
    [kept] = done.steps[0].kept
    assert "126 held-out samples" in kept.why
    assert done.notes == ()


def test_a_part_of_the_data_is_learnt_from(spy: Spy) -> None:
    out = hardened(epochs=1, limit_train=100)
    assert out.sizes is not None
    assert (out.sizes.train, out.sizes.held_out) == (len(spy.training), len(spy.held_out)) == (90, 10)
    assert len(set(spy.training.labels.tolist())) == 10
    with pytest.raises(UserError, match="limit is 0"):
        hardened(limit_train=0, on_progress=never, on_attack=never)


def test_what_it_writes_tells_all(done: Hardened) -> None:
    folder = done.folder
    assert folder is not None
    assert {path.name for path in folder.iterdir()} == FILES
    assert same(load_file(folder / "model.safetensors"), weights(done.target.module))
    assert Scorecard.load(folder / "before.json") == done.before
    assert Scorecard.load(folder / "after.json") == done.after
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines == [line._asdict() for line in done.log]


def test_the_recipe_it_writes_is_the_one_that_ran(done: Hardened) -> None:
    assert done.folder is not None
    written = load_recipe(str(done.folder / "recipe.toml"))
    params = {"steps": 3, "attack_loss": "cross_entropy", "clean_share": 0.0}
    assert written == RECIPE.model_copy(update={"params": params})
    text = (done.folder / "recipe.toml").read_text()
    assert text.startswith("# Evaluated by 'short', given as an object")  # which no file could name


def test_a_suite_by_name_is_written_in_the_recipe(tmp_path: Path) -> None:
    hardened(out=tmp_path, suite="l2_quick", threat="L2 0.3", epochs=1, limit=20)
    written = load_recipe(str(tmp_path / "recipe.toml"))
    assert (written.suite, str(written.threat)) == ("l2_quick", "L2 0.3")


def test_another_norm_is_judged_by_the_counterpart_of_the_recipes_suite(tmp_path: Path) -> None:
    quick = RECIPE.model_copy(update={"suite": "linf_quick"})
    out = hardened(recipe=quick, suite=None, threat="L2 0.3", epochs=1, limit=20, out=tmp_path)
    assert out.after.suite.name == "l2_quick"
    assert load_recipe(str(tmp_path / "recipe.toml")).suite == "l2_quick"
    same_norm = hardened(recipe=quick, suite=None, threat="Linf 0.3", epochs=1, limit=20)
    assert same_norm.after.suite.name == "linf_quick"


def test_a_suite_that_does_not_fit_the_norm_is_refused_with_one_that_does(tmp_path: Path) -> None:
    for given in (
        {"suite": "linf_classic"},
        {"suite": None, "recipe": RECIPE.model_copy(update={"suite": "linf_classic"})},
    ):
        with pytest.raises(UserError, match="carlini-wagner does Linf; give a suite that does, such as --suite l2_"):
            hardened(out=tmp_path / "out", threat="L2 0.3", on_attack=never, **given)
        assert not (tmp_path / "out").exists()


def test_what_the_first_scorecard_refuses_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="farther apart"):
        hardened(out=tmp_path / "out", suite="l2_quick", threat="L2 9")
    assert not (tmp_path / "out").exists()


def test_after_a_training_that_diverges_at_once_the_folder_can_be_used_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)diverges.*nothing is kept: out .*out can be used again"):
        hardened(out=tmp_path / "out", lr=1e30)
    assert not (tmp_path / "out").exists()
    hardened(out=tmp_path / "out", epochs=1)


def test_after_a_training_that_diverges_later_what_to_delete_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.train

    def diverge(*args: Any, **more: Any) -> Any:
        with pytest.raises(KeyboardInterrupt):
            real(*args, **more | {"on_progress": InterruptAt(2)})
        raise UserError("the training diverges")

    monkeypatch.setattr(training, "train", diverge)
    with pytest.raises(UserError, match=r"diverges\nto start again .* delete .*checkpoint\.pt and give --resume"):
        hardened(out=tmp_path)
    monkeypatch.setattr(training, "train", real)
    (tmp_path / "checkpoint.pt").unlink()
    hardened(out=tmp_path, resume=True, lr=0.01)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_what_a_kill_leaves_in_the_middle_of_writing_is_cleared(tmp_path: Path) -> None:
    for name in (".before.json.0a1b2c3d", ".checkpoint.pt.0a1b2c3d", "checkpoint.pt.part"):
        (tmp_path / name).write_text("{")
    hardened(out=tmp_path, epochs=1)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_folder_of_a_module_tells_from_where_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    (home / "rblite_zoo.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(home)
    out = hardened(load_target("rblite_zoo:make"), out="out", epochs=1)
    assert load_target("out").weights_sha256() == out.target.weights_sha256()
    monkeypatch.delitem(sys.modules, "rblite_zoo")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match="run it from the folder that holds rblite_zoo, or give the architecture"):
        load_target(str(home / "out"))
    assert str(tmp_path) not in (home / "out" / "model.json").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"description": 'quotes " and \\ and ünïcode 🛡\nand lines', "name": ""},
        {"threat": ThreatModel.parse("Linf 8/255 targeted least_likely")},
        {"schedule": Schedule(lr=1e-7, epochs=1, momentum=0, keep="last")},
        {"defense": "distillation", "params": {"temperature": 20.0}},
        {"defense": "standard", "params": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_recipe_is_written_so_that_it_can_be_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = RECIPE.model_copy(update=changes)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_a_saved_model_of_a_named_architecture_loads_again(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    target = load_target(f"{tmp_path / 'model.py'}:make", normalize="0.5/0.5")
    out = hardened(target, out=tmp_path / "out", epochs=1)
    again = load_target(str(tmp_path / "out"))
    assert again.weights_sha256() == out.target.weights_sha256()
    assert (again.mean, again.std, again.classes) == ((0.5,), (0.5,), 10)


def test_without_out_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: Hardened) -> None:
    monkeypatch.chdir(tmp_path)
    out = hardened()
    assert out.folder is None
    assert list(tmp_path.iterdir()) == []
    assert same(weights(out.target.module), weights(done.target.module))


def test_model_and_generators_are_left_as_they_were() -> None:
    model = network().train()
    before, state = weights(model), torch.get_rng_state()
    out = hardened(model, epochs=1, device="cpu")
    assert same(weights(model), before)
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    target = Target(model, name="mine")
    assert hardened(target, epochs=1).target.name == "mine"  # without a folder that would have another
    assert target.classes is None
    assert out.target.device.type == "cpu"


def test_what_the_caller_gives_replaces_the_recipes() -> None:
    told: list[TrainingProgress] = []
    out = hardened(
        recipe="standard", epochs=2, batch_size=500, lr=1e-4, threat="Linf 0.2", suite=SUITE, on_progress=told.append
    )
    assert {(one.epochs, one.steps) for one in told} == {(2, 3)}
    assert [str(threat) for threat in out.after.suite.threats] == ["Linf 0.2"]


def test_the_attacks_progress_is_told() -> None:
    told: list[Any] = []
    hardened(epochs=1, on_attack=told.append)
    assert {one.name for one in told if one.threat} == {"pgd"}  # the checks have none


class Spy:
    """Stands in for `train`, and keeps what it was given."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real = real

    def __call__(self, *args: Any, **more: Any) -> Any:
        self.training, self.held_out = args[4].own, args[5]
        return self.real(*args, **more)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy(training.train)
    monkeypatch.setattr(training, "train", made)
    return made


def indices(data: Data) -> set[int]:
    return set(data.index.tolist())


def digits(split: str) -> tuple[Tensor, Tensor]:
    data = load_data("digits", split=split)  # type: ignore[arg-type]
    return data.fetch(range(len(data))), data.labels


@pytest.mark.parametrize("form", ["pair", "dataset", "npz"])
def test_data_without_a_test_split_of_their_own_are_split(form: str, spy: Spy, tmp_path: Path) -> None:
    import numpy as np

    x, y = digits("train")
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    data = {"pair": (x, y), "dataset": TensorDataset(x, y), "npz": f"npz:{tmp_path / 'data.npz'}"}[form]
    out = hardened(data=data, epochs=1, limit=None)
    test = {outcome.index for outcome in out.after.outcomes}
    parts = [indices(spy.training), indices(spy.held_out), test]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(x)
    assert len(test) == round(0.2 * len(x))
    assert out.after.data.name.endswith("20% held out")


def test_a_named_source_is_trained_on_one_split_and_judged_on_the_other(spy: Spy) -> None:
    out = hardened(epochs=1, limit=None)
    assert out.after.data.name == "digits/test"
    assert spy.training.name == spy.held_out.name == "digits/train"
    assert len(spy.training) + len(spy.held_out) == len(load_data("digits", split="train"))


def test_test_data_are_judged_and_all_of_data_is_trained_on(spy: Spy) -> None:
    out = hardened(data=digits("train"), test_data=digits("test"), epochs=1, limit=None)
    assert len(spy.training) + len(spy.held_out) == len(digits("train")[1])
    assert out.after.data.samples == len(digits("test")[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, r"epochs=0\n  epochs: .*greater than or equal to 1"),
        ({"lr": -1.0, "batch_size": 0}, r"(?s)lr=-1\.0, batch_size=0\n  batch_size: .*\n  lr: "),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"recipe": "pgd_trainin"}, "did you mean pgd_training"),
        ({"recipe": RECIPE.model_copy(update={"params": {"stepps": 1}})}, "did you mean steps"),
        ({"threat": "Linf 8"}, "eps can't exceed 1"),
        ({"suite": "linf_quik"}, "did you mean linf_quick"),
        ({"limit": 0}, "limit is 0"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"data": (torch.rand(40, 1, 8, 8), torch.arange(40))}, "labels have no logit"),
        ({"data": (torch.rand(40, 1, 8, 8) * 255, torch.arange(40) % 10)}, "divide by 255"),
        ({"data": (torch.rand(40, 3, 8, 8), torch.arange(40) % 10)}, "the forward pass fails"),
        ({"data": (torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))}, "can't hold out"),
    ],
    ids=str,
)
def test_what_is_given_wrong_is_told_before_the_run(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        hardened(out=tmp_path / "out", on_progress=never, on_attack=never, **given)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())  # the next try finds no obstacle


def test_an_unwritable_out_is_found_out_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="can't be written"):
            hardened(out=out, on_progress=never, on_attack=never)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for resume, message in ((False, "is not empty"), (True, "holds no unfinished run")):
        with pytest.raises(UserError, match=message):
            hardened(out=tmp_path, resume=resume, on_progress=never, on_attack=never)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_finished_run_is_neither_overwritten_nor_resumed(done: Hardened) -> None:
    with pytest.raises(UserError, match="is not empty"):
        hardened(out=done.folder, on_progress=never, on_attack=never)
    with pytest.raises(UserError, match="holds no unfinished run"):
        hardened(out=done.folder, resume=True, on_progress=never, on_attack=never)


def test_an_interrupted_run_is_resumed_and_judged_before_only_once(tmp_path: Path, done: Hardened) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        hardened(out=out, on_progress=InterruptAt(3))
    with pytest.raises(UserError, match="holds an unfinished run; resume it"):
        hardened(out=out, on_progress=never, on_attack=never)
    before = (out / "before.json").read_bytes()
    resumed = hardened(out=out, resume=True)
    assert (out / "before.json").read_bytes() == before
    assert {path.name for path in out.iterdir()} == FILES
    assert same(weights(resumed.target.module), weights(done.target.module))
    assert resumed.after.outcomes == done.after.outcomes


def test_resume_starts_a_run_where_there_is_none(tmp_path: Path) -> None:
    assert hardened(out=tmp_path, resume=True, epochs=1).folder == tmp_path


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        hardened(out=tmp_path, on_progress=InterruptAt(2))
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = network()
    nn.init.zeros_(other[1].bias)
    with pytest.raises(UserError) as fault:
        hardened(other, out=tmp_path, resume=True, lr=0.2, seed=3, suite="linf_quick", on_progress=never)
    told = str(fault.value)
    assert "schedule.lr: was 0.05, is 0.2" in told
    assert "seed: was 0, is 3" in told
    assert all(f"\n  {name}: was" in told for name in ("suite", "weights"))
    assert "threat:" not in told
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_ctrl_c_while_a_scorecard_is_made_can_be_resumed(tmp_path: Path) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hardened(out=tmp_path, epochs=1, on_attack=interrupt)
    assert list(tmp_path.iterdir()) == []
    judged: list[str] = []

    def interrupt_after(progress: Any) -> None:
        if (tmp_path / "model.safetensors").exists():
            raise KeyboardInterrupt
        judged.append(progress.name)

    with pytest.raises(KeyboardInterrupt):
        hardened(out=tmp_path, epochs=1, resume=True, on_attack=interrupt_after)
    assert judged
    assert not (tmp_path / "after.json").exists()
    hardened(out=tmp_path, epochs=1, resume=True, on_progress=never)
    assert {path.name for path in tmp_path.iterdir()} == FILES


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.hardening import test_pipeline as t
t.torch.set_num_threads(1)
t.hardened(out=sys.argv[2], epochs=6, on_progress=lambda progress: time.sleep(0.02))
"""


def test_a_run_killed_with_kill_9_ends_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = hardened(out=tmp_path / "undisturbed", epochs=6)
    out = tmp_path / "killed"
    child, log = Forked(CHILD, ROOT, out), out / "log.jsonl"
    child.wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) >= 2)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert not (out / "after.json").exists()

    told: list[TrainingProgress] = []
    resumed = hardened(out=out, epochs=6, resume=True, on_progress=told.append)
    assert told[0].epoch > 1
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "undisturbed" / "model.safetensors").read_bytes()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line._replace(seconds=0) for line in resumed.log] == [line._replace(seconds=0) for line in undisturbed.log]
    assert resumed.after.outcomes == undisturbed.after.outcomes
    assert {path.name for path in out.iterdir()} == FILES


def test_the_built_in_suites_serve_as_judges() -> None:
    out = hardened(suite=None, recipe=RECIPE.model_copy(update={"suite": "linf_quick"}), epochs=1, limit=20)
    assert [spec.name for spec in out.after.suite.attacks] == [spec.name for spec in load_suite("linf_quick").attacks]
