"""The page: well-formed, self-contained, safe with hostile scorecards. What a browser makes of it: `test_browser`."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from robustbench_lite.core.cost import Passes
from robustbench_lite.reports import html
from robustbench_lite.results.scorecard import Audit, Denied, Finding, Measured, Plot

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>{{ 7*7 }}\x1b\u202e"""
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page as nested elements; it raises where tags don't nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> in the wrong place"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def foreign_scripts(self):
        """Scripts that are not the page's own, of which there is one."""
        assert len(self.all("script")) == 1
        return self.all("script")[1:] + [attrs for _, attrs in self.elements if any(name[:2] == "on" for name in attrs)]

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def finding():
    return Finding(code="RB201", severity="error", message="the gradient is zero", cure="use square", attack="pgd")


def test_one_card_is_told_in_full(make_card, make_gate, finding):
    gate = make_gate("min_robust_accuracy", 0.3, 0.1, passed=False)
    card = make_card(gallery=3, gates=(gate,), verdict="INVALID", validity=(finding,), interrupted="seconds")
    page = Page(html.render([card]))
    told = "INVALID RB201 : the gradient is zero Cure use square These numbers can't be trusted"
    assert told in page.text
    assert page.text.index(told) < page.text.index("The run stopped early (seconds)") < page.text.index("Attacks")
    assert f"≤ {card.robust_accuracy.value:.1%}" in page.text
    assert "failed robust accuracy at least 30.0%: found 10.0% [8.0, 12.0]" in page.text
    assert card.target.weights_sha256 in page.text
    assert card.data.sha256 in page.text
    assert "torch==2.15.0" in page.text
    assert len(page.all("img")) == 9
    assert all(name in page.text for name in card.data.classes)


def test_attacks_stand_under_their_threat_model(make_card):
    card = make_card(threats=["Linf 8/255", "L2 0.5"])
    text = Page(html.render([card])).text
    linf, both, l2 = (text.index(f"under {name}") for name in ("Linf 8/255", "all of them", "L2 0.5"))
    assert linf < l2 < both
    for row, start, end in zip(card.threats, (linf, l2), (l2, both), strict=True):
        assert f"{row.robust_accuracy.value:.1%}" in text[start:end]


def test_several_cards_stand_side_by_side_first(make_card):
    cards = [make_card("first"), make_card("second"), make_card("third", breaks={"fab": 0.2})]
    page = Page(html.render(cards, title="All three", story=["Once.", "Twice."]))
    assert page.text.index("All three") < page.text.index("Once.") < page.text.index("Side by side")
    assert page.text.index("Side by side") < page.text.index("Accuracy by attack")
    assert "third not run" in page.text
    targets = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(targets) == len(set(targets))
    assert {attrs["href"] for attrs in page.all("a")} <= {f"#{target}" for target in targets}
    assert {"#card-1", "#card-2", "#card-3"} <= {attrs["href"] for attrs in page.all("a")}


def test_two_cards_are_paired(make_card):
    page = Page(html.render([make_card("a", breaks={"pgd": 0.9}), make_card("b", breaks={"pgd": 0.1})]))
    assert "exact McNemar test, p < 0.001" in page.text
    widths = [attrs["width"] for attrs in page.all("rect") if attrs.get("class", "").startswith("part ")]
    shares = [float(width.rstrip("%")) for width in widths if width.endswith("%")]
    assert sum(shares) == pytest.approx(200, abs=0.02)  # clean and robust, each all the common samples


def test_several_cards_are_ranked_with_a_picture_of_clean_against_robust(make_card):
    cards = [make_card("weak", breaks={"pgd": 0.9}), make_card("strong", breaks={"pgd": 0.1}), make_card("third")]
    text = html.render(cards)
    page = Page(text)
    assert "strong has the best robust accuracy" in page.text
    assert "Holm-corrected" in page.text
    [figure] = re.findall(r'<figure class="trade-off.*?</figure>', text, flags=re.DOTALL)
    root = ElementTree.fromstring(figure)
    marks = [one for one in root.iter("svg") if one.get("class") == "at"]
    assert len(marks) == 3
    heights = [float(one.get("y").rstrip("%")) for one in marks]
    assert heights[1] < heights[2] < heights[0]  # from the top
    for one in marks:
        assert all(0 <= float(one.get(key).rstrip("%")) <= 100 for key in ("x", "y"))


def test_unlike_cards_are_told(make_card):
    page = Page(html.render([make_card(), make_card(seed=3, samples=30)]))
    assert "Compare with care" in page.text
    assert "Seeds differ: 0 in the first, 3 in the second." in page.text


def test_cards_without_a_common_sample_are_still_shown(make_card):
    assert "no sample in common" in Page(html.render([make_card(samples=5), make_card(samples=5, first=5)])).text


def test_nothing_is_fetched_and_nothing_runs_but_the_pages_own_script(make_card):
    text = html.render([make_card(gallery=2), make_card("b")])
    page = Page(text)
    assert not page.foreign_scripts
    assert not page.all("link")
    assert not page.all("iframe")
    for tag, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on")], tag
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attrs.get("href", "#").startswith("#")
    assert not re.search(r"https?:|//\w|url\(|@import", text.replace("base64,", "base64, "))  # base64 may hold //
    policy = next(attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs)
    assert "default-src 'none'" in policy
    own = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'"), "no other script may run"


def test_hostile_names_are_text(make_card, finding):
    classes = tuple(f"{HOSTILE}{number}" for number in range(10))
    told = finding.model_copy(update={"message": HOSTILE, "cure": HOSTILE, "code": HOSTILE, "attack": HOSTILE})
    told = told.model_copy(update={"plot": Plot(x=HOSTILE, y=HOSTILE, points=((0.0, 1.0), (1.0, 2.0)))})
    card = make_card(HOSTILE, classes=classes, breaks={HOSTILE: 0.3}, gallery=1, validity=(told,), created=HOSTILE)
    for cards in ([card], [card, card]):
        text = html.render(cards, title=HOSTILE, story=[HOSTILE])
        page = Page(text)
        assert not page.foreign_scripts
        assert all(attrs["src"].startswith("data:") for attrs in page.all("img"))
        assert "<script>alert(1)</script>" in page.text
        assert "{{ 7*7 }}" in page.text
        assert not {"\x1b", "\u202e"} & set(text)


@pytest.mark.parametrize(
    "image",
    [
        '"><script>alert(1)</script>',
        "iVBORw0KGgo=",  # a PNG's first bytes and no more
        base64.b64encode(b"<svg onload=alert(1)>" * 9).decode(),
        "",
        "é",
    ],
)
def test_images_that_are_no_png_are_left_out(make_card, image):
    card = make_card(gallery=1)
    example = card.gallery[0].model_copy(update={"adversarial": image})
    page = Page(html.render([card.model_copy(update={"gallery": (example,)})]))
    assert len(page.all("img")) == 2
    assert "no valid PNG" in page.text


def test_a_prediction_has_its_confidence_beside_it(make_card):
    card = make_card(gallery=1)
    sure = card.gallery[0]
    page = Page(html.render([card]))
    assert f"{card.class_name(sure.prediction)}, 97.8%" in page.text
    assert f"{card.class_name(sure.adversarial_prediction)}, 61.0%" in page.text
    assert "the probability that the model gives it" in page.text
    older = sure.model_copy(update={"confidence": None, "adversarial_confidence": None})
    text = Page(html.render([card.model_copy(update={"gallery": (older,)})])).text
    assert "the probability that the model gives it" not in text


def test_the_certified_side_of_the_curve(make_card):
    def proven(name, count):
        words = {"unit": "share", "better": "higher", "definition": "proven"}
        return Measured(name=name, value=count / 200, count=count, total=200, low=0.0, high=1.0, **words)

    measures = (proven("certified_accuracy", 10), proven("certified_accuracy:0.1", 50))
    card = make_card(threats=["L2 0.5", "Linf 0.1"], curve=True, measures=measures)
    text = Page(html.render([card])).text
    assert "certified 25.0%, interval [19.2, 31.6] percent at 0.1; certified 5.0%" in text
    assert "certified: proven to stay right, 25.0% [19.2, 31.6] at 0.1, 5.0% [2.4, 9.0] at 0.5" in text
    assert "certified: proven to stay right, 5.0% [2.4, 9.0] at 0.1" in text, "a radius is one of the first norm alone"
    bare = make_card(threats=["L2 0.5"], curve=True)
    assert "proven to stay" not in html.render([bare])


def test_small_images_are_enlarged_by_pixels(make_card):
    images = Page(html.render([make_card(gallery=1)])).all("img")
    assert {(image["width"], image["height"], image["class"]) for image in images} == {("8", "8", "pixelated")}
    assert all(image["alt"] for image in images)


def test_charts_are_accessible_and_well_formed(make_card):
    text = html.render([make_card(), make_card("b")])
    charts = re.findall(r'<svg class="(?:lane|curve|bars)".*?</svg>(?=</td>|\n<p|\n<ul)', text, flags=re.DOTALL)
    pictures = re.findall(r'<svg class="fall".*?</svg>(?=\n<span)', text, flags=re.DOTALL)  # clean against robust
    assert len(charts) + len(pictures) == text.count('role="img"') > 30
    assert len(pictures) == 1
    for chart in [*charts, *pictures]:
        root = ElementTree.fromstring(chart)
        assert root.get("role") == "img"
        assert root.find("title").text
    for attrs in Page(text).all("th"):
        assert "scope" in attrs


def figures(text):
    """The charts against eps, read as XML."""
    found = re.findall(r'<figure class="against.*?</figure>', text, flags=re.DOTALL)
    return [ElementTree.fromstring(figure) for figure in found]


def points(element):
    return [tuple(map(float, point.split(","))) for point in element.get("points").split()]


def test_accuracy_against_eps_is_a_staircase_in_its_band(make_card):
    card = make_card(threats=["L2 0.5", "Linf 8/255 targeted next"], curve=True, samples=1000)
    text = html.render([card])
    charts = figures(text)
    assert len(charts) == 2
    for chart, row in zip(charts, card.threats, strict=True):
        curve = card.curve(row.threat)
        (line,) = (points(one) for one in chart.iter("polyline"))
        (band,) = (points(one) for one in chart.iter("polygon"))
        assert line[0] == (0, pytest.approx(100 - 100 * card.clean_accuracy.value, abs=0.01))
        assert [x for x, _ in line] == sorted(x for x, _ in line)
        assert [y for _, y in line] == sorted(y for _, y in line), "it falls; y points down"
        assert len(line) < 500
        assert all(x == before or y == same for (before, same), (x, y) in itertools.pairwise(line))
        upper, lower = band[: len(band) // 2], band[len(band) // 2 :][::-1]
        for (x, y), (above, high), (below, low) in zip(line, upper, lower, strict=True):
            assert x == above == below
            assert 0 <= high <= y <= low <= 100
        words = " ".join(chart.itertext())
        assert f"eps {row.threat.eps_text}" in words
        assert f"median {curve.median:.3g}" in words
        assert f"{row.robust_accuracy.value:.1%}" in words
        images = [one for one in chart.iter("svg") if one.get("role") == "img"]
        assert len(images) == 2, "the curve, and the histogram"
        assert all(one.find("title").text for one in images)
        bins = [one for one in images[1].iter("rect") if one.get("class") == "bin"]
        assert max(float(one.get("height")) for one in bins) == 60
        assert all(0 <= float(one.get("x").rstrip("%")) <= 97.5 for one in bins)
    assert "curve = true" in Page(text).text, "the suite as a file asks for it again"
    assert "against eps" not in Page(html.render([make_card()])).text


def test_several_eps_of_one_norm_are_a_staircase_without_a_histogram(make_card):
    card = make_card(threats=["Linf 8/255", "Linf 4/255"])
    (chart,) = figures(html.render([card]))
    (line,) = (points(one) for one in chart.iter("polyline"))
    assert len(line) == 6
    assert "median" not in " ".join(chart.itertext())
    assert not [one for one in chart.iter("rect") if one.get("class") == "bin"]


@pytest.mark.parametrize("breaks", [{"cw": 1.0}, {"cw": 0.0}], ids=["all", "none"])
@pytest.mark.parametrize("threat", ["L0 1", "L0 1500", "Linf 1/255", "L1 12", "L2 1e-6"])
def test_a_curve_of_any_scale_is_drawn(make_card, breaks, threat):
    card = make_card(threats=[threat], breaks=breaks, curve=True, samples=40)
    if not breaks["cw"]:
        stands = tuple(row.model_copy(update={"nearest": ()}) for row in card.outcomes)
        card = card.model_copy(update={"outcomes": stands})
    (chart,) = figures(html.render([card]))
    ticks = next(one for one in chart.iter("svg") if one.get("class") == "ticks")
    labels = [one.text for one in ticks.iter("text")]
    assert 2 <= len(labels) <= 10
    assert len(set(labels)) == len(labels)
    assert not threat.startswith("L0") or all(label.isdecimal() for label in labels)
    nobody = make_card(threats=[threat], samples=0, curve=True, attacks=())
    assert figures(html.render([nobody]))


def test_a_trace_without_numbers_leaves_a_gap(make_card):
    card = make_card(breaks={"pgd": 0.5})
    trace = card.attacks[0].trace.model_copy(update={"loss": (1.0, 2.0, float("nan"), 3.0, float("inf"))})
    result = card.attacks[0].model_copy(update={"trace": trace})
    page = Page(html.render([card.model_copy(update={"attacks": (result,)})]))
    lines = [attrs["points"] for attrs in page.all("polyline")]
    assert lines == ["0.00,100.00 25.00,50.00", "75.00,0.00"]


@pytest.fixture
def drawn(finding):
    points = ((0.0, -2.0), (0.3, 2.0), (0.1, -1.0))
    plot = Plot(x="distance along the gradient (Linf)", y="margin", points=points)
    return finding.model_copy(update={"code": "RB223", "attack": None, "threat": "Linf 0.3", "plot": plot})


def sketches(text):
    """The plots of findings, read as XML."""
    return [ElementTree.fromstring(one) for one in re.findall(r'<figure class="sketch.*?</figure>', text, re.DOTALL)]


def test_a_finding_with_a_plot_has_it_drawn(make_card, drawn, finding):
    text = html.render([make_card(verdict="INVALID", validity=(drawn, finding))])
    (sketch,) = sketches(text)
    (line,) = (points(one) for one in sketch.iter("polyline"))
    assert line == [(0, 100), (pytest.approx(33.33), 75), (100, 0)]
    words = " ".join(" ".join(sketch.itertext()).split())
    assert "margin against distance along the gradient (Linf): from -2 to 2" in words
    assert words.endswith("0 distance along the gradient (Linf) 0.3")
    (chart,) = (one for one in sketch.iter("svg"))
    assert chart.get("role") == "img"
    assert "error RB223 under Linf 0.3" in Page(text).text
    assert "error RB201 in pgd" in Page(text).text
    assert "INVALID RB223 : the gradient" in Page(text).text, "the first leads"
    assert "1 further error : RB201" in Page(text).text


@pytest.mark.parametrize(
    "values", [(), (float("nan"),), (1.0,), (2.0, 2.0), (1.0, float("inf"), 3.0), (1.0, 1e308, -1e308)]
)
def test_any_plot_is_drawn_or_left_out(make_card, drawn, values):
    points = tuple((float(place), value) for place, value in enumerate(values))
    plot = drawn.plot.model_copy(update={"points": points})
    text = html.render([make_card(validity=(drawn.model_copy(update={"plot": plot}),))])
    assert len(sketches(text)) == any(value < 9 for value in values)
    assert not re.search(r'points="[^"]*(nan|inf)', text)


def test_the_audit_and_what_the_checks_cost_are_told(make_card):
    denied = tuple(
        Denied(index=place, attack=HOSTILE, threat="Linf 0.3", reason="not adversarial in float64")
        for place in range(30)
    )
    audit = Audit(asked=256, confirmed=226, precise=True, images=226, rounded=220, denied=denied)
    checks, passes = Passes(forward=80, backward=10), Passes(forward=900, backward=100)
    page = Page(html.render([make_card(audit=audit, checks=checks, passes=passes)]))
    told = "Witnesses 256 asked again in another batch, in float64: 226 confirmed; 220 of 226 stay adversarial"
    assert f"{told} as 8-bit images denied, not adversarial in float64: <script>alert(1)</script>" in page.text
    assert "samples 0, 1, 2, 3, 4, 5, 6, 7 and 22 more" in page.text
    assert "Checks 90 passes, 9.0% of all" in page.text
    assert not page.foreign_scripts
    old = Page(html.render([make_card()])).text
    assert "asked again" not in old
    assert "Checks" not in old


def test_long_traces_and_many_classes_are_cut_to_what_can_be_seen(make_card):
    names = tuple(f"class_{number:03}" for number in range(100))
    card = make_card(classes=names, samples=300, breaks={"pgd": 0.5})
    trace = card.attacks[0].trace.model_copy(
        update={"loss": tuple(map(float, range(5000))), "broken": (1,) * 5000, "samples": (1,) * 5000}
    )
    result = card.attacks[0].model_copy(update={"trace": trace})
    text = html.render([card.model_copy(update={"attacks": (result,)})])
    assert "The 30 least robust of 100 classes." in Page(text).text
    assert max(attrs["points"].count(" ") for attrs in Page(text).all("polyline")) < 300


def test_a_card_of_nothing_is_shown(make_card):
    card = make_card(samples=0, attacks=(), interrupted="interrupt", verdict="INVALID")
    assert "INVALID" in Page(html.render([card])).text
    assert Page(html.render([card, card])).text
