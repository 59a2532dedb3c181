"""timm's models by name."""

from __future__ import annotations

import sys

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.loading import load_target


def test_it_brings_its_own_normalisation_and_takes_the_number_of_classes() -> None:
    timm = pytest.importorskip("timm")
    target = load_target("timm:test_vit", classes=3)
    fed = timm.create_model("test_vit").pretrained_cfg
    assert (target.mean, target.std) == (tuple(fed["mean"]), tuple(fed["std"]))
    assert target.module.get_classifier().out_features == 3
    assert load_target("timm:test_vit", normalize="none").mean is None


def test_unknown_names_and_a_missing_extra_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="did you mean test_vit"):
        load_target("timm:tst_vit")
    with pytest.raises(UserError, match="no such file"):
        load_target("timm:test_vit", weights="DEFAULT")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'robustbench_lite\[timm\]'"):
        load_target("timm:test_vit")
