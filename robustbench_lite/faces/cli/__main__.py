"""``python -m robustbench_lite.faces.cli``: the same as ``rblite``."""

from robustbench_lite.faces.cli.start import run

run()
