"""The regression corpus: what broke a model once breaks it again in one pass, and the folder stays small and whole."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite import ThreatModel, evaluate
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import NORMS
from robustbench_lite.evaluating import corpus
from tests.forked import Forked

LINF = ThreatModel.parse("Linf 0.2")
L2 = ThreatModel.parse("L2 0.5")


def image(value: float, shape: tuple[int, ...] = (1, 2, 2)) -> np.ndarray:
    return np.full(shape, value, np.float32)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


# The folder


def test_witnesses_come_back_by_the_key_of_their_sample(tmp_path: Path) -> None:
    found = {-(2**63): image(0.25), 7: image(0.5)}
    assert corpus.keep(tmp_path / "corpus", LINF, found) == 2
    loaded = corpus.load(tmp_path / "corpus", LINF)
    assert loaded.keys() == found.keys()
    assert all(np.array_equal(loaded[key], x) and loaded[key].dtype == np.float32 for key, x in found.items())


def test_there_is_none_where_there_is_no_folder(tmp_path: Path) -> None:
    assert corpus.load(tmp_path / "none", LINF) == {}
    assert corpus.keep(tmp_path / "none", LINF, {}) == 0
    assert not (tmp_path / "none").exists()


def test_a_sample_has_one_witness_the_newest(tmp_path: Path) -> None:
    corpus.keep(tmp_path, LINF, {1: image(0.1), 2: image(0.2)})
    assert corpus.keep(tmp_path, LINF, {1: image(0.9), 3: image(0.3)}) == 3
    assert {key: float(x.max()) for key, x in corpus.load(tmp_path, LINF).items()} == pytest.approx(
        {2: 0.2, 1: 0.9, 3: 0.3}
    )


def test_the_oldest_are_left_out_where_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LIMIT", 3 * image(0).nbytes)
    corpus.keep(tmp_path, LINF, {1: image(0.1), 2: image(0.2)})
    corpus.keep(tmp_path, LINF, {1: image(0.11)})  # seen again: no longer the oldest
    assert corpus.keep(tmp_path, LINF, {3: image(0.3), 4: image(0.4)}) == 3
    assert list(corpus.load(tmp_path, LINF)) == [1, 3, 4]


def test_one_is_kept_however_small_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LIMIT", 1)
    assert corpus.keep(tmp_path, LINF, {1: image(0.1), 2: image(0.2)}) == 1


def test_nothing_new_leaves_the_files_as_they_are(tmp_path: Path) -> None:
    corpus.keep(tmp_path, LINF, {1: image(0.1), 2: image(0.2)})
    [name] = files(tmp_path)
    before = (tmp_path / name).stat().st_mtime_ns, (tmp_path / name).read_bytes()
    assert corpus.keep(tmp_path, LINF, {2: image(0.2)}) == 2
    assert ((tmp_path / name).stat().st_mtime_ns, (tmp_path / name).read_bytes()) == before


def test_norms_goals_and_shapes_do_not_disturb_one_another(tmp_path: Path) -> None:
    targeted = ThreatModel.parse("Linf 0.2 targeted next")
    corpus.keep(tmp_path, LINF, {1: image(0.1)})
    corpus.keep(tmp_path, targeted, {1: image(0.2)})
    corpus.keep(tmp_path, L2, {1: image(0.3)})
    corpus.keep(tmp_path, LINF, {2: image(0.4, (3, 4, 4))})
    assert {key: x.shape for key, x in corpus.load(tmp_path, LINF).items()} == {1: (1, 2, 2), 2: (3, 4, 4)}
    assert [float(corpus.load(tmp_path, one)[1].max()) for one in (targeted, L2)] == pytest.approx([0.2, 0.3])
    assert len(files(tmp_path)) == 4


def test_a_folder_that_it_makes_tells_git_to_leave_the_lock_out(tmp_path: Path) -> None:
    corpus.keep(tmp_path / "corpus", LINF, {1: image(0.1)})
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    seen = subprocess.run(
        ["git", "-C", tmp_path, "status", "--porcelain", "--untracked-files=all"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout == "?? corpus/linf-untargeted-1x2x2.npz\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(b""),
        lambda path: np.savez(path, keys=np.array([1])),
        lambda path: np.savez(path, keys=np.array([1, 2]), x=image(0.1)[None]),
        lambda path: np.savez(path, keys=np.array([1]), x=np.array([{"an": "object"}])),
        lambda path: np.savez(path, keys=np.array([1]), x=image(0.1)[None].astype(np.float64)),
        lambda path: np.savez(path, keys=np.array([[1]]), x=image(0.1)[None]),
    ],
)
def test_a_damaged_file_is_told_with_its_cure(tmp_path: Path, spoil) -> None:
    corpus.keep(tmp_path, LINF, {1: image(0.1)})
    [name] = files(tmp_path)
    spoil(tmp_path / name)
    for ask in (lambda: corpus.load(tmp_path, LINF), lambda: corpus.keep(tmp_path, LINF, {2: image(0.2)})):
        with pytest.raises(UserError, match=f"{name}: can't be read as a corpus .*delete it to start a new one"):
            ask()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match=r"corpus can't be written: .*choose another place"):
        corpus.keep(tmp_path / "corpus", LINF, {1: image(0.1)})


ADD = """
import sys, numpy as np
from pathlib import Path
from robustbench_lite import ThreatModel, corpus
Path(sys.argv[2]).touch()
for key in range(15):
    corpus.keep(sys.argv[1], ThreatModel.parse("Linf 0.2"), {key: np.full((1, 2, 2), key / 100, np.float32)})
"""


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    added = 0
    other = Forked(ADD, tmp_path, tmp_path / "ready")
    other.wait_for((tmp_path / "ready").exists)
    while other.poll() is None:  # as long as the other one adds, so that they do meet
        corpus.keep(tmp_path, LINF, {1000 + added: image(0.5)})
        added += 1
        time.sleep(0.005)  # or it would keep the other from its turn
    assert other.returncode == 0, other.communicate()
    assert added > 0
    assert sorted(corpus.load(tmp_path, LINF)) == [*range(15), *range(1000, 1000 + added)]


# In an evaluation


class Threshold(nn.Module):
    """Says 1 where the mean pixel is above 1/2: an input is broken by moving every pixel past it."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1) * 10


class Curved(nn.Module):
    """The same prediction without a gradient: only who knows a witness breaks it."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([(mean <= 0.5).to(x), (mean > 0.5).to(x)], 1) + 0 * mean[:, None]


def samples(distances: tuple[float, ...] = (0.05, 0.1, 0.3)) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs that far below the threshold."""
    return torch.stack([torch.full((1, 4, 4), 0.5 - distance) for distance in distances]), torch.zeros(
        len(distances), dtype=torch.int64
    )


def replayed(card):
    return next((result for result in card.attacks if result.name == corpus.REPLAY), None)


def test_what_broke_a_model_is_replayed_first_and_confirmed(tmp_path: Path) -> None:
    first = evaluate(Threshold(), samples(), ["pgd"], LINF, corpus=tmp_path)
    assert [len(outcome.breaks) for outcome in first.outcomes] == [1, 1, 0]
    assert replayed(first) is None
    assert len(corpus.load(tmp_path, LINF)) == 2

    # No attack of the suite could find it: the gradient is zero. The corpus knows.
    again = evaluate(Curved(), samples(), ["fgsm"], LINF, corpus=tmp_path, keep_witnesses=True, anyway=True)
    assert [[one.attack for one in outcome.breaks] for outcome in again.outcomes] == [["replay"], ["replay"], []]
    result = replayed(again)
    assert result.broken == 2
    assert result.passes.backward == 0
    assert result.passes.forward <= 3 + 2  # one look a sample, one more to confirm
    assert result is again.attacks[0]
    assert len(again.witnesses) == 2


def test_a_smaller_ball_takes_the_witness_brought_into_it(tmp_path: Path) -> None:
    evaluate(Threshold(), samples(), ["fgsm"], LINF, corpus=tmp_path)
    card = evaluate(Curved(), samples(), ["fgsm"], "Linf 0.07", corpus=tmp_path, anyway=True)
    assert [len(outcome.breaks) for outcome in card.outcomes] == [1, 0, 0]
    assert card.outcomes[0].breaks[0].distance <= 0.07 + 1e-6


def test_a_model_that_withstands_is_not_said_to_be_broken(tmp_path: Path) -> None:
    evaluate(Threshold(), samples(), ["pgd"], LINF, corpus=tmp_path)

    class Firm(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0.001 - 1], 1)

    card = evaluate(Firm(), samples(), ["fgsm"], LINF, corpus=tmp_path)
    assert replayed(card).broken == 0
    assert card.robust_accuracy.value == 1
    assert card.verdict == "MEASURED"


def test_targeted_and_untargeted_are_kept_apart(tmp_path: Path) -> None:
    evaluate(Threshold(), samples(), ["pgd"], LINF, corpus=tmp_path)
    card = evaluate(Curved(), samples(), ["fgsm"], "Linf 0.2 targeted next", corpus=tmp_path, anyway=True)
    assert replayed(card) is None


def test_other_data_is_not_replayed(tmp_path: Path) -> None:
    evaluate(Threshold(), samples(), ["pgd"], LINF, corpus=tmp_path)
    card = evaluate(Curved(), samples((0.051, 0.11)), ["fgsm"], LINF, corpus=tmp_path)
    assert replayed(card) is None


def test_witnesses_of_another_shape_are_passed_over(tmp_path: Path) -> None:
    evaluate(Threshold(), samples(), ["pgd"], LINF, corpus=tmp_path)
    [name] = files(tmp_path)
    keys = list(corpus.load(tmp_path, LINF))
    (tmp_path / name).unlink()
    corpus.keep(tmp_path, LINF, {key: image(0.9, (1, 3, 3)) for key in keys})
    card = evaluate(Curved(), samples(), ["fgsm"], LINF, corpus=tmp_path, anyway=True)
    assert replayed(card).broken == 0


def test_a_planted_witness_out_of_the_ball_breaks_nothing(tmp_path: Path) -> None:
    evaluate(Threshold(), samples(), ["pgd"], LINF, corpus=tmp_path)
    keys = list(corpus.load(tmp_path, LINF))
    planted = {key: image(7.0, (1, 4, 4)) for key in keys} | {keys[0]: image(float("nan"), (1, 4, 4))}
    corpus.keep(tmp_path, LINF, planted)
    card = evaluate(Curved(), samples(), ["fgsm"], "Linf 0.01", corpus=tmp_path, anyway=True)
    assert replayed(card).broken == 0
    assert card.robust_accuracy.value == 1


def test_a_replay_does_every_norm() -> None:
    assert set(corpus.Replay(known={}).norms) == set(NORMS)
