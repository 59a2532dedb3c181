"""Which models can be made again with other arguments."""

from __future__ import annotations

import pytest
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.building import builder_arguments
from robustbench_lite.model.loading import MADE_BY_NAME, load_target
from robustbench_lite.model.target import Target


@pytest.mark.parametrize("kind", MADE_BY_NAME)
def test_a_model_that_no_callable_makes_takes_no_arguments(kind: str) -> None:
    with pytest.raises(UserError, match=r"takes no arguments; expected package\.module:callable"):
        load_target(f"{kind}:model.file", arguments={"width": 8})
    with pytest.raises(UserError, match="is made by no function with arguments"):
        builder_arguments(Target(nn.Flatten(), spec=f"{kind}:model.file"))
