"""What the attacks that look for the nearest example have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustbench_lite.core import registry


@pytest.mark.parametrize(
    ("name", "params", "threat"),
    [
        ("ddn", {"steps": 10}, "L2 5"),
        ("ead", {"iterations": 10}, "L1 5"),
        *(("fmn", {"steps": 10}, f"{norm} 1") for norm in ("Linf", "L2", "L1", "L0")),
        ("sigma_zero", {"steps": 10}, "L0 5"),
    ],
)
def test_a_flat_model_costs_nothing_but_time(flat: Any, name: str, params: dict[str, Any], threat: str) -> None:
    found = flat.attack(registry.build("attacks", name, params), threat)
    assert not found.broken.any()
    assert np.isinf(found.distance).all()


@pytest.mark.parametrize(
    ("name", "threat"), [("ddn", "Linf 0.1"), ("ead", "L2 1"), ("fmn", "Spatial 10"), ("sigma_zero", "L2 1")]
)
def test_a_norm_that_it_does_not_do_is_refused(linear: Any, name: str, threat: str) -> None:
    with pytest.raises(ValueError, match="can't be run under"):
        linear().attack(registry.build("attacks", name, {}), threat)


OUT_OF_RANGE: dict[str, list[dict[str, Any]]] = {
    "ddn": [
        *({"steps": 0}, {"gamma": 1.5}, {"last_gamma": -0.1}, {"first_length": 0}, {"step_size": "x"}),
        {"loss": "hinge"},
    ],
    "ead": [{"search_steps": 0}, {"iterations": 0}, {"lr": 0}, {"beta": 0}, {"beta": "x"}, {"confidence": -1}],
    "fmn": [{"steps": 0}, {"gamma": 1.5}, {"last_gamma": -0.1}, {"step_size": 0}, {"step_size": "x"}],
    "sigma_zero": [{"steps": 0}, {"lr": 0}, {"sigma": 0}, {"threshold": 1.5}, {"threshold_rate": -1}],
}


@pytest.mark.parametrize(("name", "params"), [(name, one) for name in OUT_OF_RANGE for one in OUT_OF_RANGE[name]])
def test_parameters_out_of_range_are_refused_by_name(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        registry.build("attacks", name, params)
