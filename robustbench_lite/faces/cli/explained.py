"""What explanations tell, as files and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import output

if TYPE_CHECKING:
    from robustbench_lite.data.dataset import Data
    from robustbench_lite.model.target import Target
    from robustbench_lite.results.explained import Explained
    from robustbench_lite.results.scorecard import Scorecard


def page_of(card: Path) -> Path:
    """Where the page lies by default: beside the scorecard."""
    return card.with_suffix(".explained.html")


def check(target: Target, data: Data) -> None:
    """Find out before an evaluation that what it breaks can be explained."""
    from robustbench_lite.explaining.run import ExplainOptions, choose

    choose(target, data, ExplainOptions())


def beside(card: Scorecard, target: Target, data: Data, page: Path) -> str:
    """Explain a card that was just made; return where the page is, or why there is none: the card is not lost."""
    from robustbench_lite.explaining.run import ExplainOptions, explain

    try:
        return write(explain(card, target, data, ExplainOptions(seed=card.seed)), page)
    except UserError as fault:
        return f"Explained  no: {fault}"


def write(found: Explained, page: Path, folder: str | None = None) -> str:
    """Write the page, and the pictures where a folder is given; return where they are, a line each."""
    page = output.write_result(page, registry.find("reports", "explained")([found]))
    if folder is None:
        return f"Explained  {page}"
    return f"Explained  {page}\nPictures   {folder} ({_pictures(found, Path(folder))} files)"


def as_json(found: Explained) -> str:
    """All but the pictures."""
    heats = {"__all__": {"clean", "adversarial"}}
    without = {"exhibits": {"__all__": {"original": True, "adversarial": True, "heats": heats}}}
    return found.model_dump_json(indent=1, exclude=without)  # type: ignore[arg-type]


def _pictures(found: Explained, folder: Path) -> int:
    """Write the pictures into a folder, by sample and method; return how many."""
    from robustbench_lite.explaining.pictures import enlarged

    pictures: dict[str, str] = {}
    for one in found.exhibits:
        pictures |= {f"{one.index}-clean": one.original, f"{one.index}-adversarial": one.adversarial}
        for heat in one.heats:
            name = f"{one.index}-{output.slug(heat.method)}"
            pictures |= {f"{name}-clean": heat.clean, f"{name}-adversarial": heat.adversarial}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (folder / f"{name}.png").write_bytes(enlarged(picture))
    except OSError as fault:
        raise UserError(f"{folder} can't be written: {fault.strerror or fault}; choose another place") from None
    return len(pictures)
