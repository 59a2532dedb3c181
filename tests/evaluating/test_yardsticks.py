"""Networks that others trained and attacked: what was published comes out again.

The networks and MNIST stand beside the project, in ``../shared``; where they don't, these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import Budget, Target, evaluate
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.evaluating.calibration.cases import wk17a
from robustbench_lite.model.weights import load_weights

SHARED = Path(__file__).resolve().parents[3] / "shared"
PUBLISHED_PGD = {"attack": "pgd", "params": {"steps": 40, "step_size": 0.01, "random_start": False}}

pytestmark = pytest.mark.skipif(
    not ((SHARED / "yardsticks").is_dir() and (SHARED / "data" / "MNIST" / "raw").is_dir()),
    reason=f"{SHARED} holds no yardsticks and no MNIST",
)


@pytest.fixture(scope="module")
def mnist() -> Data:
    data = load_data("mnist", split="test", root=SHARED / "data")
    assert len(data) == 10_000
    return data


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.linear1, self.linear2 = nn.Linear(3136, 200), nn.Linear(200, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


def lenet5(kind: str) -> nn.Module:
    model = LeNet5()
    load_weights(model, SHARED / "yardsticks" / f"mnist_lenet5_{kind}.pt")
    return model.eval()


def wong_kolter() -> nn.Module:
    model = wk17a()
    load_weights(model, SHARED / "yardsticks" / "mnist_wk17a.pth")
    return model.eval()


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, length: float) -> Tensor:
    """Which samples withstand the textbook loop, judged after every step."""
    model.requires_grad_(False)
    standing, at = torch.ones(len(x), dtype=torch.bool), x.clone()
    for _ in range(steps + 1):
        leaf = at.clone().requires_grad_()
        logits = model(leaf)
        standing &= logits.argmax(1) == y
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), leaf)
        at = torch.min(torch.max(at + length * grad.sign(), x - eps), x + eps).clamp(0, 1)
    return standing


@pytest.mark.parametrize(("kind", "right"), [("clean", 9889), ("adv", 9864)])
def test_clean_accuracy_is_the_published_one_to_the_sample(mnist, kind, right):
    card = evaluate(lenet5(kind), mnist, ["fgsm"], "Linf 0.3", batch_size=100, budget=Budget(passes=1))
    assert (card.clean_accuracy.count, card.clean_accuracy.total) == (right, 10_000)
    assert card.passes.backward == 0


def test_the_published_attack_breaks_every_sample_of_the_clean_network(mnist):
    card = evaluate(lenet5("clean"), mnist.take(range(60)), [PUBLISHED_PGD], "Linf 0.3")
    assert card.clean_accuracy.count >= 58
    assert card.robust_accuracy.count == 0
    assert card.verdict == "MEASURED"


def test_the_published_attack_leaves_as_much_of_the_hardened_network_as_a_plain_loop(mnist):
    part = mnist.take(range(60))
    model = lenet5("adv")
    card = evaluate(model, part, [PUBLISHED_PGD], "Linf 0.3", keep_witnesses=True)
    standing = plain_pgd(model, part.fetch(range(60)), part.labels, 0.3, 40, 0.01)
    assert 0.85 < card.robust_accuracy.value < 0.99  # 93.2 % of all 10,000 were published
    assert abs(card.robust_accuracy.count - int(standing.sum())) <= 1
    robust = np.array([row.robust for row in card.outcomes])
    assert (robust != standing.numpy()).sum() <= 2


def test_no_attack_goes_below_what_was_proved(mnist):
    """Linf 0.1: 95.62 % of all 10,000 are proved robust, and PGD leaves 95.89 %; here the first 400."""
    part = mnist.take(range(400))
    model = wong_kolter()
    strong = {"attack": "pgd", "name": "strong", "params": {"steps": 25, "loss": "margin"}}
    card = evaluate(Target(model), part, ["bim", strong], "Linf 0.1", keep_witnesses=True)
    standing = plain_pgd(model, part.fetch(range(400)), part.labels, 0.1, 40, 0.01)
    robust = np.array([row.robust for row in card.outcomes])
    # At most the gap between the proof and the published PGD below the plain loop (0.27 points of 400 samples, and a
    # few for chance); and nothing that the plain loop breaks is left.
    assert 0 <= int(standing.sum()) - robust.sum() <= 4
    assert (robust & ~standing.numpy()).sum() <= 1
    doubled = model.double()
    with torch.no_grad():
        for index, x in zip(card.witnesses.index, card.witnesses.x, strict=True):
            witness, origin = torch.from_numpy(x).double(), part.fetch([int(index)])[0].double()
            assert (witness - origin).abs().max() <= 0.1 + 1e-6
            assert witness.min() >= 0
            assert witness.max() <= 1
            logits = doubled(witness[None])[0]
            others = logits.clone()
            others[part.labels[index]] = -torch.inf
            assert others.max() > logits[part.labels[index]] - 1e-4, "adversarial but for float32 rounding"


def boundary_distances(model: nn.Module, data: Data) -> Tensor:
    """How far each sample is from the boundary if the model were linear around it (Linf); below 0 where it is wrong."""
    found = []
    for rows in torch.arange(len(data)).split(100):
        x, y = data.fetch(rows).requires_grad_(), data.labels[rows, None]
        logits = model(x)
        margin = (logits.gather(1, y) - logits.scatter(1, y, -torch.inf).amax(1, keepdim=True)).flatten()
        (slope,) = torch.autograd.grad(margin.sum(), x)
        found.append((margin / slope.flatten(1).abs().sum(1)).detach())
    return torch.cat(found)


def test_nothing_falls_on_all_images_that_was_proved_to_stand(mnist):
    """Of the 10,000, 9,562 are proved robust at Linf 0.1: less than that, and the ball is broken.

    The 800 nearest to the boundary are attacked. None of the rest falls: an attack of all leaves as many.
    """
    model = wong_kolter()
    near = boundary_distances(model, mnist).argsort()[:800].sort().values
    card = evaluate(Target(model), mnist.take(near), ["sprints"], "Linf 0.1", batch_size=100)
    assert card.clean_accuracy.total == 800
    assert 9562 <= 10_000 - 800 + card.robust_accuracy.count <= 9600
    assert card.verdict == "MEASURED"
