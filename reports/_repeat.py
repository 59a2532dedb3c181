"""What one needs to run an evaluation again: the suite as a file, and the packages it ran on."""

from __future__ import annotations

import json
import re
from typing import Any

from robustbench_lite.core.suite import AttackSpec, Suite
from robustbench_lite.results.scorecard import Scorecard

from ._format import plain

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def suite_toml(suite: Suite) -> str:
    """A suite as the TOML file that ``load_suite`` reads."""
    lines = [f"name = {_value(suite.name)}"]
    if suite.description:
        lines.append(f"description = {_value(suite.description)}")
    lines.append(f"threats = {_value([str(threat) for threat in suite.threats])}")
    lines.append(f"independent = {_value(suite.independent)}")
    if suite.curve:
        lines.append("curve = true")
    return "\n".join([*lines, *(_attack(spec) for spec in suite.attacks)])


def requirements(card: Scorecard) -> str:
    """The packages behind a scorecard, as pip's requirements file has them."""
    packages = {"robustbench_lite": card.version, **card.environment.packages}
    return "\n".join(f"{plain(name)}=={plain(version)}" for name, version in packages.items())


def _attack(spec: AttackSpec) -> str:
    lines = ["", "[[attacks]]", f"attack = {_value(spec.attack)}"]
    if spec.name != spec.attack:
        lines.append(f"name = {_value(spec.name)}")
    if spec.params:
        lines.append(f"params = {_value(spec.params)}")
    return "\n".join(lines)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        # TOML has no null: a parameter that is None is left to its default.
        pairs = (f"{_key(str(key))} = {_value(entry)}" for key, entry in value.items() if entry is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
