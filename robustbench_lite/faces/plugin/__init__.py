"""The rooms behind `robustbench_lite.pytest_plugin`, which is only a face: hooks and fixtures that hand on.

``options``      what may be said on the command line; the one place that reads `pytest.Config`'s options
``discovery``    whether a session has anything to evaluate
``table``        ``[tool.robustbench_lite]`` of ``pyproject.toml``
``demands``      gates by name, checked before anything runs
``plan``         the command line over the table: which targets, data, suites, threat models, gates
``collection``   suites as nodes and items of pytest
``marker``       ``@pytest.mark.robustness`` and what its fixtures give
``evaluations``  each evaluation run once a session, over all workers of xdist
``properties``   what an item says to JUnit
``results``      what is left behind: scorecards, pages, job summary, annotations, baselines
``summary``      what the terminal shows at the end
``scheduling``   xdist: items of one evaluation go to one worker

A session that has no robustness test imports ``options`` and ``discovery``, and they nothing but pytest and the
standard library.
"""
