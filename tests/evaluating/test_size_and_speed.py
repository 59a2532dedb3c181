"""Size and speed as measures: against numbers known in advance, and gated."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import Scorecard, Target, evaluate
from robustbench_lite.evaluating.measures.interface import Subject
from robustbench_lite.evaluating.measures.latency import SLOWDOWN, median_ratio
from robustbench_lite.model.quantized import Quantized
from robustbench_lite.model.size import multiply_adds, size_of

X, Y = torch.rand(12, 1, 4, 4), torch.arange(12) % 3


class Net(nn.Sequential):
    """Convolution 1 to 2, 3 x 3, on 4 x 4 pixels, and a linear layer 32 to 3."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
        with torch.no_grad():
            self[4].weight[0] = 0


class Slow(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.004)
        out: Tensor = self.inner(x)
        return out


def test_size_counts_what_is_stored_and_what_is_zero() -> None:
    size = size_of(Net())
    parameters = (2 * 9 + 2) + (2 + 2) + (32 * 3 + 3)
    assert size.parameters == parameters
    assert size.nonzero == parameters - 32 - 2  # a row of weights, and the batch norm's biases
    assert size.bytes == 4 * parameters + 4 * 4 + 8  # with running mean and variance, and an int64 of batches seen


def test_weights_that_are_tied_are_stored_once() -> None:
    one = nn.Linear(4, 4, bias=False)
    assert size_of(nn.Sequential(one, one)).bytes == 4 * 16


@pytest.mark.parametrize(("bits", "size"), [(8, 9), (4, 5)])
def test_integers_that_stand_for_weights_are_parameters(bits: int, size: int) -> None:
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0, -1], [0, 0, 1], [1, 1, 1]]))
    scales = 4 * 3
    assert size_of(Quantized(layer, bits, None)) == (size + scales, 9, 6)


def test_multiply_adds_are_those_of_the_layers() -> None:
    assert multiply_adds(Net().eval(), X[:1]) == 2 * 9 * 16 + 32 * 3


def test_the_median_of_ratios_has_an_interval_from_their_order() -> None:
    found = median_ratio([float(value) for value in range(1, 101)])
    assert found.value == 50.5
    assert 39 <= found.low <= 41
    assert 60 <= found.high <= 62


def test_a_slow_model_is_slower_than_its_reference_and_a_function_has_no_size() -> None:
    fast = Net()
    slow = Slow(fast)
    names = ("bytes", "nonzero_parameters", "multiply_adds", "flops", "latency_p50", "latency_p95", "throughput")
    card = evaluate(slow, (X, Y), ["fgsm"], "Linf 0.1", measures=names, gates={"max_slowdown": 1.2}, reference=fast)
    found = {one.name: one for one in card.measures}
    assert found["latency_p95"].value >= found["latency_p50"].value >= 4  # ms
    assert found["throughput"].value < 64 / 0.004
    assert found["flops"].value == 2 * found["multiply_adds"].value == 2 * (2 * 9 * 16 + 32 * 3)
    assert found["slowdown"].low is not None
    assert found["slowdown"].low > 1.2
    assert [(gate.name, gate.passed) for gate in card.gates] == [("max_slowdown", False)]
    assert Scorecard.model_validate_json(card.model_dump_json()) == card

    opaque = Target.from_callable(lambda x: x.reshape(len(x), -1)[:, :3])
    unknown = evaluate(opaque, (X, Y), ["square"], "Linf 0.1", measures=["bytes", "latency_p50"])
    assert [one.name for one in unknown.measures] == ["latency_p50"]
    assert [one.code for one in unknown.validity if "bytes could not be taken" in one.message] == ["RB303"]


def test_slowdown_without_a_reference_says_what_to_give() -> None:
    card = evaluate(Net(), (X, Y), ["fgsm"], "Linf 0.1")
    with pytest.raises(ValueError, match="--reference MODEL"):
        SLOWDOWN.of(Subject(card, Target(Net()), None))  # type: ignore[arg-type]
