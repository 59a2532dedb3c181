"""Settings of the site, `make docs`: the pages as they are on GitHub, in one place with a search."""

from __future__ import annotations

import re
from typing import Any

project = "robustbench_lite"
author = "the robustbench_lite contributors"
copyright = author
extensions = ["myst_parser"]
exclude_patterns = ["make_reference.py"]
html_theme = "furo"
html_title = project
html_show_sphinx = False
myst_heading_anchors = 4
nitpicky = True

_BESIDE = re.compile(r"\[([^\]]+)\]\(\.\./(?:README|CONTRIBUTING|CHANGELOG)\.md[^)]*\)")


def setup(app: Any) -> None:
    """Make links to pages that stand beside this folder, and so aren't a part of the site, plain text."""
    app.connect("source-read", lambda _app, _name, source: source.append(_BESIDE.sub(r"\1", source.pop())))
