"""What the adversary may do: the norm, the size of the ball, the goal."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from robustbench_lite.core.errors import UserError, faults

Norm = Literal["Linf", "L2", "L1", "L0", "Spatial", "Corruption"]
Goal = Literal["untargeted", "targeted"]
TargetChoice = Literal["random", "least_likely", "next"]
Access = Literal["labels", "scores", "gradients"]
"""What can be seen of a target, the least first: its labels alone, its scores (logits or probabilities), gradients."""

NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1", "L0")
TRANSFORMATIONS: tuple[Norm, ...] = ("Spatial", "Corruption")
"""Not balls of a norm, but families of images: what is in them is what their attacks can make of the input."""
SEVERITIES = (1, 2, 3, 4, 5)
TOLERANCE = 1e-6
"""By how much a witness may leave the ball, and for an eps above 1 by how much of it: rounding, and no more."""
TARGET_CHOICES: tuple[str, ...] = get_args(TargetChoice)


def enough(shown: Access, needed: Access) -> bool:
    """Whether a target that shows so much can be asked by what needs so much."""
    order = get_args(Access)
    return bool(order.index(needed) <= order.index(shown))


class ThreatModel(BaseModel):
    """A norm, the radius ``eps`` of the ball around each input, and the adversary's goal.

    Inputs are in ``[0, 1]``, so ``eps`` is in units of the full range: ``8/255`` is eight grey levels of 8 bits. In
    ``L0`` it is how many values of the input may change (a pixel of three channels is three values); of ``Spatial`` the
    largest rotation in degrees, and of ``Corruption`` the largest severity, 1 to 5.
    Written as text it reads ``"Linf 8/255"``, ``"L2 0.5"``, ``"L0 24"`` or ``"Linf 0.3 targeted least_likely"``.

    Raises
    ------
    ValueError
        For an unknown norm, and for an ``eps`` that is not a number, not above 0, or not one of its norm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    norm: Norm
    """Norm of the perturbation, over all the values of one sample, or the family of transformations."""
    eps: float
    """Radius of the ball; a text such as ``8/255`` is taken too and kept in ``eps_text``."""
    eps_text: str = ""
    """``eps`` as it was written."""
    goal: Goal = "untargeted"
    """``untargeted``: any wrong class; ``targeted``: one given wrong class."""
    target_class: TargetChoice = "random"
    """Which class a targeted adversary wants: a seeded random wrong one, the least likely, or the next by number."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = _split(given)
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if "norm" in given and isinstance(given["norm"], str):
            given["norm"] = _norm(given["norm"])
        if "eps" in given:
            eps, text = _eps(given["eps"]), str(given.get("eps_text") or given["eps"])
            if _eps(text) != eps and not math.isnan(eps):
                raise ValueError(
                    f"eps is {given['eps']} and eps_text {text!r}: expected the same number, or no eps_text"
                )
            given.update(eps=eps, eps_text=text)
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not math.isfinite(self.eps) or self.eps <= 0:
            raise ValueError(f"eps is {self.eps_text}: expected a finite number above 0, such as 8/255 or 0.3")
        if self.norm == "Linf" and self.eps > 1:
            raise ValueError(
                f"eps is {self.eps_text}: inputs are in [0, 1], so in Linf eps can't exceed 1; "
                "for 8-bit levels write 8/255"
            )
        if self.norm == "L0" and self.eps != int(self.eps):
            raise ValueError(f"eps is {self.eps_text}: in L0 it counts values of the input; expected a whole number")
        if self.norm == "Spatial" and self.eps > 180:
            raise ValueError(f"eps is {self.eps_text}: expected degrees of rotation, at most 180")
        if self.norm == "Corruption" and self.eps not in SEVERITIES:
            raise ValueError(f"eps is {self.eps_text}: expected a severity, one of {', '.join(map(str, SEVERITIES))}")
        return self

    @property
    def reach(self) -> float:
        """Largest distance of a witness."""
        # A transformation is not limited by a distance: every image counts as inside.
        return 1.0 if self.norm in TRANSFORMATIONS else self.eps + TOLERANCE * max(1.0, self.eps)

    @classmethod
    def parse(cls, text: str | ThreatModel) -> ThreatModel:
        """Read ``"NORM EPS [targeted [random|least_likely|next]]"``; a `ThreatModel` is handed back as it is.

        Raises
        ------
        ValueError
            In one line, saying what was given and what is expected.
        """
        if isinstance(text, ThreatModel):
            return text
        if not isinstance(text, str):
            raise UserError(f"threat model {text!r}: expected a text, such as 'Linf 8/255'")
        try:
            return cls.model_validate(text)
        except ValidationError as fault:
            raise UserError(f"threat model {text!r}: {faults(fault).strip()}") from None

    def __str__(self) -> str:
        aim = "" if self.goal == "untargeted" else f" targeted {self.target_class}"
        return f"{self.norm} {self.eps_text}{aim}"


def _split(text: str) -> dict[str, str]:
    words = text.split()
    if not 2 <= len(words) <= 4 or (len(words) > 2 and words[2] not in get_args(Goal)):
        raise ValueError(f"expected 'NORM EPS [targeted [{'|'.join(TARGET_CHOICES)}]]', such as 'Linf 8/255'")
    return dict(zip(("norm", "eps", "goal", "target_class"), words, strict=False))


def _norm(text: str) -> str:
    known: tuple[str, ...] = get_args(Norm)
    for norm in known:
        if text.lower() == norm.lower():
            return norm
    raise ValueError(f"norm is {text!r}: expected one of {', '.join(known)}")


def _eps(given: Any) -> float:
    try:
        if isinstance(given, bool):
            raise TypeError
        # A fraction is exact, and would work out every digit of 1e999999999.
        return float(Fraction(given)) if isinstance(given, str) and "/" in given else float(given)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise ValueError(f"eps is {given!r}: expected a number or a fraction, such as 8/255, 0.3 or 1e-2") from None
