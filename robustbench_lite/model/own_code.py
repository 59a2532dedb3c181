"""The code of a saved model: copied into its folder, so that the folder is whole and names nothing outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.usercode import change_path


def keep_code(spec: str, folder: Path) -> str:
    """Copy the file that a spec names into a folder, with the modules beside it that it imports.

    Parameters
    ----------
    spec
        As `load_target` takes it. One that names a module or a torchvision model, or a file that lies in the folder
        already, copies nothing.
    folder
        Where the model is saved; it exists.

    Returns
    -------
    str
        The spec, its file relative to the folder.

    Raises
    ------
    UserError
        Where another file of that name is in the folder already.
    """
    root = folder.resolve()

    def kept(path: Path) -> str:
        source = path.resolve()
        if source.is_relative_to(root):
            return source.relative_to(root).as_posix()
        for file in dict.fromkeys(_with_imports(source, source.parent, set())):
            _copy(file, root / file.relative_to(source.parent))
        return source.name

    return change_path(spec, kept)


def _with_imports(file: Path, beside: Path, seen: set[Path]) -> Iterator[Path]:
    """A file, and those below a folder that it imports, directly or not; of a package all its files."""
    if file in seen:
        return
    seen.add(file)
    yield file
    for name in _imported(file):
        module, package = beside / f"{name}.py", beside / name
        for found in [module] if module.is_file() else sorted(package.rglob("*.py")):
            yield from _with_imports(found, beside, seen)


def _imported(file: Path) -> Iterator[str]:
    """Top-level names of the modules that a file imports; none of a file that is no Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def _copy(file: Path, place: Path) -> None:
    content = file.read_bytes()
    if place.is_file() and place.read_bytes() == content:
        return
    if place.exists():
        raise UserError(f"{place}: is there already and is another file than {file}; save the model in a new folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, content)
