"""The defenses: one file an algorithm, one line each in the table by which the registry finds them."""

CATALOGUE = {
    "standard": "standard:Standard",
    "pgd_training": "pgd_training:PGDTraining",
    "trades": "trades:TRADES",
    "distillation": "distillation:Distillation",
}
