"""Scorecards as one HTML file: self-contained, no script, no network. The page itself is in ``templates/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.compare import Comparison
from robustbench_lite.results.ranking import Ranking
from robustbench_lite.results.scorecard import AttackResult, ClassResult, Example, Finding, Interval, Scorecard

from . import _charts, _format, _repeat, _view
from ._png import Picture, picture

_SERIES = 6  # colours and marks that the style sheet has
_CLASSES = 30  # more than that and the least robust are shown


def render(cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = ()) -> str:
    """Show scorecards on a page: one in full; several side by side first, then each in full.

    Parameters
    ----------
    cards
        One or more scorecards; of two, the first is taken as before and the second as after.
    title
        Heading; by default made of the targets' names.
    story
        Paragraphs to show above.

    Returns
    -------
    str
        One HTML document. All that comes from the scorecards is escaped, and the page forbids itself scripts.
    """
    found, order = _view.paired(cards), _view.ranked(cards)
    named = zip(cards, _view.labels(cards), strict=True)
    page = _environment().get_template("report.html")
    return page.render(
        title=_view.heading(cards, title),
        story=story,
        sections=[_section(place, card, name) for place, (card, name) in enumerate(named)],
        stages=_view.stages(cards),
        paired=found if isinstance(found, Comparison) else None,
        unpaired=found if isinstance(found, str) else None,
        unlike=_view.unlike(cards),
        ranking=order if isinstance(order, Ranking) else None,
        unranked=order if isinstance(order, str) else None,
        winner=_view.winner(order, _view.labels(cards)) if isinstance(order, Ranking) else "",
        trade_off=_charts.trade_off(cards),
    )


@dataclass(frozen=True)
class Section:
    """What the page shows of one scorecard."""

    card: Scorecard
    name: str
    place: int
    """Position among the scorecards, from 0."""
    reasons: list[str]
    reservations: list[str]
    left_out: list[str]
    threats: list[tuple[ThreatModel, Interval, list[AttackResult]]]
    classes: list[ClassResult]
    classes_left_out: int
    gallery: list[Exhibit]
    courses: list[Course]
    findings: list[tuple[Finding, _charts.Sketch | None]]
    checked: list[tuple[str, list[str]]]
    against: list[tuple[_view.Against, _charts.EpsChart]]
    suite: str
    requirements: str

    @property
    def anchor(self) -> str:
        """What a link on the page leads to."""
        return f"card-{self.place + 1}"

    @property
    def series(self) -> int:
        """Its colour and mark, from 1."""
        return self.place % _SERIES + 1


@dataclass(frozen=True)
class Exhibit:
    """An example of the gallery, its images checked."""

    example: Example
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


def _section(place: int, card: Scorecard, name: str) -> Section:
    classes = card.by_class()
    shown = sorted(classes, key=lambda row: row.robust_accuracy.value)[:_CLASSES]
    return Section(
        card=card,
        name=name,
        place=place,
        reasons=_view.reasons(card),
        reservations=_view.reservations(card),
        left_out=_view.left_out(card),
        threats=_view.results_by_threat(card),
        classes=list(classes) if len(classes) <= _CLASSES else shown,
        classes_left_out=max(0, len(classes) - _CLASSES),
        gallery=[_exhibit(card, example) for example in card.gallery],
        courses=[_course(result) for result in card.attacks if len(result.trace.loss) > 1],
        findings=[(finding, _charts.sketch(finding.plot) if finding.plot else None) for finding in card.validity],
        checked=_view.checked(card),
        against=[(found, _charts.eps_chart(found)) for found in _view.against_eps(card)],
        suite=_repeat.suite_toml(card.suite),
        requirements=_repeat.requirements(card),
    )


def _exhibit(card: Scorecard, example: Example) -> Exhibit:
    return Exhibit(
        example,
        (
            ("original", card.class_name(example.prediction), picture(example.original)),
            ("perturbation", "scaled up", picture(example.perturbation)),
            ("adversarial", card.class_name(example.adversarial_prediction), picture(example.adversarial)),
        ),
    )


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


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )
    for function in (
        _format.about,
        _format.confidence,
        _format.cost,
        _format.count,
        _format.gate_demand,
        _format.gate_found,
        _format.measured,
        _format.measure_name,
        _format.gate_state,
        _format.inside,
        _format.interval,
        _format.moment,
        _format.number,
        _format.p_value,
        _format.parameters,
        _format.per_sample,
        _format.percent,
        _format.plural,
        _format.points,
        _format.seconds,
        _format.shape,
    ):
        environment.filters[function.__name__] = function
    return environment


def _printed(value: Any) -> Any:
    """Every value that the templates print comes through here: nothing from outside keeps a control character."""
    return value if isinstance(value, Markup | int | float) else _format.plain(str(value))
