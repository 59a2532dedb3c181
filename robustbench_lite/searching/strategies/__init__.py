"""Strategies: what proposes the settings of the next trial, found by name.

In come the settings and a seed; out comes a sampler of Optuna's, which sees the study's trials so far. A user's repo
may have a ``strategies`` folder of its own, with a table such as this one.
"""

CATALOGUE = {
    "grid": "optunas:GRID",
    "random": "optunas:RANDOM",
    "tpe": "optunas:TPE",
    "gp": "optunas:GP",
    "nsga2": "optunas:NSGA2",
    "cmaes": "optunas:CMAES",
    "hyperopt": "hyperopts:HYPEROPT",
    "evolution": "evolution:EVOLUTION",
    "reinforce": "reinforce:REINFORCE",
    "gradient": "gradient:GRADIENT",
    "gdas": "gradient:GDAS",
}
