"""What the codes of findings mean, from the table of ``docs/findings.md``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from robustbench_lite.results.scorecard import Scorecard

FILE = Path(__file__).parent / "templates" / "codes.txt"
_ROW = re.compile(r"^\| (RB\d{3}) \| [a-z, ]+ \| (.+) \| .+ \|$", re.MULTILINE)


@cache
def meanings() -> dict[str, str]:
    """Meaning of each code."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def from_table(text: str) -> str:
    """The file's text, made of that of ``docs/findings.md``, which no install brings along."""
    return "".join(f"{code} {words.replace('`', '')}\n" for code, words in _ROW.findall(text))


def code_anchor(code: str) -> str:
    """Where on a page a code is explained."""
    return f"code-{code}" if code in meanings() else "codes"


def explained(cards: Iterable[Scorecard]) -> list[tuple[str, str]]:
    """The codes that occur on scorecards and what they mean; of a code of somebody's own nothing is known."""
    codes = {finding.code for card in cards for finding in card.validity}
    return [(code, meanings().get(code, "")) for code in sorted(codes) if code in meanings()]
