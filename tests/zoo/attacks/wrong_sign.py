"""PGD that descends where it should climb."""

from __future__ import annotations

from typing import Any

from pydantic.dataclasses import dataclass

from robustbench_lite.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class WrongSign(PGD):
    """PGD with its sign wrong."""

    def step(self, problem: Any, state: Any, output: Any) -> Any:
        return super().step(problem, state, output._replace(grad=-output.grad))
