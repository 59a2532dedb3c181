"""What processes on one machine know of the budget that they share: a small file in memory, a number a process."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_STOP = 0  # where it stands whether all are to end; from 1 on, the passes of each process


class FileLedger:
    """A ledger in a file that every process maps into its memory.

    Each process writes its own number alone, so that none waits for another. A check and the spending after it are two
    steps: processes that check at the same moment may end a batch each over the limit.

    Parameters
    ----------
    path
        The file.
    place
        Of the process that it is opened in, from 0; None for the one that only stops the others.
    before
        Passes that were spent before the processes began.
    """

    def __init__(self, path: Path, place: int | None = None, before: int = 0) -> None:
        self._values, self._before = np.memmap(path, np.int64, "r+"), before
        self._own = None if place is None else place + 1

    @classmethod
    def create(cls, path: Path, processes: int) -> FileLedger:
        """Make the file for this many processes."""
        np.zeros(processes + 1, np.int64).tofile(path)
        return cls(path)

    @property
    def stopped(self) -> bool:
        """Whether all processes are to end."""
        return bool(self._values[_STOP])

    def stop(self) -> None:
        """Have all processes end."""
        self._values[_STOP] = 1

    @property
    def spent_elsewhere(self) -> int:
        """Passes that the other processes have spent."""
        own = 0 if self._own is None else int(self._values[self._own])
        return int(self._values[1:].sum()) - own

    def write(self, passes: int) -> None:
        """Write down the passes of this process, with those before it."""
        if self._own is not None:
            self._values[self._own] = passes - self._before
