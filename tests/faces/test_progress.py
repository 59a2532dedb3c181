"""Progress bars: what they show of an attack and of a training, and when there are none."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.progress import Progress

from robustbench_lite.core.cost import Forecast, Passes
from robustbench_lite.core.cost import Progress as Attacked
from robustbench_lite.faces import progress as module
from robustbench_lite.faces.progress import attack_bars, bars, heading, plain_bars, training_bars
from robustbench_lite.hardening.interface import TrainingProgress

Clock = Callable[..., None]
PASSES = Passes(forward=10, backward=10)


def attacked(
    done: int, broken: int = 0, *, name: str = "pgd", threat: str = "Linf 8/255", total: int = 100
) -> Attacked:
    return Attacked(name, threat, done, total, broken, PASSES)


def trained(epoch: int, step: int, *, stage: str = "model", epochs: int = 3, steps: int = 10) -> TrainingProgress:
    measured = (0.98, 0.734) if epoch > 1 else (None, None)
    return TrainingProgress(stage, epoch, epochs, step, steps, 0.25, *measured)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns in the place of the standard error stream."""
    for name in ("NO_COLOR", "TERM", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    buffer = io.StringIO()
    known = {"file": buffer, "force_terminal": True, "width": 80, "color_system": None}
    monkeypatch.setattr(module, "Console", lambda stderr, **given: Console(**(known | given)))
    return buffer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets what the time is each time that it is looked at, in seconds."""

    def at(*seconds: float) -> None:
        times = iter(seconds)
        monkeypatch.setattr(module.time, "monotonic", lambda: next(times))

    return at


def lines(screen: io.StringIO) -> list[str]:
    """All lines that were ever on the screen, without the codes that place them."""
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in re.split(r"[\r\n]+", screen.getvalue())]


def last(screen: io.StringIO, name: str) -> str:
    return [line for line in lines(screen) if line.startswith(name)][-1]


# -- when there are bars -------------------------------------------------------------------------------------------


def test_a_terminal_gets_bars_that_go_when_they_are_done(screen: io.StringIO) -> None:
    with bars() as progress:
        attack_bars(progress)(attacked(100, 3))
    assert last(screen, "pgd · Linf 8/255").split()[-3:-1] == ["3", "broken"]
    assert screen.getvalue().endswith("\x1b[2K")  # the lines are taken back
    assert "\x1b[?25h" in screen.getvalue()  # and the cursor is shown again


def test_quiet_shows_nothing(screen: io.StringIO) -> None:
    with bars(quiet=True) as progress:
        attack_bars(progress)(attacked(100))
        training_bars(progress)(trained(1, 1))
    assert screen.getvalue() == ""


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standard error stream that is no terminal, whatever the environment says."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("pipe")
def test_a_pipe_gets_a_line_an_attack(capsys: pytest.CaptureFixture[str]) -> None:
    with bars() as progress:
        show = attack_bars(progress)
        for done in (0, 40, 100):
            show(attacked(done, done // 10, name="[red]a-name-that-is-long-but-never-cut"))
    line = "[red]a-name-that-is-long-but-never-cut · Linf 8/255: 100/100 samples, 10 broken, in 0:00:00\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.usefixtures("pipe")
def test_a_pipe_is_told_that_an_attack_was_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    with bars() as progress:
        show = attack_bars(progress)
        for event in (attacked(0), attacked(100, 7)._replace(cut_short=True)):
            show(event)
    assert capsys.readouterr().err == "pgd · Linf 8/255: cut short, 100 samples, 7 broken, in 0:00:00\n"


@pytest.mark.usefixtures("pipe")
def test_a_pipe_is_told_the_time_left_of_an_attack_that_takes_long(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    clock(0.0, 0.0, 10.0, 60.0, 240.0)
    with bars() as progress:
        show = attack_bars(progress)
        for done in (0, 10, 25, 100):
            show(attacked(done))
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "pgd · Linf 8/255: 25/100 samples, 0 broken, about 0:03:00 left",
        "pgd · Linf 8/255: 100/100 samples, 0 broken, in 0:04:00",
    ]


@pytest.mark.usefixtures("pipe")
def test_a_pipe_gets_a_line_an_epoch_with_the_time_left(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    clock(0.0, 10.0, 30.0, 60.0)
    with bars() as progress:
        show = training_bars(progress)
        for epoch, step in ((1, 1), (1, 10), (2, 10), (3, 10)):
            show(trained(epoch, step))
    assert capsys.readouterr().err.splitlines() == [
        "training: epoch 1/3, loss 0.250, about 0:00:20 left",
        "training: epoch 2/3, loss 0.250, held out after epoch 1: clean 98.0% robust 73.4%, about 0:00:15 left",
        "training: epoch 3/3, loss 0.250, held out after epoch 2: clean 98.0% robust 73.4%, done",
    ]


@pytest.mark.usefixtures("pipe")
def test_a_pipe_gets_nothing_where_it_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with bars(quiet=True) as progress:
        attack_bars(progress)(attacked(100))
        training_bars(progress)(trained(3, 10))
    assert capsys.readouterr() == ("", "")


def test_bars_are_written_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich takes this as a terminal
    with bars() as progress:
        attack_bars(progress)(attacked(100, 3))
    out, err = capsys.readouterr()
    assert out == ""
    assert "3 broken" in err


def test_a_dumb_terminal_gets_lines_without_codes(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with bars() as progress:
        attack_bars(progress)(attacked(100))
    assert "\x1b" not in screen.getvalue()
    assert screen.getvalue().startswith("pgd · Linf 8/255: 100/100 samples")


def test_an_error_or_ctrl_c_inside_leaves_the_cursor_visible(screen: io.StringIO) -> None:
    def interrupted() -> None:
        with bars() as progress:
            attack_bars(progress)(attacked(50))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


# -- attacks -------------------------------------------------------------------------------------------------------


def held(progress: Progress) -> list[tuple[str, float, float | None, str]]:
    return [(task.description, task.completed, task.total, task.fields["note"]) for task in progress.tasks]


@pytest.mark.usefixtures("screen")
def test_one_bar_an_attack_and_a_threat_model() -> None:
    with bars() as progress:
        show = attack_bars(progress)
        show(attacked(10, 1))
        show(attacked(60, 7))
        show(attacked(20, 2, threat="L2 0.5"))
        show(attacked(5, name="fgsm", total=50))
        assert held(progress) == [
            ("pgd · Linf 8/255", 60, 100, "7 broken"),
            ("pgd · L2 0.5", 20, 100, "2 broken"),
            ("fgsm · Linf 8/255", 5, 50, "0 broken"),
        ]


@pytest.mark.usefixtures("screen")
def test_a_finished_attack_goes_when_the_next_begins() -> None:
    with bars() as progress:
        show = attack_bars(progress)
        show(attacked(100, 90, name="fgsm"))
        assert held(progress) == [("fgsm · Linf 8/255", 100, 100, "90 broken")]
        show(attacked(100, 90))  # before hardening
        show(attacked(10, 1))  # and after
        assert held(progress) == [("pgd · Linf 8/255", 10, 100, "1 broken")]


@pytest.mark.usefixtures("screen")
def test_a_total_that_changes_is_followed() -> None:
    with bars() as progress:
        show = attack_bars(progress)
        show(attacked(10, total=100))
        show(attacked(20, total=40))
        assert held(progress) == [("pgd · Linf 8/255", 20, 40, "0 broken")]


def test_long_names_are_cut_and_brackets_kept(screen: io.StringIO) -> None:
    with bars() as progress:
        show = attack_bars(progress)
        show(attacked(100, name="foolbox:LinfDeepFoolAttackWithAVeryLongName"))
        show(attacked(100, name="[red]me[/red]"))
    assert last(screen, "foolbox:LinfDeepFoolAttackW… ")
    assert last(screen, "[red]me[/red] · Linf 8/255 ")
    assert max(map(len, lines(screen))) <= 80


def test_an_attack_on_ten_thousand_samples_is_told_in_full_at_80_columns(screen: io.StringIO) -> None:
    with bars() as progress:
        attack_bars(progress)(attacked(10000, 9871, name="pgd-momentum", total=10000))
    assert re.search(r"━{16,} 10000/10000 9871 broken \d:\d\d:\d\d$", last(screen, "pgd-momentum · Linf 8/255"))


# -- training ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("screen")
def test_one_bar_a_stage_of_training() -> None:
    with bars() as progress:
        show = training_bars(progress)
        for epoch, step in ((1, 1), (1, 10), (2, 1), (3, 10)):
            show(trained(epoch, step, stage="teacher"))
        assert [(name, done, total) for name, done, total, _ in held(progress)] == [("teacher", 30, 30)]
        show(trained(2, 4, stage="student"))
        assert [(name, done, total) for name, done, total, _ in held(progress)] == [("student", 14, 30)]


@pytest.mark.usefixtures("screen")
def test_training_tells_loss_and_the_last_epochs_accuracies() -> None:
    with bars() as progress:
        show = training_bars(progress)
        show(trained(1, 5))
        assert held(progress)[0][3].startswith("loss 0.250")
        assert "clean" not in held(progress)[0][3]
        show(trained(2, 5))
        note = held(progress)[0][3]
        assert note == "clean 98.0% robust 73.4%"


@pytest.mark.usefixtures("screen")
def test_a_second_training_gets_a_bar_of_its_own() -> None:
    with bars() as progress:
        show = training_bars(progress)
        show(trained(3, 10))
        show(trained(1, 1))
        assert [(done, total) for _, done, total, _ in held(progress)] == [(1, 30)]


@pytest.mark.usefixtures("screen")
def test_training_and_attacks_take_turns() -> None:
    with bars() as progress:
        attack, training = attack_bars(progress), training_bars(progress)
        attack(attacked(40))  # cut short by a budget
        training(trained(1, 1))
        assert [name for name, *_ in held(progress)] == ["training"]
        training(trained(3, 10))
        attack(attacked(10))
        assert [(name, done) for name, done, *_ in held(progress)] == [("pgd · Linf 8/255", 10)]


@pytest.mark.parametrize(("stage", "name"), [("model", "training"), ("teacher", "teacher")])
@pytest.mark.parametrize(("epochs", "steps"), [(30, 18), (100, 391)])
def test_training_is_told_in_full_at_80_columns(
    screen: io.StringIO, epochs: int, steps: int, stage: str, name: str
) -> None:
    with bars() as progress:
        attack_bars(progress)(attacked(100, name="pgd-margin"))  # as `rblite harden` shows before it trains
        show = training_bars(progress)
        show(trained(epochs - 1, steps, stage=stage, epochs=epochs, steps=steps))
        show(trained(epochs, steps, stage=stage, epochs=epochs, steps=steps))
    line = last(screen, name)
    told = rf" epoch {epochs}/{epochs}\s+clean 98\.0% robust 73\.4% \d:\d\d:\d\d$"
    assert re.search("━{16}" + told, line)
    assert max(map(len, lines(screen))) <= 80


def test_the_widest_numbers_of_a_training_fit_80_columns(screen: io.StringIO) -> None:
    with bars() as progress:
        training_bars(progress)(TrainingProgress("a-long-stage", 100, 100, 10, 10, 12.3456, 1.0, 1.0))
    assert re.search(r"━{16} epoch 100/100 clean 100\.0% robust 100\.0% \d:\d\d:\d\d$", last(screen, "a-long-st… "))


# -- how long it takes ---------------------------------------------------------------------------------------------


def ahead(seconds: float | None, *, attacks: int = 3) -> Attacked:
    return attacked(0)._replace(forecast=Forecast(attacks, 1500, PASSES, seconds))


@pytest.mark.usefixtures("pipe")
@pytest.mark.parametrize(
    ("seconds", "told"),
    [(60.0, "1 minute"), (61.0, "2 minutes"), (5000.0, "84 minutes"), (9001.0, "2.6 hours"), (3e6, "35 days")],
)
def test_before_a_run_of_minutes_its_length_is_told_once(
    seconds: float, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with bars() as progress:
        show = attack_bars(progress)
        first = ahead(seconds)
        for _ in range(3):
            show(first)
    line = (
        "Ahead: 3 attacks on 1,500 samples, at most 20 passes. At the speed of the clean samples that is "
        f"{told} at most; what is broken early takes less.\n"
    )
    assert capsys.readouterr() == ("", line)


@pytest.mark.usefixtures("pipe")
@pytest.mark.parametrize("seconds", [None, 0.0, 59.0])
def test_of_a_run_of_seconds_or_unknown_length_nothing_is_told(
    seconds: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with bars() as progress:
        attack_bars(progress)(ahead(seconds))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_told_above_the_bars(screen: io.StringIO) -> None:
    with bars() as progress:
        attack_bars(progress)(ahead(600.0, attacks=1))
    assert last(screen, "Ahead").startswith("Ahead: 1 attack on 1,500 samples")


@pytest.mark.usefixtures("pipe")
def test_a_long_training_is_told_at_its_first_batches(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    clock(0.0, 3.0, 6.0, 9.0)
    with bars() as progress:
        show = training_bars(progress)
        for step in range(1, 5):
            show(trained(1, step, epochs=10))
    assert capsys.readouterr().err == (
        "training: 10 epochs of 10 batches, about 5 minutes at the speed of the first ones, and the held-out samples "
        "after each\n"
    )


# -- what is done beside the attacks, and what all of it is part of -------------------------------------------------


def test_steps_under_way_move_the_bar_of_samples_that_are_settled_all_at_the_end(screen: io.StringIO) -> None:
    with bars() as progress:
        show = attack_bars(progress)
        show(attacked(0))
        show(attacked(0)._replace(under_way=60.0))
        [task] = progress.tasks
        assert (task.completed, task.total, task.fields["count"]) == (60.0, 100, "0/100")


@pytest.mark.usefixtures("pipe")
def test_steps_under_way_tell_a_pipe_the_time_left(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    clock(0.0, 0.0, 60.0)
    with bars() as progress:
        show = attack_bars(progress)
        show(attacked(0))
        show(attacked(0)._replace(under_way=25.0))
    assert capsys.readouterr().err == "pgd · Linf 8/255: 0/100 samples, 0 broken, about 0:03:00 left\n"


def test_work_beside_the_attacks_has_a_bar_that_goes_when_another_begins(screen: io.StringIO) -> None:
    with bars() as progress:
        show = attack_bars(progress)
        show(attacked(40, name="clean predictions", threat=""))
        assert [(task.description, task.completed) for task in progress.tasks] == [("clean predictions", 40)]
        show(attacked(3, name="checks of the model", threat="", total=0))
        [task] = progress.tasks
        assert (task.description, task.total, task.fields["count"], task.fields["note"]) == (
            "checks of the model",
            None,
            "3 done",
            "",
        )
        show(attacked(0))
        assert [task.description for task in progress.tasks] == ["pgd · Linf 8/255"]


@pytest.mark.usefixtures("pipe")
def test_a_pipe_hears_of_work_beside_the_attacks_only_where_it_takes_long(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    clock(0.0, 0.0, 20.0, 40.0, 45.0)
    with bars() as progress:
        show = attack_bars(progress)
        for done in (0, 20, 40, 100):
            show(attacked(done, name="clean predictions", threat=""))
    assert capsys.readouterr().err == "clean predictions: 40/100; about 0:01:00 left\n"


def test_a_heading_says_what_the_bars_are_part_of_and_when_it_ends(screen: io.StringIO) -> None:
    with bars() as progress:
        say = heading(progress)
        say("trial-7: 6 of 20 trials done; best 81.2% robust (trial-1), with a very long rest of the line", 90.4)
        attack_bars(progress)(attacked(40))
        progress.refresh()
    told = last(screen, "trial-7")
    assert re.fullmatch(r"trial-7: 6 of 20 trials done; best 81\.2% robust .*…; about 0:01:\d\d left", told)
    assert max(map(len, lines(screen))) <= 80


@pytest.mark.usefixtures("pipe")
def test_a_pipe_gets_headings_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with bars() as progress:
        heading(progress)("step 1 of 2: trades")
        heading(progress)("trial-0", 61.0)
    assert capsys.readouterr().err == "step 1 of 2: trades\ntrial-0; about 0:01:01 left\n"


def test_quiet_has_no_heading(screen: io.StringIO) -> None:
    with bars(quiet=True) as progress:
        heading(progress)("step 1 of 2: trades")
    assert screen.getvalue() == ""


@pytest.mark.usefixtures("pipe")
def test_a_pipe_is_not_told_of_work_that_has_only_begun(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    clock(0.0, 60.0, 120.0, 120.0)
    with bars() as progress:
        show = attack_bars(progress)
        for done in (0, 50):
            show(attacked(done, name="clean predictions", threat=""))
    assert capsys.readouterr().err == "clean predictions: 50/100; about 0:01:00 left\n"


@pytest.mark.usefixtures("pipe")
def test_a_pipe_hears_of_plain_work_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with bars() as progress:
        show = plain_bars(progress)
        for done, now[0] in ((0, 0.0), (1, 10.0), (2, 40.0), (3, 50.0), (4, 90.0)):
            show("test samples", done, 4)
    assert capsys.readouterr().err == "test samples: 2/4\n"
