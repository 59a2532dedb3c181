"""What goes with any step that trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.hardening.augment import Augment
from robustbench_lite.hardening.checkpoint import Checkpoint
from robustbench_lite.hardening.interface import Batch, Defense, Stage, TrainingProgress
from robustbench_lite.hardening.modifiers import Average, grown, kept_buffers, make_optimizer, perturbed_weights
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import Trained, train
from robustbench_lite.model.target import Target

THREAT = ThreatModel.parse("Linf 0.1")


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def blobs(samples: int, seed: int = 0) -> Data:
    """Two classes: bright on the left, or on the right."""
    y = torch.arange(samples) % 2
    x = torch.rand(samples, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.5
    x[y == 0, :, :, :2] += 0.5
    x[y == 1, :, :, 2:] += 0.5
    return as_data((x, y))


def trained(defense: Defense | None = None, **schedule: Any) -> Trained:
    plan = Schedule.model_validate({"epochs": 3, "batch_size": 16, "lr": 0.05} | schedule)
    made: Defense = defense or registry.build("defenses", "pgd_training", {"steps": 2})
    return train(Target(network()), made, plan, THREAT, blobs(50), blobs(20, seed=1))


def weights(run: Trained) -> list[Tensor]:
    return list(run.target.module.state_dict().values())


def same(one: Trained, other: Trained) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@dataclass(frozen=True, kw_only=True)
class Watch(Defense):
    """Keeps what every loss is given."""

    batches: list[tuple[Batch, Stage]]

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        self.batches.append((batch, stage))
        return batch.cross_entropy(stage.target(batch.x))


# -- averaged weights


def test_the_average_is_the_running_mean() -> None:
    module = nn.Linear(1, 1, bias=False)
    average, mean = Average(module, 0.2), module.weight.item()
    for update in range(1, 7):
        with torch.no_grad():
            module.weight.fill_(update)
        average.update()
        stays = min(0.2, update / (10 + update))
        mean = stays * mean + (1 - stays) * update
        assert float(average.weights["weight"]) == pytest.approx(mean)
    assert module.weight.item() == 6  # and the module isn't touched


def test_the_average_is_measured_and_deployed() -> None:
    last = trained(keep="last")
    averaged = trained(keep="last", average=0.9)
    assert not same(last, averaged)
    state = Checkpoint()
    plan = Schedule(epochs=3, batch_size=16, lr=0.05, keep="last", average=0.9)
    defense = registry.build("defenses", "pgd_training", {"steps": 2})
    copies: list[Tensor] = []

    def follow(progress: TrainingProgress) -> None:
        assert state.state.epoch == progress.epoch - 1
        if progress.epoch == 3 and progress.step == 1:  # what the checkpoint holds goes on without the average
            copies.append(state.state.weights["1.weight"].clone())
            assert not torch.equal(state.state.weights["1.weight"], state.state.average["1.weight"])

    out = train(
        Target(network()), defense, plan, THREAT, blobs(50), blobs(20, seed=1), checkpoint=state, on_progress=follow
    )
    assert copies
    assert same(out, averaged)


def test_a_resumed_average_ends_with_the_same_bits(tmp_path: Any) -> None:
    plan = Schedule(epochs=3, batch_size=16, lr=0.05, average=0.9, awp=0.01, augment=("flip", "cutmix"), eps_ramp=0.5)
    defense = registry.build("defenses", "pgd_training", {"steps": 2})

    def interrupt(progress: TrainingProgress) -> None:
        if (progress.epoch, progress.step) == (3, 2):
            raise KeyboardInterrupt

    given = (Target(network()), defense, plan, THREAT, blobs(50), blobs(20, seed=1))
    undisturbed = train(*given)
    with pytest.raises(KeyboardInterrupt):
        train(*given, checkpoint=Checkpoint.open(tmp_path), on_progress=interrupt)
    resumed = train(*given, checkpoint=Checkpoint.open(tmp_path, resume=True))
    assert same(resumed, undisturbed)


# -- adversarial weight perturbation


def test_weights_move_uphill_by_a_share_of_their_norm_and_come_back_at_the_step() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x, y = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1])
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    loss = F.cross_entropy(module(x), y)
    slopes = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    with perturbed_weights(module, lambda: F.cross_entropy(module(x), y), 0.1, optimizer):
        for weights, old, slope in zip(module.parameters(), before, slopes, strict=True):
            moved = weights.detach() - old
            if weights.ndim == 1:
                assert not moved.any()
            else:
                torch.testing.assert_close(moved, 0.1 * old.norm() * slope / slope.norm())
        higher = F.cross_entropy(module(x), y)
        assert higher > loss
        higher.backward()
        there = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
        optimizer.step()
    for weights, old, slope in zip(module.parameters(), before, there, strict=True):
        torch.testing.assert_close(weights.detach(), old - slope)  # from where it was, along the gradient up there


def test_weights_come_back_where_the_step_is_never_made() -> None:
    module = nn.Linear(3, 2)
    before, optimizer = module.weight.detach().clone(), torch.optim.SGD(module.parameters(), lr=1.0)
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
    lossy = perturbed_weights(module, lambda: F.cross_entropy(module(x), y), 0.1, optimizer)
    with pytest.raises(RuntimeError, match="memory"), lossy:
        raise RuntimeError("out of memory")
    assert torch.equal(module.weight, before)
    optimizer.step()  # and no hook is left behind
    assert torch.equal(module.weight, before)


def test_batch_statistics_move_once_a_batch_and_the_attack_is_run_once() -> None:
    calls: list[int] = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            logits: Tensor = self.net(x)
            return logits

    def run(awp: float) -> tuple[Target, int]:
        calls.clear()
        plan = Schedule(epochs=1, batch_size=50, lr=0.05, keep="last", awp=awp)
        defense = registry.build("defenses", "pgd_training", {"steps": 2})
        out = train(Target(Counted()), defense, plan, THREAT, blobs(50), blobs(2, seed=1))
        return out.target, len([one for one in calls if one == 50])

    (plain, passes), (moved, more) = run(0.0), run(0.01)
    assert more == passes + 1
    norms = [target.module.net[2] for target in (plain, moved)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [1, 1]
    assert not torch.equal(plain.module.net[1].weight, moved.module.net[1].weight)


def test_buffers_are_given_back() -> None:
    norm = nn.BatchNorm1d(2)
    with kept_buffers(norm):
        norm(torch.rand(4, 2))
        assert int(norm.num_batches_tracked) == 1
    assert int(norm.num_batches_tracked) == 0
    assert torch.equal(norm.running_mean, torch.zeros(2))


# -- labels, gradients, precision, eps


def test_smoothed_labels_are_learnt() -> None:
    watch = Watch(batches=[])
    trained(watch, label_smoothing=0.2, epochs=1)
    batch, _ = watch.batches[0]
    assert batch.targets is not None
    torch.testing.assert_close(batch.targets, F.one_hot(batch.y, 2) * 0.8 + 0.1)
    logits = torch.randn(len(batch.y), 2)
    expected = F.cross_entropy(logits, batch.y, label_smoothing=0.2)
    torch.testing.assert_close(batch.cross_entropy(logits), expected)


def test_gradients_are_clipped_before_the_step() -> None:
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.zero_()
    schedule = Schedule(lr=1.0, momentum=0.0, weight_decay=0.0, clip=0.5)
    optimizer = make_optimizer(Target(module), schedule)
    module.weight.grad = torch.full((2, 2), 3.0)
    optimizer.step()
    assert module.weight.norm().item() == pytest.approx(0.5, rel=1e-4)
    module.weight.grad = torch.zeros(2, 2)
    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_weight_decay_leaves_norms_and_biases_alone(name: str) -> None:
    module = network()
    schedule = Schedule.model_validate({"optimizer": name, "weight_decay": 0.1})
    decay = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(Target(module), schedule).param_groups
        for parameter in group["params"]
    }
    found = {key: decay[id(parameter)] for key, parameter in module.named_parameters()}
    assert found == {key: 0.1 if key in ("1.weight", "4.weight") else 0.0 for key in found}


def test_bfloat16_is_for_the_passes_that_train_alone() -> None:
    seen: list[tuple[bool, torch.dtype]] = []

    class Seen(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x.flatten(1))
            seen.append((self.training, logits.dtype))
            return logits

    @dataclass(frozen=True, kw_only=True)
    class Plain(Defense):
        def loss(self, batch: Batch, stage: Stage) -> Tensor:
            return batch.cross_entropy(stage.target(batch.x))

    plan = Schedule(epochs=2, batch_size=16, precision="bfloat16")
    out = train(Target(Seen(16, 2)), Plain(), plan, THREAT, blobs(50), blobs(20, seed=1))
    assert {dtype for training, dtype in seen if training} == {torch.bfloat16}
    assert {dtype for training, dtype in seen if not training} == {torch.float32}
    assert {parameter.dtype for parameter in out.target.module.parameters()} == {torch.float32}


def test_eps_grows_over_its_share_of_the_training() -> None:
    watch = Watch(batches=[])
    trained(watch, eps_ramp=0.5, epochs=4)
    eps = [stage.threat.eps for _, stage in watch.batches]
    assert len(eps) == 16
    assert eps[:8] == pytest.approx([0.1 * (step + 0.5) / 8 for step in range(8)])
    assert eps[8:] == [0.1] * 8
    assert str(grown(THREAT, 0.5, 0.25)) == "Linf 0.05"


# -- augmentation


def images(samples: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(samples, 3, 16, 16, generator=generator), torch.arange(samples) % 4


def test_each_sample_is_flipped_or_not_by_its_own_draw() -> None:
    torch.manual_seed(0)
    x, y = images()
    changed, targets = Augment(("flip",), 0.0, 4)(x, y)
    flipped = [torch.equal(one, other.flip(-1)) for one, other in zip(changed, x, strict=True)]
    kept = [torch.equal(one, other) for one, other in zip(changed, x, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 16 < sum(flipped) < 48
    assert targets is None


def test_a_crop_shifts_by_an_eighth_of_the_side_at_most() -> None:
    torch.manual_seed(0)
    x, y = images()
    changed, _ = Augment(("crop",), 0.0, 4)(x, y)
    padded = F.pad(x, (2, 2, 2, 2))
    shifts = []
    for one, whole in zip(changed, padded, strict=True):
        fits = [(i, j) for i in range(5) for j in range(5) if torch.equal(one, whole[:, i : i + 16, j : j + 16])]
        assert len(fits) == 1
        shifts += fits
    assert len(set(shifts)) > 10


def test_cutmix_pastes_parts_and_mixes_the_labels_by_their_area() -> None:
    torch.manual_seed(0)
    y = torch.arange(8) % 4
    x = (y / 4)[:, None, None, None].expand(8, 3, 16, 16).clone()  # a grey level for each class
    changed, targets = Augment(("cutmix",), 0.0, 4)(x, y)
    assert targets is not None
    share = torch.stack([(changed == level / 4).float().mean((1, 2, 3)) for level in range(4)], 1)
    torch.testing.assert_close(targets, share)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_stays_in_the_box(channels: int) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(32, channels, 16, 16), torch.zeros(32, dtype=torch.int64)
    changed, _ = Augment(("randaugment",), 0.0, 4)(x, y)
    assert changed.shape == x.shape
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert not torch.equal(changed, x)


def test_augmented_training_learns_and_is_repeatable() -> None:
    plan = {"augment": ("crop", "flip", "cutmix"), "label_smoothing": 0.1, "epochs": 2}
    assert same(trained(**plan), trained(**plan))
    assert not same(trained(**plan), trained(epochs=2))
    assert all(math.isfinite(line.loss) for line in trained(**plan).log)


@pytest.mark.parametrize(
    "wrong",
    [{"average": 1.0}, {"awp": -0.1}, {"label_smoothing": 1}, {"clip": 0}, {"eps_ramp": 2}, {"augment": ["blur"]}],
    ids=str,
)
def test_a_modifier_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Schedule.model_validate(wrong)


def test_perturbed_weights_do_not_go_with_a_step_that_learns_more_than_once() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Twice(Watch):
        def update(self, batch: Batch, stage: Stage, optimizer: torch.optim.Optimizer) -> Tensor:
            super().update(batch, stage, optimizer)
            return super().update(batch, stage, optimizer)

    watch = Twice(batches=[])
    trained(watch, epochs=1)
    assert len(watch.batches) == 8
    with pytest.raises(UserError, match="awp doesn't go with it"):
        trained(watch, awp=0.01)


@pytest.mark.parametrize(
    ("name", "params", "passes"),
    [("trades", {"steps": 2}, 1 + 2 * 2 + 2 * 2), ("n_fgsm", {}, 2 + 2), ("pgd_training", {"steps": 2}, 2 * 2 + 2)],
)
def test_the_worst_points_are_looked_for_once_a_batch_with_awp_too(
    name: str, params: dict[str, Any], passes: int
) -> None:
    learnt = 4 if name == "trades" else 2  # forward and backward of each prediction in the loss
    for awp, expected in ((0.0, passes), (0.01, passes + learnt)):
        out = trained(registry.build("defenses", name, params), epochs=1, awp=awp)
        assert out.log[0].passes == 50 * expected
