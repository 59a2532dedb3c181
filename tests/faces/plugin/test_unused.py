"""A session without robustness tests pays next to nothing."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import sys, pytest
code = pytest.main(sys.argv[1:])
ours = sorted(name for name in sys.modules if name.startswith("robustbench_lite"))
heavy = sorted({"torch", "numpy", "pydantic", "rich", "scipy", "filelock", "jinja2"} & set(sys.modules))
print("LOADED", *ours, *heavy)
sys.exit(code)
"""


def test_it_imports_nothing(project):
    project.makepyfile(test_plain="def test_plain(tmp_path): pass")
    (project.path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["robustbench_lite"]\n[tool.robustbench_lite]\nsuites = "robustness.toml"\n',
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "test_plain.py", "-p", "no:hypothesispytest"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].split()[1:] == [
        "robustbench_lite",
        "robustbench_lite.core",
        "robustbench_lite.core.former_names",
        "robustbench_lite.core.lazy",
        "robustbench_lite.faces",
        "robustbench_lite.faces.plugin",
        "robustbench_lite.faces.plugin.discovery",
        "robustbench_lite.faces.plugin.options",
        "robustbench_lite.pytest_plugin",
    ]
