"""The space of a search: what its file may hold, and whether the recipe has such settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna import create_study
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.recipe import Recipe, load_recipe
from robustbench_lite.searching.settings import known_settings, with_settings
from robustbench_lite.searching.space import Space, axes, check_grid, load_space

ONE = load_recipe("pgd_training")
TWO = Recipe.model_validate(
    {
        "name": "two",
        "threat": "Linf 0.1",
        "steps": [{"name": "standard", "schedule": {"epochs": 1}}, {"name": "trades", "params": {"beta": 3}}],
    }
)


def space(**params: dict[str, object]) -> Space:
    return Space.model_validate({"name": "mine", "params": params})


def write(folder: Path, text: str) -> Path:
    path = folder / "space.toml"
    path.write_text(text)
    return path


def test_quoted_and_unquoted_names_are_the_same(tmp_path: Path) -> None:
    quoted = write(tmp_path, '[params]\n"schedule.lr" = {low = 0.01, high = 1}\n"params.steps" = {choices = [2, 5]}')
    found = load_space(quoted)
    plain = write(tmp_path, "[params]\nschedule.lr = {low = 0.01, high = 1}\nparams.steps = {choices = [2, 5]}")
    assert load_space(plain) == found
    assert list(found.params) == ["schedule.lr", "params.steps"]
    assert found.name == "space"
    listed = write(tmp_path, "[params]\nschedule.lr = {low = 0.01, high = 1}\nparams.steps = [2, 5]")
    assert load_space(listed) == found


def test_all_faults_of_a_file_are_told_at_once_each_with_its_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [params]
        a.crossed = {low = 2, high = 1}
        a.single = {low = 2, high = 2}
        a.stride = {low = 0, high = 1, step = 2}
        a.log = {low = 0, high = 1, log = true}
        a.both = {low = 0, high = 1, choices = [1, 2]}
        a.none = {}
        a.half = {low = 1}
        a.one = {choices = [1]}
        a.twice = {choices = [1, 1]}
        a.typo = {low = 0, hihg = 1}
        a.alone = 3
        a.few = [1]
        """,
    )
    with pytest.raises(UserError) as caught:
        load_space(path)
    told = str(caught.value)
    for key, words in {
        "crossed": "exchange them",
        "single": "holds one value, 2",
        "stride": "holds one value, 0",
        "log": "a low above 0",
        "both": "choices and a range",
        "none": "expected low and high, or choices",
        "half": "expected low and high, or choices",
        "one": "has 1 choices",
        "few": "has 1 choices",
        "alone": "expected a range, { low = 0.01, high = 0.1 }, or a list of choices",
        "twice": "a choice twice",
        "typo.hihg": "unknown key",
    }.items():
        assert any(f"params.a.{key}: " in line and words in line for line in told.splitlines()), (key, told)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "params: is missing"), ("[params]", "params"), ("[params", "can't be read as TOML"), ("[parms]", "params")],
)
def test_a_file_without_a_space_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_space(write(tmp_path, text))


def test_another_name_than_a_file_s_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected a TOML file"):
        load_space("linf")
    with pytest.raises(UserError, match="no such file"):
        load_space("nowhere.toml")


def test_the_settings_of_a_recipe() -> None:
    assert {"params.steps", "schedule.lr", "schedule.average"} <= set(known_settings(ONE))
    known = set(known_settings(TWO))
    assert {"steps.1.schedule.lr", "steps.2.beta", "steps.2.schedule.awp", "schedule.lr"} <= known
    assert not {"params.beta", "steps.1.beta", "steps.0.schedule.lr", "steps.3.beta"} & known


def test_settings_go_where_their_names_say() -> None:
    changed = with_settings(TWO, {"steps.2.beta": 5, "schedule.lr": 0.5, "steps.1.schedule.lr": 0.2})
    first, second = changed.chain
    assert second.params == {"beta": 5}
    assert (first.schedule, second.schedule) != (None, None)
    assert [step.schedule.lr for step in changed.chain if step.schedule] == [0.2, 0.5]
    assert first.schedule is not None
    assert first.schedule.epochs == 1
    assert with_settings(ONE, {"params.steps": 3}).params == {"steps": 3}


def test_a_setting_that_the_recipe_does_not_have_is_told_with_what_was_meant() -> None:
    wrong = space(
        **{
            "params.stepz": {"low": 1, "high": 3},
            "lr": {"low": 0.1, "high": 0.2},
            "schedule.lr": {"low": -1.0, "high": 0.1},
            "schedule.epochs": {"low": 1.5, "high": 3},
            "schedule.decay": {"choices": ["cosine", "cosinus"]},
        }
    )
    with pytest.raises(UserError) as caught:
        axes(wrong, ONE)
    lines = str(caught.value).splitlines()
    assert "doesn't fit the recipe 'pgd_training'" in lines[0]
    assert "did you mean params.steps or" in lines[1]
    assert "did you mean schedule.lr?" in lines[2]
    assert "schedule.lr: lr" in lines[3]
    assert "whole numbers only" in lines[4]
    assert "cosinus" in lines[5]
    assert len(lines) == 6


def test_whole_numbers_are_told_from_others_by_what_the_setting_takes() -> None:
    steps, lr, size = axes(
        space(
            **{
                "params.steps": {"low": 1, "high": 6, "step": 2},
                "schedule.lr": {"low": 1, "high": 2},
                "params.step_size": {"low": "1/255", "high": "4/255", "step": "1/255"},
            }
        ),
        ONE,
    )
    assert (steps.whole, lr.whole, size.whole) == (True, False, False)
    assert steps.grid() == [1, 3, 5]
    assert lr.grid() is None
    assert size.grid() == pytest.approx([1 / 255, 2 / 255, 3 / 255, 4 / 255])


def test_choices_that_are_lists_come_back_as_they_were() -> None:
    (axis,) = axes(space(**{"schedule.augment": {"choices": [["crop"], ["crop", "flip"], []]}}), ONE)
    named = axis.grid()
    assert named is not None
    assert all(isinstance(one, str) for one in named)
    assert [axis.suggest(FixedTrial({axis.key: one})) for one in named] == [("crop",), ("crop", "flip"), ()]  # type: ignore[arg-type]


def test_a_grid_too_large_or_without_end_is_refused() -> None:
    small = axes(space(**{"params.steps": {"low": 1, "high": 4}, "schedule.lr": {"choices": [0.1, 0.2]}}), ONE)
    assert check_grid(small, 8) == 8
    assert check_grid(small, None) == 8
    with pytest.raises(UserError, match="8 points, more than 7 trials; give --trials 8"):
        check_grid(small, 7)
    with pytest.raises(UserError, match=r"schedule\.lr: give it a step"):
        check_grid(axes(space(**{"schedule.lr": {"low": 0.1, "high": 0.2}}), ONE), 7)


def test_optuna_is_asked_for_the_same_values() -> None:
    found = axes(
        space(
            **{
                "params.steps": {"low": 1, "high": 6, "step": 2},
                "schedule.lr": {"low": 0.01, "high": 0.1, "log": True},
                "schedule.decay": {"choices": ["cosine", "cyclic"]},
            }
        ),
        ONE,
    )
    trial = create_study().ask()
    values = [axis.suggest(trial) for axis in found]
    assert [axis.suggest(trial) for axis in found] == values
    assert trial.distributions == {
        "params.steps": IntDistribution(1, 5, step=2),
        "schedule.lr": FloatDistribution(0.01, 0.1, log=True),
        "schedule.decay": CategoricalDistribution(["cosine", "cyclic"]),
    }
