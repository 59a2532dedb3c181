"""Options that several commands share, and what is loaded from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from robustbench_lite.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_lite.data.dataset import Data, Split
    from robustbench_lite.model.target import Target

Given = dict[str, Any]
"""Options by name. Those of `model_options` and `data_options` are read by `load_model` and `load_samples`."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _together(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """One decorator for several options."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


model_options = _together(
    click.option(
        "--weights", metavar="FILE", help="State dict for MODEL; of torchvision:NAME also a name in torch's cache."
    ),
    click.option("--normalize", metavar="NAME", help="imagenet, cifar10, mnist, none, or 'm1,m2,m3/s1,s2,s3'."),
    click.option(
        "--classes", type=click.IntRange(min=2), metavar="N", help="Number of classes, if MODEL must be told."
    ),
    click.option("--name", metavar="NAME", help="What MODEL is called on the scorecard and in reports."),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; by default a GPU where there is one."),
)
data_options = _together(
    click.option(
        "--data",
        "source",
        required=True,
        metavar="D",
        help="digits, mnist, fashion-mnist, cifar10, cifar100, imagenet, imagefolder:DIR, npz:FILE, or "
        "module:callable.",
    ),
    click.option("--data-root", metavar="DIR", help="Where torchvision's data sets lie."),
    click.option("--download", is_flag=True, help="Download the data set where it is missing."),
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Seed."
)
run_options = _together(
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Evaluate N samples, drawn by class."),
    seed_option,
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bars and no table.")


def load_model(model: str, given: Given, data: Data) -> Target:
    """Load the target that the options name."""
    from robustbench_lite.model.loading import load_target

    options = {name: given[name] for name in ("weights", "normalize", "seed")} | {"device": given["device"] or "auto"}
    classes = given["classes"] or len(data.classes) or None
    try:
        target = load_target(model, classes=classes, **options)
    except UserError as fault:
        if given["classes"] or not given["weights"] or not model.startswith("torchvision:"):
            raise
        try:  # weights for all of ImageNet's classes, and data with some of them
            target = load_target(model, **options)
        except UserError:
            raise fault from None
    target.name = given["name"] or target.name
    return target


def load_other(model: str | None, given: Given, data: Data) -> Target | None:
    """Load another model of the same task, where one is named: with its own weights, on the target's device."""
    if model is None:
        return None
    return load_model(model, {**given, "weights": None, "name": None}, data)


def load_samples(given: Given, split: Split) -> Data:
    """Load the data that the options name."""
    from robustbench_lite.data.load import load_data

    return load_data(given["source"], split=split, root=given["data_root"], download=given["download"])
