"""Hash of a live object by what it does: its settings, and the code behind them.

A state dict tells the parameters of a model and nothing of its forward pass. This reads the rest: attributes of every
kind (also tensors that are no buffers, and modules hidden in a list), hooks, and the source of the classes and
functions that are met, with the user's own modules that these use, their settings, and the versions of the packages
that are met. What it doesn't see: what the code reads when it runs, such as files and environment variables.

The same object made in another process has the same hash; where that can't be had, the hash differs: a miss, and not a
wrong answer.
"""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import importlib.util
import linecache
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.model.batching import Batching

_PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, enum.Enum, np.generic, torch.dtype, torch.device)
_OPAQUE = {"builtins", "logging", "threading", "weakref", "_thread"}
"""Of objects of these modules the class is enough: behind them stands the state of the process."""
_DEEPEST = 200
_INSTALLED = tuple(sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
_OURS = str(Path(__file__).parents[2])


def code_sha256(subject: object) -> str:
    """Hash of a module, an attack, or any other object; of a module all but its state dict, which has its own hash."""
    walk = _Walk(subject.state_dict(keep_vars=True).values() if isinstance(subject, nn.Module) else ())
    walk.read(subject)
    return hashlib.sha256("\n".join([*walk.told, *sorted(_sources(walk.sources))]).encode(errors="replace")).hexdigest()


class _Walk:
    """Reads what an object holds, each thing once."""

    def __init__(self, known: Iterable[object]) -> None:
        self.told: list[str] = []
        self.sources: dict[str, str | None] = {}
        """Source of the modules whose code was met, by name; None where there is none."""
        self._known = {id(one) for one in known}
        self._seen: dict[int, tuple[int, object]] = {}  # objects are kept: the id of one that is gone is given again

    def read(self, value: object, depth: int = 0) -> None:
        """Tell of a value and all that it holds."""
        if isinstance(value, _PLAIN):
            self.told.append(repr(value))
        elif isinstance(value, tuple):  # never by identity: which constants are one object is up to the compiler
            self._read_all(type(value).__name__, value, depth)
        elif id(value) in self._known:
            self.told.append("of the state dict")
        elif id(value) in self._seen:
            self.told.append(f"number {self._seen[id(value)][0]}")
        elif depth > _DEEPEST:
            self.told.append(type(value).__qualname__)
        else:
            self._seen[id(value)] = len(self._seen), value
            self._read_new(value, depth + 1)

    def _read_new(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            data = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            self._tell_bytes(data.cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), value)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._tell_bytes(value, value)
        elif isinstance(value, Mapping):
            self._read_all("mapping", (part for pair in value.items() for part in pair), depth)
        elif isinstance(value, list | np.ndarray):
            self._read_all("list", value, depth)
        elif isinstance(value, set | frozenset):
            self._read_all("set", sorted(value, key=repr), depth)
        elif isinstance(value, ModuleType):
            self._meet(value.__name__, value.__name__)
        elif isinstance(value, MethodType):
            self._read_all("method", (value.__func__, value.__self__), depth)
        elif isinstance(value, functools.partial):
            self._read_all("partial", (value.func, value.args, value.keywords), depth)
        elif isinstance(value, FunctionType):
            self._meet(value.__module__, *_bytecode(value.__code__))
            cells = (_content(cell) for cell in value.__closure__ or ())
            self._read_all("function", (value.__defaults__, value.__kwdefaults__, *cells), depth)
        elif hasattr(value, "__qualname__"):  # classes, and functions that are written in C
            self._read_class(value)
        else:
            self._read_object(value, depth)

    def _read_class(self, kind: Any) -> None:
        for one in getattr(kind, "__mro__", (kind,)):
            self._meet(one.__module__ or "", one.__qualname__)
            if self.sources[one.__module__ or ""] is None:  # typed in at a prompt
                self.told += [text for part in getattr(one, "__dict__", {}).values() for text in _bytecode(_code(part))]

    def _read_object(self, value: object, depth: int) -> None:
        kind = type(value)
        self._read_class(kind)
        if isinstance(value, torch.jit.ScriptModule):
            self.told.append(hashlib.sha256(value.save_to_buffer()).hexdigest())
        elif isinstance(value, Batching) or getattr(kind, "known_by_its_answers", False):
            pass  # it learns its sizes from the module, and counts calls; or has a hash of its own
        elif kind.__module__.partition(".")[0] not in _OPAQUE and not kind.__module__.startswith("torch._"):
            self._read_all("object", _attributes(value), depth)

    def _read_all(self, what: str, parts: Iterable[object], depth: int) -> None:
        self.told.append(f"{what} (")
        for part in parts:
            self.read(part, depth)
        self.told.append(")")

    def _tell_bytes(self, data: Any, value: Any) -> None:
        self.told.append(f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}")

    def _meet(self, module: str, *told: str) -> None:
        if module not in self.sources:
            self.sources[module] = _source(module)
        self.told += told


def _attributes(value: object) -> Iterator[object]:
    """Names and values of an object's attributes."""
    slots = [name for one in type(value).__mro__ for name in _names(vars(one).get("__slots__", ()))]
    named = {name: getattr(value, name) for name in slots if name != "__dict__" and hasattr(value, name)}
    for name, attribute in sorted({**named, **getattr(value, "__dict__", {})}.items()):
        if name == "training" and isinstance(value, nn.Module):  # the engine decides
            continue
        yield name
        # Hooks are kept by a number that is counted through the process.
        numbered = name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
        yield list(attribute.values()) if numbered and isinstance(attribute, Mapping) else attribute
    if isinstance(value, torch.fx.GraphModule):
        yield value.code


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _sources(met: Mapping[str, str | None]) -> Iterator[str]:
    """Source of the modules that were met, and of the user's modules that these use."""
    waiting, seen = sorted(met), set(met)
    while waiting:
        name = waiting.pop(0)
        source = met[name] if name in met else _source(name)
        if source is None:
            continue
        yield source
        if is_users(name):
            values = dict(vars(sys.modules[name])) if name in sys.modules else {}
            yield from _settings(values)
            used = {_home(value) for value in values.values()} | _imported(name, source)
            waiting += sorted(one for one in used - seen if is_users(one))
            seen |= used
        else:
            yield _version(name)


def _settings(values: Mapping[str, object]) -> Iterator[str]:
    """Values of a module's globals that a program may change while it runs."""
    walk = _Walk(())
    for name, value in sorted(values.items()):
        if not name.startswith("__") and isinstance(value, (*_PLAIN, tuple, list, dict, set, Tensor, np.ndarray)):
            walk.told.append(name)
            walk.read(value)
    return iter(walk.told)


def _imported(name: str, source: str) -> set[str]:
    """Modules that a source imports, be it within a function that has not run yet."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    found: set[str] = set()
    package = name if str(_file(name)).endswith("__init__.py") else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


@functools.cache
def _version(name: str) -> str:
    """Version of the package that a module belongs to; empty where it has none by that name."""
    try:
        return metadata.version(name.partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return ""


def _file(name: str) -> str | None:
    """Where a module stands, be it imported or not."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # it looks into the packages above, which may be anything
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _home(value: object) -> str:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
    return name if isinstance(name, str) else ""


def is_users(name: str) -> bool:
    """Whether a module is the user's own: its code may change without a change of version."""
    file = _file(name)
    if file is None:
        return False
    path = Path(file).resolve()
    # By name as well: an environment may see the packages of another one.
    return not str(path).startswith((*_INSTALLED, _OURS)) and not {"site-packages", "dist-packages"} & set(path.parts)


def _source(name: str) -> str | None:
    file = _file(name)
    if name.partition(".")[0] == "torch":  # it has a version
        return ""
    if file is None:
        return None
    linecache.checkcache(file)
    return "".join(linecache.getlines(file, vars(sys.modules[name]) if name in sys.modules else None)) or None


def _code(member: object) -> CodeType | None:
    function = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
    return function.__code__ if isinstance(function, FunctionType) else None


def _bytecode(code: CodeType | None) -> Iterator[str]:
    if code is not None:
        yield f"{code.co_name} {code.co_code.hex()} {code.co_names}"
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _bytecode(constant)
            else:
                yield repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
