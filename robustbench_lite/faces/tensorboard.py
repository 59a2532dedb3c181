"""The epochs of a training as TensorBoard's scalars; needs the extra ``tensorboard``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import UserError, why
from robustbench_lite.core.extras import library

if TYPE_CHECKING:
    from robustbench_lite.hardening.checkpoint import Epoch

_SCALARS = ("loss", "lr", "clean", "robust", "one_step", "seconds")


class Board:
    """Writes each epoch's numbers into a folder, under ``STEP/STAGE/NUMBER``.

    Parameters
    ----------
    folder
        Of the event files; made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._make, self._folder, self._run = _writer(), folder, ""
        self._open: Any = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as fault:
            raise UserError(f"--tensorboard {folder}: can't be written ({why(fault)}); choose another place") from None

    def begin(self, run: str) -> None:
        """Go on in a folder of its own, which TensorBoard shows as a run of its own."""
        self.close()
        self._run = run

    def __call__(self, line: Epoch) -> None:
        """Write down an epoch."""
        self._open = self._open or self._make(str(self._folder / self._run))
        for name in _SCALARS:
            if (value := getattr(line, name)) is not None:
                self._open.add_scalar(f"{line.step}/{line.stage}/{name}", value, line.epoch)
        self._open.flush()

    def close(self) -> None:
        """End the run that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None


@contextmanager
def board(folder: str | None) -> Iterator[Board | None]:
    """A board that is closed when the block ends; None without a folder."""
    made = None if folder is None else Board(Path(folder))
    try:
        yield made
    finally:
        if made is not None:
            made.close()


def _writer() -> Any:
    cure = "pip install 'robustbench_lite[tensorboard]'"
    return library("torch.utils.tensorboard.writer", "--tensorboard", cure, name="TensorBoard").SummaryWriter
