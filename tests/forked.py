"""Processes of a test's own that start at once.

A new interpreter takes seconds of processor time to load torch. These processes are forked from a server that has
loaded it: the "forkserver" of `multiprocessing`, one a session. Each is a process as any other: it has its own folder,
variables, streams, signals and exit code, and can be killed. The probes of the evidence are as long in it as they are
here (see ``conftest.py``). A test of the start of the program itself needs a new
interpreter all the same.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from robustbench_lite.evaluating.evidence import probes

ROOT = Path(__file__).parents[1]
"""The checkout: code that imports a test module puts it into its path."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "torch",
        "torch._dynamo",  # loaded by any optimizer
        "scipy.special",
        "sklearn.datasets",
        "robustbench_lite.hardening.pipeline",
        "robustbench_lite.attacks.pgd",
        "robustbench_lite.attacks.square",
        "robustbench_lite.reports.html",
        "robustbench_lite.faces.progress",
    ]
)

RBLITE = "from robustbench_lite.faces.cli.start import run; run()"
"""Code of the script ``rblite``."""

HERE = "import sys; sys.path.insert(0, '')\n"
"""Code that lets modules be imported from the working directory, as ``python -c`` does."""

PYTEST = f"""{HERE}
import pytest, robustbench_lite
robustbench_lite.__doc__ += "PYTEST_DONT_REWRITE"  # it is loaded, and a warning would say so
sys.exit(pytest.main(["-p", "no:hypothesispytest", *sys.argv[1:]]))
"""
"""Code of ``python -m pytest``, but for Hypothesis: to rewrite its assertions takes a second each time."""

_CHILD = """
import os, signal, sys
os.chdir(folder)
os.environ.clear()
os.environ.update(variables)
for stream, path in enumerate(streams):
    os.dup2(os.open(path, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)[stream]), stream)
sys.stdout, sys.stderr = (open(stream, "w", encoding="utf-8", buffering=1, closefd=False) for stream in (1, 2))
signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.default_int_handler)
from robustbench_lite.evaluating.evidence import probes
probes.SQUARE_STEPS = square_steps
sys.argv = arguments
exec(code, {"__name__": "__main__"})
"""


def _empty_file() -> Path:
    descriptor, name = tempfile.mkstemp(prefix="rblite-stream-")
    os.close(descriptor)
    return Path(name)


class Forked:
    """A process that runs ``code``, with ``arguments`` as ``sys.argv[1:]``; its interface is that of `Popen`.

    Parameters
    ----------
    variables
        Its environment; by default a copy of ours.
    folder
        Its working directory; by default ours.
    terminal
        What its three streams are; by default nothing is read, and what is written is kept for `communicate`.
    ignoring
        Start it with SIGINT ignored, as a shell starts a job in the background.
    """

    def __init__(
        self,
        code: str,
        *arguments: object,
        variables: Mapping[str, str] | None = None,
        folder: Path | None = None,
        terminal: str = "",
        ignoring: bool = False,
    ) -> None:
        self._written = [_empty_file(), _empty_file()]
        for path in self._written:
            weakref.finalize(self, path.unlink)
        given = {
            "code": code,
            "arguments": ["rblite", *map(str, arguments)],
            "folder": str(folder or Path.cwd()),
            "variables": dict(os.environ if variables is None else variables),
            "streams": [terminal] * 3 if terminal else self._streams(),
            "ignoring": ignoring,
            "square_steps": probes.SQUARE_STEPS,
        }
        self._process: BaseProcess = _CONTEXT.Process(target=exec, args=(_CHILD, given), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def _streams(self) -> list[str]:
        return [os.devnull, *map(str, self._written)]

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = 120) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for its end; what it wrote to both streams."""
        self.wait(timeout)
        out, err = (path.read_text(encoding="utf-8") for path in self._written)
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by SIGKILL, if it still runs."""
        self._process.kill()
        self._process.join()

    def wait_for(self, happened: Callable[[], bool], seconds: float = 120) -> None:
        """Return once something has happened; fail where it ends before, or takes longer than so many seconds."""
        end = time.monotonic() + seconds
        try:
            while not happened():
                assert self.poll() is None, self.communicate()
                assert time.monotonic() < end, "it never came so far"
                time.sleep(0.01)
        except BaseException:
            self.kill()
            raise


def ran(code: str, *arguments: object, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What a process left that runs ``code`` to its end."""
    process = Forked(code, *arguments, variables=variables)
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess([*map(str, arguments)], process.returncode, out, err)


class ForkedWorker(Forked):
    """A worker of `ProcessExecutor`, which takes its parts from a pipe and answers into another."""

    def __init__(self, code: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        self._pipes = tempfile.mkdtemp(prefix="rblite-pipes-")
        weakref.finalize(self, shutil.rmtree, self._pipes)
        super().__init__(f"import os; os.setsid()\n{code}", *arguments, variables=variables)
        # Each waits until the process has opened its end.
        self.stdin = Path(self._pipes, "parts").open("wb")  # noqa: SIM115 - the executor closes them
        self.stdout = Path(self._pipes, "answers").open("rb")  # noqa: SIM115

    def _streams(self) -> list[str]:
        pipes = [f"{self._pipes}/{name}" for name in ("parts", "answers")]
        for pipe in pipes:
            os.mkfifo(pipe)
        return [*pipes, str(self._written[1])]

    def wait(self, timeout: float | None = None) -> int:
        return super().wait(timeout)
