"""The scorecard: read, saved and loaded."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationError

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.files import read_json, seal, write_atomically
from robustbench_lite.core.suite import adversary
from robustbench_lite.core.threat import NORMS, ThreatModel
from robustbench_lite.results.scorecard.check import impossible
from robustbench_lite.results.scorecard.contents import SCHEMA_VERSION, Contents
from robustbench_lite.results.scorecard.curve import Curve, smallest_eps
from robustbench_lite.results.scorecard.measured import CERTIFIED
from robustbench_lite.results.scorecard.outcomes import ClassResult, Outcome
from robustbench_lite.results.scorecard.values import Interval
from robustbench_lite.results.scorecard.witnesses import Witnesses, witness_path

_FAULTS_SHOWN = 20
_CHECKSUM = "sha256"


def _checksum(content: Any) -> str:
    """The checksum of a card's JSON, read: another layout or order of its keys doesn't change it."""
    return seal(json.dumps(content, sort_keys=True).encode()).decode()


class Scorecard(Contents):
    """The result of an evaluation.

    ``clean_accuracy`` is the share of samples that the target gets right; ``robust_accuracy`` the share that it gets
    right and that no attack of the suite breaks, under any of its threat models (pointwise worst case). Every
    adversarial example behind it is a witness: an independent forward pass has confirmed it.
    """

    _witnesses: Witnesses | None = PrivateAttr(default=None)

    def __repr__(self) -> str:
        told = f"clean={self.clean_accuracy}, robust={self.robust_accuracy}, samples={len(self.outcomes)}"
        return f"Scorecard({self.verdict}, {told}, target={self.target.name!r})"

    def _repr_html_(self) -> str:
        """Show it in a notebook: the report's page, in a frame of its own."""
        page = registry.find("reports", "html")([self])
        return f'<iframe srcdoc="{html.escape(page)}" style="width: 100%; height: 700px; border: 0"></iframe>'

    @property
    def witnesses(self) -> Witnesses | None:
        """Adversarial examples, where they were asked for (``keep_witnesses=True``); beside the JSON when saved."""
        return self._witnesses

    @property
    def certified_accuracy(self) -> Interval | None:
        """Share of samples that are proven to stand, where it was measured: what robust accuracy can't fall below."""
        for one in self.measures:
            if one.name == CERTIFIED and one.count is not None and one.total is not None:
                return Interval.of(one.count, one.total)
        return None

    def with_witnesses(self, witnesses: Witnesses | None) -> Scorecard:
        """Attach the adversarial examples; None takes them off."""
        card = self.model_copy()
        card._witnesses = witnesses
        return card

    def class_name(self, label: int) -> str:
        """Name of a class; its number where the data have no names."""
        return self.data.classes[label] if 0 <= label < len(self.data.classes) else str(label)

    def by_class(self) -> tuple[ClassResult, ...]:
        """Clean and robust accuracy of each class that occurs, by label."""
        return tuple(self._classes())

    def _classes(self) -> Iterator[ClassResult]:
        rows: dict[int, list[Outcome]] = {}
        for outcome in self.outcomes:
            rows.setdefault(outcome.label, []).append(outcome)
        for label, members in sorted(rows.items()):
            yield ClassResult(
                label=label,
                name=self.class_name(label),
                clean_accuracy=Interval.of(sum(row.correct for row in members), len(members)),
                robust_accuracy=Interval.of(sum(row.robust for row in members), len(members)),
            )

    def curve(self, threat: str | ThreatModel | None = None) -> Curve:
        """Robust accuracy against eps.

        Of a suite that asks for a curve from the nearest adversarial example of each sample; of any other from the eps
        that it was run under, a point each.

        Parameters
        ----------
        threat
            A threat model whose norm and goal are on the card, of any eps; by default the first of the card.

        Raises
        ------
        ValueError
            For a norm and goal that are not on the card.
        """
        asked = self.threats[0].threat if threat is None else ThreatModel.parse(threat)
        among = [one.threat for one in self.threats if adversary(one.threat) == adversary(asked)]
        if not among:
            known = ", ".join(dict.fromkeys(str(one.threat) for one in self.threats))
            raise UserError(f"{asked}: nothing of this norm and goal is on the card, which holds {known}")
        eps = {str(one): one.eps for one in among}
        return Curve(
            threat=among[0],
            total=len(self.outcomes),
            distances=tuple(sorted(smallest_eps(row, eps) for row in self.outcomes if row.correct)),
            searched=self.suite.curve and asked.norm in NORMS,
        )

    def save(self, path: str | Path) -> Path:
        """Write the scorecard as JSON, and its witnesses, where it has any, beside it as ``.witnesses.npz``.

        The file is replaced in one step: a crash leaves the old one or the new one, never half of one.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.model_dump_json(indent=1)
        text = f'{text.removesuffix("}").rstrip()},\n "{_CHECKSUM}": "{_checksum(json.loads(text))}"\n}}\n'
        if self._witnesses is not None:
            self._witnesses.save(witness_path(path))
        else:
            witness_path(path).unlink(missing_ok=True)
        write_atomically(path, text)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Scorecard:
        """Read a scorecard that `save` wrote.

        Raises
        ------
        ValueError
            For a file that is no scorecard, is damaged, or was written by a newer version.
        """
        path = Path(path)
        try:
            raw = read_json(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; expected a scorecard written by 'rblite evaluate'") from None
        except IsADirectoryError:
            raise UserError(f"{path}: is a folder; expected a scorecard: name the file in it") from None
        except (OSError, ValueError) as fault:
            raise UserError(f"{path}: can't be read as JSON ({fault}); expected a scorecard") from None
        if not isinstance(raw, dict) or "schema_version" not in raw:
            raise UserError(f"{path}: not a scorecard (no schema_version); expected what 'rblite evaluate' wrote")
        if {"spec", "normalize"} <= raw.keys():
            raise UserError(f"{path}: is what a saved model's folder holds, not a scorecard; evaluate the folder first")
        if raw["schema_version"] != SCHEMA_VERSION:
            raise UserError(
                f"{path}: schema_version is {raw['schema_version']!r}, this version of robustbench_lite reads "
                f"{SCHEMA_VERSION}; upgrade robustbench_lite to read it"
            )
        told = raw.pop(_CHECKSUM, None)
        try:
            card = cls.model_validate(raw)
        except ValidationError as fault:
            raise UserError(f"{path}: not a valid scorecard\n{faults(fault)}") from None
        if wrong := list(impossible(card)):
            raise UserError("\n".join([f"{path}: not a valid scorecard", *wrong[:_FAULTS_SHOWN]]))
        if told is not None and told != _checksum(raw):
            raise UserError(
                f"{path}: damaged, or changed by hand: its {_CHECKSUM} is not that of its content; evaluate again, or "
                f"take a copy. What was changed on purpose is read without its line {_CHECKSUM!r}"
            )
        if witness_path(path).is_file():
            card._witnesses = Witnesses.load(witness_path(path))
        return card
