"""The fight: every attack of the suite under every threat model, on what still stands."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite import corpus as witness_corpus
from robustbench_lite import tally
from robustbench_lite.clean import Clean
from robustbench_lite.data import Data
from robustbench_lite.engine import Run, Samples, run
from robustbench_lite.exact import Ask
from robustbench_lite.gates import Counts, settled
from robustbench_lite.noise import Noise
from robustbench_lite.question import Job, Planned
from robustbench_lite.suite import adversary
from robustbench_lite.tally import Bout
from robustbench_lite.threat import NORMS, ThreatModel

_log = logging.getLogger(__name__)
_GALLERY_BYTES = 1 << 26
_LOOK_EVERY = 128  # samples between two looks at the gates: when a sequential run may end, on whatever machine


class _Round(NamedTuple):
    """What is run under one threat model."""

    threat: ThreatModel
    samples: Samples
    attacks: tuple[Planned, ...]


def fight(job: Job, clean: Clean, exact: Ask | None) -> tuple[NDArray[np.int64], list[Bout]]:
    """Run every attack under every threat model; return the positions of the samples seen, and what came out.

    All samples at once, or some at a time until the gates are settled; early where an attack was stopped.
    """
    bouts: dict[tuple[ThreatModel, str], Bout] = {}
    standing = clean.correct
    seen = np.empty(0, np.int64)
    rounds = list(_rounds(job, clean))
    everything = job.keep_witnesses or job.corpus is not None
    keep = range(len(job.data)) if everything else frozenset(_shown(job.data, clean))
    for part in _parts(job, clean):
        seen = np.concatenate([seen, part])
        stopped = False
        for bout in _fight_part(job, clean, exact, rounds, keep, part):
            known = bouts.get((bout.threat, bout.name))
            bouts[bout.threat, bout.name] = bout if known is None else known.merge(bout)
            standing &= ~bout.run.broken
            stopped = stopped or bout.run.stopped is not None
        if stopped or (
            job.until is not None and settled(job.until, _counts(job, clean, standing, seen), len(job.data))
        ):
            break
    return np.sort(seen), sorted(bouts.values(), key=lambda bout: job.suite.threats.index(bout.threat))


def _parts(job: Job, clean: Clean) -> list[NDArray[np.int64]]:
    """Positions of the samples that are attacked together; where gates may settle early, in a random order."""
    everything = np.arange(len(job.data))
    if job.until is None:
        return [everything]
    draws = Noise(torch.from_numpy(clean.keys)).at(job.seed).uniform(()).numpy()
    order = np.lexsort((clean.keys, draws))
    return np.split(order, range(_LOOK_EVERY, len(order), _LOOK_EVERY))


def _counts(job: Job, clean: Clean, standing: NDArray[np.bool_], seen: NDArray[np.int64]) -> Counts:
    return Counts(
        seen=len(seen),
        right=int(clean.correct[seen].sum()),
        robust=int(standing[seen].sum()),
        passes=job.meter.passes.total,
        seconds=job.meter.seconds,
    )


def _rounds(job: Job, clean: Clean) -> Iterator[_Round]:
    """Make ready, once for all parts of the samples, what each threat model takes: of one norm the smallest eps first.

    A witness at an eps is one at every larger eps, so what is broken there is not attacked again.
    """
    norms = [adversary(threat) for threat in job.suite.threats]
    for threat in sorted(job.suite.threats, key=lambda threat: (norms.index(adversary(threat)), threat.eps)):
        samples = samples_under(job, threat, clean)
        left_out = {one.attack for one in job.skipped if one.threat == str(threat)}
        attacks = (planned for planned in job.attacks if planned.name not in left_out)
        yield _Round(threat, samples, (*_replayed(job, threat, clean), *attacks))


def _fight_part(
    job: Job, clean: Clean, exact: Ask | None, rounds: list[_Round], keep: Container[int], part: NDArray[np.int64]
) -> Iterator[Bout]:
    """Run the suite on some samples.

    Once an attack was stopped, what is known of the attacks that follow is still handed out: witnesses at a smaller
    eps.
    """
    right = part[clean.correct[part]]
    widest = {adversary(one.threat): one.threat for one in rounds}
    found: dict[tuple[str, str, str], dict[str, Bout]] = {}
    stopped: str | None = None
    for threat, samples, attacks in rounds:
        before = found.setdefault(adversary(threat), {})
        known = {name: bout.at(threat) for name, bout in before.items()}
        standing = right[~_broken(known, len(job.data))[right]]
        for planned in attacks:
            earlier = known.get(planned.name)
            nearest = tally.searched(job.suite, planned.attack, threat)
            if stopped is not None or (nearest and earlier is not None):
                if earlier is not None:
                    yield earlier._replace(run=replace(earlier.run, stopped=stopped))
                continue
            rows = right if job.suite.independent or nearest else standing
            if isinstance(planned.attack, witness_corpus.Replay):
                rows = rows[np.isin(clean.keys[rows], list(planned.attack.known))]
            # The search for the nearest example doesn't depend on eps: one, for the largest, tells of all of them.
            limit = widest[adversary(threat)] if nearest else threat
            result = attempt(job, planned, samples, rows, limit, keep, exact, early_stop=not nearest)
            bout = Bout(planned.name, planned.algorithm, planned.attack, limit, rows, result)
            bout = bout if earlier is None else earlier.merge(bout)
            if result.fault is None and (nearest or not job.suite.independent):
                before[planned.name] = bout.known(nearest)
            yield bout.at(threat)
            stopped = result.stopped
            standing = standing[~bout.at(threat).run.broken[standing]]


def samples_under(job: Job, threat: ThreatModel, clean: Clean) -> Samples:
    """Take all samples, with what is aimed at under a threat model."""
    return Samples(job.data, torch.from_numpy(clean.keys), _aims(job, threat, clean))


def _aims(job: Job, threat: ThreatModel, clean: Clean) -> Tensor:
    """Return the class that the goal is about, for each sample."""
    labels = job.data.labels
    if threat.goal == "untargeted":
        return labels
    if threat.target_class == "least_likely":
        return clean.least_likely
    if threat.target_class == "next":
        return (labels + 1) % clean.classes
    draws = Noise(torch.from_numpy(clean.keys)).at(job.seed).uniform(())
    others = (draws * (clean.classes - 1)).long().clamp_max(clean.classes - 2)
    return (labels + 1 + others) % clean.classes


def attempt(
    job: Job,
    planned: Planned,
    samples: Samples,
    rows: NDArray[np.int64],
    threat: ThreatModel,
    keep: Container[int],
    exact: Ask | None,
    *,
    early_stop: bool = True,
) -> Run:
    """Run one attack; whatever it, or the model under it, trips over: the others still count."""
    try:
        return run(
            planned.attack,
            job.target,
            samples,
            rows,
            threat,
            name=planned.name,
            seed=job.seed,
            batch_size=job.size,
            early_stop=early_stop,
            keep=keep,
            exact=exact,
            meter=job.meter,
            journal=None if job.slot is None else job.slot.journal(planned.name, str(threat)),
        )
    except Exception as fault:
        _log.info("%s failed under %s", planned.name, threat, exc_info=True)
        return replace(Run.empty(len(job.data), planned.attack.steps), fault=f"{type(fault).__name__}: {fault}")


def _broken(bouts: Mapping[str, Bout], size: int) -> NDArray[np.bool_]:
    """Whether any of the attacks broke each sample."""
    broken = np.zeros(size, np.bool_)
    for bout in bouts.values():
        broken |= bout.run.broken
    return broken


def _replayed(job: Job, threat: ThreatModel, clean: Clean) -> Iterator[Planned]:
    """Put what the corpus, or an evaluation before this one, knows against these samples before the suite."""
    if threat.norm not in NORMS:
        return
    present = set(clean.keys.tolist())
    kept = {} if job.corpus is None else witness_corpus.load(job.corpus, threat)
    known = {key: x for key, x in {**kept, **job.earlier.get(str(threat), {})}.items() if key in present}
    if known:
        yield Planned(witness_corpus.REPLAY, witness_corpus.REPLAY, witness_corpus.Replay(known=known))


def remember_witnesses(folder: Path, clean: Clean, bouts: list[Bout]) -> None:
    """Add what broke the samples to the corpus."""
    # What a smaller transformation can make is not told by a distance: a witness of one is none of another for sure.
    for threat in dict.fromkeys(bout.threat for bout in bouts if bout.threat.norm in NORMS):
        found = {
            int(clean.keys[row]): x
            for bout in bouts
            if bout.threat == threat
            for row, x in sorted(bout.run.witnesses.items())
        }
        witness_corpus.keep(folder, threat, found)


def _shown(data: Data, clean: Clean) -> list[int]:
    """Samples whose witness may be shown: a fixed draw, as many as a little memory holds."""
    right = clean.correct.nonzero()[0]
    most = min(1024, max(32, _GALLERY_BYTES // (4 * int(np.prod(data.shape)))))
    drawn: list[int] = right[np.argsort(clean.keys[right], kind="stable")][:most].tolist()
    return drawn
