from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import Norm, ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data, load_data
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE, LOG_FILE, Checkpoint
from robustbench_lite.hardening.interface import Batch, Defense, Learnt, Stage, TrainingProgress
from robustbench_lite.hardening.schedule import Schedule, learning_rate
from robustbench_lite.hardening.training import Trained, learn_alone, train
from robustbench_lite.model.target import Target

THREAT = ThreatModel.parse("Linf 0.1")


@dataclass(frozen=True, kw_only=True)
class Plain(Defense):
    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        return F.cross_entropy(stage.target(batch.x), batch.y)


@dataclass(frozen=True, kw_only=True)
class Worsen(Defense):
    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        return -F.cross_entropy(stage.target(batch.x), batch.y)


@dataclass(frozen=True, kw_only=True)
class TwoStages(Defense):
    @property
    def stages(self) -> tuple[str, ...]:
        return ("first", "second")

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        y = stage.trained["first"](batch.x).argmax(1) if stage.name == "second" else batch.y
        return F.cross_entropy(stage.target(batch.x), y)


@dataclass(frozen=True, kw_only=True)
class Watch(Defense):
    """Calls a function with what every loss is given."""

    call: Callable[[Batch, Stage], object]
    names: tuple[str, ...] = ("model",)

    @property
    def stages(self) -> tuple[str, ...]:
        return self.names

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        factor = self.call(batch, stage)
        loss = F.cross_entropy(stage.target(batch.x), batch.y)
        return loss * factor if isinstance(factor, float) else loss


def blobs(samples: int, seed: int = 0) -> Data:
    """Two classes: bright on the left, or on the right."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(samples) % 2
    x = torch.rand(samples, 1, 4, 4, generator=generator) * 0.5
    x[y == 0, :, :, :2] += 0.5
    x[y == 1, :, :, 2:] += 0.5
    return as_data((x, y))


def network(seed: int = 0) -> Target:
    """With batch statistics and dropout: all the state that a resumed run must find again."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
        )
    return Target(module)


def linear() -> Target:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Target(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))


def schedule(**changes: object) -> Schedule:
    given = {"epochs": 3, "batch_size": 16, "lr": 0.05, "optimizer": "sgd", "decay": "cosine", "keep": "best"}
    return Schedule.model_validate(given | changes)


def trained(
    defense: Defense | None = None,
    target: Target | None = None,
    plan: Schedule | None = None,
    *,
    data: Data | None = None,
    folder: Path | None = None,
    fingerprint: dict[str, str] | None = None,
    resume: bool = False,
    **more: object,
) -> Trained:
    return train(
        target or network(),
        defense or Plain(),
        plan or schedule(),
        THREAT,
        blobs(50) if data is None else data,
        blobs(20, seed=1),
        checkpoint=Checkpoint.open(folder, fingerprint, resume=resume),
        **more,  # type: ignore[arg-type]
    )


def weights(target: Target) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in target.module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Interrupt:
    """Ctrl-C at a step of an epoch of a stage."""

    def __init__(self, stage: str, epoch: int, step: int) -> None:
        self.at = (stage, epoch, step)

    def __call__(self, progress: TrainingProgress) -> None:
        if (progress.stage, progress.epoch, progress.step) == self.at:
            raise KeyboardInterrupt


def test_it_learns() -> None:
    out = trained(plan=schedule(epochs=10))
    assert out.log[-1].clean >= 0.95
    assert out.log[-1].loss < out.log[0].loss
    assert not out.target.module.training


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [2.0, 2.0, 2.0, 2.0]),
        ("cosine", [2.0, 1.30901699, 1.0, 0.0]),
        ("one_cycle", [0.0, 2.0, 5 / 3, 0.0]),
        ("cyclic", [0.0, 1.6, 2.0, 0.0]),
        ("piecewise", [2.0, 2.0, 0.2, 0.02]),
        ("slow_start", [0.02, 2 * 10**-0.4, 2.0, 0.002]),
    ],
)
def test_learning_rate(decay: str, expected: list[float]) -> None:
    plan = schedule(decay=decay, lr=2.0)
    assert [learning_rate(plan, done) for done in (0.0, 0.4, 0.5, 1.0)] == pytest.approx(expected)


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 50])
def test_every_sample_once_an_epoch_in_even_batches(samples: int) -> None:
    seen: list[Tensor] = []
    watch = Watch(call=lambda batch, stage: seen.append(batch.x[:, 0, 0, 0].clone()))
    data = blobs(samples)
    trained(watch, linear(), schedule(epochs=2), data=data)
    steps = len(seen) // 2
    for epoch in (seen[:steps], seen[steps:]):
        assert torch.equal(torch.cat(epoch).sort().values, data.fetch(range(samples))[:, 0, 0, 0].sort().values)
        sizes = [len(part) for part in epoch]
        assert max(sizes) <= 16
        assert max(sizes) - min(sizes) <= 1
    if samples > 16:
        assert not torch.equal(torch.cat(seen[:steps]), torch.cat(seen[steps:]))


def test_noise_keys_belong_to_the_sample_the_epoch_and_the_seed() -> None:
    def keys(seed: int, batch_size: int) -> dict[int, dict[float, int]]:
        epochs: dict[int, dict[float, int]] = {}
        count = 0

        def look(batch: Batch, stage: Stage) -> None:
            nonlocal count
            into = epochs.setdefault(count // 50, {})
            into.update(zip(batch.x[:, 0, 0, 0].tolist(), batch.draw_keys.tolist(), strict=True))
            count += len(batch.x)

        trained(Watch(call=look), linear(), schedule(epochs=2, batch_size=batch_size), seed=seed)
        return epochs

    one = keys(0, 16)
    assert one == keys(0, 50)
    every = [*one[0].values(), *one[1].values(), *keys(1, 16)[0].values()]
    assert len(set(every)) == 150


def test_the_same_seed_gives_the_same_weights_whatever_the_callers_generator() -> None:
    torch.manual_seed(1)
    first = trained()
    torch.manual_seed(2)
    second = trained()
    assert same(weights(first.target), weights(second.target))
    assert not same(weights(first.target), weights(trained(seed=1).target))


def test_the_callers_generators_and_model_are_left_as_they_were() -> None:
    target = network()
    target.module[0].eval()
    target.module[1].weight.requires_grad_(False)
    before, modes = weights(target), [module.training for module in target.module.modules()]
    state = torch.get_rng_state()
    out = trained(target=target)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(target), before)
    assert [module.training for module in target.module.modules()] == modes
    assert [parameter.requires_grad for parameter in target.module.parameters()] == [False, *[True] * 5]
    assert all(parameter.grad is None for parameter in target.module.parameters())
    assert torch.equal(out.target.module[1].weight, target.module[1].weight)  # what was frozen stays
    assert not torch.equal(out.target.module[5].weight, target.module[5].weight)


def test_each_stage_starts_from_the_given_weights_and_sees_those_before_it() -> None:
    target, first_seen = linear(), dict[str, tuple[dict[str, Tensor], list[str]]]()

    def look(batch: Batch, stage: Stage) -> None:
        assert stage.target.module.training
        assert not any(earlier.module.training for earlier in stage.trained.values())
        first_seen.setdefault(stage.name, (weights(stage.target), list(stage.trained)))

    out = trained(Watch(call=look, names=("a", "b", "c")), target)
    assert {name: earlier for name, (_, earlier) in first_seen.items()} == {"a": [], "b": ["a"], "c": ["a", "b"]}
    assert all(same(given, weights(target)) for given, _ in first_seen.values())
    assert [line.stage for line in out.log] == [name for name in "abc" for _ in range(3)]


def test_a_targeted_threat_model_is_withstood_as_an_untargeted_one() -> None:
    goals = set()
    watch = Watch(call=lambda batch, stage: goals.add(stage.threat.goal))
    targeted = ThreatModel.parse("Linf 0.1 targeted")
    train(linear(), watch, schedule(epochs=1), targeted, blobs(20), blobs(20, seed=1))
    assert goals == {"untargeted"}


def test_the_best_or_the_last_epoch_is_deployed() -> None:
    start = trained(target=linear(), plan=schedule(epochs=20)).target
    plan = {"decay": "constant", "lr": 0.5}
    best = trained(Worsen(), start, schedule(epochs=4, **plan))
    last = trained(Worsen(), start, schedule(epochs=4, keep="last", **plan))
    assert [line.robust for line in best.log] == [line.robust for line in last.log]
    assert best.log[0].robust > best.log[-1].robust
    chosen = max(range(4), key=lambda epoch: (best.log[epoch].robust, best.log[epoch].clean, epoch)) + 1
    until = trained(Worsen(), start, schedule(epochs=chosen, keep="last", **plan))
    assert same(weights(best.target), weights(until.target))
    assert not same(weights(last.target), weights(best.target))


def test_of_equal_epochs_the_later_is_deployed() -> None:
    plan = {"lr": 1e-5, "decay": "constant"}
    out = [trained(target=linear(), plan=schedule(keep=keep, **plan)) for keep in ("best", "last")]
    assert len({(line.clean, line.robust) for line in out[0].log}) == 1
    assert same(weights(out[0].target), weights(out[1].target))


def test_progress_is_told_after_each_step() -> None:
    told: list[TrainingProgress] = []
    out = trained(plan=schedule(epochs=2), on_progress=told.append)
    assert [(one.epoch, one.step) for one in told] == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4)]
    assert {(one.stage, one.epochs, one.steps) for one in told} == {("model", 2, 4)}
    assert (told[3].clean, told[3].robust) == (None, None)
    assert (told[4].clean, told[4].robust) == (out.log[0].clean, out.log[0].robust)


def test_one_line_of_the_log_an_epoch(tmp_path: Path) -> None:
    out = trained(TwoStages(), folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert lines == [line._asdict() for line in out.log]
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        (s, e) for s in ("first", "second") for e in (1, 2, 3)
    ]
    assert set(lines[0]) == {
        "step",
        "stage",
        "epoch",
        "loss",
        "lr",
        "clean",
        "robust",
        "one_step",
        "seconds",
        "note",
        "kept",
        "passes",
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "at", [("first", 1, 1), ("first", 2, 2), ("first", 3, 4), ("second", 1, 1), ("second", 3, 1)], ids=str
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, optimizer: str, at: tuple[str, int, int]) -> None:
    plan = schedule(optimizer=optimizer, decay="one_cycle", lr=0.02)
    undisturbed = trained(TwoStages(), plan=plan)
    with pytest.raises(KeyboardInterrupt):
        trained(TwoStages(), plan=plan, folder=tmp_path, on_progress=Interrupt(*at))
    told: list[TrainingProgress] = []
    resumed = trained(TwoStages(), plan=plan, folder=tmp_path, resume=True, on_progress=told.append)
    assert (told[0].stage, told[0].epoch, told[0].step) == (*at[:2], 1)
    assert same(weights(resumed.target), weights(undisturbed.target))
    assert [line._replace(seconds=0) for line in resumed.log] == [line._replace(seconds=0) for line in undisturbed.log]
    assert len((tmp_path / LOG_FILE).read_text().splitlines()) == 6


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = trained(TwoStages(), folder=tmp_path)
    told: list[TrainingProgress] = []
    again = trained(TwoStages(), folder=tmp_path, resume=True, on_progress=told.append)
    assert told == []
    assert same(weights(again.target), weights(first.target))
    assert again.log == first.log


def test_an_epoch_logged_but_not_in_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path, on_progress=Interrupt("model", 3, 1))
    log = tmp_path / LOG_FILE
    log.write_text(log.read_text() + '{"epoch": 3}\n')
    trained(folder=tmp_path, resume=True)
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2, 3]


def test_a_checkpoint_of_other_settings_is_refused_with_what_differs(tmp_path: Path) -> None:
    trained(folder=tmp_path, fingerprint={"seed": "0", "schedule.lr": "0.1", "data": "d"})
    with pytest.raises(UserError) as fault:
        trained(folder=tmp_path, resume=True, fingerprint={"seed": "1", "schedule.lr": "0.1", "limit": "5"})
    assert "seed: was 0, is 1" in str(fault.value)
    assert "data: was d, is not given" in str(fault.value)
    assert "limit: was not given, is 5" in str(fault.value)
    assert "schedule.lr" not in str(fault.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"junk"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.pt: can't be read"):
        trained(folder=tmp_path, resume=True)


class Spoil:
    """Makes the loss of every batch NaN, after the first so many."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, batch: Batch, stage: Stage) -> float:
        self.left -= 1
        return float("nan") if self.left < 0 else 1.0


@pytest.mark.parametrize("folder", [True, False])
def test_a_loss_that_is_not_finite_ends_the_training_with_the_last_good_weights(tmp_path: Path, folder: bool) -> None:
    good = Checkpoint()
    with pytest.raises(KeyboardInterrupt):
        train(
            network(),
            Watch(call=Spoil(99)),
            schedule(),
            THREAT,
            blobs(50),
            blobs(20, seed=1),
            checkpoint=good,
            on_progress=Interrupt("model", 2, 1),
        )
    out = trained(Watch(call=Spoil(6)), folder=tmp_path if folder else None)
    assert same(weights(out.target), good.state.kept)
    assert [line.epoch for line in out.log] == [1]
    [note] = [note for note in out.notes if "diverges" in note]
    assert "the loss is nan in epoch 2, with a learning rate of 0.05; start again with a smaller one" in note
    assert note.endswith("Training ended there, and the weights are those of epoch 1")
    assert (out.kept[0].epoch, out.kept[0].epochs) == (1, 1)
    if folder:  # a finished training is not repeated, and what it told is told again
        again = trained(folder=tmp_path, resume=True)
        assert same(weights(again.target), weights(out.target))
        assert (again.kept, again.notes) == (out.kept, out.notes)


def test_a_loss_that_is_not_finite_in_the_first_epoch_is_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss is nan in epoch 1, with a learning rate of 0\.05; start again with"):
        trained(Watch(call=Spoil(2)), folder=tmp_path)
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def test_a_model_whose_output_is_detached_is_refused() -> None:
    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)).detach()

    with pytest.raises(UserError, match="can't be trained: no gradient comes back from its output"):
        trained(target=Target(Detached(16, 2)))


def test_a_training_that_never_learns_is_told() -> None:
    out = trained(target=linear(), plan=schedule(lr=1e-9, epochs=4), data=blobs(50))
    assert out.log[2].note.startswith("at chance after 3 epochs")
    assert [bool(line.note) for line in out.log] == [False, False, True, False]
    assert any("isn't shown to have learnt" in note and "learning rate of 1e-09" in note for note in out.notes)
    assert trained(plan=schedule(epochs=10)).notes == ()


@dataclass(frozen=True, kw_only=True)
class Collapsing(Defense):
    """Trains against PGD for some batches, then without an adversary, to logits so large that they hide the slope."""

    norms: ClassVar[tuple[Norm, ...]] = ("Linf",)
    batches: int
    seen: list[int]

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        self.seen.append(len(batch.x))
        if len(self.seen) > self.batches:
            with torch.no_grad():
                list(stage.target.module.parameters())[-2].mul_(1.05)
            return batch.cross_entropy(stage.target(batch.x))
        attack = registry.build("attacks", "pgd", {"steps": 3})
        return batch.cross_entropy(stage.target(stage.perturbed(attack, batch)))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_collapse_is_caught_and_rolled_back(keep: str) -> None:
    data, held_out = load_data("digits", split="train").split(0.15, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    plan = schedule(epochs=20, batch_size=64, lr=0.01, optimizer="adam", decay="constant", keep=keep)
    batches = 4 * math.ceil(len(data) / 64)
    threat = ThreatModel.parse("Linf 0.2")
    out = train(Target(module), Collapsing(batches=batches, seen=[]), plan, threat, data, held_out)
    assert len(out.log) < 20
    fallen = out.log[-1]
    assert fallen.one_step is not None
    assert fallen.one_step > fallen.robust + 0.2
    [note] = out.notes
    assert note == fallen.note
    assert f"collapsed in epoch {fallen.epoch}: {fallen.one_step:.1%} withstand a single step" in note
    [kept] = out.kept
    assert f"the weights are those of epoch {kept.epoch}" in note
    assert kept.epoch <= len(out.log) - 2
    assert out.log[kept.epoch - 1].robust > 4 * fallen.robust
    rows = torch.arange(len(held_out))
    right = out.target(held_out.fetch(rows)).argmax(1) == held_out.labels
    assert right.float().mean().item() == pytest.approx(out.log[kept.epoch - 1].clean)


def test_overfitting_to_one_step_is_told_where_several_were_never_withstood() -> None:
    data, held_out = load_data("digits", split="train").split(0.3, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
        module = nn.Sequential(nn.Flatten(), *wide)
    plan = schedule(epochs=10, batch_size=64, lr=0.005, optimizer="adam", decay="constant", weight_decay=0.0)
    threat = ThreatModel.parse("Linf 0.4")  # two fifths of the range, in one step from corner to corner
    smaller, several = ThreatModel.parse("Linf 0.2"), registry.build("defenses", "pgd_training", {"steps": 3})
    sound = train(Target(module), several, plan, smaller, data, held_out)
    assert sound.notes == ()
    plan = plan.model_copy(update={"keep": "last", "epochs": 4})  # later it learns to withstand several, now and then
    out = train(sound.target, registry.build("defenses", "fgsm_rs", {"step": 3.0}), plan, threat, data, held_out)
    [note] = out.notes
    [kept] = (line for line in out.log if line.epoch == out.kept[0].epoch)
    assert kept.one_step is not None
    assert kept.one_step > 4 * kept.robust
    assert note.startswith(f"the model withstands one-step attacks alone: {kept.one_step:.1%} of {len(held_out)}")
    assert f"{kept.robust:.1%} after several; train longer" in note


def test_logits_that_are_not_finite_end_the_training() -> None:
    deep = Target(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 2)))
    with pytest.raises(UserError, match=r"diverges: .* no longer finite in epoch 1"):
        trained(target=deep, plan=schedule(batch_size=50, lr=1e30))


def test_a_model_without_trainable_parameters_is_refused() -> None:
    target = linear()
    target.module.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        trained(target=target)


def test_inputs_out_of_range_are_refused() -> None:
    x, y = torch.rand(20, 1, 4, 4) * 255, torch.arange(20) % 2
    with pytest.raises(UserError, match=r"expected \[0, 1\]"):
        trained(data=as_data((x, y)))


def test_running_out_of_memory_tells_of_the_batch_size() -> None:
    def spoil(batch: Batch, stage: Stage) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="smaller batch size"):
        trained(Watch(call=spoil))


def test_other_errors_of_the_model_come_through() -> None:
    def spoil(batch: Batch, stage: Stage) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        trained(Watch(call=spoil))


class InterruptedWhileAttacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise KeyboardInterrupt
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def test_ctrl_c_while_the_accuracies_are_measured_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(target=Target(InterruptedWhileAttacked()), folder=tmp_path)
    assert not (tmp_path / LOG_FILE).exists()


def test_training_alone_moves_the_weights_as_the_loop_does() -> None:
    plan, data = schedule(epochs=2, keep="last"), blobs(40)
    whole = train(network(), Plain(), plan, THREAT, data, blobs(10, seed=1), seed=3).target
    alone = network()
    learnt = learn_alone(alone, Plain(), plan, THREAT, data, range(2), seed=3)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, alone.module.state_dict()[name]), name
    assert learnt.passes == 2 * 2 * len(data)


def test_an_epoch_that_is_done_elsewhere_is_measured_kept_and_resumed(tmp_path: Path) -> None:
    plan, data, held = schedule(momentum=0.0), blobs(40), blobs(20, seed=1)
    asked: list[int] = []

    def elsewhere(stage: Stage, epoch: int) -> Learnt:
        asked.append(epoch)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return learn_alone(stage.target, Plain(), plan, THREAT, data, range(epoch, epoch + 1))

    here = train(network(), Plain(), plan, THREAT, data, held)
    with pytest.raises(KeyboardInterrupt):
        train(network(), Plain(), plan, THREAT, data, held, checkpoint=Checkpoint.open(tmp_path), learn=elsewhere)
    again = Checkpoint.open(tmp_path, resume=True)
    there = train(network(), Plain(), plan, THREAT, data, held, checkpoint=again, learn=elsewhere)
    assert asked == [0, 1, 2, 2]
    assert [line._replace(seconds=0) for line in there.log] == [line._replace(seconds=0) for line in here.log]
    for name, value in here.target.module.state_dict().items():
        assert torch.equal(value, there.target.module.state_dict()[name]), name


def test_what_pulls_at_the_gradients_is_asked_before_each_step() -> None:
    target, before = linear(), linear().module.state_dict()

    def hold(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.zero_()

    learn_alone(target, Plain(), schedule(weight_decay=0.0), THREAT, blobs(40), range(1), pull=hold)
    assert all(torch.equal(value, before[name]) for name, value in target.module.state_dict().items())


def test_to_smooth_labels_costs_no_pass() -> None:
    """How many classes there are is asked once, and not as a part of what is learnt."""
    plain, smooth = (
        train(network(), Plain(), schedule(label_smoothing=share), THREAT, blobs(40), blobs(10, seed=1)).log
        for share in (0.0, 0.1)
    )
    assert [line.passes for line in smooth] == [line.passes for line in plain]
