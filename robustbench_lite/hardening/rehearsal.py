"""What is learnt again: the samples in a model's memory, and what once broke them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from robustbench_lite.data.dataset import Data
from robustbench_lite.data.keys import keys_of
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating import corpus as witness_corpus
from robustbench_lite.hardening.memory import Memory

_BATCH = 256


def rehearsal(memory: Memory, corpus: str = "") -> Data:
    """All samples of a memory that are to be learnt again.

    Parameters
    ----------
    memory
        Of the model.
    corpus
        Folder of witnesses; those of the memory's own samples, under its threat models, come along with their labels.
    """
    kept = memory.rehearsal()
    if not corpus:
        return kept
    keys = keys_of(kept, _BATCH).tolist()
    label = dict(zip(keys, kept.labels.tolist(), strict=True))
    found = []
    labels: list[int] = []
    for threat in dict.fromkeys(task.threat for task in memory.tasks):
        for key, x in witness_corpus.load(corpus, threat).items():
            if key in label and x.shape == kept.shape:
                found.append(x)
                labels.append(label[key])
    if not found:
        return kept
    inputs = torch.cat([kept.fetch(range(len(kept))), torch.from_numpy(np.stack(found))])
    return replace(as_data((inputs, torch.cat([kept.labels, torch.tensor(labels)]))), name=kept.name)
