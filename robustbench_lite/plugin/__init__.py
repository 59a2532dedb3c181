"""The rooms behind `robustbench_lite.pytest_plugin`, which is only a face: hooks and fixtures that hand on.

``options``      what may be said on the command line; the one place that reads `pytest.Config`
``table``        ``[tool.robustbench_lite]`` of ``pyproject.toml``
``plan``         the two put together: which targets, data, suites, threat models, gates
``collection``   suites as nodes and items of pytest
``marker``       ``@pytest.mark.robustness`` and what its fixtures give
``evaluations``  each evaluation run once a session, over all workers of xdist
``results``      what is left behind: files, job summary, annotations
``summary``      what the terminal shows at the end
``scheduling``   xdist: items of one evaluation go to one worker

Nothing here is imported by a session that has no robustness test, but for ``options``.
"""
