"""Writes ``docs/scorecards``: the small networks of ``rblite demo``, trained and evaluated anew, in about two minutes.

    python docs/make_scorecards.py            # or, of the cards that are there, the pages alone:
    python docs/make_scorecards.py --pages

A card stays as it is where nothing but times and the machine would change: on one machine a second run writes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from robustbench_lite.core import registry
from robustbench_lite.faces.cli.demo import RECIPES, SUITE, THREAT, run_demo, story
from robustbench_lite.faces.cli.output import slug
from robustbench_lite.results.scorecard import Scorecard

FOLDER = Path(__file__).parent / "scorecards"
LARGEST = {".html": 300_000, ".md": 50_000, ".json": 400_000}
"""Bytes of a page and of a card, which has a row a sample."""
_OF_THE_MOMENT = {"created", "seconds", "environment", "version"}
_HEAD = """\
# Published scorecards

The small networks of `rblite demo` on the embedded digits: {samples} test images, {threat}, suite `{suite}`,
seed {seed}. `make scorecards` trains and evaluates them anew. The pages are files to download and open.

{story}

| model | verdict | clean | robust | page | data |
|---|---|---|---|---|---|
{rows}

[All three side by side](comparison.html), with paired tests.

"""


def main(pages_alone: bool) -> None:
    """Train, evaluate and write."""
    FOLDER.mkdir(exist_ok=True)
    cards = there() if pages_alone else [kept(_timeless(card), _file(card, "json")) for card in run_demo()]
    for path, text in pages(cards).items():
        path.write_text(text, encoding="utf-8")


def there() -> list[Scorecard]:
    """The cards that are published, in the order of the demo."""
    return [Scorecard.load(FOLDER / f"{slug(name)}.json") for name in RECIPES]


def kept(card: Scorecard, path: Path) -> Scorecard:
    """The card that is there, where it says the same; otherwise this one, which is saved."""
    if path.is_file():
        known = Scorecard.load(path)
        if _facts(known) == _facts(card):
            return known
    card.save(path)
    return card


def pages(cards: list[Scorecard]) -> dict[Path, str]:
    """What is made of the cards: a page each, one that compares them, and the index."""
    html, markdown = (registry.find("reports", form) for form in ("html", "markdown"))
    made: dict[Path, str] = {_file(card, "html"): html([card]) for card in cards}
    made[FOLDER / "comparison.html"] = html(cards, title="Three ways to train, one suite", story=story(cards))
    head = _HEAD.format(
        samples=cards[0].data.samples,
        threat=THREAT,
        suite=SUITE,
        seed=cards[0].seed,
        story="\n\n".join(story(cards)),
        rows="\n".join(map(_row, cards)),
    )
    made[FOLDER / "index.md"] = head + markdown(cards, title="In full").replace("### In full", "## In full", 1)
    return made


def _timeless(card: Scorecard) -> Scorecard:
    """Without the measures that are times: what a training took where it happened to run tells nothing of the model."""
    return card.model_copy(update={"measures": tuple(one for one in card.measures if one.unit != "s")})


def _file(card: Scorecard, suffix: str) -> Path:
    return FOLDER / f"{slug(card.target.name)}.{suffix}"


def _row(card: Scorecard) -> str:
    page, data = (f"[{_file(card, suffix).name}]({_file(card, suffix).name})" for suffix in ("html", "json"))
    return f"| {card.target.name} | {card.verdict} | {card.clean_accuracy} | {card.robust_accuracy} | {page} | {data} |"


def _facts(card: Scorecard) -> object:
    told = card.model_dump(exclude=_OF_THE_MOMENT)
    for attack in told["attacks"]:
        attack.pop("seconds")
    return told


if __name__ == "__main__":
    main(pages_alone="--pages" in sys.argv)
