"""SIGKILL in the middle of an architecture search: no finished trial is lost or run twice, and there are as many.

``benchmarks/kills.py`` does it at ten moments of each search.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.forked import ROOT, Forked
from tests.searching.test_architectures import ONE_EDGE, run
from tests.searching.test_study import network, trials_of

TRIALS = 3
EPOCHS = 2
PLAIN = {"space": "plain", "search": ["skip", "activation"], "fixed": {"depth": 1, "width": 8}}
SPACES = {"evolution": PLAIN, "reinforce": PLAIN, "gdas": ONE_EDGE}
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from tests.searching.test_kills import search
search(Path(sys.argv[1]), sys.argv[2])
"""


def search(out: Path, sampler: str) -> object:
    space = {"architecture": SPACES[sampler]}
    return run(out, space, sampler, model=network(), trials=TRIALS, limit_train=100, epochs=EPOCHS)


def second_trial(out: Path) -> bool:
    return (out / "trial-1").is_dir()


def supernet(out: Path) -> bool:
    return (out / "supernet" / "checkpoint.pt").is_file()


@pytest.mark.parametrize(
    ("sampler", "when"),
    [
        ("evolution", second_trial),
        ("reinforce", second_trial),
        ("gdas", second_trial),
        ("gdas", supernet),
    ],
)
def test_an_architecture_search_goes_on_after_a_kill(
    tmp_path: Path, sampler: str, when: Callable[[Path], bool]
) -> None:
    out = tmp_path / "out"
    killed = Forked(SCRIPT, out, sampler, ROOT)
    killed.wait_for(lambda: when(out))
    killed.kill()
    before = {one.number: one for one in trials_of(out) if one.state == TrialState.COMPLETE}
    assert (0 in before) == (when is second_trial)
    search(out, sampler)
    after = trials_of(out)
    assert [one.state for one in after] == [TrialState.COMPLETE] * TRIALS
    for number, one in before.items():
        assert after[number] == one
    assert sorted(one.name for one in out.glob("trial-*")) == [f"trial-{number}" for number in range(TRIALS)]
    log = out / "supernet" / "log.jsonl"
    if sampler == "gdas":  # trained once, each epoch once
        assert len(log.read_text().splitlines()) == EPOCHS
