"""How samples are shared out among clients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_lite.core.errors import UserError
from robustbench_lite.defenses.federated.partition import dirichlet, heterogeneity

LABELS = torch.arange(600) % 10


@given(clients=st.integers(2, 8), alpha=st.sampled_from([0.5, 1.0, 100.0]), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_every_sample_belongs_to_one_client_who_has_enough(clients: int, alpha: float, seed: int) -> None:
    parts = dirichlet(LABELS, clients, alpha, least=10, seed=seed)
    assert len(parts) == clients
    assert min(map(len, parts)) >= 10
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(LABELS)))


def test_the_draw_belongs_to_its_seed() -> None:
    first, same, other = (dirichlet(LABELS, 4, 1.0, least=10, seed=seed) for seed in (3, 3, 4))
    assert all(map(torch.equal, first, same))
    assert not all(map(torch.equal, first, other))


def test_a_small_alpha_makes_the_clients_unlike() -> None:
    found = [
        heterogeneity([LABELS[part] for part in dirichlet(LABELS, 5, alpha, least=5, seed=0)])
        for alpha in (0.1, 1, 1e4)
    ]
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.05


def test_heterogeneity_has_a_known_value() -> None:
    """Of two clients with one class each, half of each mixture is away from that of both together."""
    assert heterogeneity([torch.zeros(10, dtype=torch.int64), torch.ones(10, dtype=torch.int64)]) == 0.5
    assert heterogeneity([torch.tensor([0, 1]), torch.tensor([1, 0, 0, 1])]) == 0.0


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UserError, match="600 samples can't be shared out among 100 clients of 10 or more"):
        dirichlet(LABELS, 100, 1.0, least=10, seed=0)
    with pytest.raises(UserError, match=r"none of 100 draws gives each of 50 clients 10 samples.*a larger alpha"):
        dirichlet(LABELS, 50, 0.01, least=10, seed=0)
