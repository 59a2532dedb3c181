"""Colours, bars and width: what a terminal gets, and what a pipe gets."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.forked import RBLITE, Forked

from .conftest import EVALUATE, command, environment, evaluate, shell

pytestmark = pytest.mark.usefixtures("here")


def test_quiet_is_short() -> None:
    lines = evaluate("zoo.py:good", "--quiet").output.splitlines()
    assert len(lines) <= 3
    assert any("out/card.json" in line for line in lines)


def test_a_pipe_gets_no_colours_and_no_bars() -> None:
    done = shell("evaluate", "zoo.py:good", *EVALUATE)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "MEASURED" in done.stdout
    progress, _, advice = done.stderr.partition("Next       ")
    assert advice
    lines = progress.splitlines()  # one an attack: no bars, and no warning of a library
    assert [re.sub(r"in \d:\d\d:\d\d$", "", line) for line in lines] == [
        f"{name} · Linf 0.1: 60/60 samples, 0 broken, " for name in ("fgsm", "pgd")
    ]


def on_a_terminal(*arguments: str, status: int = 0, **more: str) -> str:
    """What a run writes to a terminal of 80 columns."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = Forked(RBLITE, *arguments, variables=environment(**more), terminal=os.ttyname(theirs))
    written = b""
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.02)[0]:
            written += os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    assert process.returncode == status, written.decode()
    return written.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|4[0-7]|9[0-7]|38|48)[;0-9]*m")


def test_a_terminal_gets_colours_as_far_as_it_wants_them(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    assert COLOUR.search(on_a_terminal("report", "card.json", TERM="xterm-256color"))
    assert not COLOUR.search(on_a_terminal("report", "card.json", TERM="xterm-256color", NO_COLOR="1"))
    assert "\x1b" not in on_a_terminal("report", "card.json", TERM="dumb")


def test_a_terminal_gets_bars_and_then_the_table() -> None:
    written = on_a_terminal("evaluate", "zoo.py:good", *EVALUATE, TERM="xterm")
    assert re.search(r"fgsm · Linf 0\.1.*60/60.*0 broken", written)
    assert re.search(r"pgd · Linf 0\.1.*60/60", written)
    assert written.partition("Next  ")[0].rstrip().endswith("out/card.html")
    table = written[written.index("Adversarial robustness") :].replace("\r", "")
    assert max(len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line)) for line in table.split("\n")) <= 80


def test_a_page_is_not_poured_onto_a_terminal(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    told = on_a_terminal("report", "card.json", "--format", "html", status=2)
    assert "--out FILE" in told
    assert "<" not in told


def test_quiet_on_a_terminal_shows_no_bars() -> None:
    assert "\x1b" not in on_a_terminal("evaluate", "zoo.py:good", *EVALUATE, "--quiet", TERM="xterm")


def test_a_reader_that_leaves_early_is_no_error(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$@" | head -n 1 >/dev/null', "-", *command("report", "card.json")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
