"""The pages of docs/: the reference is what the code says, links lead somewhere, and the site builds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


def tool(name):
    """A script of docs/, imported from its file."""
    spec = importlib.util.spec_from_file_location(f"_docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says():
    made = tool("make_reference").pages()
    assert sorted(made) == sorted(path.name for path in (DOCS / "reference").iterdir())
    stale = [name for name, text in made.items() if (DOCS / "reference" / name).read_text(encoding="utf-8") != text]
    assert stale == [], "make reference writes them anew"


def anchors(page):
    """The headings of a page, as GitHub and the site call them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link


def test_no_page_has_the_name_of_one_that_the_site_makes():
    """The one would replace the other, without a warning."""
    assert not {"search", "genindex", "modindex"} & {page.stem for page in DOCS.glob("*.md")}


def test_every_page_is_in_the_site():
    listed = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        name = page.relative_to(DOCS).with_suffix("").as_posix()
        assert name == "index" or re.search(rf"^({name}|{page.parent.name}/\*)$", listed, re.MULTILINE), name


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="pip install '.[docs]'")
    pytest.importorskip("furo")
    options = ["-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path / "site")]
    done = subprocess.run([sys.executable, "-m", "sphinx", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tutorial.html" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="CONTRIBUTING' not in (tmp_path / "site" / "attacks.html").read_text(encoding="utf-8")


def test_published_scorecards_are_small_and_the_index_says_what_they_say():
    made = tool("make_scorecards")
    index = (made.FOLDER / "index.md").read_text(encoding="utf-8")
    for card in made.there():
        assert f"| {card.verdict} | {card.clean_accuracy} | {card.robust_accuracy} |" in index
        assert made._file(card, "html").is_file()
    assert all(path.stat().st_size < made.LARGEST[path.suffix] for path in made.FOLDER.iterdir())
    assert set(made.pages(made.there())) == {one for one in made.FOLDER.iterdir() if one.suffix != ".json"}
