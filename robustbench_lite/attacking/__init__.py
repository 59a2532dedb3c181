"""The one attack loop, and what an attack is.

In come an attack, a target, samples and a threat model; out comes a result by sample: which are broken, each with a
confirmed witness, what was seen on the way, and the passes spent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.attacking.ascent import perturb as perturb
    from robustbench_lite.attacking.engine import RunOptions as RunOptions
    from robustbench_lite.attacking.engine import run_attack as run_attack
    from robustbench_lite.attacking.interface import Attack as Attack
    from robustbench_lite.attacking.interface import ModelOutput as ModelOutput
    from robustbench_lite.attacking.interface import Problem as Problem
    from robustbench_lite.attacking.record import RunResult as RunResult
    from robustbench_lite.attacking.record import Samples as Samples

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Attack": "interface",
        "ModelOutput": "interface",
        "Problem": "interface",
        "RunOptions": "engine",
        "RunResult": "record",
        "Samples": "record",
        "perturb": "ascent",
        "run_attack": "engine",
    },
)
