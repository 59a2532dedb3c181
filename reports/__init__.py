"""Reports: a scorecard in, text out. One file a format; CONTRIBUTING.md says how to add one.

Every format is one function, ``render(cards, *, title=None, story=())``: with one card it shows that card, with
several it sets them side by side. ``terminal`` gives what Rich can print, the others give text. ``contact_sheet`` is
about data: it takes what ``rblite doctor --data D`` found; ``search`` and ``search_page`` are about ``rblite tune``.
``explained`` takes what ``rblite explain CARD`` found.
"""

CATALOGUE: dict[str, str] = {
    "terminal": "terminal:render",
    "html": "html:render",
    "markdown": "markdown:render",
    "csv": "csv:render",
    "badge": "badge:render",
    "github": "github:render",
    "annotations": "github:annotate",
    "sarif": "sarif:render",
    "mlbom": "mlbom:render",
    "huggingface": "huggingface:render",
    "contact_sheet": "contact_sheet:render",
    "explained": "explained:render",
    "search": "search:render",
    "search_page": "search_page:render",
}
