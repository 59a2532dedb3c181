"""What tests in every folder share."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Look for no garbage while tests are collected, a third of the time, nor later among what is there by then.

    These are 700,000 objects of the libraries and the tests; forked processes share them for longer, too.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Let everything be freed at the end: nanobind, which triton brings, would call it leaked."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # more are slower on networks this small


@pytest.fixture(autouse=True, scope="module")
def _short_probe(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the longest probe of the evidence take a tenth of its steps, in modules that aren't about the evidence.

    It takes more than half the time of an evaluation as small as those of the tests.
    """
    from robustbench_lite.evaluating.evidence import probes

    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("evidence"):
            patch.setattr(probes, "SQUARE_STEPS", probes.SQUARE_STEPS // 10)
        yield


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fork the worker processes of `ProcessExecutor`, which as new interpreters take seconds each to load torch.

    Those that were started are in the list.
    """
    from robustbench_lite.workers import processes
    from tests.forked import ForkedWorker

    started: list[Any] = []

    def start(arguments: list[str], variables: dict[str, str]) -> ForkedWorker:
        started.append(ForkedWorker(processes.PROGRAM, arguments, variables))
        return started[-1]  # type: ignore[no-any-return]

    monkeypatch.setattr(processes, "_interpreter", start)
    return started


@pytest.fixture(scope="session")
def train_on_digits() -> Callable[..., Any]:
    """Train a small convolutional network on the first so many digits; return it, and all digits with their labels."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    def train(count: int, epochs: int, channels: int = 8, lr: float = 5e-3) -> Any:
        pixels, labels = load_digits(return_X_y=True)
        x = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
        y = torch.tensor(labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(1, channels, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(16 * channels, 10),
            )
            optimizer = torch.optim.Adam(model.parameters(), lr=lr)
            for _ in range(epochs):
                for rows in torch.randperm(count).split(100):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                    optimizer.step()
        model.zero_grad(set_to_none=True)
        return model, x, y

    return train


@pytest.fixture(scope="session")
def make_card(_cards: Any) -> Callable[..., Any]:
    """`make_card` of ``tests/cards.py``: a scorecard made up, without a model."""
    return _cards.make_card  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def make_gate(_cards: Any) -> Callable[..., Any]:
    """`make_gate` of ``tests/cards.py``: a gate made up."""
    return _cards.make_gate  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def _cards() -> Any:
    spec = importlib.util.spec_from_file_location("rblite_test_cards", Path(__file__).with_name("cards.py"))
    assert spec is not None
    assert spec.loader is not None
    cards = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cards)
    return cards
