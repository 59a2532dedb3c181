"""The steps of recipes: one line each in the table by which the registry finds them."""

CATALOGUE = {
    "standard": "training.standard:Standard",
    "pgd_training": "training.pgd_training:PGDTraining",
    "fgsm_rs": "training.fgsm_rs:FGSMRS",
    "n_fgsm": "training.n_fgsm:NFGSM",
    "free": "training.free:Free",
    "mart": "training.mart:MART",
    "trades": "training.trades:TRADES",
    "continual": "training.continual:Continual",
    "gaussian": "training.gaussian:Gaussian",
    "ibp": "training.ibp:IBP",
    "smoothing": "inference.smoothing:Smoothing",
    "jpeg": "inference.purification:JPEG",
    "bit_depth": "inference.purification:BitDepth",
    "median": "inference.purification:Median",
    "distillation": "training.distillation:Distillation",
}
