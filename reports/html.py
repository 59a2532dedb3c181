"""Scorecards as one HTML file: self-contained, no network, readable without its few lines of script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.compare import Comparison
from robustbench_lite.results.ranking import Ranking
from robustbench_lite.results.scorecard import AttackResult, ClassResult, Example, Finding, Interval, Scorecard

from . import (
    _again,
    _against_eps,
    _charts,
    _codes,
    _format,
    _frontier,
    _repeat,
    _spread,
    _training,
    _trend,
    _view,
    _words,
)
from ._png import Picture, picture

_TEMPLATES = Path(__file__).parent / "templates"
_SERIES = 6  # colours and marks that the style sheet has
_CLASSES = 30  # more than that and the least robust are shown
_PICTURES = 1_200_000  # bytes of pictures on a page, so that it stays under 2 MB

_FILTERS: tuple[Callable[..., Any], ...] = (
    _again.command,
    _again.how,
    _again.python,
    _codes.code_anchor,
    _format.about,
    _format.confidence,
    _format.cost,
    _format.count,
    _format.exact,
    _format.gate_demand,
    _format.gate_found,
    _format.gate_state,
    _format.inside,
    _format.interval,
    _format.measure_name,
    _format.measured,
    _format.moment,
    _format.number,
    _format.p_in_words,
    _format.p_value,
    _format.parameters,
    _format.per_sample,
    _format.percent,
    _format.plural,
    _format.points,
    _format.seconds,
    _format.shape,
    _repeat.requirements,
    _repeat.suite_toml,
    _spread.fates,
    _spread.overlaps,
    _view.checked,
    _view.left_out,
    _view.reservations,
    _words.causes,
    _words.gates_first,
    _words.knowledge,
    _words.meaning,
    _words.ruling,
)
"""What the templates say of a value, by the function's name."""


def render(
    cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = (), log: _training.Log = ()
) -> str:
    """Show scorecards on a page: one in full; several side by side first, then each in full; of one model over time.

    Parameters
    ----------
    cards
        One or more scorecards; two are before and after where their names say so, else the first and the second.
    title
        Heading; by default made of the targets' names.
    story
        Paragraphs to show above.
    log
        Lines of a hardening's log, to be shown as curves.

    Returns
    -------
    str
        One HTML document. All that comes from the scorecards is escaped, and the page allows itself no script but its
        own, by its hash.
    """
    course = _trend.trend(cards)
    shown = [course.newest] if course else cards
    named = zip(shown, [course.name] if course else _view.labels(cards), strict=True)
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    page = environment().get_template("report.html")
    return page.render(
        title=_view.heading(shown, title),
        story=story,
        sections=[_section(place, card, name, _PICTURES // len(shown)) for place, (card, name) in enumerate(named)],
        trend=course,
        trainings=_training.trainings(log),
        codes=_codes.explained(shown),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        **(_side_by_side(shown) if len(shown) > 1 else {}),
    )


def _side_by_side(cards: Sequence[Scorecard]) -> dict[str, Any]:
    """What the page tells of several scorecards together."""
    found, order = _view.paired(cards), _view.ranked(cards)
    return {
        "stages": _view.stages(cards),
        "paired": found if isinstance(found, Comparison) else None,
        "unpaired": found if isinstance(found, str) else None,
        "heads": _view.sides(cards).heads,
        "unlike": _view.unlike(cards),
        "ranking": order if isinstance(order, Ranking) else None,
        "unranked": order if isinstance(order, str) else None,
        "winner": _view.winner(order, _view.labels(cards)) if isinstance(order, Ranking) else "",
        "measures": _frontier.table(cards),
        "frontiers": _frontier.frontiers(cards),
        "trade_off": _charts.trade_off(cards),
    }


@dataclass(frozen=True)
class Section:
    """What the page shows of one scorecard."""

    card: Scorecard
    name: str
    place: int
    """Position among the scorecards, from 0."""
    gallery: list[Exhibit]
    threats: list[tuple[ThreatModel, Interval, list[AttackResult]]]
    classes: list[ClassResult]
    classes_left_out: int
    courses: list[Course]
    findings: list[tuple[Finding, _charts.Sketch | None]]
    against: list[tuple[_against_eps.Against, _charts.EpsChart]]

    @property
    def anchor(self) -> str:
        """What a link on the page leads to."""
        return f"card-{self.place + 1}"

    @property
    def series(self) -> int:
        """Its colour and mark, from 1."""
        return self.place % _SERIES + 1

    @property
    def asked(self) -> list[tuple[ThreatModel, str, Interval]]:
        """Each threat model, in words, with its robust accuracy."""
        rows = self.card.threats
        return [(row.threat, _words.threat_words(row.threat, self.card.data), row.robust_accuracy) for row in rows]

    @property
    def hidden(self) -> int:
        """Examples that would make the page too large."""
        return len(self.card.gallery) - len(self.gallery)

    @property
    def told_confidence(self) -> bool:
        """Whether it is known how sure the model is of what it says."""
        return any(one.example.confidence is not None for one in self.gallery)

    @property
    def filters(self) -> list[tuple[str, str, list[str]]]:
        """By what the examples can be chosen: label, key and choices; nothing that has one choice alone."""
        told = (
            ("Class", "class", [one.of_class for one in self.gallery]),
            ("Attack", "attack", [_format.plain(one.example.attack) for one in self.gallery]),
        )
        return [(label, key, sorted(set(found))) for label, key, found in told if len(set(found)) > 1]

    @cached_property
    def confusion(self) -> _spread.Confusion | None:
        """True class against class under attack."""
        return _spread.confusion(self.card)

    @property
    def parts(self) -> Iterator[tuple[str, str]]:
        """The parts of the page: what a link leads to, and its name."""
        there = {
            "curve": (self.against, "Curve"),
            "attacks": (True, "Attacks"),
            "classes": (len(self.classes) > 1, "Classes"),
            "examples": (self.gallery, "Examples"),
            "findings": (True, "Findings"),
            "measures": (self.card.measures, "Measures"),
            "cost": (True, "Cost"),
            "again": (True, "Run it again"),
        }
        return ((name, heading) for name, (shown, heading) in there.items() if shown)


@dataclass(frozen=True)
class Exhibit:
    """An example of the gallery, its images checked."""

    example: Example
    of_class: str
    pictures: tuple[tuple[str, str, Picture | None], ...]
    """What it is, what the model says of it, and the image."""


@dataclass(frozen=True)
class Course:
    """How an attack went, by step."""

    result: AttackResult
    steps: int
    loss: _charts.Curve | None
    broken: _charts.Curve | None
    zero_gradient: float
    """Share of the gradients that were exactly zero."""


def _section(place: int, card: Scorecard, name: str, room: int) -> Section:
    classes = card.by_class()
    shown = sorted(classes, key=lambda row: row.robust_accuracy.value)[:_CLASSES]
    return Section(
        card=card,
        name=name,
        place=place,
        gallery=list(_gallery(card, room)),
        threats=_view.results_by_threat(card),
        classes=list(classes) if len(classes) <= _CLASSES else shown,
        classes_left_out=max(0, len(classes) - _CLASSES),
        courses=[_course(result) for result in card.attacks if len(result.trace.loss) > 1],
        findings=[(finding, _charts.sketch(finding.plot) if finding.plot else None) for finding in card.validity],
        against=[(found, _charts.eps_chart(found)) for found in _against_eps.against_eps(card)],
    )


def _gallery(card: Scorecard, room: int) -> Iterator[Exhibit]:
    """Examples as long as there is room for their pictures."""
    for example in card.gallery:
        exhibit = _exhibit(card, example)
        room -= sum(len(one.uri) for _, _, one in exhibit.pictures if one)
        if room < 0:
            return
        yield exhibit


def _exhibit(card: Scorecard, example: Example) -> Exhibit:
    return Exhibit(
        example,
        _format.plain(card.class_name(example.label)),
        (
            ("original", _answer(card, example.prediction, example.confidence), picture(example.original)),
            ("perturbation", "scaled up", picture(example.perturbation)),
            (
                "adversarial",
                _answer(card, example.adversarial_prediction, example.adversarial_confidence),
                picture(example.adversarial),
            ),
        ),
    )


def _answer(card: Scorecard, prediction: int, confidence: float | None) -> str:
    """What the model says, and how sure it is, where that is known."""
    name = card.class_name(prediction)
    return name if confidence is None else f"{name}, {_format.percent(confidence)}"


def _course(result: AttackResult) -> Course:
    trace = result.trace
    gradients = sum(trace.samples)
    return Course(
        result=result,
        steps=len(trace.loss),
        loss=_charts.loss_curve(trace),
        broken=_charts.broken_curve(trace),
        zero_gradient=sum(trace.zero_gradient) / gradients if gradients else 0.0,
    )


@cache
def environment() -> Environment:
    """What fills the templates: everything that is printed is escaped, and keeps no control character.

    Kept, for to compile the templates takes much longer than to fill them.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )
    for filter_ in _FILTERS:
        environment.filters[filter_.__name__] = filter_
    return environment


def _printed(value: Any) -> Any:
    """Every value that the templates print comes through here: nothing from outside keeps a control character."""
    return value if isinstance(value, Markup | int | float) else _format.plain(str(value))
