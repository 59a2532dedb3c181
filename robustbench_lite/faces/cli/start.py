"""Entry of the ``rblite`` script: signals are set before anything slow is imported."""

from __future__ import annotations

from robustbench_lite.faces.cli import signals


def run() -> None:
    """Run the command line as a program of its own."""
    signals.leave_at_once()
    from robustbench_lite.faces.cli.group import main

    main(prog_name="rblite")
