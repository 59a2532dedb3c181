"""Options that several commands share, and what is loaded from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import output

if TYPE_CHECKING:
    from robustbench_lite.data.dataset import Data, Split
    from robustbench_lite.model.target import Target

Given = dict[str, Any]
"""Options by name. Those of `model_options` and `data_options` are read by `load_model` and `load_samples`."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Classes(click.ParamType[Any]):
    """How many classes a model has, or what it calls them, in its order."""

    name = "classes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[str, ...]:
        """A number, names with commas between, or a file with a name a line."""
        text = str(value).strip()
        if text.isascii() and text.isdigit():
            if int(text) < 2:
                self.fail(f"{text} classes: expected 2 or more", param, ctx)
            return int(text)
        if "," in text:
            names = [name.strip() for name in text.split(",")]
            if "" in names:
                self.fail(f"{text!r} holds an empty name: expected one for each output", param, ctx)
        else:
            try:
                names = [line.strip() for line in Path(text).read_text(encoding="utf-8-sig").splitlines()]
            except (OSError, ValueError) as fault:
                self.fail(f"{text!r} can't be read ({fault}): expected a number, names, or a file of them", param, ctx)
        return tuple(name for name in names if name)


def together(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """One decorator for several options."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


model_options = together(
    click.option(
        "--weights", metavar="FILE", help="State dict for MODEL; of torchvision:NAME also a name in torch's cache."
    ),
    click.option("--normalize", metavar="NAME", help="imagenet, cifar10, mnist, none, or 'm1,m2,m3/s1,s2,s3'."),
    click.option(
        "--classes",
        type=Classes(),
        metavar="N|NAMES",
        help="Number of classes, if MODEL must be told; or their names, 'ant,bee,cat' or a file of lines.",
    ),
    click.option("--name", metavar="NAME", help="What MODEL is called on the scorecard and in reports."),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; by default a GPU where there is one."),
)


def _source_option(required: bool) -> Callable[[Any], Any]:
    return click.option(
        "--data",
        "source",
        required=required,
        metavar="D",
        help="digits, mnist, fashion-mnist, cifar10, cifar100, imagenet, imagefolder:DIR, npz:FILE, "
        "csv:FILE, or module:callable.",
    )


_reading_options = together(
    click.option("--data-root", metavar="DIR", help="Where torchvision's data sets lie."),
    click.option("--download", is_flag=True, help="Download the data set where it is missing."),
    click.option("--resize", metavar="N|HxW", help="Resize to a shorter side of N, or to HxW, with antialiasing."),
    click.option("--crop", metavar="N|HxW", help="Then keep the centre of so many pixels."),
    click.option("--label-map", metavar="M", help="Labels as the model numbers them: '0=3,1=5', 'cat=3', or a file."),
)
data_options = together(_source_option(True), _reading_options)
known_data_options = together(_source_option(False), _reading_options)
"""As `data_options`, where something else may name the data."""
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Seed."
)
run_options = together(
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Evaluate N samples, drawn by class."),
    seed_option,
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, no table, no advice: a line or two.")


def _json_alone(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    if given == "-":
        output.json_alone(context)
    elif given and not context.resilient_parsing:
        output.check_writable(Path(given))
    return given


def json_option(what: str, **more: Any) -> Callable[[_Command], _Command]:
    """``--json FILE``, the same of every command: ``-`` prints it, and it alone."""
    told = f"{what} as JSON; - prints it, and all else on stderr."
    return click.option("--json", "json_path", metavar="FILE", callback=_json_alone, help=told, **more)


def model_words(given: Given) -> tuple[str, ...]:
    """The options that make the model, as words of a command."""
    about = [(f"--{name}", given[name]) for name in ("weights", "normalize", "device")]
    return tuple(part for pair in about if pair[1] for part in pair)


def data_words(given: Given) -> tuple[str, ...]:
    """The options that name the data, as words of a command."""
    about = [(f"--{name.replace('_', '-')}", given[name]) for name in ("data_root", "resize", "crop", "label_map")]
    return ("--data", given["source"], *(part for pair in about if pair[1] for part in pair))


def load_both(model: str, given: Given, *splits: Split) -> tuple[Target, tuple[Data, ...]]:
    """Load the target that the options name, and the data, by split, labelled as it numbers its classes."""
    from robustbench_lite.data.label_map import relabelled

    samples = [load_samples(given, split) for split in splits]
    target = load_model(model, given, samples[0])
    return target, tuple(relabelled(data, given["label_map"], target.class_names) for data in samples)


def load_model(model: str, given: Given, data: Data) -> Target:
    """Load the target that the options name."""
    from robustbench_lite.model.loading import load_target
    from robustbench_lite.model.wrapping import bare

    options = {name: given[name] for name in ("weights", "normalize", "seed")} | {"device": given["device"] or "auto"}
    by_data = 0 if given["label_map"] else len(data.classes)  # with a map the model has classes of its own
    classes = given["classes"] or by_data or None
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
    if isinstance(given["classes"], int) and bare(target) is target:  # a wrapper may have an output of its own
        target.said_classes = given["classes"]
    return target


def load_other(model: str | None, given: Given, data: Data) -> Target | None:
    """Load another model of the same task, where one is named: with its own weights and normalisation."""
    if model is None:
        return None
    return load_model(model, {**given, "weights": None, "normalize": None, "name": None}, data)


def load_samples(given: Given, split: Split) -> Data:
    """Load the data that the options name, with their own labels."""
    from robustbench_lite.data.load import load_data

    return load_data(
        given["source"],
        split=split,
        root=given["data_root"],
        download=given["download"],
        resize=given["resize"],
        crop=given["crop"],
    )


def demanded(texts: Sequence[str]) -> dict[str, float]:
    """Gates on measures, as ``NAME >= X`` and ``NAME <= X``; ``min_NAME >= X`` and ``max_NAME <= X`` mean the same."""
    found: dict[str, float] = {}
    for text in texts:
        parts = re.fullmatch(r"\s*([A-Za-z_]\w*(?::[^\s<>]+)?)\s*(>=|<=)\s*(\S+)\s*", text)
        try:
            name, sign, number = parts.groups() if parts else ("", "", "")
            side = "min_" if sign == ">=" else "max_"
            found[side + name.removeprefix(side)] = float(number)
        except ValueError:
            raise UserError(
                f"--gate {text!r}: expected 'NAME >= X' or 'NAME <= X', such as 'parameters <= 1e6'"
            ) from None
    return found
