"""What tests in every folder share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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
