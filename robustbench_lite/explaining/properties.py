"""Measured properties of clean samples, of which some may tell whether a sample breaks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from robustbench_lite.attacking.query import Query
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.data.dataset import Data
from robustbench_lite.explaining.interface import Asked, probabilities

_SIDE = 32  # pixels a side that distances between samples are measured on
_BLOCK = 512  # samples whose distances are measured at once


class Property(NamedTuple):
    """A property of each sample."""

    name: str
    definition: str
    values: NDArray[Any]
    """(N,): numbers, or names."""


class Looked(NamedTuple):
    """Properties of samples, and what the model says of them."""

    properties: tuple[Property, ...]
    predicted: NDArray[np.int64]
    """(N,)."""


def look(asked: Asked, data: Data, among: Data) -> Looked:
    """Measure the properties of samples: one forward pass a sample, and a backward one where gradients are shown.

    Parameters
    ----------
    asked
        The target.
    data
        The samples, which it has right.
    among
        Samples of all classes, in which the nearest of another class is looked for.
    """
    target, names = asked.target, data.classes
    gradients = target.access == "gradients"
    query = Query(asked, "margin", False, BudgetTracker(), asked.batch_size)
    logits, slopes, light, spread = [], [], [], []
    with target.attacking():
        for rows in torch.split(torch.arange(len(data)), asked.batch_size):
            x, labels = data.fetch(rows), data.labels[rows]
            output = query(x.to(target.device), labels.to(target.device), gradient=gradients)
            logits.append(output.logits.cpu().double())
            slopes.append(output.grad.flatten(1).norm(dim=1).cpu())
            light.append(x.flatten(1).mean(1))
            spread.append(x.flatten(1).std(1))
    said = torch.cat(logits)
    right = said.gather(1, data.labels[:, None])[:, 0]
    rival = said.scatter(1, data.labels[:, None], -torch.inf).amax(1)
    classes = [names[label] if label < len(names) else str(label) for label in data.labels.tolist()]
    found = [Property("class", "the right class", np.array(classes, dtype=object))]
    if target.access != "labels":
        sure = probabilities(said).gather(1, data.labels[:, None])[:, 0]
        found += [
            Property("margin", "score of the right class less the largest of the others", (right - rival).numpy()),
            Property("confidence", "probability that the model gives to the right class", sure.numpy()),
        ]
    found += [
        Property("brightness", "mean of all values of the sample", torch.cat(light).numpy()),
        Property("contrast", "standard deviation of all values of the sample", torch.cat(spread).numpy()),
        Property(
            "distance to another class",
            "L2 distance to the nearest sample of another class, among those evaluated",
            _nearest(data, among).numpy(),
        ),
    ]
    if gradients:
        definition = "L2 norm of the gradient of the margin to the input"
        found.append(Property("gradient", definition, torch.cat(slopes).numpy()))
    return Looked(tuple(found), said.argmax(1).numpy())


def _nearest(data: Data, among: Data) -> Tensor:
    """Distance of each sample to the nearest one of another class, (N,); that of the farthest where there is none."""
    seen = torch.cat([_small(among.fetch(rows)) for rows in torch.split(torch.arange(len(among)), _BLOCK)])
    found = []
    for rows in torch.split(torch.arange(len(data)), _BLOCK):
        away = torch.cdist(_small(data.fetch(rows)), seen)
        away[data.labels[rows][:, None] == among.labels[None]] = torch.inf
        found.append(away.amin(1))
    return torch.cat(found).nan_to_num(posinf=0.0)


def _small(x: Tensor) -> Tensor:
    """Samples as rows; large images averaged down, so that distances of many can be taken, and scaled as before."""
    if x.ndim == 4 and max(x.shape[-2:]) > _SIDE:
        area = x.shape[-2] * x.shape[-1]
        x = functional.adaptive_avg_pool2d(x, _SIDE) * (area**0.5 / _SIDE)
    return x.flatten(1)
