"""A command in several processes, as torchrun starts them: one tells, the others are silent."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from robustbench_lite.core.errors import ModelError, UserError
from robustbench_lite.core.launched import processes, rank
from robustbench_lite.faces.cli import output, signals

_ABLE = "harden"
_A_WHILE = 10.0  # seconds in which every process has started


def check(command: str | None) -> None:
    """Refuse a command that would only do the same in each process.

    Raises
    ------
    UserError
        For any but ``harden``.
    """
    if processes() > 1 and command not in (_ABLE, None):
        leave_it_to_the_first()
        raise UserError(
            f"rblite {command} was started in {processes()} processes, and each would do the whole: start it without "
            f"torchrun (only {_ABLE} trains in several; evaluate has --workers, tune has --jobs)"
        )


def leave_it_to_the_first() -> None:
    """Wait a while before telling what is wrong in every process: once the first has told, torchrun ends the others."""
    if rank():
        time.sleep(_A_WHILE)


@contextmanager
def joined(given: dict[str, Any], timeout: float) -> Iterator[None]:
    """Run inside with the other processes, of which the first alone tells and writes.

    Of an error the process tells that has it first; all the others end silently.

    Parameters
    ----------
    given
        The command's options. The device becomes the process's own, and a process that is not the first gets none that
        write.
    timeout
        Seconds that a process waits for the others.
    """
    if processes() == 1:
        yield
        return
    from robustbench_lite.hardening.distributed import LostError, together

    given["device"] = given["device"] or _own_device()
    if rank():
        given |= {"quiet": True, "tensorboard": None, "json_path": None}
    with together(timeout) as team:
        try:
            with _silent_but_first():
                yield
        except KeyboardInterrupt:
            if rank():
                sys.exit(signals.exit_code())
            raise
        except Exception as fault:
            if not team.is_first_to_fail():
                sys.exit(output.EXIT_CRASH)
            lost = fault.__cause__ if isinstance(fault, ModelError) else fault  # a batch norm waits for the others
            if isinstance(lost, LostError):
                again = "goes on with --resume, in one process or several"
                output.say(f"Error: {lost}.\nWhat is kept in {given['out']} {again}.")
                sys.exit(output.EXIT_CRASH)
            if rank():
                output.say(f"In process {rank()} of {processes()}, counted from 0:")
            raise


@contextmanager
def _silent_but_first() -> Iterator[None]:
    if not rank():
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _own_device() -> str:
    """The GPU of this process, where the machine has any."""
    import torch

    number = int(os.environ.get("LOCAL_RANK", "0"))
    there = torch.cuda.device_count()
    if not there:
        return "cpu"
    if number >= there:
        raise UserError(
            f"torchrun started more processes than this machine has GPUs ({there}): give --nproc-per-node {there}, or "
            "train on the CPU (--device cpu)"
        )
    return f"cuda:{number}"
