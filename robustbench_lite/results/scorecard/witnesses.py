"""The adversarial examples themselves, in a file beside the card."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import NPZ_FAULTS, atomic_file, check_unpacked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Witnesses:
    """Confirmed adversarial examples, one a row."""

    index: NDArray[np.int64]
    """Position of the sample in the data source, shape (N,)."""
    attack: NDArray[np.str_]
    """Name of the attack that found it, shape (N,)."""
    threat: NDArray[np.str_]
    """Threat model under which it did, shape (N,)."""
    x: NDArray[np.float32]
    """The adversarial inputs, in [0, 1], shape (N, *sample)."""

    def __len__(self) -> int:
        return len(self.index)

    def __eq__(self, other: object) -> bool:
        import numpy as np

        return isinstance(other, Witnesses) and all(
            np.array_equal(getattr(self, item.name), getattr(other, item.name)) for item in fields(self)
        )

    def save(self, path: Path) -> None:
        """Write them as a compressed ``npz`` file."""
        import numpy as np

        with atomic_file(path) as stream:
            np.savez_compressed(stream, index=self.index, attack=self.attack, threat=self.threat, x=self.x)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; nothing in the file is executed."""
        import numpy as np

        try:
            check_unpacked(path)
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                found = cls(**{name: stored[name] for name in ("index", "attack", "threat", "x")})
            kinds = [getattr(found, item.name).dtype.kind for item in fields(found)]
            lengths = {getattr(found, item.name).shape[0] for item in fields(found)}
            if kinds != ["i", "U", "U", "f"] or len(lengths) > 1:
                raise ValueError(f"arrays are of kinds {', '.join(kinds)} and lengths {lengths}")
            return found
        except NPZ_FAULTS as fault:
            raise UserError(f"{path}: can't be read as witnesses ({fault}); delete it or save the card again") from None


def witness_path(card: Path) -> Path:
    """Where the witnesses of a card's file lie."""
    return card.with_name(card.name.removesuffix(".json") + ".witnesses.npz")
