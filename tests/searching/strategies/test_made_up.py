"""On a made-up objective over the choices, where nothing is trained, evolution and the controller beat random draws."""

from __future__ import annotations

import random
import statistics
from typing import Any

import optuna
import pytest

from robustbench_lite.searching.space import Axis, Dimension
from robustbench_lite.searching.strategies import evolution, reinforce
from robustbench_lite.searching.strategies.interface import find_strategy
from robustbench_lite.searching.strategies.proposals import at_random, level, levels, untried

OPERATIONS = tuple("abcde")
EDGES = tuple(Axis(key=f"model.{n}", values=Dimension(choices=OPERATIONS), whole=False) for n in range(6))


class Trial:
    """What a strategy sees of a trial."""

    def __init__(self, params: dict[str, Any], value: float) -> None:
        self.params, self.value = params, value


def best_found(sampler: str, seed: int, trials: int = 40) -> float:
    """Share of the best possible value that a search finds: each choice adds its own worth."""
    draws = random.Random(seed)
    worth = {axis.key: {name: draws.random() for name in OPERATIONS} for axis in EDGES}
    strategy, study = find_strategy(sampler), optuna.create_study(direction="maximize")
    for number in range(trials):
        study.sampler = strategy.sampler(EDGES, seed, number)
        trial = study.ask()
        study.tell(trial, sum(worth[axis.key][axis.suggest(trial)] for axis in EDGES))
    return study.best_value / sum(max(one.values()) for one in worth.values())


@pytest.fixture(scope="module")
def by_chance() -> float:
    return statistics.mean(best_found("random", seed) for seed in range(8))


@pytest.mark.parametrize("sampler", ["evolution", "reinforce"])
def test_it_beats_random_draws_on_average(sampler: str, by_chance: float) -> None:
    assert statistics.mean(best_found(sampler, seed) for seed in range(8)) > by_chance + 0.03


@pytest.mark.parametrize("sampler", ["evolution", "reinforce"])
def test_what_it_proposes_depends_on_the_study_alone(sampler: str) -> None:
    first, again = ([best_found(sampler, 3, trials=12) for _ in range(2)] for _ in range(2))
    assert first == again


def test_evolution_changes_one_setting_of_a_young_trial() -> None:
    old = Trial(dict.fromkeys((axis.key for axis in EDGES), "e"), 1.0)  # the best, but too old
    young = [Trial({axis.key: "a" for axis in EDGES}, 0.5) for _ in range(8)]
    for seed in range(10):
        child = evolution.propose(EDGES, [old, *young], seed)  # type: ignore[list-item]
        assert sorted(child.values())[:5] == ["a"] * 5
        assert sorted(child.values())[5] in "bcde"


def test_evolution_moves_a_number_to_a_neighbour() -> None:
    axes = (Axis(key="lr", values=Dimension(low=0.001, high=0.1, log=True), whole=False),)
    known = levels(axes[0])
    young = [Trial({"lr": known[4]}, 0.5)] * 8
    children = {evolution.propose(axes, young, seed)["lr"] for seed in range(20)}  # type: ignore[arg-type]
    assert children == {known[3], known[5]}


def test_the_controller_learns_what_good_trials_had_drawn() -> None:
    done = []
    for number in range(20):
        good = number % 2
        done.append(Trial({axis.key: "b" if good else "a" for axis in EDGES}, 0.8 if good else 0.2))
    learnt = reinforce.policy(EDGES, done)  # type: ignore[arg-type]
    for shares in learnt.values():
        assert sum(shares) == pytest.approx(1)
        assert shares[1] == max(shares) > 0.5
        assert shares[0] == min(shares)
    even = reinforce.policy(EDGES, [Trial(one.params, 0.5) for one in done])  # type: ignore[list-item]
    assert all(share == pytest.approx(0.2) for shares in even.values() for share in shares)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis(key="k", values=Dimension(choices=(1, 2)), whole=False), [1, 2]),
        (Axis(key="k", values=Dimension(low=1, high=3), whole=True), [1, 2, 3]),
        (Axis(key="k", values=Dimension(low=0, high=800), whole=True), list(range(0, 801, 100))),
        (Axis(key="k", values=Dimension(low=0.0, high=4.0), whole=False), [n / 2 for n in range(9)]),
        (Axis(key="k", values=Dimension(low=1, high=256, log=True), whole=False), [2.0**n for n in range(9)]),
    ],
)
def test_a_range_has_nine_levels_at_most(axis: Axis, expected: list[Any]) -> None:
    assert levels(axis) == pytest.approx(expected)
    assert [level(axis, one) for one in levels(axis)] == list(range(len(expected)))
    assert all(axis.distribution._contains(axis.distribution.to_internal_repr(one)) for one in levels(axis))


def test_what_was_tried_is_not_tried_again_while_there_is_something_else() -> None:
    axes = (Axis(key="k", values=Dimension(choices=("a", "b", "c")), whole=False),)
    done = [Trial({"k": "a"}, 0.1), Trial({"k": "c"}, 0.1)]
    for seed in range(10):
        assert untried(done, seed, lambda draws: at_random(axes, draws)) == {"k": "b"}  # type: ignore[arg-type]
    everything = [*done, Trial({"k": "b"}, 0.1)]
    assert untried(everything, 0, lambda draws: at_random(axes, draws))["k"] in "abc"  # type: ignore[arg-type]
