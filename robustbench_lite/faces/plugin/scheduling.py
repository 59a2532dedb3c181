"""xdist: the items of one evaluation go to one worker, so that workers evaluate side by side and don't wait."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class EvaluationScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Load scheduling by evaluation; every other test is by itself, as in ``--dist load``."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    """What is run on one worker: ``robustness.toml::resnet18`` of its items, a test itself of all others."""
    path, *parts = nodeid.split("::")
    if not path.endswith(".toml"):
        return nodeid
    # Below pyproject.toml the suite's name comes first.
    return "::".join([path, *parts[: 2 if path.rpartition("/")[2] == "pyproject.toml" else 1]])
