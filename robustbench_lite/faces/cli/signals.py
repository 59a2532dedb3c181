"""Ctrl-C and SIGTERM: how a run ends early.

While a program starts, either one ends it at once: an exception that is raised in the middle of an import can abort the
interpreter. Once the run has begun, both raise `KeyboardInterrupt`, so that what is done is kept. A program that was
started with SIGINT ignored (by ``nohup``, or as a background job) can be interrupted all the same.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

from robustbench_lite.core import launched

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
_ours: list[bool] = []  # whether this process is the command line's own, so that its signals are ours to handle


def leave_at_once() -> None:
    """From now on an interrupt ends the process: for the time in which it starts."""
    _ours.append(True)
    for number in _INTERRUPTS:
        signal.signal(number, _leave)


def raise_interrupts() -> None:
    """From now on an interrupt raises `KeyboardInterrupt`: for the time in which there is something to keep."""
    if _ours:
        for number in _INTERRUPTS:
            signal.signal(number, _raise)


def exit_code() -> int:
    """Exit code of an interrupted run: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    if not launched.rank():  # of several processes the first tells
        os.write(2, b"Interrupted.\n")
    os._exit(128 + number)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt
