"""Measures: the numbers that can be put on a scorecard, found by name.

In comes a scorecard as the attacks left it, with its target and data; out comes a number with unit, interval and
direction. A user's repo may have a ``measures`` folder of its own, with a table such as this one.
"""

CATALOGUE = {
    "clean_accuracy": "counts:CLEAN_ACCURACY",
    "robust_accuracy": "counts:ROBUST_ACCURACY",
    "drop": "counts:DROP",
    "passes": "counts:PASSES",
    "seconds": "counts:SECONDS",
    "parameters": "counts:PARAMETERS",
    "nonzero_parameters": "size:NONZERO_PARAMETERS",
    "bytes": "size:BYTES",
    "multiply_adds": "size:MULTIPLY_ADDS",
    "flops": "size:FLOPS",
    "latency_p50": "latency:P50",
    "latency_p95": "latency:P95",
    "latency_p50_batch_64": "latency:P50_BATCH_64",
    "latency_p95_batch_64": "latency:P95_BATCH_64",
    "throughput": "latency:THROUGHPUT",
    "slowdown": "latency:SLOWDOWN",
    "training_passes": "hardened:TRAINING_PASSES",
    "training_seconds": "hardened:TRAINING_SECONDS",
    "forgetting": "hardened:FORGETTING",
    "forgetting_clean": "hardened:FORGETTING_CLEAN",
    "backward_transfer": "hardened:BACKWARD_TRANSFER",
    "backward_transfer_clean": "hardened:BACKWARD_TRANSFER_CLEAN",
    "certified_accuracy": "certified:CERTIFIED_ACCURACY",
    "certified_accuracy:*": "certified:at_radius",
    "attribution_spearman": "attributions:SPEARMAN",
    "attribution_spearman:*": "attributions:spearman_by",
    "attribution_overlap": "attributions:OVERLAP",
    "attribution_overlap:*": "attributions:overlap_by",
    "attribution_sensitivity": "attributions:SENSITIVITY",
    "attribution_sensitivity:*": "attributions:sensitivity_by",
    "attribution_input_stability": "attributions:INPUT_STABILITY",
    "attribution_input_stability:*": "attributions:input_stability_by",
}
