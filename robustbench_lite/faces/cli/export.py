"""``rblite export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_lite.faces.cli import output, signals
from robustbench_lite.faces.cli.options import (
    data_options,
    data_words,
    json_option,
    load_both,
    model_options,
    quiet_option,
    seed_option,
)

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_lite.data.dataset import Data
    from robustbench_lite.model.export import ExportReport

# As `model.export` has them, which loads torch; and what the files are called.
_FORMATS = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx", "executorch": "model.pte"}
_KINDS = {"onnx": "onnx", "onnx-int8": "onnx", "executorch": "executorch"}  # what each is evaluated as


@click.command()
@click.argument("model")
@click.option("--format", type=click.Choice(list(_FORMATS)), default="onnx", show_default=True, help="What to write.")
@click.option("--out", metavar="FILE", help="File to write.  [default: model.FORMAT in MODEL, or in the folder]")
@model_options
@data_options
@click.option("--limit", type=click.IntRange(min=2), default=512, show_default=True, help="Samples to verify it on.")
@click.option(
    "--calibrate",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Training samples for int8's ranges.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.99,
    show_default=True,
    metavar="SHARE",
    help="Samples that must get the same class.",
)
@seed_option
@json_option("The report")
@quiet_option
def export(model: str, format: str, out: str | None, json_path: str | None, quiet: bool, **given: Any) -> None:
    """Write MODEL to a file of ONNX or ExecuTorch, verified on samples.

    Evaluate it as onnx:FILE or executorch:FILE, with --twin MODEL. Its normalisation is inside, and it takes batches of
    any size (ExecuTorch: of up to 64). onnx-int8 has weights and activations of 8 bits, with ranges from the training
    split. A file that disagrees with MODEL is not kept. FILE.json tells size, hash, latency, and how far the answers
    lie apart.
    """
    from robustbench_lite.faces import progress
    from robustbench_lite.model import export as exporting

    target, (data, known) = load_both(model, given, "test", "train")
    signals.raise_interrupts()
    folder = Path(model) if Path(model).is_dir() else Path()
    path = Path(out) if out else folder / _FORMATS[format]
    output.check_writable(path)
    with progress.bars(quiet) as bars:
        found = exporting.export(
            target,
            path,
            format,  # type: ignore[arg-type]  # click has checked it
            samples=_drawn(data, given["limit"], given["seed"]),
            calibration=_drawn(known, given["calibrate"], given["seed"]),
            min_agreement=given["min_agreement"],
            on_stage=progress.heading(bars),
        )
    if not quiet:
        _tell(found)
    click.echo(f"Model      {path}\nReport     {path}.json")
    output.write_json(json_path, found.model_dump_json(indent=1))
    if not quiet:
        output.suggest(
            shlex.join(["rblite", "evaluate", f"{_KINDS[format]}:{path}", "--twin", model, *data_words(given)])
        )


def _drawn(data: Data, limit: int, seed: int) -> Tensor:
    few = data.stratified(limit, seed)
    return few.fetch(range(len(few)))


def _tell(found: ExportReport) -> None:
    lines = {
        "Format": f"{found.format}, {f'opset {found.opset}, ' if found.opset else ''}batches of "
        f"{f'up to {found.largest_batch}' if found.largest_batch else 'any size'}, {found.bytes:,} bytes",
        "Agreement": f"{found.equal_predictions:.1%} of {found.verified_on} samples get the same class; logits differ "
        f"by up to {found.largest_logit_difference:.3g}",
    }
    if found.calibrated_on:
        lines["Ranges"] = f"from {found.calibrated_on} samples of the training split"
    for one in found.latency:
        lines[f"Batch {one.batch}"] = (
            f"{one.p50_ms:.3g} ms (median), {one.p95_ms:.3g} ms (95th percentile), {one.ratio:.2f} times the time that "
            f"PyTorch takes, {found.threads} thread{'s' if found.threads > 1 else ''}"
        )
    for name, text in lines.items():
        click.echo(f"{name:11}{text}")
