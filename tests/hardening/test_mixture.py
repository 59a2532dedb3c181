"""Extra samples in each batch: their share, their turns, and that an epoch is one of the samples of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data
from robustbench_lite.hardening.mixture import Mixture
from robustbench_lite.hardening.pipeline import harden
from robustbench_lite.hardening.recipe import Recipe


def numbered(count: int, start: int = 0) -> Data:
    """Samples that hold their own number, in thousandths."""
    x = (torch.arange(start, start + count).float() / 1000).reshape(-1, 1, 1, 1)
    return as_data((x, torch.arange(count) % 2))


def numbers(x: torch.Tensor) -> list[int]:
    return (x.flatten() * 1000).round().int().tolist()


def test_without_others_each_sample_is_dealt_once() -> None:
    batches = list(Mixture(own=numbered(50)).deal(16, key=3))
    assert [len(batch.y) for batch in batches] == [13, 13, 12, 12]
    assert sorted(number for batch in batches for number in numbers(batch.x)) == list(range(50))


def test_others_fill_their_share_of_each_batch_and_take_turns() -> None:
    mixture = Mixture(own=numbered(48), extra=numbered(20, start=500), share=0.75)
    batches = list(mixture.deal(16, key=3))
    assert len(batches) == mixture.batches(16) == 12
    dealt = [numbers(batch.x) for batch in batches]
    for one in dealt:
        assert (sum(number < 500 for number in one), sum(number >= 500 for number in one)) == (4, 12)
    assert sorted(number for one in dealt for number in one if number < 500) == list(range(48))
    others = [number for one in dealt for number in one if number >= 500]
    counts = {number: others.count(number) for number in others}
    assert len(counts) == 20
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({int(key) for batch in batches for key in batch.origin}) == 68  # no draw is shared
    again = list(mixture.deal(16, key=3))
    assert all(torch.equal(one.x, other.x) for one, other in zip(batches, again, strict=True))


def test_a_source_by_name_is_mixed_in_and_part_of_the_settings(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=rng.random((40, 1, 2, 2), dtype=np.float32), y=np.arange(40) % 2)
    np.savez(tmp_path / "more.npz", x=rng.random((30, 1, 2, 2), dtype=np.float32), y=np.arange(30) % 2)
    schedule = {"epochs": 1, "batch_size": 8, "extra": f"npz:{tmp_path / 'more.npz'}", "extra_share": 0.5}
    recipe = Recipe.model_validate(
        {"defense": "standard", "threat": "Linf 0.1", "suite": "linf_quick", "schedule": schedule}
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    told = []
    out = harden(model, f"npz:{tmp_path / 'own.npz'}", recipe, limit=4, on_progress=told.append)
    learnt_from = out.sizes.train if out.sizes else 0
    assert told[0].steps == -(-learnt_from // 4)  # four of eight are its own
    assert out.log[0].passes == pytest.approx(2 * 2 * learnt_from, abs=8)
    wrong = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"extra": "npz:none.npz"})})
    with pytest.raises(UserError, match="no such file"):
        harden(model, f"npz:{tmp_path / 'own.npz'}", wrong)
    np.savez(tmp_path / "more.npz", x=rng.random((30, 1, 3, 3), dtype=np.float32), y=np.arange(30) % 2)
    with pytest.raises(UserError, match=r"shape \(1, 3, 3\)"):
        harden(model, f"npz:{tmp_path / 'own.npz'}", recipe)
