"""The page in a real Chromium: light and dark, on a phone, a tablet and a screen; three starts of a browser.

`checks.js` looks at thirty frames in one start, in fifteen seconds; `axe.js` asks axe-core about as many in another.
"""

from __future__ import annotations

import html as markup
import json
import re
import shutil
import subprocess
from pathlib import Path

import axe_core_python
import pytest

from robustbench_lite.reports import explained, html, search_page
from robustbench_lite.results.scorecard import Finding, Measured, Plot
from tests.cards import DIGITS
from tests.explanations import make_explained, make_reasons
from tests.searches import make_search

CHECKS = (Path(__file__).parent / "checks.js").read_text(encoding="utf-8")
AXE_RUN = (Path(__file__).parent / "axe.js").read_text(encoding="utf-8")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
DAYS = (("net", 1), ("other", 1), ("net", 2), ("net", 3))
SIZES = ((360, 740), (800, 1000), (1400, 900))
EVERYWHERE = ("pass", "several", "trend", "search False", "explained", "faulty")
FIRST = ".banner .verdict, .banner .reason, .banner .cure, .meaning, .hero-value, .hero .ends, .gates li, .threats li"
FIRST_OF_SEVERAL = ".glance .verdict, .glance .robust"

LONG_NAMES = {"fgsm": 0.3, "pgd_by_the_difference_of_logits": 0.5, "an attack that says in full what it does": 0.6}

FAULTY = """<!doctype html><html><body style="color: #999; background: #fff">
<h1>a pale title</h1><h3>b</h3><img src="data:,x"><a href="#none">c</a>
<table><tr><th>d</th><th></th></tr></table><svg role="img"></svg><svg></svg><select></select><div class="scroll"></div>
<nav aria-label="f"></nav><nav aria-label="f"></nav><p id="x" style="margin-top: 2000px; width: 1500px">e</p>
<p id="x"></p><p class="plot" style="width: 9px"></p><div class="scroll" style="overflow: auto">
<table style="width: 3000px"><caption>g</caption></table></div></body></html>"""
FAULTS = (
    "contrast 2.85",
    "heading b skips a level",
    "no language",
    "an image without a text",
    "a drawing without a title",
    "a drawing that is neither told nor hidden",
    "th without a scope",
    "a choice without a label",
    "a region without a name",
    "an empty th",
    "region twice",
    "no way to scroll by keys",
    "id twice",
    "a link leads nowhere",
    "no room for bars",
    "a caption is cut",
)


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on PATH")
    return found


def browse(chromium, folder, page, *options):
    """The page as the browser has it, and what was said on its console."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    base = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    told = ["--enable-logging=stderr", "--dump-dom"]
    command = [*base, *told, *options, (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=400, check=True)
    return done.stdout.decode("utf-8"), re.findall(r".*CONSOLE.*", done.stderr.decode("utf-8", "replace"))


@pytest.fixture(scope="module")
def cards(make_card, make_gate):
    """One of each verdict, with whatever a page can show."""
    blind = Finding(
        code="RB201",
        severity="error",
        message="the gradient of pgd is zero at its first step for 412 of 539 samples: it searches blindly there",
        cure="add an attack whose loss doesn't saturate, such as apgd_dlr, or one without gradients, such as square",
        attack="pgd",
        threat="Linf 0.3",
        plot=Plot(x="distance along the gradient", y="margin", points=((0.0, -2.0), (0.3, 2.0))),
    )
    warning = blind.model_copy(update={"code": "RB125", "severity": "warning", "plot": None})
    info = blind.model_copy(update={"code": "OWN", "severity": "info", "plot": None})
    size = Measured(name="parameters", value=662826, unit="parameters", better="lower", definition="their number")
    met, other = make_gate("min_clean_accuracy", 0.9, 0.95), make_gate("min_robust_accuracy", 0.3, 0.5)
    failed = make_gate("max_drop", 0.3, 0.45, passed=False)
    open_ = make_gate("min_robust_accuracy", 0.5, 0.505, decided=False)
    open_ = open_.model_copy(update={"samples": 200, "more_needed": 1150})
    short = {"interrupted": "seconds", "validity": (warning,)}
    several = ["Linf 8/255", "L2 0.5 targeted next", "L0 24"]
    independent = make_card("many").suite.model_copy(update={"independent": True})
    return {
        "pass": make_card(
            gates=(met, other), curve=True, threats=["L2 0.5"], gallery=6, suite=independent, breaks=LONG_NAMES
        ),
        "fail": make_card(verdict="FAIL", gates=(met, other, failed), validity=(warning, info), gallery=3),
        "measured": make_card(verdict="MEASURED", gates=(), threats=several, measures=(size,)),
        "undecided": make_card(verdict="UNDECIDED", gates=(open_, met), **short),
        "invalid": make_card(verdict="INVALID", validity=(blind, blind, warning), gates=(met,), gallery=2),
    }


def frames(pages, script=CHECKS):
    """A page that holds others in frames, of each size in light and in dark, and looks at them."""
    held = []
    for name, (page, first) in pages.items():
        for width, height in SIZES if name in EVERYWHERE else (SIZES[0], SIZES[-1]):
            for scheme in ("light", "dark"):
                style = f"border: 0; width: {width}px; height: {height}px; color-scheme: {scheme}"
                told = f'id="{name} {width} {scheme}" data-first="{first if width != 800 else ""}" style="{style}"'
                held.append(f'<iframe {told} srcdoc="{markup.escape(page)}"></iframe>')
    script = f"<script>{script}</script>"
    return f'<!doctype html><html lang="en"><body><pre id="found"></pre>{script}{"".join(held)}</body></html>'


def test_pages_are_readable_by_all_on_every_screen(chromium, cards, make_card, tmp_path):
    pages = {name: (html.render([card]), FIRST) for name, card in cards.items()}
    before, after = make_card("plain", breaks={"pgd": 0.9}, gallery=2), make_card("hardened", breaks={"pgd": 0.1})
    pages["several"] = (html.render([before, after, cards["invalid"]], story=["Once."]), FIRST_OF_SEVERAL)
    days = [cards["pass"].model_copy(update={"created": f"2026-11-0{day}T08:00:00+00:00"}) for day in (1, 2, 3)]
    days[1] = days[1].model_copy(update={"verdict": "INVALID"})
    pages["trend"] = (html.render(days), FIRST_OF_SEVERAL)
    for proxy in (False, True):
        page = search_page.render([make_search(proxy=proxy)], card="trial-5/fresh.html")
        pages[f"search {proxy}"] = (page, FIRST)
    nothing = make_reasons(told=-0.03, low=-0.1, high=0.04)
    pages["explained"] = (explained.render([make_explained()]), ".lead p")
    pages["explained not"] = (explained.render([make_explained(reasons=nothing)]), ".lead p")
    pages["faulty"] = (FAULTY, "p")
    dom, console = browse(chromium, tmp_path, frames(pages))
    found = json.loads(markup.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]))
    faulty = [found.pop(f"faulty {width} {scheme}") for width, _ in SIZES for scheme in ("light", "dark")]
    assert all(set(FAULTS) <= {re.split(r"[:,]", one)[0] for one in told} for told in faulty), "the checks see"
    wrong = {place: told for place, (_, *told) in found.items() if told}
    assert wrong == {}
    assert all(place.endswith(scheme) for place, (scheme, *_) in found.items())
    assert console == []


def test_axe_finds_nothing_serious(chromium, cards, make_card, tmp_path):
    """In one start: axe-core is put into each page, from which the rule that forbids it is taken out.

    A page in the dark has other colours, and nothing else: there axe-core is asked about these alone.
    """
    axe = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    small = {"samples": 40, "gallery": 1, "classes": DIGITS[:4]}  # as many elements as it takes, and no more
    few = [make_card(name, created=f"2026-11-0{day}T08:00:00+00:00", **small) for name, day in DAYS]
    whole = {"curve": True, "threats": ["L2 0.5"], "gates": cards["pass"].gates} | small
    pages = {
        "pass": make_card(**whole),
        "invalid": make_card(verdict="INVALID", validity=cards["invalid"].validity, **small),
        "several": few[:2],
        "trend": [few[0], *few[2:]],
    }
    pages = {name: html.render(one if isinstance(one, list) else [one]) for name, one in pages.items()}
    pages |= {"search": search_page.render([make_search()]), "faulty": FAULTY}
    pages["explained"] = explained.render([make_explained()])
    opened = {name: (POLICY.sub("", page), "") for name, page in pages.items()}
    script = f"const AXE = {json.dumps(axe).replace('</', '<' + chr(92) + '/')};{AXE_RUN}"
    dom, _ = browse(chromium, tmp_path, frames(opened, script), "--virtual-time-budget=60000")
    found = json.loads(markup.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]))
    faulty = {name: told for name, told in found.items() if name.startswith("faulty")}
    assert len(faulty) == 6
    assert all(any("color-contrast" in one for one in told) for told in faulty.values()), "axe sees"
    assert all("image-alt" in str(told) for name, told in faulty.items() if name.endswith("light")), "axe sees"
    assert {name: told for name, told in found.items() if told and name not in faulty} == {}


def test_a_browser_runs_nothing_of_a_hostile_card(chromium, make_card, tmp_path):
    hostile = "<img src=x onerror=document.title='owned'>"
    page = html.render([make_card(gallery=1), make_card(hostile)], title="Both models")
    shot = tmp_path / "page.png"
    dom, console = browse(chromium, tmp_path, page, f"--screenshot={shot}", "--window-size=900,900")
    assert "<title>Both models</title>" in dom
    assert "owned'&gt;" in dom
    assert console == []
    assert _colours(shot) > 50


def _colours(path):
    from PIL import Image

    with Image.open(path) as image:
        assert image.size == (900, 900)
        return len(image.convert("RGB").getcolors(maxcolors=1 << 24))
