"""The twin: the model of floats that an artefact came from, which has the gradient that the artefact lacks.

What an artefact's rounding hides from attacks is no robustness: quantisation masks gradients (Bernhard, Moellic and
Dutertre 2019, https://arxiv.org/abs/1909.12741). So attacks follow the twin's gradient, and the artefact alone answers:
its own outputs decide what is adversarial, in the loop and when it is asked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import Access
from robustbench_lite.evaluating import validity
from robustbench_lite.evaluating.adapt.reevaluate import adaptation_of, witnesses_of
from robustbench_lite.evaluating.plan import Plan, fitting
from robustbench_lite.evaluating.preflight.check import drawn
from robustbench_lite.model.answer_log import AnswerLog
from robustbench_lite.model.predictor import Predictor
from robustbench_lite.model.size import Size
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Countermeasure, Finding, Scorecard

_SAMPLES = 256  # on which the two are compared
_LEAST_ALIKE = 0.5
_ABOVE = 1e-3  # of a twin's logits: how far the class that the artefact says is lifted above the twin's own


class Twinned(Predictor):
    """The artefact's answers, with the twin's gradient.

    Parameters
    ----------
    artefact
        What is evaluated: it gives every value. Of one that shows labels alone, the values where a gradient is asked
        for are the twin's logits, with the artefact's label lifted above the others.
    twin
        A target that has gradients, for the same inputs in [0, 1] and the same classes.
    """

    opaque = True  # what is checked of a model's own gradient and state isn't checked of this one

    def __init__(self, artefact: Target, twin: Target) -> None:
        self.artefact, self.twin = artefact, twin
        self.module, self.batching = artefact.module, artefact.predictor.batching

    @property
    def shows(self) -> Access:
        """Gradients: the twin's."""
        return "gradients"

    def answer(self, x: Tensor, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Ask both, the twin only where a gradient is wanted."""
        if state is not None:
            raise TypeError(f"{self.artefact.name} answers with its own state alone")
        with torch.no_grad():
            exact = self.artefact(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return exact
        slope = self.twin(x)
        if self.artefact.access != "labels":
            return exact + (slope - slope.detach())
        said = F.one_hot(exact.argmax(1), exact.shape[1]).bool()
        others = slope.detach().masked_fill(said, -torch.inf).amax(1, keepdim=True)
        lift = (others - slope.detach() + _ABOVE).clamp_min(0)
        return slope + torch.where(said, lift, torch.zeros_like(lift))

    def sha256(self, known: str) -> str:
        """Hash of both; empty where the artefact's can't be read."""
        one = self.artefact.weights_sha256()
        return one and hashlib.sha256(f"{known} {one} {self.twin.weights_sha256()}".encode()).hexdigest()

    def keep_answers(self, log: AnswerLog) -> None:
        """Of the artefact; the twin answers in this process."""
        self.artefact.predictor.keep_answers(log)

    def notes(self) -> tuple[str, ...]:
        """Those of the artefact."""
        return self.artefact.predictor.notes()

    def parameters(self) -> int:
        """Those of the artefact."""
        return self.artefact.predictor.parameters()

    def size(self) -> Size:
        """That of the artefact."""
        return self.artefact.predictor.size()

    def multiply_adds(self, x: Tensor) -> int:
        """Those of the artefact."""
        return self.artefact.predictor.multiply_adds(self.artefact.normalised(x))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Both in evaluation mode."""
        with self.artefact.attacking(), self.twin.attacking():
            yield


def with_twin(
    plan: Plan, twin: Target, plain: Scorecard, evaluate_plan: Callable[[Plan], Scorecard], fresh: Plan
) -> Scorecard:
    """Evaluate an artefact with the gradient of its twin, and say what the artefact alone seemed to withstand.

    Parameters
    ----------
    plan
        Of the evaluation of the artefact alone.
    plain
        What came of it.
    fresh
        The same plan with a budget of its own and with the suite that was asked for.

    Raises
    ------
    UserError
        For a twin that has no gradients, tells other classes apart, or answers otherwise on most samples.
    """
    if plain.interrupted == "interrupt":
        return plain
    alike = _alike(plan, twin)
    name = plan.target.name
    made = Target(Twinned(plan.target, twin), name=name, device=plan.target.device, spec=plan.target.spec)
    made.classes = plan.target.classes
    fit = fitting(fresh.suite, made, plan.data)
    card = evaluate_plan(
        replace(fresh, target=made, attacks=fit.attacks, skipped=fit.skipped, earlier=witnesses_of(plain))
    )
    why = f"the gradient that {name} lacks, which alone decides; {alike:.1%} of the clean samples get the same class"
    measure = Countermeasure(name="twin", setting=twin.name, reason=why)
    fell = _fell(plain, card)
    if fell:
        plain = plain.model_copy(update={"verdict": "INVALID", "validity": (*plain.validity, *fell)})
    told = adaptation_of(plain, (measure,))
    return card.model_copy(update={"target": plain.target, "adaptation": told})


def _alike(plan: Plan, twin: Target) -> float:
    """Share of samples of which the two say the same class; a twin that is none is refused."""
    if twin.access != "gradients":
        raise UserError(f"the twin {twin.name} shows {twin.access} alone: expected the PyTorch module of floats")
    rows = drawn(plan.data, _SAMPLES, plan.seed)
    x = plan.data.fetch(rows).to(plan.target.device)
    classes, own = twin.to(plan.target.device).probe(x[:2]), plan.target.classes
    if classes != own:
        raise UserError(
            f"the twin {twin.name} tells {classes} classes apart, {plan.target.name} {own}: give the model that it was "
            "made from"
        )
    with torch.no_grad(), plan.target.attacking(), twin.attacking():
        parts = torch.split(x, plan.batch_size)
        same = sum(int((plan.target(part).argmax(1) == twin(part).argmax(1)).sum()) for part in parts)
    if same < _LEAST_ALIKE * len(x):
        raise UserError(
            f"the twin {twin.name} says the same class as {plan.target.name} of {same} of {len(x)} clean samples: give "
            "the model that it was made from, with its weights and its normalisation"
        )
    return same / len(x)


def _fell(plain: Scorecard, card: Scorecard) -> tuple[Finding, ...]:
    """Finding where the artefact alone seemed robust, and isn't."""
    stood, stand = plain.robust_accuracy.count, card.robust_accuracy.count
    if not validity.clearly_more(stood - stand, validity.BLACK_BOX_GAIN, stood):
        return ()
    return (
        Finding(
            code="RB216",
            severity="error",
            message=f"{stood - stand} of the {stood} samples that stand when the artefact alone is attacked fall to "
            "its twin's gradient: what it withstood rests on what hides the gradient, such as rounding",
            cure="count the robust accuracy with the twin",
        ),
    )
