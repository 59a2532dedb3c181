"""What ``rblite auto`` finds in ten minutes: on images and on a table, beside the shipped recipe.

    python benchmarks/auto.py [--budget 10m] [--out FOLDER]

The digits of scikit-learn, and its breast cancer data, written as a CSV file. The winner is judged beside the recipe as
it is, `pgd_training`, by the standard suite on test samples that the search never saw.
"""

from __future__ import annotations

import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from common import write
from sklearn.datasets import load_breast_cancer

from robustbench_lite.faces.cli.tune import Duration
from robustbench_lite.results.scorecard import Scorecard
from robustbench_lite.results.search import RECIPE
from robustbench_lite.searching.auto import AutoOptions, auto
from robustbench_lite.searching.judgement import FRESH_FILE


def table(folder: Path) -> str:
    """Write the breast cancer data, and name them."""
    path, cancer = folder / "breast_cancer.csv", load_breast_cancer()
    with path.open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream)
        out.writerow([*(name.replace(" ", "_") for name in cancer.feature_names), "label"])
        out.writerows([*x, cancer.target_names[y]] for x, y in zip(cancer.data, cancer.target, strict=True))
    return f"csv:{path}"


def row(name: str, source: str, folder: Path, seconds: float, entrants: tuple[str, ...]) -> dict[str, Any]:
    """Run it once."""
    began = time.monotonic()
    found = auto(source, out=folder / name, options=AutoOptions(seconds=seconds, entrants=entrants), on_note=click.echo)
    took, result = time.monotonic() - began, found.result
    told: dict[str, Any] = {"data": name, "seconds": round(took), "trials": result.tried, "winner": result.winner}
    cards = {"the recipe": RECIPE, "the winner": result.winner or RECIPE}
    for who, what in cards.items():
        path = found.folder / what / FRESH_FILE
        if path.is_file():
            card = Scorecard.load(path)
            told |= {
                f"{who}: robust %": 100 * card.robust_accuracy.value,
                f"{who}: clean %": 100 * card.clean_accuracy.value,
            }
            told["test samples"] = card.robust_accuracy.total
        else:
            told |= {f"{who}: robust %": "-", f"{who}: clean %": "-"}
    told["paired test"] = "the recipe as it is wins" if result.against_recipe is None else result.against_recipe.why
    told["found better"] = "yes" if result.found_better else "nothing better was found"
    for one in result.board:
        if not one.own:
            told[f"{one.name}: robust % by scores alone"] = "-" if one.robust is None else 100 * one.robust.value
    return told


@click.command()
@click.option("--budget", type=Duration(), default="10m", show_default=True)
@click.option("--out", type=Path, help="Folder of the runs; by default it is thrown away.")
@click.option("--entrant", "entrants", multiple=True)
@click.option("--only", type=click.Choice(["digits", "breast_cancer"]), multiple=True)
def main(budget: float, out: Path | None, entrants: tuple[str, ...], only: tuple[str, ...]) -> None:
    """Run both, and write what came out."""
    with tempfile.TemporaryDirectory() as away:
        folder = out or Path(away)
        folder.mkdir(parents=True, exist_ok=True)
        sources = {"digits": "digits", "breast_cancer": table(folder)}
        rows = [row(name, sources[name], folder, budget, entrants) for name in only or sources]
    write(
        "auto",
        f"What rblite auto finds in {budget / 60:.0f} minutes",
        "One run on each; all of the time is counted, the judgement included. Linf 8/255 on the digits, Linf 0.03 on "
        "the table: 0.3 standard deviations of each column. Winner and recipe are judged by `linf_standard` on the "
        "same test samples. Repeat it with `python benchmarks/auto.py`.",
        rows,
    )


if __name__ == "__main__":
    main()
