"""The steps of recipes: one line each in the table by which the registry finds them."""

CATALOGUE = {
    "standard": "training.standard:Standard",
    "pgd_training": "training.pgd_training:PGDTraining",
    "trades": "training.trades:TRADES",
    "distillation": "training.distillation:Distillation",
}
